"""list and show: what is there."""

import os
import signal
import subprocess

import pytest
from cli.desk import COMMAND, MOMENT, RUN_KEYS, TASK_KEYS, Desk, names
from cli.terminal import Terminal, on_terminal
from world import eventually

from dispatchctl.runtime import now
from dispatchctl.task import Actor, NewTask, Status


def ids(desk: Desk, *words: str) -> list[int]:
    return [task["id"] for task in desk.json("list", *words)["tasks"]]


def add_many(desk: Desk, count: int, title: str) -> None:
    many = [NewTask(title, "x", str(desk.repo), "main", "shell") for _ in range(count)]
    desk.runtime.store.add(many, actor=Actor.USER, at=now())


NEED = [
    *("blocked", "review", "failed", "runs", "soon", "late", "held", "deferred", "draft"),
    *("done2", "done", "cancelled"),
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
    assert (desk.run("list").out, desk.run("list").err) == ("", "")
    ready = desk.run("ready")
    assert (ready.out, ready.err) == ("", "nothing is ready\n  hint: dispatchctl ready --explain\n")
    assert "TITLE" not in on_terminal(desk, "ready")[1]
    assert desk.run("ready", "--explain").err == "nothing waits\n  hint: dispatchctl list\n"
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
