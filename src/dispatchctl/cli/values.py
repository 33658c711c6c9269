"""What the command line's words may be: ids, durations, lists with commas, texts from files, stdin or an editor."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer._click.types import ParamType

from dispatchctl.config import Environment
from dispatchctl.durations import parse_duration, parse_when
from dispatchctl.errors import NoSuchTask, UsageError
from dispatchctl.runtime import now

LARGEST = 2**63 - 1
"""The largest id that a database can hold."""
MOST = 2**31
"""As good as any larger number where something is counted."""


class Whole(ParamType):
    """A whole number from `least`, to `most` if there is one."""

    name = "integer"

    def __init__(self, least: int, most: int | None = None) -> None:
        self.allowed = f"a whole number from {least}" + ("" if most is None else f" to {most}")
        self.range = range(least, (MOST if most is None else most) + 1)
        self.bounded = most is not None

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number; without `most`, one larger than anything that is counted stands for the largest."""
        number = value if isinstance(value, int) else _number(str(value))
        if number is not None and not self.bounded:
            number = min(number, MOST)
        if number is None or number not in self.range:
            self.fail(f"{shortened(str(value))} is not {self.allowed}", param, ctx)
        return number


class TaskNumber(ParamType):
    """The id of a task. Raises `NoSuchTask` for a number that none can have."""

    name = "integer"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:  # noqa: ARG002 - what a ParamType is given
        """The id."""
        return value if isinstance(value, int) else task_number(str(value), "")


def task_number(word: str, option: str) -> int:
    """The id that a word of the command line, or of an option, names. Raises `UsageError` or `NoSuchTask`."""
    number = _number(word)
    if not number:
        where = f"{option}: " if option else ""
        raise UsageError(f"{where}{shortened(word)} is not the number of a task", "dispatchctl list")
    if number > LARGEST:
        raise NoSuchTask(number)
    return number


def _number(word: str) -> int | None:
    """The number that the digits are; more of them than Python would read are as good as many."""
    return int(word[:40]) if word.isascii() and word.isdecimal() else None


def shortened(word: str) -> str:
    """The word in quotes, and only its beginning if it is long."""
    return repr(word if len(word) <= 40 else word[:40] + "…")


Id = Annotated[
    int, typer.Argument(metavar="ID", click_type=TaskNumber(), help="The task's number.", show_default=False)
]
Ids = Annotated[
    list[int], typer.Argument(metavar="ID…", click_type=TaskNumber(), help="Numbers of tasks.", show_default=False)
]
OptionalId = Annotated[
    int | None,
    typer.Argument(
        metavar="[ID]", click_type=TaskNumber(), help="The task; inside a session, its own.", show_default=False
    ),
]
Message = Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="What to say about it.")]


def numbers(words: Sequence[str] | None, option: str) -> list[int]:
    """Ids given several times or with commas; an empty word means none. Raises `UsageError` or `NoSuchTask`."""
    return [task_number(word, option) for word in split(words)]


def split(words: Sequence[str] | None) -> list[str]:
    """Values given several times or with commas."""
    return [each for word in words or () for each in (part.strip() for part in word.split(",")) if each]


def seconds(text: str | None) -> int | None:
    """A duration, if one was given."""
    return None if text is None else parse_duration(text)


def moment(text: str | None) -> int | None:
    """A time in milliseconds, if one was given; `now` is one."""
    if text is None:
        return None
    at = now()
    return at if text == "now" else parse_when(text, at)


def since_when(text: str, at: int) -> int:
    """A time in the past in milliseconds, given as one or as how long ago, with or without a sign; 0 is the beginning.

    Raises `UsageError`.
    """
    bare = text.strip().lstrip("+-")
    if bare == "0":
        return 0
    try:
        return at - 1000 * parse_duration(bare)
    except UsageError:
        try:
            return moment(text) or 0
        except UsageError as error:  # whose hint is for times to come
            raise UsageError(error.message, 'write it like "2h" or "3d" (ago), or "2026-11-20T16:20"') from None


def prompt_text(
    environment: Environment, *, text: str | None, file: str | None, stdin: bool, editor: bool, draft: str
) -> str | None:
    """The prompt from the one place that was named; None if none was. Raises `UsageError` for two places."""
    if sum((text is not None, file is not None, stdin, editor)) > 1:
        raise UsageError("the prompt is given twice: use one of -p, -P, -e and, to add, -", "dispatchctl add --help")
    if text is not None:
        return text
    if stdin or file == "-":
        return _decoded(sys.stdin.buffer.read(), "standard input")
    if file is not None:
        try:
            with open(os.path.expanduser(file), "rb") as opened:
                return _decoded(opened.read(), file)
        except OSError as error:
            raise UsageError(
                f"the prompt cannot be read from {file}: {error.strerror}", f"ls -ld {shlex.quote(file)}"
            ) from error
    return _edited(environment, draft) if editor else None


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not valid UTF-8 (at byte {error.start})", f"iconv -t UTF-8 {source}") from error


def _edited(environment: Environment, draft: str) -> str:
    editor = environment.editor or "vi"
    with tempfile.TemporaryDirectory(prefix="dispatchctl-") as directory:
        path = os.path.join(directory, "prompt.md")
        with open(path, "w", encoding="utf-8") as file:
            file.write(draft)
        try:
            code = subprocess.call(["sh", "-c", f'{editor} "$1"', "sh", path])
        except OSError as error:
            raise UsageError(f"the editor {editor!r} cannot be run: {error}", "export EDITOR=vi") from error
        try:
            with open(path, "rb") as edited:
                text = _decoded(edited.read(), "what was written")
        except FileNotFoundError:
            text = ""
    if code != 0:
        raise UsageError(f"the editor {editor!r} failed with {code}; nothing was changed", "export EDITOR=vi")
    if not text.strip():
        raise UsageError(
            f"the editor {editor!r} left no text; nothing was changed", "dispatchctl add 'TITLE' -p 'PROMPT'"
        )
    return text
