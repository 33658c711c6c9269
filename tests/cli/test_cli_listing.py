"""list, show, history, runs and ready: what is there, and why."""

import json
import os
import re
import signal
import subprocess

import pytest
from cli.desk import COMMAND, EVENT_KEYS, RUN_KEYS, TASK_KEYS, Desk, Terminal, on_terminal, running
from world import eventually

from dispatchctl.runtime import now
from dispatchctl.task import Actor, NewTask, Status

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(scope="module")
def crowd(shared: Desk) -> dict[str, int]:
    """One task of each kind, by name."""
    tasks = {
        "cancelled": shared.add("Cancelled", "x", "--label", "a"),
        "done": shared.ended("Done", "exit 0", "--label", "a,b"),
        "failed": shared.ended("Failed", "exit 7"),
        "review": shared.ended("Review", "echo x > x"),
        "done2": shared.ended("Done too", "exit 0"),
        "late": shared.add("Late", "x", "--priority", "3"),
        "soon": shared.add("Soon", "x", "--priority", "1", "--label", "b"),
        "draft": shared.add("Draft", "x", "--backlog"),
        "blocked": shared.dispatched("Blocked", "dispatchctl block -m 'which one?'; sleep 600"),
        "runs": shared.dispatched("Runs", "sleep 600"),
    }
    shared.ok("cancel", str(tasks["cancelled"]))
    tasks["held"] = shared.add("Held", "x", "--after", str(tasks["failed"]))
    tasks["deferred"] = shared.add("Deferred", "x", "--not-before", "2099-01-01T00:00Z")
    eventually(lambda: shared.task(tasks["blocked"]).status is Status.BLOCKED)
    return tasks


def ids(desk: Desk, *words: str) -> list[int]:
    return [task["id"] for task in desk.json("list", *words)["tasks"]]


def add_many(desk: Desk, count: int, title: str) -> None:
    many = [NewTask(title, "x", str(desk.repo), "main", "shell") for _ in range(count)]
    desk.runtime.store.add(many, actor=Actor.USER, at=now())


def names(crowd: dict[str, int], found: list[int]) -> list[str]:
    by_id = {task: name for name, task in crowd.items()}
    return [by_id[task] for task in found]


NEED = [
    "blocked",
    "review",
    "failed",
    "runs",
    "soon",
    "late",
    "held",
    "deferred",
    "draft",
    "done2",
    "done",
    "cancelled",
]


def test_list_shows_what_needs_a_human_first_and_the_finished_last(shared: Desk, crowd: dict[str, int]) -> None:
    assert names(crowd, ids(shared)) == NEED
    assert shared.json("ls") == shared.json("list")


def test_list_off_a_terminal_is_columns_with_tabs_and_no_heads(shared: Desk, crowd: dict[str, int]) -> None:
    rows = [line.split("\t") for line in shared.ok("list").splitlines()]
    assert names(crowd, [int(row[0]) for row in rows]) == NEED
    assert {len(row) for row in rows} == {8}
    held = next(row for row in rows if row[7] == "Held")
    assert held[:5] == [str(crowd["held"]), "P2", "ready (held)", "", "shell"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--status", "ready"], ["soon", "late", "held", "deferred"]),
        (["--status", "done,failed", "--status", "cancelled"], ["failed", "done2", "done", "cancelled"]),
        (["--label", "a"], ["done", "cancelled"]),
        (["--label", "a,b"], ["done"]),
        (["--label", "b", "--label", "a"], ["done"]),
        (["--label", "none"], []),
        (["--limit", "3"], NEED[:3]),
        (["--limit", "0"], NEED),
        (["--limit=1", "--status=done"], ["done2"]),
    ],
)
def test_filters_and_limits(shared: Desk, crowd: dict[str, int], words: list[str], found: list[str]) -> None:
    assert names(crowd, ids(shared, *words)) == found


def test_list_of_one_repository(shared: Desk, crowd: dict[str, int]) -> None:
    other = shared.world.root / "elsewhere"
    if not other.exists():
        shared.world.repository("elsewhere")
    task = shared.add("Other", "x", "--repo", str(other))
    try:
        assert ids(shared, "--repo", str(other)) == [task]
        assert task not in ids(shared, "--repo", ".")
    finally:
        shared.ok("rm", str(task))


def test_a_list_for_a_program_is_never_cut_and_one_for_a_person_says_so(desk: Desk) -> None:
    desk.add("first")
    add_many(desk, 120, "T")
    assert len(ids(desk)) == 121
    assert len(desk.ok("list").splitlines()) == 121
    code, text = on_terminal(desk, "list")
    assert code == 0
    assert len(text.splitlines()) == 1 + 100 + 1
    assert text.endswith("only 100 are shown; all of them: dispatchctl list --limit 0\n")
    assert len(on_terminal(desk, "list", "--limit", "0")[1].splitlines()) == 1 + 121


def test_an_empty_list_says_so_to_a_person_alone(desk: Desk) -> None:
    desk.ok("init")
    assert desk.run("list") == desk.run("ready")
    assert desk.run("list").out == ""
    assert on_terminal(desk, "list")[1].endswith("there are no tasks\n")
    assert on_terminal(desk, "list", "--label", "x")[1].endswith("there are no such tasks\n")


def test_every_key_is_there_and_times_are_rfc_3339(shared: Desk, crowd: dict[str, int]) -> None:
    for task in shared.json("list")["tasks"]:
        assert set(task) == TASK_KEYS
        moments = [task["created_at"], task["updated_at"]]
        if task["run"] is not None:
            assert set(task["run"]) == RUN_KEYS
            moments += [task["run"]["started_at"]]
            if task["status"] not in ("in_progress", "blocked"):
                moments += [task["run"]["ended_at"], task["run"]["life_at"]]
        assert all(MOMENT.fullmatch(moment) for moment in moments), moments
    assert shared.json("show", str(crowd["late"]))["task"]["run"] is None
    assert shared.json("show", str(crowd["deferred"]))["task"]["not_before"] == "2099-01-01T00:00:00.000Z"


def test_show_looks_whether_the_agent_lives(desk: Desk) -> None:
    task = desk.dispatched("Lives", "sleep 600")
    assert desk.newest(task).life is None
    shown = desk.json("show", str(task))["task"]["run"]
    assert (shown["life"], shown["phase"], shown["exit_code"]) == ("alive", "started", None)
    assert desk.json("list")["tasks"][0]["run"]["life"] == "alive"
    run = desk.newest(task)
    assert run.launcher_pid is not None
    assert run.agent_pid is not None
    for pid in (run.launcher_pid, run.agent_pid):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: desk.json("show", str(task))["task"]["run"]["life"] == "gone")
    assert desk.task(task).status is Status.IN_PROGRESS


def test_show_for_a_person(shared: Desk, crowd: dict[str, int]) -> None:
    page = shared.ok("show", str(crowd["blocked"]))
    assert page.startswith(f"task {crowd['blocked']}: Blocked\n")
    assert "  status      blocked\n  because     which one?\n" in page
    assert "  prompt\n    dispatchctl block -m 'which one?'; sleep 600\n" in page
    assert f"held: task {crowd['failed']} is failed" in shared.ok("show", str(crowd["held"]))
    assert "exit 7\n" in shared.ok("show", str(crowd["failed"]))
    long = shared.add("Long", "\n".join(map(str, range(22))))
    assert f"\n    19\n    … 2 more lines: dispatchctl show {long} --json\n" in shared.ok("show", str(long))
    shared.ok("rm", str(long))


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
    assert [event["kind"] for event in shared.json("history", str(task))["events"]] == ["added", "removed"]
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
        ("soon", "ready: dispatchctl dispatch"),
        ("held", "held: task FAILED is failed: dispatchctl retry FAILED"),
        ("deferred", "held: not before 2099-01-01T00:00:00.000Z"),
        ("draft", "backlog"),
        ("blocked", "blocked: which one?"),
        ("review", "in_review: 1 file is not committed"),
        ("failed", "failed: exited with 7"),
        ("runs", "in_progress"),
    ],
)
def test_ready_explains_each_reason(shared: Desk, crowd: dict[str, int], name: str, why: str) -> None:
    why = why.replace("FAILED", str(crowd["failed"]))
    [task] = shared.json("ready", str(crowd[name]))["tasks"]
    assert set(task) == {*TASK_KEYS, "why"}
    assert task["why"] == why
    if name != "runs":
        everything = shared.ok("ready", "--explain").splitlines()
        assert any(line.split("\t") == [str(crowd[name]), task["title"], why] for line in everything)


def test_ready_explains_the_limit_on_runs(shared: Desk, crowd: dict[str, int]) -> None:
    [task] = shared.json("ready", str(crowd["soon"]), DISPATCHCTL_DISPATCH__MAX_RUNNING="1")["tasks"]
    assert task["why"] == "ready; 2 runs are open and the limit is 1"


def test_a_watched_list_is_drawn_again_when_something_changes(desk: Desk) -> None:
    task = desk.add("Watched")
    terminal = Terminal(desk.world, "list", "-w", cwd=desk.repo)
    terminal.read_until("Watched")
    desk.ok("edit", str(task), "--title", "Renamed")
    assert terminal.read_until("Renamed").count("\x1b[H\x1b[2J") >= 2
    terminal.type("\x03")
    assert "dispatchctl: interrupted" in terminal.read_to_end()
    assert terminal.process.returncode == 130


def test_whoever_stops_reading_is_no_error(desk: Desk) -> None:
    desk.add("T")
    add_many(desk, 500, "long " * 100)
    script = f"{' '.join(COMMAND)} list; echo $? >&2"
    done = subprocess.run(
        ["bash", "-c", f"({script}) | head -c 1"],
        env=desk.world.variables,
        cwd=desk.repo,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "0\n"
