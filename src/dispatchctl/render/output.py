"""Where output goes, and how: the answer to stdout, the story to stderr, JSON when it was asked for."""

import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dispatchctl.errors import DispatchctlError
from dispatchctl.render.shapes import SCHEMA_VERSION
from dispatchctl.render.text import Cell, Heads, columns, visible


class ReaderGone(Exception):
    """Whoever read our stdout has stopped, as `head` does: nothing is left to be done, and that is no failure."""


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable however we were started.

    One that was closed is /dev/null. What a terminal that does not speak UTF-8 cannot show is written as `\\xb7`.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def give_up_stdout() -> None:
    """Have /dev/null take what stdout does not, or Python would try again at the end and fail with a code of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def drop_unwritten() -> None:
    """Give up stdout if it does not take what others than `write` have written."""
    try:
        sys.stdout.flush()
    except OSError:
        give_up_stdout()


def write(text: str | bytes, *, flush: bool = True) -> None:
    """Write to stdout. Raises `ReaderGone`, or `DispatchctlError` for a full disk; after that stdout is /dev/null."""
    try:
        if isinstance(text, bytes):
            sys.stdout.buffer.write(text)
        else:
            sys.stdout.write(text)
        if flush:
            sys.stdout.flush()
    except OSError as error:
        give_up_stdout()
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from error
        raise DispatchctlError(f"the answer cannot be written: {error.strerror}", "df -h .") from error


@dataclass
class Output:
    """The output of one command."""

    as_json: bool = False
    quiet: bool = False
    no_color: bool = False

    def answer(self, name: str, value: Any, text: Iterable[str]) -> None:
        """The answer: the named member in JSON, or the lines."""
        if self.as_json:
            self.json({name: value})
        else:
            for line in text:
                self.line(line)

    def json(self, members: dict[str, Any]) -> None:
        """An object of the contract, on one line."""
        ascii_only = not sys.stdout.encoding.lower().startswith("utf")
        text = json.dumps({"schema_version": SCHEMA_VERSION, **members}, ensure_ascii=ascii_only)
        write(_without_controls(text) + "\n")

    def line(self, text: str) -> None:
        """A line of the answer."""
        write(visible(text) + "\n")

    def table(self, heads: Heads, rows: Iterable[Sequence[Cell]]) -> None:
        """A table: drawn on a terminal, plain columns without heads elsewhere."""
        if sys.stdout.isatty():
            from dispatchctl.render.tables import drawn  # rich, 38 ms, for people only

            write(drawn(heads, rows, no_color=self.no_color))
        else:
            for line in columns(rows):
                write(line + "\n", flush=False)

    def row(self, cells: Sequence[Cell]) -> None:
        """A row of a table whose other rows are not known yet."""
        if sys.stdout.isatty():
            self.line("  ".join(cell.text for cell in cells if cell.text))
        else:
            write("\n".join(columns([cells])) + "\n")

    def story(self, text: str, *, hint: str | None = None) -> None:
        """What happened, for a person; silent with --quiet."""
        if not self.quiet:
            _to_stderr(text, hint)

    def notice(self, text: str) -> None:
        """What a person must learn although nothing failed: --quiet does not hide it."""
        _to_stderr(text, None)

    def failure(self, text: str, hint: str | None) -> None:
        """Why the exit code is not 0, where the answer does not say it; --quiet does not hide that."""
        _to_stderr(f"dispatchctl: {text}", hint)

    def error(self, error: DispatchctlError, code: int) -> None:
        """What ended the command: a sentence and a hint, and on stdout as JSON if that was asked for."""
        if self.as_json:
            self.json({"error": {"message": error.message, "hint": error.hint, "exit_code": code}})
        self.failure(error.message, error.hint)


def _to_stderr(text: str, hint: str | None) -> None:
    sys.stderr.write("\n".join(map(visible, text.splitlines())) + "\n")
    if hint:
        sys.stderr.write(f"  hint: {visible(hint)}\n")
    sys.stderr.flush()


def _without_controls(text: str) -> str:
    """JSON leaves DEL, the C1 control characters and bytes of no character as they are; terminals and parsers mind."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(f"\\u{ord(each):04x}" if _is_harmful(each) else each for each in text)


def _is_harmful(each: str) -> bool:
    return "\x7f" <= each <= "\x9f" or "\ud800" <= each <= "\udfff"
