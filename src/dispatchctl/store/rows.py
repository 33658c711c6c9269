"""What is selected, and how its rows become values. The columns are the fields of the types in `dispatchctl.task`."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from dispatchctl.task import Activity, Actor, Ask, Event, Life, Outcome, Phase, Report, Run, Status, Task

Kinds = Mapping[str, Callable[[Any], Any]]

RUN_FIELDS = tuple(each.name for each in fields(Run))
RUN_KINDS: Kinds = {
    "phase": Phase,
    "resumed": bool,
    "owns_tree": bool,
    "owns_branch": bool,
    "report": Report,
    "ask": Ask,
    "outcome": Outcome,
    "activity": Activity,
    "life": Life,
}
SELECT_RUN = f"SELECT {', '.join(RUN_FIELDS)} FROM runs"

EVENT_FIELDS = tuple(each.name for each in fields(Event))
EVENT_KINDS: Kinds = {"actor": Actor, "from_status": Status, "to_status": Status, "detail": json.loads}
SELECT_EVENT = f"SELECT {', '.join(EVENT_FIELDS)} FROM events"


def _ids(text: str) -> tuple[int, ...]:
    return tuple(sorted(json.loads(text)))


def _words(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


TASK_FIELDS = tuple(each.name for each in fields(Task) if each.name != "run")
TASK_KINDS: Kinds = {"status": Status, "labels": _words, "after": _ids, "review": bool}
PARENTS = "(SELECT json_group_array(parent) FROM after WHERE after.task = tasks.id)"


def _select_task() -> str:
    of_task = [PARENTS if name == "after" else f"tasks.{name}" for name in TASK_FIELDS]
    of_run = [f"runs.{name}" for name in RUN_FIELDS]
    return f"SELECT {', '.join(of_task + of_run)} FROM tasks LEFT JOIN runs ON runs.token = tasks.newest_run"


SELECT_TASK = _select_task()
"""Tasks, each with its newest run; conditions may follow."""
SELECT_WITHOUT_PARENTS = SELECT_TASK.replace(PARENTS, "'[]'")
"""The same for whoever does not look at `after`, which may name thousands."""


def to_run(row: Sequence[Any]) -> Run:
    """A row of `SELECT_RUN`."""
    return Run(**_typed(RUN_FIELDS, row, RUN_KINDS))


def to_task(row: Sequence[Any]) -> Task:
    """A row of `SELECT_TASK`."""
    of_task, of_run = row[: len(TASK_FIELDS)], row[len(TASK_FIELDS) :]
    run = to_run(of_run) if of_run[0] is not None else None
    return Task(**_typed(TASK_FIELDS, of_task, TASK_KINDS), run=run)


def to_event(row: Sequence[Any]) -> Event:
    """A row of `SELECT_EVENT`."""
    return Event(**_typed(EVENT_FIELDS, row, EVENT_KINDS))


def _typed(names: Sequence[str], row: Sequence[Any], kinds: Kinds) -> dict[str, Any]:
    values = dict(zip(names, row, strict=True))
    for name, kind in kinds.items():
        if values[name] is not None:
            values[name] = kind(values[name])
    return values


def having_labels(labels: Collection[str]) -> tuple[str, list[Any]]:
    """A further condition that a task has every one of the labels, with its values."""
    one = " AND EXISTS (SELECT 1 FROM json_each(tasks.labels) WHERE json_each.value = ?)"
    return one * len(labels), list(labels)
