"""done, fail, block, heartbeat: called by the agent in its session, or by a human who names the task."""

import os
from typing import Any

import pytest
from cli.desk import TASK_KEYS, Desk
from world import eventually

from dispatchctl.task import Activity, Outcome, Status

UNTIL = "while [ ! -e {} ]; do sleep 0.02; done"


def test_done_in_the_session_ends_with_it(shared: Desk) -> None:
    task = shared.dispatched("Done", "dispatchctl done -m 'all is well'; exit 5")
    row = shared.world.ended(shared.runtime, task)
    run = shared.newest(task)
    assert (row.status, row.result, row.error) == (Status.DONE, "all is well", None)
    assert (run.outcome, run.exit_code) == (Outcome.REPORTED, 5)
    said = f"task {task} is reported as done; it ends with this session\n"
    assert shared.ok("logs", str(task)) == said
    by = {event["kind"]: event["actor"] for event in shared.json("history", str(task))["events"]}
    assert by["reported"] == "agent"


def test_fail_in_the_session_says_why(shared: Desk) -> None:
    task = shared.dispatched("Fail", "dispatchctl fail -m 'no tests here'; exit 0")
    row = shared.world.ended(shared.runtime, task)
    assert (row.status, row.error) == (Status.FAILED, "no tests here")
    assert shared.newest(task).outcome is Outcome.REPORTED


def test_block_in_the_session_leaves_it_alone(shared: Desk) -> None:
    task = shared.dispatched("Block", "dispatchctl block -m 'red or blue?' --json; : sleep 600; read -r answer")
    eventually(lambda: shared.task(task).status is Status.BLOCKED)
    shown = shared.json("show", str(task))["task"]
    assert (shown["error"], shown["activity"], shown["run"]["phase"], shown["run"]["life"]) == (
        "red or blue?",
        "waiting",
        "started",
        "alive",
    )
    assert "is blocked" not in shared.ok("logs", str(task))
    assert '"status": "blocked"' in shared.ok("logs", str(task))


def test_the_agent_may_name_its_own_task(shared: Desk) -> None:
    task = shared.dispatched("Named", "dispatchctl done $DISPATCHCTL_TASK -m named; exit 1")
    assert shared.world.ended(shared.runtime, task).result == "named"
    by = {event["kind"]: event["actor"] for event in shared.json("history", str(task))["events"]}
    assert by["reported"] == "agent"


def test_heartbeat_says_that_the_agent_works(shared: Desk) -> None:
    task = shared.dispatched("Beats", "dispatchctl heartbeat && echo beat; sleep 600")
    eventually(lambda: shared.ok("logs", str(task)) == "beat\n")
    assert shared.newest(task).activity is Activity.WORKING
    before = shared.newest(task).heartbeat_at
    assert before is not None
    said = shared.run("heartbeat", str(task))
    assert (said.code, said.out, said.err) == (0, "", "")
    assert (shared.newest(task).heartbeat_at or 0) >= before
    assert set(shared.json("heartbeat", str(task))["task"]) == TASK_KEYS


@pytest.mark.parametrize(("verb", "status"), [("done", Status.DONE), ("fail", Status.FAILED)])
def test_a_human_ends_the_agent_and_closes_the_run(shared: Desk, verb: str, status: Status) -> None:
    task = shared.dispatched("Ended by hand", "trap '' TERM; sleep 600 & wait; sleep 600")
    run = shared.newest(task)
    answer = shared.json(verb, str(task), "-m", "by hand", "--quiet")["task"]
    assert set(answer) == TASK_KEYS
    assert answer["status"] == status
    assert (answer["result"] if verb == "done" else answer["error"]) == "by hand"
    assert (answer["run"]["phase"], answer["run"]["outcome"]) == ("closed", "reported")
    assert shared.agents_left(run) == []


def test_a_human_says_it_for_a_person(shared: Desk) -> None:
    first, second = (shared.dispatched("By hand", "sleep 600") for _ in range(2))
    assert shared.ok("done", str(first)) == f"task {first} is done\n"
    assert shared.ok("fail", str(second)) == f"task {second} is failed: reported as failed\n"
    third = shared.dispatched("By hand", "sleep 600")
    assert shared.ok("block", str(third)) == f"task {third} is blocked: asks for a human\n"


def test_a_report_of_a_run_that_is_over_is_refused_and_says_so(shared: Desk) -> None:
    task = shared.ended("Over", "exit 3")
    run, database = shared.newest(task), str(shared.runtime.database)
    session: dict[str, Any] = {
        "DISPATCHCTL_TASK": str(task),
        "DISPATCHCTL_TOKEN": run.token,
        "DISPATCHCTL_DB": database,
    }
    for verb in ("done", "fail", "block", "heartbeat"):
        shared.refused(
            verb, code=4, says=f"run {run.token} is over: task {task} is no longer this session's", **session
        )
    shared.ok("retry", str(task))
    shared.ok("edit", str(task), "-p", "sleep 600")
    shared.ok("dispatch", str(task))
    for words in (["done", "-m", "late"], ["fail", str(task), "--json"]):
        shared.refused(*words, code=4, says=f"run {run.token} is over", **session)
    assert shared.task(task).status is Status.IN_PROGRESS
    shared.ok("cancel", str(task))
    shared.ok("rm", str(task))
    shared.refused("done", code=4, says=f"there is no run {run.token}", **session)


def test_outside_a_session_a_task_has_to_be_named(shared: Desk) -> None:
    shared.add("T")
    for verb in ("done", "fail", "block", "heartbeat"):
        shared.refused(verb, says="no task was named, and this is not a session of one")


def test_a_session_that_stays_after_its_report_is_ended(desk: Desk) -> None:
    (desk.world.home / ".config" / "dispatchctl").mkdir(parents=True)
    (desk.world.home / ".config" / "dispatchctl" / "config.toml").write_text('[dispatch]\nreport_grace = "1s"\n')
    task = desk.dispatched("Stays", "dispatchctl done -m ok; sleep 600")
    row = desk.world.ended(desk.runtime, task)
    run = desk.newest(task)
    assert (row.status, row.result, run.outcome) == (Status.DONE, "ok", Outcome.REPORTED)
    assert (run.exit_code, run.signal) == (None, 15)


def test_a_session_that_ends_within_the_grace_ends_by_itself(shared: Desk) -> None:
    gate = shared.world.root / "gate"
    task = shared.dispatched("Tidies up", f"dispatchctl done -m ok; {UNTIL.format(gate)}; exit 0")
    eventually(lambda: shared.newest(task).report)
    assert shared.task(task).status is Status.IN_PROGRESS
    assert "  reported    done: ok\n" in shared.ok("show", str(task))
    gate.touch()
    shared.world.ended(shared.runtime, task)
    assert (shared.newest(task).exit_code, shared.newest(task).signal) == (0, None)


@pytest.mark.parametrize(
    ("text", "status", "result"),
    [
        ("just words", Status.DONE, "just words"),
        ('{"summary": "short"}', Status.DONE, "short"),
        ('{"status": "done", "summary": "short"}', Status.DONE, "short"),
        ('{"status": "fail", "summary": "cannot"}', Status.FAILED, "cannot"),
        ('["a", "list"]', Status.DONE, '["a", "list"]'),
        ("", Status.DONE, None),
    ],
)
def test_a_result_file_becomes_the_result(shared: Desk, text: str, status: Status, result: str | None) -> None:
    task = shared.ended("Result", f"printf '%s' '{text}' > $DISPATCHCTL_RESULT_FILE")
    shown = shared.json("show", str(task))["task"]
    assert (shown["status"], shown["result"]) == (status, result)
    if status is Status.FAILED:
        assert shown["error"] == "cannot"
    assert shared.world.git(shared.repo, "-C", shown["run"]["worktree"], "status", "--porcelain") == ""


def test_messages_are_data_and_checked(shared: Desk) -> None:
    hostile = "\x1b[31m red \x9b1m\n`id` $(id) [bold]x[/bold] \u202e 🎉"
    task = shared.dispatched("Message", "sleep 600")
    shared.ok("block", str(task), "-m", hostile)
    assert shared.json("show", str(task))["task"]["error"] == hostile
    invalid = os.fsdecode(b"a\xffb")
    for verb in ("done", "fail", "block", "retry", "unblock"):
        shared.refused(verb, str(task), "-m", invalid, says="the message is not valid UTF-8 (at character 1)")
    shared.refused("done", str(task), "-m", "x" * 65_537, says="the message has 65537 bytes, and 65536 is the most")
