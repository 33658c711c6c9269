"""Where output goes, and how: `answer` to stdout, `story` to stderr, JSON when it was asked for."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dispatchctl.errors import DispatchctlError
from dispatchctl.render.shapes import SCHEMA_VERSION
from dispatchctl.render.text import Cell, columns, visible


@dataclass
class Output:
    """The output of one command."""

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
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
        text = json.dumps({"schema_version": SCHEMA_VERSION, **members}, ensure_ascii=False)
        sys.stdout.write(_without_controls(text) + "\n")
        sys.stdout.flush()

    def line(self, text: str) -> None:
        """A line of the answer."""
        sys.stdout.write(visible(text) + "\n")

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """A table: drawn on a terminal, plain columns without heads elsewhere."""
        if sys.stdout.isatty():
            from dispatchctl.render.tables import draw  # rich, 38 ms, for people only

            draw(heads, rows, no_color=self.no_color)
        else:
            for line in columns(rows):
                sys.stdout.write(line + "\n")

    def story(self, text: str, *, hint: str | None = None) -> None:
        """What happened, for a person; silent with --quiet."""
        if not self.quiet:
            self._to_stderr(text, hint)

    def error(self, error: DispatchctlError) -> None:
        """An expected error: a sentence and a hint, and on stdout as JSON if that was asked for."""
        if self.as_json:
            self.json({"error": {"message": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}})
        self._to_stderr(f"dispatchctl: {error.message}", error.hint)

    def _to_stderr(self, text: str, hint: str | None) -> None:
        sys.stderr.write("\n".join(map(visible, text.splitlines())) + "\n")
        if hint:
            sys.stderr.write(f"  hint: {visible(hint)}\n")
        sys.stderr.flush()


def _without_controls(text: str) -> str:
    """JSON leaves DEL and the C1 control characters as they are; some terminals obey them."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(f"\\u{ord(each):04x}" if "\x7f" <= each <= "\x9f" else each for each in text)
