"""The command line: parse, call one function, show. One file a theme, one table of commands, one error boundary."""
