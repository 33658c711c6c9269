"""What is told of: pure, from an event of the history to an edge, if it is one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dispatchctl.config.table import Notice
from dispatchctl.task import Activity, Event, Status

OF_STATUS: Mapping[Status, Notice] = {
    Status.BLOCKED: Notice.BLOCKED,
    Status.IN_REVIEW: Notice.IN_REVIEW,
    Status.FAILED: Notice.FAILED,
    Status.DONE: Notice.DONE,
}
OF_KIND: Mapping[str, Notice] = {Activity.STALLED: Notice.STALLED, "undo_failed": Notice.FAILED}
"""Events that are told of although no status changes."""


@dataclass(frozen=True)
class Edge:
    """One thing to tell of: the event (of several, the first) and how many it stands for. `task` None: the queue."""

    what: Notice
    event: int
    at: int
    task: int | None = None
    why: str = ""
    count: int = 1
    later: int = 0

    @property
    def last(self) -> int:
        """The event; of several, the last."""
        return max(self.event, self.later)

    def with_(self, other: "Edge") -> "Edge":
        """Both as one."""
        first = min(self, other, key=lambda edge: edge.event)
        return replace(first, count=self.count + other.count, later=max(self.last, other.last))


def edge_of(event: Event) -> Edge | None:
    """The edge that the event is; None for one that nobody is told of. Being added is none, whatever the status."""
    moved = event.to_status is not None and event.from_status is not None
    what = OF_STATUS.get(event.to_status) if moved and event.to_status is not None else OF_KIND.get(event.kind)
    if what is None:
        return None
    task = event.detail.get("task", {})
    why = task.get("error") or task.get("result") or ""
    return Edge(what, event.id, event.at, event.task, str(why))


def begins_work(event: Event) -> bool:
    """Whether somebody works after it, so that the queue may come to be empty again."""
    return event.to_status is Status.IN_PROGRESS
