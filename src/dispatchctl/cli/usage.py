"""What the parser of the command line objects to, said as every other error is: a sentence and a hint."""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from typer._click import exceptions as click

from dispatchctl.errors import UsageError

if TYPE_CHECKING:
    from typer._click.core import Context


def unknown_command(word: str, commands: Iterable[str]) -> UsageError:
    """The error for a command that does not exist."""
    near = _near(word, commands)
    return UsageError(
        f"there is no command {word!r}{_did_you_mean(near)}", f"dispatchctl {f'{near} ' if near else ''}--help"
    )


def explained(error: click.ClickException, command: str) -> UsageError:
    """The same objection to the words of a command in our own."""
    context = getattr(error, "ctx", None)
    page = f"dispatchctl {command} --help" if command else "dispatchctl --help"
    match error:
        case click.NoSuchOption():
            near = _near(error.option_name, error.possibilities or ())
            name = command or "dispatchctl"
            other = _did_you_mean(near) or " (a text that begins with - comes after --)"
            return UsageError(f"{name} has no option {error.option_name}{other}", page)
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
        return _too_many(words.removesuffix(")"), command, context)
    if error.message.startswith("Missing command"):
        return UsageError("no command was named", page)
    return UsageError(error.format_message(), page)


def _too_many(words: str, command: str, context: "Context | None") -> UsageError:
    """What is said of words that have no place, after those that have one."""
    arguments = [each for each in context.command.params if each.param_type_name == "argument"] if context else []
    if context and [each.name for each in arguments] == ["id"] and words.replace(" ", "").isdecimal():
        ids = f"{context.params.get('id')} {words}"
        each = f"for id in {ids}; do dispatchctl {command} $id; done"
        return UsageError(f"{command} takes one ID, and these are more: {ids}", each)
    quoted = (
        " (a text with spaces has to be quoted)" if any(each.name not in ("id", "ids") for each in arguments) else ""
    )
    page = f"dispatchctl {command} --help" if command else "dispatchctl --help"
    return UsageError(f"there is a word too many: {words!r}{quoted}", page)


def _near(word: str, words: Iterable[str]) -> str:
    """The one of the words that may have been meant, or nothing."""
    return next(iter(difflib.get_close_matches(word, words, n=1)), "")


def _did_you_mean(near: str) -> str:
    return f"; did you mean {near}?" if near else ""
