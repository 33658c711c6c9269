"""dispatch: ready tasks start, in order, within the limits, and the exit code says how it went."""

import signal
from contextlib import ExitStack

import pytest
from cli.desk import TASK_KEYS, Desk, path_without, program, running
from world import eventually

from dispatchctl.runtime import now
from dispatchctl.task import Actor, NewTask, Phase, Status


def test_dispatch_starts_what_is_ready_in_order_and_answers_with_it(desk: Desk) -> None:
    later, first = desk.add("Later"), desk.add("First", "exit 0", "--priority", "0")
    desk.add("Draft", "x", "--backlog")
    said = desk.run("dispatch")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    session = desk.newest(first).session
    assert lines == [
        f"task {first} started: shell on dispatch/{first}-first in {session}",
        f"task {later} started: shell on dispatch/{later}-later in {session}",
    ]
    again = desk.run("dispatch")
    assert (again.code, again.out) == (0, "")
    assert again.err == "nothing is ready\n  hint: dispatchctl ready --explain\n"
    assert desk.json("dispatch", "-q") == {"dispatched": [], "failed": []}


def test_dispatch_answers_in_json(desk: Desk) -> None:
    task = desk.add("T", "sleep 600")
    answer = desk.json("dispatch")
    assert set(answer) == {"dispatched", "failed"}
    [started] = answer["dispatched"]
    assert set(started) == TASK_KEYS
    assert (started["id"], started["status"], started["run"]["phase"]) == (task, "in_progress", "started")
    assert started["run"]["branch"] == f"dispatch/{task}-t"


def test_max_label_and_named_tasks_choose(desk: Desk) -> None:
    tasks = [desk.add(f"T{n}", "exit 0", "--label", "ui" if n % 2 else "web,ui") for n in range(6)]
    assert [task["id"] for task in desk.json("dispatch", "--max", "1")["dispatched"]] == tasks[:1]
    web = desk.json("dispatch", "--label", "ui", "--label", "web", "--max", "1")["dispatched"]
    assert [task["id"] for task in web] == [tasks[2]]
    named = [str(tasks[5]), str(tasks[1]), str(tasks[5])]
    assert [task["id"] for task in desk.json("dispatch", *named)["dispatched"]] == [tasks[5], tasks[1]]
    at_most = desk.json("dispatch", str(tasks[4]), str(tasks[3]), "--max", "1")["dispatched"]
    assert [task["id"] for task in at_most] == [tasks[4]]
    desk.refused("dispatch", str(tasks[3]), "--label", "ui", says="--label chooses among all tasks")
    assert [task["id"] for task in desk.json("dispatch")["dispatched"]] == [tasks[3]]


def test_dry_run_says_what_would_be_started_and_starts_nothing(desk: Desk) -> None:
    tasks = [desk.add(f"T{n}") for n in range(3)]
    done = desk.add("Cancelled")
    desk.ok("cancel", str(done))
    held = desk.add("Held", "x", "--after", str(done))
    with desk.unchanged():
        assert [line.split("\t")[0] for line in desk.ok("dispatch", "--dry-run").splitlines()] == list(map(str, tasks))
        answer = desk.json("dispatch", "--dry-run", "--max", "2")
        assert ([task["id"] for task in answer["dispatched"]], answer["failed"]) == (tasks[:2], [])
        said = desk.run("dispatch", "--dry-run", "--max-running", "1")
        assert said.out.split("\t")[0] == str(tasks[0])
        assert said.err.startswith("with these, 1 run is open and the limit is 1; 2 more are ready\n")
        several = desk.json("dispatch", "--dry-run", str(done), str(held), str(tasks[2]), code=1)
        assert [task["id"] for task in several["dispatched"]] == [tasks[2]]
        assert [(each["task"], each["status"]) for each in several["failed"]] == [(done, "cancelled"), (held, "ready")]
    desk.refused("dispatch", "--dry-run", str(held), code=4, says=f"task {held} is held")


def test_the_limit_on_runs_holds_and_can_be_raised_for_once(desk: Desk) -> None:
    first, second, third = (desk.add(f"T{n}", "sleep 600") for n in range(3))
    said = desk.run("dispatch", DISPATCHCTL_DISPATCH__MAX_RUNNING="1")
    assert (said.code, len(said.out.splitlines())) == (0, 1)
    full = "1 run is open and the limit is 1"
    assert said.err == f"with these, {full}; 2 more are ready\n  hint: dispatchctl dispatch --max-running 2\n"
    again = desk.run("dispatch", DISPATCHCTL_DISPATCH__MAX_RUNNING="1")
    assert again.err == f"{full}\n  hint: dispatchctl dispatch --max-running 2\n"
    assert desk.task(first).status is Status.IN_PROGRESS
    desk.refused("dispatch", str(second), "--max-running", "1", code=75, says="the limit is 1")
    several = desk.json("dispatch", str(second), str(third), "--max-running", "2", code=1)
    assert [task["id"] for task in several["dispatched"]] == [second]
    [failed] = several["failed"]
    assert (failed["task"], failed["status"]) == (third, "ready")
    assert "the limit is 2" in failed["error"]
    desk.ok("dispatch", "--max-running", "3", DISPATCHCTL_DISPATCH__MAX_RUNNING="1")
    assert desk.task(third).status is Status.IN_PROGRESS


def test_one_id_has_its_own_code_and_several_have_one(shared: Desk) -> None:
    good, bad = shared.add("Good"), shared.add("Bad", "x", "--agent", "amp")
    said = shared.run("dispatch", str(bad))
    assert said.code == 69
    assert f"task {bad} was not started" in said.err
    assert "'amp', is not on PATH; it is failed now\n  hint: dispatchctl agents\n" in said.err
    worse = shared.add("Worse", "x", "--agent", "goose")
    said = shared.run("dispatch", str(worse), str(bad), str(good), "-q")
    assert said.code == 1
    assert said.out.startswith(f"task {good} started")
    assert f"task {worse} was not started" in said.err
    assert f"task {bad} is failed, not ready" in said.err
    assert shared.task(good).run is not None
    assert [shared.task(task).status for task in (bad, worse)] == [Status.FAILED, Status.FAILED]


def test_without_ids_the_rest_go_on_when_one_fails(desk: Desk) -> None:
    bad, good = desk.add("Bad", "x", "--agent", "amp"), desk.add("Good")
    answer = desk.json("dispatch", code=1)
    assert [task["id"] for task in answer["dispatched"]] == [good]
    [failed] = answer["failed"]
    assert set(failed) == {"task", "error", "status"}
    assert (failed["task"], failed["status"]) == (bad, "failed")
    assert failed["error"] == desk.task(bad).error


def test_an_id_that_does_not_exist_stops_all_before_they_start(shared: Desk) -> None:
    task = shared.add("T")
    shared.refused("dispatch", str(task), "99999", code=3, says="there is no task 99999")
    shared.refused("dispatch", "99999", "--json", code=3, says="there is no task 99999")


@pytest.mark.parametrize("missing", ["tmux", "git"])
def test_a_missing_tool_is_nobodys_fault_and_nothing_is_claimed(desk: Desk, missing: str) -> None:
    """Nor has any run recorded where it is."""
    tasks = [str(desk.add("T")), str(desk.add("T"))]
    path = path_without(desk.world, missing)
    for words in (["dispatch"], ["dispatch", tasks[0]], ["dispatch", *tasks], ["dispatch", "--json"]):
        said = desk.refused(*words, code=69, says=f"{missing} is not installed", PATH=path)
        assert f"  hint: install {missing}\n" in said.err


def test_two_dispatches_of_one_task_start_it_once(desk: Desk) -> None:
    task = desk.add("Once", "sleep 600")
    with ExitStack() as stack:
        both = [stack.enter_context(running(desk, "dispatch", str(task))) for _ in range(2)]
        ends = [(each.communicate(timeout=60)[1], each.returncode) for each in both]
    codes = sorted(code for _, code in ends)
    assert codes[0] == 0
    assert codes[1] in (4, 75)
    [says] = [err for err, code in ends if code]
    assert says.startswith(f"dispatchctl: task {task} is in_progress, not ready\n"), says
    assert [run.phase for run in desk.runtime.store.runs(task)] == [Phase.STARTED]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_start_leaves_no_trace(desk: Desk, number: signal.Signals, code: int) -> None:
    hook = desk.repo / ".git" / "hooks" / "post-checkout"
    program(hook, "#!/bin/sh\nexec sleep 600\n")
    task = desk.add("Interrupted")
    with running(desk, "dispatch", str(task), "--json") as dispatcher:
        eventually(lambda: desk.task(task).run is not None and desk.newest(task).base_commit)
        dispatcher.send_signal(number)
        out, err = dispatcher.communicate(timeout=60)
    assert dispatcher.returncode == code, err
    assert f'"exit_code": {code}' in out
    assert desk.world.leftovers(desk.newest(task), desk.repo) == []
    assert desk.task(task).status is Status.READY
    assert desk.task(task).not_before is not None


def test_two_hundred_tasks_are_started_once_each_by_eight_at_once(desk: Desk) -> None:
    ledger = desk.world.root / "ledger"
    script = f"echo $DISPATCHCTL_TASK >> {ledger}; true"
    desk.ok("init")
    new = [NewTask(f"T{n}", script, str(desk.repo), "main", "shell") for n in range(200)]
    tasks = [task.id for task in desk.runtime.store.add(new, actor=Actor.USER, at=now())]
    words = ["dispatch", "--max", "25", "--max-running", "1000", "--json"]
    with ExitStack() as stack:
        eight = [stack.enter_context(running(desk, *words)) for _ in range(8)]
        ends = [(*each.communicate(timeout=180), each.returncode) for each in eight]
    assert [(err, code) for _, err, code in ends] == [("", 0)] * 8
    eventually(lambda: not desk.runtime.store.open_runs(), within=120, what="all runs close")
    assert sorted(map(int, ledger.read_text().split())) == tasks
    assert {(task.status, task.error) for task in desk.runtime.store.tasks()} == {(Status.DONE, None)}
    assert {len(desk.runtime.store.runs(task)) for task in tasks} == {1}
    branches = desk.world.git(desk.repo, "branch", "--list", "dispatch/*").splitlines()
    assert len(branches) == 200
