"""Tables on a terminal, fitted to its width."""

import shutil
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatchctl.render.text import Cell, Heads, visible

GAP = 2
LAST = 24
"""Columns of the terminal that the last column gets, if it needs them, before another column gives way to it."""
NARROWEST = 4


def drawn(heads: Heads, rows: Iterable[Sequence[Cell]], *, no_color: bool) -> str:
    """The rows as this terminal shows them, one line each. No markup of a cell is obeyed."""
    lines = [[Text(visible(cell.text), style=cell.style) for cell in row] for row in rows]
    widths = [max(map(cell_len, [head, *(line[at].plain for line in lines)])) for at, head in enumerate(heads.names)]
    width = shutil.get_terminal_size().columns  # rich takes every dumb terminal for 80 columns wide
    screen = Console(width=width, no_color=no_color, highlight=False)
    kept = fit(heads, widths, width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for at, width in kept.items():
        table.add_column(heads.names[at], no_wrap=True, overflow="ellipsis", width=width)
    for line in lines:
        table.add_row(*(line[at] for at in kept))
    with screen.capture() as capture:
        screen.print(table)
    return capture.get()


def fit(heads: Heads, widths: Sequence[int], terminal: int) -> dict[int, int]:
    """Which columns are shown, and how wide, so that a row is no longer than the terminal is wide.

    Columns give way in the order of `heads.give_way`, then the widest but the first becomes narrower; the last takes
    what is left.
    """
    kept = dict(enumerate(widths))
    last = len(widths) - 1
    least = min(widths[last], LAST)

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
