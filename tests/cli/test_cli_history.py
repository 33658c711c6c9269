"""history, runs and ready: what happened, and why nothing happens."""

import json
import signal

import pytest
from cli.desk import EVENT_KEYS, MOMENT, RUN_KEYS, TASK_KEYS, Desk, names, running


def test_history_tells_who_when_and_why(shared: Desk, crowd: dict[str, int]) -> None:
    events = shared.json("history", str(crowd["failed"]))["events"]
    assert {frozenset(event) for event in events} == {frozenset(EVENT_KEYS)}
    assert all(MOMENT.fullmatch(event["at"]) for event in events)
    told = {event["kind"]: (event["actor"], event["from"], event["to"]) for event in events}
    assert told == {  # the dispatcher notes the window while its launcher is already at work
        "added": ("user", None, "ready"),
        "claimed": ("dispatch", "ready", "in_progress"),
        "prepared": ("dispatch", None, None),
        "window": ("dispatch", None, None),
        "started": ("launcher", None, None),
        "ended": ("launcher", "in_progress", "failed"),
    }
    assert [event["detail"]["run"]["exit_code"] for event in events if event["kind"] == "ended"] == [7]
    rows = [line.split("\t") for line in shared.ok("history", str(crowd["failed"])).splitlines()]
    assert [row[0] for row in rows] == [str(event["id"]) for event in events]
    assert {row[2] for row in rows} == {str(crowd["failed"])}
    assert any("in_progress → failed" in row and "exited with 7" in row for row in rows)


def test_history_of_everything_since_a_time_and_limited(shared: Desk, crowd: dict[str, int]) -> None:
    events = shared.json("history", "--limit", "0")["events"]
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    assert {event["task"] for event in events} >= set(crowd.values())
    assert shared.json("history", "--limit", "3")["events"] == events[-3:]
    middle = events[len(events) // 2]["at"]
    since = shared.json("history", "--since", middle, "--limit", "0")["events"]
    assert since == [event for event in events if event["at"] >= middle]
    assert shared.json("history", "--since", "1h", "--limit", "0")["events"] == events
    assert shared.json("history", "--since", "now")["events"] == []
    assert shared.json("history", "--since", "2000-01-01", "--limit", "0")["events"] == events
    shared.refused("history", "--since", "yesterday", says="'yesterday' is not a time")


def test_the_history_of_a_removed_task_stays(shared: Desk) -> None:
    task = shared.add("Short life")
    shared.ok("rm", str(task))
    assert [event["kind"] for event in shared.json("history", str(task))["events"]] == ["added", "cancelled", "removed"]
    shared.refused("history", "99999", code=3, says="there is no task 99999")


@pytest.mark.parametrize("as_json", [False, True])
def test_history_follows_what_happens(desk: Desk, as_json: bool) -> None:
    task = desk.add("Followed")
    words = ["history", str(task), "--follow", *(["--json"] if as_json else [])]
    with running(desk, *words) as follower:
        assert follower.stdout is not None
        lines = [follower.stdout.readline()]
        desk.ok("edit", str(task), "--priority", "0")
        lines.append(follower.stdout.readline())
        desk.ok("cancel", str(task))
        lines.append(follower.stdout.readline())
        follower.send_signal(signal.SIGINT)
        assert follower.wait(30) == 130
    kinds = [json.loads(line)["events"][0]["kind"] if as_json else line.split("\t")[5] for line in lines]
    assert kinds == ["added", "edited", "cancelled"]


def test_runs_tells_every_try(shared: Desk) -> None:
    task = shared.ended("Again", "exit 3")
    shared.ok("retry", str(task), "--fresh")
    shared.ok("edit", str(task), "-p", "kill -9 $$")
    shared.ok("dispatch", str(task))
    shared.world.ended(shared.runtime, task)
    runs = shared.json("runs", str(task))["runs"]
    assert {frozenset(run) for run in runs} == {frozenset(RUN_KEYS)}
    assert [(run["number"], run["exit_code"], run["signal"]) for run in runs] == [(1, 3, None), (2, None, 9)]
    rows = [line.split("\t") for line in shared.ok("runs", str(task)).splitlines()]
    assert [(row[0], row[3], row[4]) for row in rows] == [("1", "exited", "3"), ("2", "exited", "signal 9")]
    assert shared.json("runs", str(shared.add("Never ran")))["runs"] == []
    shared.refused("runs", "99999", code=3, says="there is no task 99999")


def test_ready_is_the_order_of_claims(shared: Desk, crowd: dict[str, int]) -> None:
    first = [task["id"] for task in shared.json("ready")["tasks"] if task["id"] in crowd.values()]
    assert names(crowd, first) == ["soon", "late"]
    assert [task["id"] for task in shared.json("ready", "--label", "b")["tasks"]] == [crowd["soon"]]
    assert shared.ok("ready", "--limit", "1").split("\t")[0] == str(crowd["soon"])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("soon", "ready: next in line: dispatchctl dispatch"),
        ("held", "held: task FAILED is failed: dispatchctl retry FAILED"),
        ("deferred", "held: not before 2099-01-01T00:00:00.000Z"),
        ("draft", "backlog: a draft, which nobody starts (dispatchctl release ID)"),
        ("blocked", "blocked: which one? (dispatchctl attach ID, or dispatchctl unblock ID -m 'ANSWER')"),
        ("review", "in_review: 1 file is not committed (dispatchctl approve ID)"),
        ("failed", "failed: exited with 7 (dispatchctl retry ID)"),
        ("runs", "in_progress"),
        ("done", "done"),
        ("cancelled", "cancelled (dispatchctl retry ID)"),
    ],
)
def test_ready_explains_each_reason(shared: Desk, crowd: dict[str, int], name: str, why: str) -> None:
    why = why.replace("FAILED", str(crowd["failed"])).replace("ID", str(crowd[name]))
    [task] = shared.json("ready", str(crowd[name]))["tasks"]
    assert set(task) == {*TASK_KEYS, "why"}
    assert task["why"] == why
    if name not in ("runs", "done", "cancelled"):
        everything = shared.ok("ready", "--explain").splitlines()
        assert any(line.split("\t") == [str(crowd[name]), task["title"], why] for line in everything)


def test_ready_explains_the_limit_on_runs(shared: Desk, crowd: dict[str, int]) -> None:
    [task] = shared.json("ready", str(crowd["soon"]), DISPATCHCTL_DISPATCH__MAX_RUNNING="1")["tasks"]
    ended = [event for event in shared.runtime.store.events() if event.kind in ("ended", "undone")]
    full = "2 runs are open, 1 of them blocked and waiting for you, and the limit is 1"
    assert task["why"] == f"ready: next in line; {full}: dispatchctl list --status blocked", ended
    assert task["held"] == f"{full}: dispatchctl list --status blocked"
    said = shared.run("dispatch", DISPATCHCTL_DISPATCH__MAX_RUNNING="1")
    assert said.err == f"{full}\n  hint: dispatchctl list --status blocked\n"


def test_since_speaks_of_the_past(shared: Desk) -> None:
    said = shared.refused("history", "--since", "yesterday", says="'yesterday' is not a time")
    assert "+2h" not in said.err
