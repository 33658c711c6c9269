"""What the parser of the command line objects to, said as every other error is: a sentence and a hint."""

import difflib
from collections.abc import Iterable

from typer._click import exceptions as click

from dispatchctl.errors import UsageError


def unknown_command(word: str, commands: Iterable[str]) -> UsageError:
    """The error for a command that does not exist."""
    return UsageError(f"there is no command {word!r}", f"{_did_you_mean(word, commands)}dispatchctl --help")


def explained(error: click.ClickException, command: str) -> UsageError:
    """The same objection to the words of a command in our own."""
    context = getattr(error, "ctx", None)
    page = f"dispatchctl {command} --help" if command else "dispatchctl --help"
    match error:
        case click.NoSuchOption():
            near = _did_you_mean(error.option_name, error.possibilities or ())
            name = command or "dispatchctl"
            return UsageError(f"{name} has no option {error.option_name}", f"{near}{page}; a text comes after --")
        case click.MissingParameter(param=param) if param is not None and context is not None:
            return UsageError(f"{command} needs {param.make_metavar(context)}", page)
        case click.BadParameter(param=param) if param is not None:
            names = [*param.opts, *param.secondary_opts]
            where = f"{max(names, key=len)}: " if param.param_type_name == "option" else ""
            return UsageError(f"{where}{error.message}", page)
        case click.BadOptionUsage():
            what = "takes no value" if "does not take" in error.message else "needs a value"
            return UsageError(f"{error.option_name} {what}", page)
    words = error.message.removeprefix("Got unexpected extra argument(s) (")
    if words != error.message:
        return UsageError(f"there is a word too many: {words.removesuffix(')')!r}", f"{page}; quote a text: 'a b'")
    if error.message.startswith("Missing command"):
        return UsageError("no command was named", page)
    return UsageError(error.format_message(), page)


def _did_you_mean(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {near[0]}? " if near else ""
