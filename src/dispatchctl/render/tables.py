"""Tables on a terminal, fitted to its width."""

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console
from rich.text import Text

from dispatchctl.render.text import Cell, Heads, visible

GAP = 2
LAST = 24
"""Columns of the terminal that the last column gets, if it needs them, before another column gives way to it."""
NARROWEST = 4
PIECE = re.compile(r"\S*dispatchctl(?: [a-z]+)?(?: (?:\d+|--?[\w-]+(?: (?:'[^']*'|[^\s-]\S*))?|'[^']*'))*\S*|\S+")
"""A word, or a command that somebody is to paste, which is not divided if a line has room for it."""


def drawn(heads: Heads, rows: Iterable[Sequence[Cell]], *, no_color: bool) -> str:
    """The rows as this terminal shows them, one line each unless the table wraps. No markup of a cell is obeyed.

    rich says what a style is on this terminal; its own tables would take a thousand rows a third of a second.
    """
    lines = [[(visible(cell.text), cell.style) for cell in row] for row in rows]
    widths = [max(map(cell_len, [head, *(line[at][0] for line in lines)])) for at, head in enumerate(heads.names)]
    width = shutil.get_terminal_size().columns  # rich takes every dumb terminal for 80 columns wide
    screen = Console(width=width, no_color=no_color, highlight=False)
    kept = _within(fit(heads, widths, width), width)
    styles: dict[str, tuple[str, str]] = {}

    def shown(text: str, style: str, width: int) -> str:
        if style not in styles:
            styles[style] = _ends(screen, style)
        before, after = styles[style]
        return f"{before}{_cut(text, width)}{after}"

    every = [[(name, "bold") for name in heads.names], *lines]
    last = len(heads.names) - 1
    if heads.wraps and last in kept:
        every = [part for line in every for part in _divided(line, kept[last])]
    return "".join((" " * GAP).join(shown(*line[at], width) for at, width in kept.items()) + "\n" for line in every)


def _within(kept: dict[int, int], terminal: int) -> dict[int, int]:
    """The columns as far as the terminal goes, for one on which even what cannot give way has no room."""
    shown = {}
    for at, width in kept.items():
        if terminal > 0:
            shown[at] = min(width, terminal)
        terminal -= width + GAP
    return shown


def _ends(screen: Console, style: str) -> tuple[str, str]:
    """What this terminal gets before and after a text of the style."""
    with screen.capture() as capture:
        screen.print(Text("x", style=style), end="")
    before, _, after = capture.get().partition("x")
    return before, after


def _cut(text: str, width: int) -> str:
    """The text, so many columns wide."""
    length = cell_len(text)
    return text + " " * (width - length) if length <= width else set_cell_size(text, width - 1) + "…"


def _divided(line: Sequence[tuple[str, str]], width: int) -> Iterator[list[tuple[str, str]]]:
    """The line, and below it what its last column has no room for."""
    text, style = line[-1]
    for number, part in enumerate(wrapped(text, width)):
        yield [*(line[:-1] if number == 0 else [("", "")] * (len(line) - 1)), (part, style)]


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most so many columns."""
    lines = [""]
    for piece in PIECE.findall(text):
        for word in [piece] if cell_len(piece) <= width else piece.split():
            for part in chop_cells(word, width):
                together = f"{lines[-1]} {part}" if lines[-1] else part
                if cell_len(together) <= width:
                    lines[-1] = together
                else:
                    lines.append(part)
    return lines


def fit(heads: Heads, widths: Sequence[int], terminal: int) -> dict[int, int]:
    """Which columns are shown, and how wide, so that a row is no longer than the terminal is wide.

    Columns give way in the order of `heads.give_way`, then the widest but the first becomes narrower; the last takes
    what is left.
    """
    kept = dict(enumerate(widths))
    last = len(widths) - 1
    least = min(widths[last], max(LAST, terminal // 2) if heads.wraps else LAST)

    def wanted() -> int:
        return sum(kept.values()) - kept[last] + least + GAP * (len(kept) - 1)

    for name in heads.give_way:
        if wanted() > terminal:
            kept.pop(heads.names.index(name), None)
    middle = [at for at in kept if at not in (0, last)]
    while wanted() > terminal and middle:
        widest = max(middle, key=lambda at: kept[at])
        if kept[widest] <= NARROWEST:
            break
        kept[widest] -= 1
    kept[last] = max(1, min(widths[last], terminal - (wanted() - least)))
    return kept
