"""Results and errors as text for people or JSON for programs.

`shapes` are the JSON objects of the contract, `text` what people read, `output` where it goes: the answer to stdout, the
story to stderr. Nothing that came from a task or an agent reaches the terminal with its control characters.
"""
