"""Each verb on a task of each status that does not allow it: a sentence that names both, exit code 4, nothing changed."""

import pytest
from cli.desk import Desk
from world import eventually

from dispatchctl.task import Phase, Status

EVERY = ("backlog", "ready", "in_progress", "asking", "blocked", "in_review", "done", "failed", "cancelled")
"""One task of each status; `asking` is blocked with its session, `blocked` has left."""
WITH_RUN = ("in_progress", "asking")
WITHOUT_RUN = tuple(name for name in EVERY if name not in WITH_RUN)


def but(*allowed: str) -> tuple[str, ...]:
    return tuple(name for name in EVERY if name not in allowed)


REFUSED: dict[str, tuple[str, ...]] = {
    "release ID": but("backlog"),
    "dispatch ID": but("ready"),
    "send ID text": WITHOUT_RUN,
    "unblock ID": but("asking", "blocked"),
    "retry ID": ("backlog", "ready", *WITH_RUN),
    "approve ID": but("in_review"),
    "reject ID -m better": but("in_review"),
    "cancel ID": ("done",),
    "done ID": ("backlog", "ready", "done", "failed", "cancelled"),
    "fail ID": ("backlog", "ready", "in_review", "done", "failed", "cancelled"),
    "block ID": WITHOUT_RUN,
    "heartbeat ID": WITHOUT_RUN,
    "edit ID --priority 0": WITH_RUN,
    "rm ID": (*WITH_RUN, "in_review"),
    "rm ID --force": WITH_RUN,
    "logs ID": ("backlog", "ready"),
    "attach ID": ("backlog", "ready"),
}


@pytest.fixture(scope="module")
def tasks(shared: Desk) -> dict[str, int]:
    found = {
        "backlog": shared.add("Backlog", "x", "--backlog"),
        "ready": shared.add("Ready"),
        "in_progress": shared.dispatched("Runs", "sleep 600"),
        "asking": shared.dispatched("Asks", "dispatchctl block -m which; sleep 600"),
        "blocked": shared.ended("Asked", "dispatchctl block -m which"),
        "in_review": shared.ended("Review", "echo x > x"),
        "done": shared.ended("Done"),
        "failed": shared.ended("Failed", "exit 1"),
        "cancelled": shared.add("Cancelled"),
    }
    shared.ok("cancel", str(found["cancelled"]))
    eventually(lambda: shared.task(found["asking"]).status is Status.BLOCKED)
    for name, task in found.items():
        row = shared.task(task)
        assert row.status == {"asking": "blocked"}.get(name, name)
        assert (row.run is not None and row.run.phase is not Phase.CLOSED) == (name in WITH_RUN)
    return found


@pytest.mark.parametrize(
    ("verb", "name"),
    [pytest.param(verb, name, id=f"{verb}-{name}") for verb, names in REFUSED.items() for name in names],
)
def test_a_verb_that_the_status_does_not_allow_is_refused(
    shared: Desk, tasks: dict[str, int], verb: str, name: str
) -> None:
    task = tasks[name]
    words = [str(task) if word == "ID" else word for word in verb.split()]
    said = shared.refused(*words, code=4, says=f"task {task}")
    status = shared.task(task).status
    open_run = verb.startswith(("edit", "rm", "retry", "approve", "reject")) and name in WITH_RUN
    reason = {"rm ID": "would be lost", "logs ID": "has not run", "attach ID": "has not run"}.get(verb, f"is {status}")
    if verb in ("block ID", "heartbeat ID"):
        reason = "has no open run"
    assert ("has an open run" if open_run else reason) in said.err
    hint = said.err.rpartition("  hint: ")[2]
    assert hint.startswith("dispatchctl ")
    assert str(task) in hint


def test_the_same_refusal_in_json(shared: Desk, tasks: dict[str, int]) -> None:
    for verb in ("release", "dispatch", "unblock", "done", "heartbeat"):
        said = shared.refused(verb, str(tasks["failed"]), "--json", code=4)
        assert f"task {tasks['failed']}" in said.json["error"]["message"]
