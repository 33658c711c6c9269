"""How much is told at once: pure; time comes in as an argument.

There are so many notices, and a new one each few seconds. As long as they last, each edge gets its own; when only one is
left, it is for all the rest: one sum for each kind. So 10,000 tasks that fail, at once or over an hour, are a few notices.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from dispatchctl.config.table import Notice
from dispatchctl.notices.edges import Edge

BURST = 5
"""Notices that may follow one another at once."""

EVERY_S = 10.0
"""Seconds after which there is one more."""


@dataclass
class Allowance:
    """How many notices may be sent now: `BURST` after a rest, and one more each `EVERY_S` seconds."""

    left: float = BURST
    seen: float = 0.0

    def at(self, now: float) -> int:
        """How many there are; `now` in seconds of a clock that only goes forwards."""
        self.left = min(BURST, self.left + (now - self.seen) / EVERY_S) if self.seen else BURST
        self.seen = now
        return int(self.left)

    def spend(self, number: int) -> None:
        """They are sent."""
        self.left -= number


@dataclass
class Waiting:
    """Edges that are not told yet: the first few as they are, of the others only how many. It does not grow."""

    single: list[Edge] = field(default_factory=list)
    rest: dict[Notice, Edge] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.single or self.rest)

    def add(self, edge: Edge) -> None:
        """One more."""
        if len(self.single) < BURST and not self.rest:
            self.single.append(edge)
        else:
            self._count(edge)

    def take(self, allowed: int) -> tuple[list[Edge], int]:
        """Everything, as at most `allowed` (at least 1) edges, sums of several kinds being one; and how many that are."""
        alone = self.single if len(self.single) <= allowed and not self.rest else self.single[: allowed - 1]
        for edge in self.single[len(alone) :]:
            self._count(edge)
        taken, used = [*alone, *self.rest.values()], len(alone) + bool(self.rest)
        self.single, self.rest = [], {}
        return taken, used

    def _count(self, edge: Edge) -> None:
        counted = self.rest.get(edge.what)
        self.rest[edge.what] = edge if counted is None else counted.with_(edge)

    def __iter__(self) -> Iterator[Edge]:
        yield from self.single
        yield from self.rest.values()
