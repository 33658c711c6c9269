"""The JSON of the contract (section 8 of the design). Every key is always there; null is "not known"."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

from dispatchctl.durations import format_time
from dispatchctl.task import Event, Run, Task

SCHEMA_VERSION = 1


def moment(ms: int | None) -> str | None:
    """RFC 3339 in UTC."""
    return None if ms is None else format_time(ms)


def run(value: Run) -> dict[str, Any]:
    """A run."""
    return {
        "token": value.token,
        "number": value.number,
        "phase": value.phase,
        "outcome": value.outcome,
        "exit_code": value.exit_code,
        "signal": value.signal,
        "branch": value.branch,
        "worktree": value.worktree,
        "base_commit": value.base_commit,
        "host": value.host,
        "socket": value.socket,
        "session": value.session,
        "window_id": value.window_id,
        "pane_id": value.pane_id,
        "agent_pid": value.agent_pid,
        "started_at": moment(value.started_at),
        "ended_at": moment(value.ended_at),
        "life": value.life,
        "life_at": moment(value.life_at),
        "merged": value.merged,
        "pull_request": value.pull_request,
    }


def task(value: Task, held: str | None) -> dict[str, Any]:
    """A task with its newest run; `held` says why it cannot be claimed, if it is ready and cannot."""
    return {
        "id": value.id,
        "title": value.title,
        "prompt": value.prompt,
        "status": value.status,
        "activity": value.run.activity if value.run else None,
        "held": held,
        "priority": value.priority,
        "labels": list(value.labels),
        "agent": value.agent,
        "repo": value.repo,
        "base": value.base,
        "after": list(value.after),
        "review": value.review,
        "retries_left": value.retries_left,
        "recoveries_left": value.recoveries_left,
        "timeout_s": value.timeout_s,
        "not_before": moment(value.not_before),
        "error": value.error,
        "result": value.result,
        "created_at": moment(value.created_at),
        "updated_at": moment(value.updated_at),
        "run": run(value.run) if value.run else None,
    }


def because(event: Event) -> str | None:
    """Why it happened, where anybody said so: an error, a report, a result, a human's note, or what was seen."""
    if "events" in event.detail:
        return f"{event.detail['events']} earlier events were dropped"
    if event.detail.get("why"):
        return str(event.detail["why"])
    task: Mapping[str, object] = event.detail.get("task", {})
    run: Mapping[str, object] = event.detail.get("run", {})
    for source, key in ((task, "error"), (run, "error"), (run, "report_message"), (task, "result"), (task, "note")):
        if source.get(key):
            return str(source[key])
    if run.get("outcome"):
        return f"exited with {run['exit_code']}" if run.get("exit_code") is not None else f"{run['outcome']}"
    return None


def event(value: Event) -> dict[str, Any]:
    """An event."""
    return {
        "id": value.id,
        "task": value.task,
        "run": value.run,
        "at": moment(value.at),
        "actor": value.actor,
        "kind": value.kind,
        "from": value.from_status,
        "to": value.to_status,
        "reason": because(value),
        "detail": value.detail,
    }


class Act(Protocol):
    """What `reconcile` or `prune` did about a run, or only reports."""

    @property
    def kind(self) -> StrEnum: ...
    @property
    def task(self) -> int | None: ...
    @property
    def run(self) -> str | None: ...
    @property
    def reason(self) -> str: ...


def action(value: Act, ok: bool) -> dict[str, Any]:
    """Something that was done about a run, or is only reported."""
    return {"action": value.kind, "task": value.task, "run": value.run, "reason": value.reason, "ok": ok}
