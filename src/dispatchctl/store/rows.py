"""Rows to values and back."""

import json
from collections.abc import Sequence
from typing import Any

from dispatchctl.task import Activity, Actor, Ask, Event, Life, Outcome, Phase, Report, Run, Status, Task

RUN_COLUMNS = (
    "token, task, number, phase, agent, repo, branch, worktree, resumed, run_dir, owner_lock, step_lock, host, boot_id, "
    "claimed_at, socket, session, base_commit, owns_tree, owns_branch, server_pid, server_start, window_id, pane_id, "
    "launcher_pid, launcher_start, agent_pid, agent_start, started_at, report, report_message, ask, outcome, exit_code, "
    "signal, ended_at, closed_at, error, activity, heartbeat_at, life, life_at"
)
TASK_COLUMNS = (
    "id, title, prompt, status, priority, labels, agent, repo, base, review, retries_left, recoveries_left, timeout_s, "
    "not_before, error, result, note, resume, created_at, updated_at, waits, "
    "(SELECT json_group_array(parent) FROM after WHERE after.task = tasks.id)"
)
EVENT_COLUMNS = "id, task, run, at, actor, kind, from_status, to_status, detail"

TASK_WIDTH = 22


def to_run(row: Sequence[Any]) -> Run:
    """A row of `RUN_COLUMNS`."""
    values = list(row)
    values[3] = Phase(row[3])
    for flag in (8, 18, 19):
        values[flag] = bool(row[flag])
    for place, kind in ((29, Report), (31, Ask), (32, Outcome), (38, Activity), (40, Life)):
        values[place] = row[place] and kind(row[place])
    return Run(*values)


def to_task(row: Sequence[Any]) -> Task:
    """A row of `TASK_COLUMNS`, followed by `RUN_COLUMNS` of the newest run or by nothing."""
    values = list(row[:TASK_WIDTH])
    parents = values.pop()
    values[3] = Status(row[3])
    values[5] = tuple(json.loads(row[5]))
    values[9] = bool(row[9])
    values.insert(9, tuple(sorted(json.loads(parents))))
    run = row[TASK_WIDTH:]
    values.append(to_run(run) if run and run[0] is not None else None)
    return Task(*values)


def to_event(row: Sequence[Any]) -> Event:
    """A row of `EVENT_COLUMNS`."""
    values = [*row[:4], Actor(row[4]), row[5], row[6] and Status(row[6]), row[7] and Status(row[7]), json.loads(row[8])]
    return Event(*values)
