"""Repositories, settings and tmux servers that are not as they should be: a sentence, and nothing changed."""

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli.desk import COMMAND, Desk, path_without

from dispatchctl.task import Phase, Status


def undone(desk: Desk, task: int, error: str, *, status: Status = Status.FAILED) -> None:
    """Check that the task's run left no trace, and says why."""
    row = desk.task(task)
    assert row.run is not None
    assert (row.status, row.run.phase) == (status, Phase.CLOSED), row.error
    assert error in (row.error or ""), row.error
    assert desk.world.leftovers(row.run, Path(row.repo)) == []


# -- repositories --------------------------------------------------------------------------------------------------------


def test_a_repository_that_is_none(shared: Desk, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "file").write_text("x")
    for path, says in (
        ("missing", "there is no directory"),
        ("plain", "is not in a git repository"),
        ("file", "there is no"),
    ):
        said = shared.refused("add", "T", "--repo", str(tmp_path / path), says=[str(tmp_path / path), says])
        assert f"{tmp_path}" in said.err
        shared.refused("list", "--repo", str(tmp_path / path), says=says)
    shared.refused("add", "T", says="is not in a git repository", cwd=tmp_path / "plain")


def test_a_repository_without_a_commit(shared: Desk, tmp_path: Path) -> None:
    shared.world.git(tmp_path, "init", "-q", "-b", "main")
    said = shared.refused("add", "T", "--repo", str(tmp_path), says=f"the repository {tmp_path} has no commit yet")
    assert f"  hint: git -C {tmp_path} commit --allow-empty" in said.err


def test_a_repository_whose_path_is_not_utf_8(shared: Desk) -> None:
    path = os.fsencode(shared.world.root) + b"/bytes-\xff"
    os.mkdir(path)
    subprocess.run(["git", "init", "-q", path], env=shared.world.variables, check=True)
    shared.world.git(Path(os.fsdecode(path)), "commit", "-q", "--allow-empty", "-m", "first")
    shared.refused(
        "add", "T", "--repo", os.fsdecode(path), "--json", says="the path of the repository is not valid UTF-8"
    )


@pytest.mark.parametrize("base", ["nowhere", "--orphan", "-D", "main..main", "refs/heads/none", "HEAD^9"])
def test_a_base_that_names_no_commit(shared: Desk, base: str) -> None:
    shared.refused("add", "T", f"--base={base}", says=f"there is no branch or commit {base!r} in {shared.repo}")


def test_a_base_that_goes_between_add_and_dispatch(shared: Desk) -> None:
    shared.world.git(shared.repo, "branch", "short-lived")
    task = shared.add("T", "x", "--base", "short-lived")
    shared.world.git(shared.repo, "branch", "-D", "short-lived")
    said = shared.run("dispatch", str(task))
    assert said.code == 1
    assert f"task {task} was not started: there is no branch or commit 'short-lived'" in said.err
    undone(shared, task, "there is no branch or commit 'short-lived'")


def test_a_repository_that_goes_between_add_and_dispatch(shared: Desk) -> None:
    other = shared.world.repository("moved")
    task = shared.add("T", "x", "--repo", str(other))
    other.rename(other.with_name("moved-away"))
    said = shared.run("dispatch", str(task))
    assert said.code == 1
    assert f"task {task} was not started: there is no directory {other}" in said.err
    other.with_name("moved-away").rename(other)
    undone(shared, task, f"there is no directory {other}")


@pytest.mark.parametrize("taken", ["worktree", "branch"])
def test_a_worktree_path_or_branch_that_is_taken_stays_anothers(shared: Desk, taken: str) -> None:
    other = shared.ended("Names")
    run = shared.newest(other)
    task = shared.add("Names")
    worktree = Path(run.worktree).with_name(f"{task}-names")
    if taken == "worktree":
        worktree.mkdir()
        (worktree / "precious").write_text("work")
    else:
        shared.world.git(shared.repo, "branch", f"dispatch/{task}-names")
    said = shared.run("dispatch", str(task))
    assert said.code == 1
    assert f"task {task} was not started" in said.err
    assert (f"{worktree} is taken" if taken == "worktree" else f"the branch dispatch/{task}-names exists") in said.err
    assert shared.task(task).status is Status.FAILED
    if taken == "worktree":
        assert (worktree / "precious").read_text() == "work"
        assert shared.world.git(shared.repo, "branch", "--list", f"dispatch/{task}-names") == ""
    else:
        assert not worktree.exists()
        assert shared.world.git(shared.repo, "branch", "--list", f"dispatch/{task}-names")


def test_an_agent_that_is_forgotten_between_add_and_dispatch(desk: Desk) -> None:
    config = desk.world.home / "own.toml"
    config.write_text('[agents.mine]\nargv = ["true"]\n')
    task = desk.add("T", "x", "--agent", "mine", "--config", str(config))
    said = desk.run("dispatch", str(task))
    assert said.code == 2
    assert f"task {task} was not started: there is no agent called 'mine'" in said.err
    undone(desk, task, "there is no agent called 'mine'")
    desk.ok("retry", str(task))
    desk.ok("dispatch", str(task), "--config", str(config))


def test_git_that_is_not_installed(desk: Desk) -> None:
    path = path_without(desk.world, "git")
    desk.add("T")
    for words in (["add", "T"], ["list", "--repo", "."]):
        desk.refused(*words, code=69, says="git is not installed: there is no program 'git' on PATH", PATH=path)
    desk.ok("list", PATH=path_without(desk.world, "git", "tmux"))


# -- the tmux server -----------------------------------------------------------------------------------------------------


def test_a_socket_that_cannot_be_one(shared: Desk, tmp_path: Path) -> None:
    task = shared.add("T")
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("precious")
    long = f"/tmp/{'x' * 120}"
    for path, says in (
        (str(tmp_path / "directory"), "is not a socket"),
        (str(tmp_path / "file"), "is not a socket"),
        (str(tmp_path / "file" / "below"), "cannot be reached"),
        (long, "is longer than 107 bytes"),
    ):
        for words in (["dispatch"], ["dispatch", str(task)]):
            shared.refused(*words, code=69, says=[path, says], DISPATCHCTL_TMUX__SOCKET=path)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a socket away")
def test_a_socket_of_another_user(shared: Desk) -> None:
    shared.add("T")
    path = str(shared.world.root / "theirs")
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(path)
        os.chown(path, 12345, 12345)
        shared.refused(
            "dispatch", code=69, says=f"the tmux socket {path} belongs to user 12345", DISPATCHCTL_TMUX__SOCKET=path
        )


def test_a_server_that_does_not_answer(desk: Desk) -> None:
    task = desk.add("T")
    path = str(desk.world.root / "mute")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(path)
        mute.listen()
        more = {"DISPATCHCTL_TMUX__SOCKET": path, "DISPATCHCTL_TMUX__TIMEOUT": "1"}
        said = desk.run("dispatch", str(task), **more)
        assert said.code in (1, 69)
        assert f"task {task}" in said.err
        assert f"tmux on {path} did not answer within 1 s" in said.err
        assert desk.task(task).status in (Status.FAILED, Status.READY)
        assert desk.newest(task).started_at is None


# -- settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[dispatch]\nmax_running = 0\n",
            ["line 2", "dispatch.max_running must be a whole number from 1 to 1000, not 0"],
        ),
        ("\n\n[dispatch]\nmax_runing = 3\n", ["line 4", "there is no setting dispatch.max_runing", "did you mean"]),
        ('[task]\nuncommitted = "lose"\n', ["line 2", 'must be "review" or "commit"']),
        ("[task\n", ["is not valid TOML", "line 1"]),
        ('[agents.x]\nargv = "sh"\n', ["agents.x.argv must be a list of strings"]),
    ],
)
def test_settings_that_are_not_valid(shared: Desk, tmp_path: Path, text: str, says: list[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    for words in (["add", "T"], ["agents"]):
        shared.refused(*words, "--config", str(config), says=[str(config), *says], hinted=False)
    shared.refused(
        "add", "T", "--config", str(tmp_path / "none"), says=f"there is no {tmp_path}/none, which --config names"
    )


def test_a_variable_that_is_not_valid(shared: Desk) -> None:
    bad: dict[str, Any] = {"DISPATCHCTL_TASK__PRIORITY": "high"}
    says = "DISPATCHCTL_TASK__PRIORITY: task.priority must be a whole number from 0 to 4, not 'high'"
    shared.refused("add", "T", says=says, hinted=False, **bad)
    unknown: dict[str, Any] = {"DISPATCHCTL_TASK__PRIORTY": "1"}
    shared.refused("add", "T", says=["DISPATCHCTL_TASK__PRIORTY", "did you mean"], **unknown)
    shared.refused("done", says="DISPATCHCTL_TASK is 'x', not the number of a task", DISPATCHCTL_TASK="x")


def test_a_repositorys_own_file_fails_its_tasks_with_its_sentence(desk: Desk) -> None:
    task, other = desk.add("T"), desk.add("T", "exit 0", "--repo", str(desk.world.repository("fine")))
    (desk.repo / ".dispatchctl.toml").write_text('[hooks]\npost_create = [["touch", "/tmp/owned"]]\n')
    says = f"{desk.repo}/.dispatchctl.toml, line 2: a repository's own file may not set hooks.post_create"
    said = desk.run("dispatch")
    assert said.code == 1
    assert f"task {task} was not started: {says}" in said.err
    assert said.out.startswith(f"task {other} started")
    undone(desk, task, says)
    desk.refused("add", "T", says=says)
    desk.refused("config", "--repo", ".", says=says)


def test_a_current_directory_that_is_gone(shared: Desk, tmp_path: Path) -> None:
    shared.add("T")
    gone = tmp_path / "gone"
    script = 'mkdir "$0" && cd "$0" && rmdir "$0" && shift 0 && exec "$@"'
    for words, code in ((["add", "T"], 2), (["list", "--db", "x.db"], 2), (["list"], 0), (["list", "--repo", "."], 2)):
        done = subprocess.run(
            ["sh", "-c", script, str(gone), *COMMAND, *words],
            env=shared.world.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        says = "dispatchctl: the current directory does not exist any more\n  hint: cd\n"
        assert done.stderr == ("" if code == 0 else says)
