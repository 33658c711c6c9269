"""Text for people: made safe for a terminal, in columns, with times as they are spoken."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

STATUS_STYLE = {
    "blocked": "bold magenta",
    "in_review": "bold yellow",
    "failed": "bold red",
    "in_progress": "bold cyan",
    "ready": "green",
    "backlog": "dim",
    "done": "dim green",
    "cancelled": "dim",
}
"""Colours mean the same everywhere."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table, with the style that a terminal gives it."""

    text: str
    style: str = ""


class Heads(NamedTuple):
    """The heads of a table, and those of columns that a narrow terminal does not show, the first to go first.

    `wraps`: what has no room in the last column goes on below, where that of others is cut off.
    """

    names: tuple[str, ...]
    give_way: tuple[str, ...] = ()
    wraps: bool = False


def visible(text: str) -> str:
    """The text without anything a terminal would obey: control and format characters become `·`, line ends spaces."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(shown(each) for each in text)


def shown(each: str) -> str:
    """A character as a terminal may have it."""
    if each in "\n\r\t":
        return " "
    category = unicodedata.category(each)
    joiner = each in "\u200d\ufe0f"  # they hold emoji together
    return "·" if category in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and not joiner else each


def columns(rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    """Rows for a pipe: cells separated by tabs, as `cut` and `awk -F'\\t'` read them."""
    for row in rows:
        yield "\t".join(visible(cell.text) for cell in row)


def ago(ms: int | None, now: int) -> str:
    """How long before `now` that was: `12s`, `5m`, `3h`, `2d`; empty if it is not known."""
    return "" if ms is None else span(now - ms)


def span(ms: int) -> str:
    """A length of time in its largest unit."""
    seconds = max(0, ms // 1000)
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
