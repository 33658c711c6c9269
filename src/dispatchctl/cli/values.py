"""What the command line's words may be: ids, durations, lists with commas, texts from files, stdin or an editor."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Annotated

import typer

from dispatchctl.config import Environment
from dispatchctl.durations import parse_duration, parse_when
from dispatchctl.errors import UsageError
from dispatchctl.runtime import now

Id = Annotated[int, typer.Argument(metavar="ID", min=1, help="The task's number.", show_default=False)]
Ids = Annotated[list[int], typer.Argument(metavar="ID…", min=1, help="Numbers of tasks.", show_default=False)]
OptionalId = Annotated[
    int | None, typer.Argument(metavar="[ID]", min=1, help="The task; inside a session, its own.", show_default=False)
]
Message = Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="What to say about it.")]


def numbers(words: Sequence[str] | None, option: str) -> list[int]:
    """Ids given several times or with commas; an empty word means none. Raises `UsageError`."""
    found = []
    for word in split(words):
        if not (word.isascii() and word.isdecimal() and 0 < int(word) < 2**63):
            raise UsageError(f"{option} takes numbers of tasks, not {word!r}", f"{option} 3,5")
        found.append(int(word))
    return found


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


def prompt_text(
    environment: Environment, *, text: str | None, file: str | None, stdin: bool, editor: bool, draft: str
) -> str | None:
    """The prompt from the one place that was named; None if none was. Raises `UsageError` for two places."""
    if sum((text is not None, file is not None, stdin, editor)) > 1:
        raise UsageError("the prompt is given twice: use one of -p, -P, - and -e", "dispatchctl add --help")
    if text is not None:
        return text
    if stdin or file == "-":
        return _decoded(sys.stdin.buffer.read(), "standard input")
    if file is not None:
        try:
            with open(os.path.expanduser(file), "rb") as opened:
                return _decoded(opened.read(), file)
        except OSError as error:
            raise UsageError(f"the prompt cannot be read from {file}: {error.strerror}", f"ls -l {file}") from error
    return _edited(environment, draft) if editor else None


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not valid UTF-8 (at byte {error.start})", f"iconv -t UTF-8 {source}") from error


def _edited(environment: Environment, draft: str) -> str:
    editor = environment.editor or "vi"
    with tempfile.NamedTemporaryFile("w+", suffix=".md", prefix="dispatchctl-", encoding="utf-8") as file:
        file.write(draft)
        file.flush()
        try:
            code = subprocess.call(["sh", "-c", f'{editor} "$1"', "sh", file.name])
        except OSError as error:
            raise UsageError(f"the editor {editor} cannot be run: {error}", "export EDITOR=vi") from error
        with open(file.name, "rb") as edited:
            text = _decoded(edited.read(), "what was written")
    if code != 0 or not text.strip():
        raise UsageError(f"nothing was added: the editor {editor} left no text", "dispatchctl add TITLE -p TEXT")
    return text
