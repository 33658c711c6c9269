"""The points between two effects of the protocol, at which tests let something happen.

An `Effect` is one change of the world outside this process: a step, its undo, a write of the launcher, an action of
reconcile. It is made where the code is that has the effect, so that the list of points is made by the code itself. Nothing
happens at a point unless `at_point` is set, which only tests do; a point then costs a call, and otherwise a comparison.

Imported by the launcher before the agent starts: no import here.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

at_point: "Callable[[str], None] | None" = None
"""Called with the name of each point that is reached: `before NAME` or `after NAME`."""

_effects: "dict[str, Effect]" = {}


class Effect:
    """`with effect:` has a point before it and, if nothing was raised, one after it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        if at_point is not None:
            at_point(f"before {self.name}")

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None and at_point is not None:
            at_point(f"after {self.name}")


def effect(name: str) -> Effect:
    """The effect of this name, which is listed from now on."""
    return _effects.setdefault(name, Effect(name))


def points() -> list[str]:
    """Every point of the modules that are imported, in the order in which the code makes them."""
    return [f"{when} {name}" for name in _effects for when in ("before", "after")]
