"""rm: everything of a task goes, but never work that is nowhere else."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli.desk import Desk
from world import eventually

from dispatchctl import clearing, faults
from dispatchctl.dispatch import dispatch
from dispatchctl.errors import NoSuchTask, Refused

COMMIT = "echo committed > c; git add c; git commit -qm work-$DISPATCHCTL_TASK"  # two alike in one second would be one
LOSSES = {
    "modified": ("echo changed >> README", "1 uncommitted file"),
    "untracked": ("mkdir d; echo new > d/u", "1 uncommitted file"),
    "committed": (COMMIT, "1 commit"),
    "all": (f"{COMMIT}; echo changed >> README; echo new > u", "2 uncommitted files, 1 commit"),
}


def exists(desk: Desk, task: int) -> bool:
    try:
        desk.task(task)
    except NoSuchTask:
        return False
    return True


def test_rm_removes_worktree_branch_run_directory_and_dead_pane(shared: Desk) -> None:
    task = shared.ended("Nothing lost")
    run = shared.newest(task)
    assert run.token in shared.world.tmux("list-panes", "-a", "-F", "#{@dispatchctl_token}")
    assert os.path.isdir(run.worktree)
    assert os.path.isdir(run.run_dir)
    assert shared.ok("rm", str(task)) == f"task {task} removed\n"
    shared.is_gone(run)
    assert not exists(shared, task)
    assert [event.kind for event in shared.runtime.store.events(task=task)][-1] == "removed"


def test_rm_of_several_answers_in_json_and_takes_each_once(shared: Desk) -> None:
    first, second = shared.add("one"), shared.ended("two")
    assert shared.json("rm", str(second), str(first), str(second)) == {"removed": [second, first]}
    kinds = [event.kind for event in shared.runtime.store.events(task=second)]
    assert kinds.count("removed") == 1


@pytest.mark.parametrize("kind", LOSSES)
def test_rm_refuses_to_lose_work_and_with_force_keeps_it(shared: Desk, kind: str) -> None:
    script, losses = LOSSES[kind]
    task = shared.ended("Work", script)
    run = shared.newest(task)
    work = Path(run.worktree)
    before = {str(path.relative_to(work)): path.read_bytes() for path in work.rglob("*") if path.is_file()}
    said = shared.refused("rm", str(task), code=4, says=[f"task {task} was not removed: {work} holds", losses])
    assert f"  hint: dispatchctl rm {task} --force\n" in said.err

    said = shared.run("rm", str(task), "--force", "-q")
    assert (said.code, said.out) == (0, f"task {task} removed\n")
    shared.is_gone(run)
    back = re.search(r"git -C .*$", said.err, re.MULTILINE)
    assert back, said.err
    subprocess.run(["sh", "-c", back[0]], env=shared.world.variables, check=True)
    again = shared.world.root / f"again-{task}"
    shared.world.git(shared.repo, "worktree", "add", "-q", str(again), shlex.split(back[0])[-2])
    for name, data in before.items():
        if name != ".git" and not name.startswith(".dispatchctl/"):
            assert (again / name).read_bytes() == data, name


def test_one_task_with_work_keeps_all_of_them(shared: Desk) -> None:
    empty, full = shared.ended("empty"), shared.ended("full", "echo x > x")
    shared.refused("rm", str(empty), str(full), code=4, says=f"task {full} was not removed")


def test_rm_refuses_an_open_run(shared: Desk) -> None:
    task = shared.dispatched("Runs", "sleep 600")
    shared.refused("rm", str(task), "--force", code=4, says=f"task {task} cannot be removed: it has an open run")
    shared.ok("cancel", str(task))
    assert shared.ok("rm", str(task)) == f"task {task} removed\n"


def test_rm_refuses_a_parent_unless_its_children_go_too(shared: Desk) -> None:
    parent = shared.add("parent")
    child = shared.add("child", "x", "--after", str(parent))
    said = shared.refused("rm", str(parent), code=4, says=f"task {child} is to run after it")
    assert f"  hint: dispatchctl edit {child} --after ''" in said.err
    shared.ok("rm", str(parent), str(child))
    assert not exists(shared, parent)


def test_rm_refuses_while_somebody_works_in_the_worktree(shared: Desk) -> None:
    task = shared.ended("Visited")
    with subprocess.Popen(["sleep", "600"], cwd=shared.newest(task).worktree) as visitor:
        try:
            shared.refused("rm", str(task), "--force", code=4, says=f"process {visitor.pid} works in")
        finally:
            visitor.kill()
    eventually(lambda: shared.run("rm", str(task)).code == 0)


def test_rm_keeps_a_worktree_whose_repository_is_gone(shared: Desk) -> None:
    other = shared.world.repository("other")
    task = shared.ended("Gone", "echo precious > work", "--repo", str(other))
    run = shared.newest(task)
    shutil.rmtree(other)
    said = shared.refused("rm", str(task), "--force", code=4, says=f"its repository {other} is gone")
    assert (Path(run.worktree) / "work").read_text() == "precious\n"
    subprocess.run(["sh", "-c", said.err.rpartition("hint: ")[2]], check=True)
    shared.ok("rm", str(task))
    assert not os.path.lexists(run.run_dir)


def test_rm_goes_on_where_the_server_of_the_pane_is_gone(desk: Desk) -> None:
    task = desk.ended("Served")
    run = desk.newest(task)
    desk.world.tmux("kill-server")
    desk.ok("rm", str(task))
    desk.is_gone(run)


def test_a_ready_task_is_not_started_while_it_is_removed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    task = desk.ended("Again", "exit 1")
    desk.ok("retry", str(task))
    run = desk.newest(task)

    def dispatched_meanwhile(point: str) -> None:
        if point == "before set the worktree aside":
            with pytest.raises(Refused, match=f"task {task} is cancelled, not ready"):
                dispatch(desk.world.runtime(), [task])

    monkeypatch.setattr(faults, "at_point", dispatched_meanwhile)
    clearing.remove(desk.runtime, [task], force=False, tell=print)
    assert not exists(desk, task)
    assert not os.path.lexists(run.worktree)


def test_a_task_that_was_started_while_it_was_looked_at_is_not_removed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = desk.ended("Again", "exit 1")
    desk.ok("retry", str(task))
    check = clearing.obstacle

    def started_meanwhile(*words: Any, **more: Any) -> clearing.Obstacle | None:
        losses = check(*words, **more)
        dispatch(desk.world.runtime(), [task])
        desk.world.ended(desk.runtime, task)
        return losses

    monkeypatch.setattr(clearing, "obstacle", started_meanwhile)
    with pytest.raises(Refused, match=f"task {task} was not removed: it was started meanwhile"):
        clearing.remove(desk.runtime, [task], force=False, tell=print)
    assert os.path.isdir(desk.newest(task).worktree)


def test_rm_of_a_task_that_does_not_exist_removes_none(shared: Desk) -> None:
    task = shared.add("T")
    shared.refused("rm", str(task), "99999", code=3, says="there is no task 99999")
