"""docs/figures.md: a section for each part, with by what, when and where it was measured, made anew one by one."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "figures.md"
OPENING = """# Figures

Made by `scripts/figures`; not to be edited. Each part says by which command, when and where it was measured. The load is that
of the last minute, before and after: a machine of one's own has less than one for each core.
"""


def write(heading: str, text: str, *, order: Sequence[str], path: Path = PAGE, opening: str = OPENING) -> None:
    """Put a section into the page, in the place that `order` gives to its heading; the others stay as they are."""
    parts = path.read_text().split("\n## ")[1:] if path.exists() else []
    sections = {part.split("\n", 1)[0]: part.rstrip() for part in parts}
    sections[heading] = f"{heading}\n\n{text.strip()}"
    known = [each for each in order if each in sections] + [each for each in sections if each not in order]
    path.write_text("\n".join([opening, *(f"## {sections[each]}\n" for each in known)]))


class Circumstances:
    """When, where and beside how much else something is measured: made before it, and told after it."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.load = os.getloadavg()[0]
        self.began = time.monotonic()

    def told(self) -> str:
        """One line for the page."""
        system = f"{os.uname().sysname} {os.uname().release.split('-')[0]}, {os.cpu_count()} cores"
        versions = f"{_said('tmux', '-V')}, {_said('git', '--version')}, Python {sys.version.split()[0]}"
        took = (time.monotonic() - self.began) / 60
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        load = f"nice {nice}; " * bool(nice) + f"load {self.load:.1f} before, {os.getloadavg()[0]:.1f} after"
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        return f"`{self.command}` on {day}, {took:.1f} min; {system}; {versions}; {load}."


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def table(*rows: Sequence[object]) -> str:
    """A table of Markdown, whose first row is its head."""
    head, *body = rows
    lines: Iterable[Sequence[object]] = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in lines)


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, the 95th percentile, and the largest."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], ordered[-1]


def ms(seconds: float) -> str:
    """Seconds in milliseconds, as the page shows them."""
    return f"{1000 * seconds:.0f} ms"
