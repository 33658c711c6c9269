"""Tables on a terminal, fitted to its width."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatchctl.render.text import Cell, visible


def draw(heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, no_color: bool) -> None:
    """Draw the rows; the last column gives way when the terminal is narrow. No markup of a cell is obeyed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, expand=False)
    for number, head in enumerate(heads):
        last = number == len(heads) - 1
        table.add_column(
            head, no_wrap=True, overflow="ellipsis", ratio=1 if last else None, min_width=None if last else 2
        )
    for row in rows:
        table.add_row(*(Text(visible(cell.text), style=cell.style, no_wrap=True, overflow="ellipsis") for cell in row))
    Console(no_color=no_color, highlight=False).print(table)
