"""A run and its task as they were claimed, written down beside the database.

In the owner lock file from the claim on, and in the run directory: a database that is restored to an earlier moment knows
nothing of runs that were claimed since, whose worktrees, windows and agents are still there.
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import Any

from dispatchctl.task import Activity, Ask, Life, Outcome, Phase, Report, Run, Status, Task

RUN_KINDS = {
    "phase": Phase,
    "report": Report,
    "ask": Ask,
    "outcome": Outcome,
    "activity": Activity,
    "life": Life,
}


@dataclass(frozen=True)
class Intent:
    """What was claimed, in the database with this id."""

    database: str
    task: Task
    run: Run


def write(path: str, intent: Intent) -> None:
    """Write it into the file, which is made if need be and never replaced: its lock stays held."""
    task = {**asdict(intent.task), "run": None}
    text = json.dumps({"database": intent.database, "task": task, "run": asdict(intent.run)}, ensure_ascii=False)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def read(path: str) -> Intent | None:
    """What was written; None if that cannot be read, or not by this version."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            values: dict[str, Any] = json.load(file)
        task, run = values["task"], values["run"]
        task |= {"status": Status(task["status"]), "labels": tuple(task["labels"]), "after": tuple(task["after"])}
        run |= {name: kind(run[name]) for name, kind in RUN_KINDS.items() if run[name] is not None}
        return Intent(values["database"], Task(**_known(Task, task)), Run(**_known(Run, run)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _known(kind: type[Task | Run], values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that this version has a field for."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in values.items() if name in names}
