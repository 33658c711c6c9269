"""A sequence of steps, each with its compensation, undone newest first.

A step is undone from what the database says, never from what this process remembers: the same compensation serves the
dispatcher that made the mess and the reconcile that finds it after a crash. So every `undo` is idempotent, takes "not there"
for success, and may be called for a step that was never reached.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dispatchctl.faults import Effect, effect

Context = TypeVar("Context")


@dataclass(frozen=True)
class Step(Generic[Context]):
    """One effect and what takes it back. `doing` and `undoing` are where a test may let something happen."""

    name: str
    do: Callable[[Context], None]
    undo: Callable[[Context], None]
    doing: Effect = field(init=False, compare=False, repr=False)
    undoing: Effect = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "doing", effect(f"step {self.name}"))
        object.__setattr__(self, "undoing", effect(f"undo {self.name}"))


class UndoFailed(Exception):
    """A compensation failed; the ones below it were not tried, since it may stand on them."""

    def __init__(self, step: str, cause: BaseException) -> None:
        super().__init__(f"{step}: {cause}")
        self.step = step


def perform(steps: Sequence[Step[Context]], context: Context) -> None:
    """Do the steps in order; the first that fails ends it, with nothing undone."""
    for step in steps:
        with step.doing:
            step.do(context)


def unwind(steps: Sequence[Step[Context]], context: Context) -> None:
    """Undo the steps, newest first, stopping at the first that fails. Raises `UndoFailed`, which names it."""
    for step in reversed(steps):
        try:
            with step.undoing:
                step.undo(context)
        except Exception as error:
            raise UndoFailed(step.name, error) from error
