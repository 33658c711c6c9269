"""What the events say the rows are: history folded into tasks and runs.

An event carries the columns that it changed, of its task and of its run. So the fold gives every column of both tables but
those that the schema marks as derived or as a last sighting, and nothing that happened has to be believed without proof.
Where events were pruned, one holds the rows of the task and of its runs, under `task` and `runs`, as they were then.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dispatchctl.task import Event

REMOVED = "removed"


@dataclass(frozen=True)
class Replayed:
    """Rows by id and by token. A column that is not there has never been set: it is null.

    A task's row also has its parents, as `after`.
    """

    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)


def replay(events: Iterable[Event]) -> Replayed:
    """Fold events, oldest first, from the first one of each of their tasks."""
    replayed = Replayed()
    for event in events:
        if event.kind == REMOVED:
            _remove(replayed, event.task)
            continue
        if changed := event.detail.get("task"):
            row = replayed.tasks.setdefault(event.task, {"id": event.task})
            row.update({"updated_at": event.at, **changed})
        if event.run is not None and (changed := event.detail.get("run")):
            replayed.runs.setdefault(event.run, {"token": event.run}).update(changed)
        for token, whole in event.detail.get("runs", {}).items():
            replayed.runs[token] = {"token": token, **whole}
    return replayed


def _remove(replayed: Replayed, task: int) -> None:
    del replayed.tasks[task]
    for token in [token for token, run in replayed.runs.items() if run["task"] == task]:
        del replayed.runs[token]
