"""The one door: whatever clears away loses no work, wherever it is killed, and what it kept comes back as it said."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.desk import Desk, is_error
from world import Said, World, eventually

from dispatchctl import clearing, faults
from dispatchctl.launch import claim
from dispatchctl.prune import Kind, Pruned, Wish, prune
from dispatchctl.runtime import now
from dispatchctl.store.protocol import Room
from dispatchctl.task import Actor, Phase, Report, Run, Status
from dispatchctl.worktrees import aside, given_up

WORK = "echo committed > c; git add c; git commit -qm kept; echo changed >> README; echo new > u; exit 3"
"""A committed, a modified and an untracked file; the task is failed."""
FILES = {"c": "committed\n", "README": "hello\nchanged\n", "u": "new\n"}
POINTS = [
    f"{when} {each.name}"
    for each in vars(clearing).values()
    if isinstance(each, faults.Effect)
    for when in ("before", "after")
]
KILLED = """
import os, sys
from dispatchctl import faults
from dispatchctl.cli.app import run
def at_point(name):
    if name == sys.argv[1]:
        os.kill(os.getpid(), 9)
faults.at_point = at_point
sys.exit(run(sys.argv[2:]))
"""
ALL = ("prune", "--older-than", "0")


@pytest.fixture(scope="module")
def shared() -> Iterator[Desk]:
    """One world for all tests of this file that look at their own task alone."""
    root = Path(tempfile.mkdtemp(prefix="dctl-", dir="/tmp"))
    made = World(root)
    try:
        yield Desk(made, made.repository())
    finally:
        made.close()
        shutil.rmtree(root)


@pytest.fixture
def desk(world: World) -> Desk:
    return Desk(world, world.repository())


def pruned(desk: Desk, *, force: bool = False, dry_run: bool = False) -> dict[int, list[Pruned]]:
    """What a prune of everything does, by task."""
    found: dict[int, list[Pruned]] = {}
    for each in prune(desk.world.runtime(), Wish(now(), force, dry_run), tell=lambda _: None):
        found.setdefault(each.task, []).append(each)
    return found


def kept(desk: Desk, task: int, *, force: bool = False) -> str:
    """Why a prune keeps the task's only run; it still is all there."""
    before = left(desk, desk.newest(task))
    [action] = pruned(desk, force=force)[task]
    assert (action.kind, action.ok, action.run) == (Kind.KEEP, False, desk.newest(task).token)
    assert desk.newest(task).cleared_at is None
    assert left(desk, desk.newest(task)) == before
    return action.reason


def left(desk: Desk, run: Run) -> list[str]:
    """What is left of a closed run, once its launcher has gone."""
    found = [each for each in desk.world.leftovers(run, desk.repo) if not each.startswith("process")]
    return found + [path for path in (aside(run), given_up(run)) if os.path.lexists(path)]


def came_back(desk: Desk, said: str) -> dict[str, str]:
    """Type what was printed, and look what is on the branch that it makes."""
    [back] = re.findall(r"to get it back: (git -C .*)", said)
    subprocess.run(["sh", "-c", back], env=desk.world.variables, check=True)
    branch = back.split()[-2]
    names = desk.world.git(desk.repo, "ls-tree", "-r", "--name-only", branch).split()
    return {name: desk.world.git(desk.repo, "show", f"{branch}:{name}") + "\n" for name in names}


def in_worktree(run: Run) -> dict[str, str]:
    return {name: (Path(run.worktree) / name).read_text() for name in FILES}


# -- the acceptance test of the issue -------------------------------------------------------------------------------------


def test_work_survives_cancel_retry_rm_and_prune(desk: Desk) -> None:
    task = desk.ended("Work", WORK)
    run = desk.newest(task)
    what = f"{run.worktree} holds what would be lost: 2 uncommitted files, 1 commit that no other branch has"
    is_error(desk.run("rm", str(task)), 4, [f"task {task} was not removed: {what}", f"dispatchctl rm {task} --force"])
    said = desk.run(*ALL)
    by_force = "dispatchctl prune --older-than 0 --force"
    assert said == Said(
        0, f"task {task}, run {run.token} is kept: {what}\n", f"1 run is kept; it goes nevertheless by: {by_force}\n"
    )
    kept_still = desk.run(*ALL, "--json")
    assert (kept_still.json["actions"][0]["reason"], kept_still.err) == (what, "")
    assert desk.ok("retry", str(task)) == f"task {task} is ready\n"
    said = desk.run("cancel", str(task))
    assert (said.code, said.out) == (0, f"task {task} is cancelled\n")
    assert f"task {task}: {what}\n  hint: dispatchctl cancel {task} --force\n" in said.err
    assert in_worktree(run) == FILES
    assert desk.world.git(desk.repo, "log", "--format=%s", "-1", run.branch) == "kept"


@pytest.mark.parametrize(
    "words", ["cancel ID --force", "retry ID --fresh", "rm ID --force", "prune --older-than 0 --force"]
)
def test_by_force_all_work_comes_back_by_the_command_that_was_printed(desk: Desk, words: str) -> None:
    task = desk.ended("Work", WORK)
    run = desk.newest(task)
    said = desk.run(*(str(task) if word == "ID" else word for word in words.split()), "-q")
    assert said.code == 0, said
    assert not os.path.lexists(run.worktree)
    assert desk.world.git(desk.repo, "branch", "--list", run.branch) == ""
    assert came_back(desk, said.err) == FILES


# -- what would be lost ---------------------------------------------------------------------------------------------------

LOSSES = {
    "modified": ("echo x >> README", "1 uncommitted file"),
    "deleted": ("rm README", "1 uncommitted file"),
    "untracked": ("mkdir d; echo x > d/u", "1 uncommitted file"),
    "staged": ("echo x > s; git add s", "1 uncommitted file"),
    "ignored but added": ("echo s > .gitignore; echo x > s; git add -f s", "2 uncommitted files"),
    "committed": ("echo $DISPATCHCTL_TASK > c; git add c; git commit -qm c", "1 commit that"),
    "on a detached head": (
        "git checkout -q --detach; git commit -q --allow-empty -m $DISPATCHCTL_TASK",
        "1 commit that",
    ),
    "rebase": (
        "git commit -q --allow-empty -m x; GIT_SEQUENCE_EDITOR='sed -i 1ibreak' git rebase -qi HEAD~1",
        "a rebase",
    ),
    "merge": (
        "echo a >c; git add c; git commit -qm a; git checkout -qb b HEAD~1; echo b >c; git add c; git commit -qm b;git merge -",
        "a merge",
    ),
    "bisect": ("git bisect start -q; git bisect bad -q", "a bisect"),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_what_would_be_lost_keeps_a_run(shared: Desk, kind: str) -> None:
    script, loss = LOSSES[kind]
    task = shared.ended("Lossy", f"{script}; exit 3")
    assert loss in kept(shared, task)
    [action] = pruned(shared, force=True)[task]
    assert action.ok
    assert left(shared, shared.newest(task)) == []


@pytest.mark.parametrize(
    "script",
    [
        "git init -q inner; git -C inner commit -q --allow-empty -m x",
        "mkdir d; echo x > d/u; git init -q d/inner; git -C d/inner commit -q --allow-empty -m x",
        "mkdir d; echo x > d/t; git add d; git commit -qm d; git init -q d; git -C d commit -q --allow-empty -m x",
        "git init -q in; git -C in commit -q --allow-empty -m x; git add in 2>/dev/null; git commit -qm in",
    ],
    ids=["untracked", "deeper", "in a tracked directory", "as a link"],
)
def test_a_repository_within_the_worktree_is_beyond_force(shared: Desk, script: str) -> None:
    task = shared.ended("Nested", f"{script}; exit 3")
    assert "the repository " in kept(shared, task, force=True)
    run = shared.newest(task)
    for words in (["rm", str(task), "--force"], ["retry", str(task), "--fresh"]):
        said = shared.run(*words)
        assert (said.code, "holds what no ref could keep: the repository " in said.err) == (4, True)
    assert shared.task(task).status is Status.FAILED
    said = shared.run("cancel", str(task), "--force")
    assert (said.code, said.out) == (4, f"task {task} is cancelled\n")
    assert os.path.isdir(run.worktree)


def test_a_process_at_work_in_the_worktree_is_beyond_force(shared: Desk) -> None:
    task = shared.ended("Visited", "exit 3")
    run = shared.newest(task)
    (Path(run.worktree) / "d").mkdir()
    with subprocess.Popen(["sleep", "600"], cwd=f"{run.worktree}/d") as visitor:
        try:
            assert f"process {visitor.pid} works in {run.worktree}" in kept(shared, task, force=True)
            said = shared.run("retry", str(task), "--fresh")
            assert (said.code, f"task {task} was not retried: process {visitor.pid}" in said.err) == (4, True)
            assert shared.task(task).status is Status.FAILED
        finally:
            visitor.kill()
    assert pruned(shared)[task][0].ok


@pytest.mark.parametrize(
    "elsewhere",
    [
        "git branch mine-$DISPATCHCTL_TASK",
        "git tag mine-$DISPATCHCTL_TASK",
        "git update-ref refs/remotes/origin/x-$DISPATCHCTL_TASK HEAD",
        "git update-ref refs/dispatchctl/rescue/$DISPATCHCTL_TASK/$DISPATCHCTL_TOKEN HEAD",
    ],
    ids=["branch", "tag", "remote", "rescue"],
)
def test_commits_that_are_elsewhere_are_not_lost(shared: Desk, elsewhere: str) -> None:
    task = shared.ended("Pushed", f"git commit -q --allow-empty -m x-$DISPATCHCTL_TASK; {elsewhere}; exit 3")
    assert pruned(shared)[task][0].ok
    assert left(shared, shared.newest(task)) == []


def test_a_stash_stays_and_is_named(shared: Desk) -> None:
    task = shared.ended("Stashed", "echo x >> README; git stash -q; exit 3")
    said = shared.run(*ALL)
    assert (
        f"task {task}: stash@{{0}}, made on its branch, stays: git -C {shared.repo} stash show -p stash@{{0}}"
        in said.err
    )
    assert left(shared, shared.newest(task)) == []
    assert "+x" in shared.world.git(shared.repo, "stash", "show", "-p", "stash@{0}")


def test_ignored_files_go_and_directories_that_may_not_be_written_too(shared: Desk) -> None:
    script = (
        "echo build > .gitignore; git add .; git commit -qm x; git branch kept-$DISPATCHCTL_TASK; mkdir -p build/ro"
    )
    script += "; echo x > build/ro/f; chmod 555 build/ro"
    task = shared.ended("Built", f"{script}; exit 3")
    assert pruned(shared)[task][0].ok
    assert left(shared, shared.newest(task)) == []


# -- what a rescue keeps --------------------------------------------------------------------------------------------------


def test_a_rescue_keeps_what_was_staged_before_it_was_changed_again(desk: Desk) -> None:
    script = (
        "git config core.trustctime false; i=$(git rev-parse --git-dir)/index; echo one > s; git add s; touch -r s $i;"
        " echo two > s; touch -r $i s; echo s > .gitignore"  # in the same moment, so that only its contents tell
    )
    task = desk.ended("Staged", f"{script}; exit 3")
    said = desk.run("cancel", str(task), "--force")
    assert came_back(desk, said.err)["s"] == "two\n"
    ref = f"refs/dispatchctl/rescue/{task}/{desk.newest(task).token}"
    assert desk.world.git(desk.repo, "show", f"{ref}^2:s") == "one"


def test_a_rescue_keeps_branch_head_and_what_a_rebase_has_stashed(shared: Desk) -> None:
    script = (
        "echo 1 > a; git add a; git commit -qm first; echo 2 > b; git add b; git commit -qm second; echo dirt >> README;"
        " GIT_SEQUENCE_EDITOR='sed -i 1ibreak' git rebase -q --autostash -i HEAD~2; git commit -q --allow-empty -m amid"
    )
    task = shared.ended("Amid", f"{script}; exit 3")
    said = shared.run("cancel", str(task), "--force")
    came_back(shared, said.err)
    ref = f"refs/dispatchctl/rescue/{task}/{shared.newest(task).token}"
    log = shared.world.git(shared.repo, "log", "--format=%s", ref).splitlines()
    assert {"first", "second", "amid"} <= set(log)
    assert any("autostash" in line for line in log)
    assert "+dirt" in shared.world.git(shared.repo, "log", "-m", "-p", ref)


def test_a_rescue_never_lets_go_of_an_earlier_one(shared: Desk) -> None:
    task = shared.ended("Twice", WORK)
    run = shared.newest(task)
    ref = f"refs/dispatchctl/rescue/{task}/{run.token}"
    shared.world.git(shared.repo, "commit", "-q", "--allow-empty", "-m", "an earlier rescue")
    earlier = shared.world.git(shared.repo, "rev-parse", "HEAD")
    shared.world.git(shared.repo, "update-ref", ref, earlier)
    shared.world.git(shared.repo, "reset", "-q", "--hard", "HEAD~1")
    said = shared.run("cancel", str(task), "--force")
    assert came_back(shared, said.err) == FILES
    assert shared.world.git(shared.repo, "rev-parse", ref) == earlier
    assert shared.world.git(shared.repo, "show", f"{ref}-2:u") == "new"


def test_the_same_work_is_rescued_once(shared: Desk) -> None:
    task = shared.ended("Once", WORK)
    runtime = shared.world.runtime()
    [place] = clearing.places(runtime.store.runs(task))
    first, second = (runtime.git.rescue(place, runtime.git.find(place)) for _ in range(2))
    assert first == second
    refs = shared.world.git(shared.repo, "for-each-ref", "--format=%(refname)", f"refs/dispatchctl/rescue/{task}")
    assert refs == f"refs/dispatchctl/rescue/{task}/{place.token}"
    pruned(shared, force=True)


# -- killed, and done again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS)
def test_prune_that_is_killed_has_lost_nothing_and_goes_on(shared: Desk, point: str) -> None:
    task = shared.ended("Killed", WORK)
    run = shared.newest(task)
    command = [sys.executable, "-c", KILLED, point, *ALL, "--force"]
    dead = subprocess.run(
        command, env=shared.world.variables, cwd=shared.repo, capture_output=True, text=True, check=False
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    refs = shared.world.git(shared.repo, "for-each-ref", "--format=%(refname)", f"refs/dispatchctl/rescue/{task}/")
    assert refs or any(os.path.exists(f"{path}/u") for path in (run.worktree, aside(run)))
    again = shared.run(*ALL, "--force")
    assert again.code == 0, again
    assert left(shared, run) == []
    assert shared.newest(task).cleared_at is not None
    ref = f"refs/dispatchctl/rescue/{task}/{run.token}"
    assert {name: shared.world.git(shared.repo, "show", f"{ref}:{name}") + "\n" for name in FILES} == FILES
    refs = shared.world.git(shared.repo, "for-each-ref", "--format=%(refname)", f"refs/dispatchctl/rescue/{task}/")
    assert refs == ref
    once_more = shared.run(*ALL, "--force")
    assert f"task {task}," not in once_more.out + once_more.err


@pytest.mark.parametrize("words", ["retry ID --fresh", "cancel ID --force", "rm ID --force"])
def test_what_is_killed_in_the_middle_of_a_removal_goes_on_when_it_is_said_again(desk: Desk, words: str) -> None:
    for point in (
        "after set the worktree aside",
        "after rescue the work",
        "after give the files up",
        "after remove the worktree",
        "after delete the branch",
    ):
        task = desk.ended("Killed", WORK)
        run = desk.newest(task)
        said = [str(task) if word == "ID" else word for word in words.split()]
        command = [sys.executable, "-c", KILLED, point, *said]
        dead = subprocess.run(command, env=desk.world.variables, cwd=desk.repo, capture_output=True, check=False)
        assert dead.returncode == -signal.SIGKILL, dead.stderr
        again = desk.run(*said)
        assert again.code == 0, (point, again)
        assert [each for each in left(desk, run) if re.search("worktree|branch|/.go", each)] == []
        ref = f"refs/dispatchctl/rescue/{task}/{run.token}"
        assert desk.world.git(desk.repo, "show", f"{ref}:u") == "new", point


def test_a_worktree_aside_that_git_was_made_to_forget_is_put_back_and_kept(desk: Desk) -> None:
    task = desk.ended("Forgotten", WORK)
    run = desk.newest(task)
    command = [sys.executable, "-c", KILLED, "after set the worktree aside", *ALL, "--force"]
    subprocess.run(command, env=desk.world.variables, cwd=desk.repo, capture_output=True, check=False)
    assert os.path.isdir(aside(run))
    desk.world.git(desk.repo, "worktree", "remove", "-f", "-f", run.worktree)
    [action] = pruned(desk, force=True)[task]
    assert (action.ok, "which git does not know as a worktree" in action.reason) == (False, True)
    assert in_worktree(run) == FILES


def test_a_removal_that_fails_puts_the_worktree_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    task = desk.ended("Failing", WORK)
    run = desk.newest(task)

    def fail(point: str) -> None:
        if point == "before give the files up":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(faults, "at_point", fail)
    [action] = pruned(desk, force=True)[task]
    assert (action.ok, action.failed, "No space left" in action.reason) == (False, True, True)
    assert in_worktree(run) == FILES
    assert desk.world.git(Path(run.worktree), "status", "--porcelain") == "M README\n?? u"


def test_what_is_written_while_the_worktree_is_looked_at_is_not_lost(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = desk.ended("Late", "exit 3")
    run = desk.newest(task)

    def write(point: str) -> None:
        if point == "before set the worktree aside":
            (Path(run.worktree) / "late").write_text("x")

    monkeypatch.setattr(faults, "at_point", write)
    assert "1 uncommitted file" in pruned(desk)[task][0].reason
    assert (Path(run.worktree) / "late").read_text() == "x"


def test_a_run_that_is_started_meanwhile_does_not_lose_its_worktree(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = desk.ended("Again", "exit 3")
    first = desk.newest(task)

    beside: list[subprocess.Popen[bytes]] = []

    def start(point: str) -> None:
        if point == "before set the worktree aside":
            desk.ok("retry", str(task))
            words = [sys.executable, "-m", "dispatchctl", "dispatch", str(task)]
            beside.append(subprocess.Popen(words, env=desk.world.variables, cwd=desk.repo, stdout=subprocess.DEVNULL))
            eventually(lambda: desk.newest(task).number == 2)

    monkeypatch.setattr(faults, "at_point", start)
    assert pruned(desk)[task][0].ok
    assert beside[0].wait(60) == 0
    desk.world.ended(desk.runtime, task)
    second = desk.newest(task)
    assert (second.number, second.outcome, second.exit_code) == (2, "exited", 3)
    assert os.path.isdir(second.worktree)
    assert second.worktree != first.worktree


def test_of_two_prunes_at_once_each_run_is_cleared_once(desk: Desk) -> None:
    tasks = [desk.ended(f"T{number}", "exit 3") for number in range(4)]
    words = [sys.executable, "-m", "dispatchctl", *ALL]
    both = [
        subprocess.Popen(
            words, env=desk.world.variables, cwd=desk.repo, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [each.communicate(timeout=60) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert [err for _, err in said] == ["", ""]
    for task in tasks:
        assert left(desk, desk.newest(task)) == []
        assert [event.kind for event in desk.runtime.store.events(task=task)].count("cleared") == 1


def test_of_two_branches_that_keep_each_others_commits_two_prunes_leave_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = desk.ended("First", "echo x > a; git add a; git commit -qm only; exit 3")
    second = desk.ended("Second", "exit 3", "--base", desk.newest(first).branch)
    assert desk.world.git(desk.repo, "log", "--format=%s", "-1", desk.newest(second).branch) == "only"
    beside: list[subprocess.Popen[bytes]] = []

    def another(point: str) -> None:
        if point == "before set the worktree aside" and not beside:
            words = [sys.executable, "-m", "dispatchctl", *ALL]
            beside.append(subprocess.Popen(words, env=desk.world.variables, cwd=desk.repo, stderr=subprocess.DEVNULL))
            eventually(
                lambda: (
                    beside[0].poll() is not None or waits_for(desk.repo / ".git" / "dispatchctl.lock", beside[0].pid)
                )
            )

    monkeypatch.setattr(faults, "at_point", another)
    pruned(desk)
    assert beside[0].wait(60) == 0
    branches = desk.world.git(
        desk.repo, "branch", "--list", "dispatch/*", "--contains", "HEAD", "--format=%(refname:short)"
    )
    assert branches == desk.newest(second).branch


def waits_for(path: Path, pid: int) -> bool:
    """Whether the process has the lock file open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found.append(os.readlink(link))
        except OSError:
            continue
    return str(path) in found


# -- what somebody has done by hand ---------------------------------------------------------------------------------------


def test_a_repository_that_is_gone_keeps_its_worktree(desk: Desk) -> None:
    other = desk.world.repository("other")
    gone, fine = desk.ended("Gone", WORK, "--repo", str(other)), desk.ended("Fine", "exit 3")
    run = desk.newest(gone)
    shutil.rmtree(other)
    found = pruned(desk, force=True)
    assert (found[gone][0].ok, found[fine][0].ok) == (False, True)
    assert f"its repository {other} is gone, so nobody can say" in found[gone][0].reason
    assert in_worktree(run) == FILES
    assert found[gone][0].hint == f"rm -r {run.worktree}"
    shutil.rmtree(run.worktree)
    assert "is not there" in pruned(desk)[gone][0].reason
    assert pruned(desk, force=True)[gone][0].ok
    assert not os.path.lexists(run.run_dir)


def test_a_worktree_that_was_deleted_by_hand_goes_by_force_and_its_commits_stay(shared: Desk) -> None:
    task = shared.ended("Deleted", f"git checkout -q --detach; {WORK}")
    run = shared.newest(task)
    shutil.rmtree(run.worktree)
    assert f"{run.worktree} was moved or deleted by hand" in kept(shared, task)
    said = shared.run("cancel", str(task), "--force")
    assert came_back(shared, said.err) == {"README": "hello\n", "c": "committed\n"}
    assert pruned(shared)[task][0].ok
    assert left(shared, run) == []


def test_a_worktree_that_was_moved_by_hand_is_left_alone(shared: Desk) -> None:
    task = shared.ended("Moved", "exit 3")
    run, moved = shared.newest(task), shared.world.root / "moved"
    os.rename(run.worktree, moved)
    (moved / "u").write_text("new\n")
    reason = kept(shared, task)
    repair = re.search(r"git -C \S+ worktree repair NEW_PATH", reason)
    assert repair, reason
    subprocess.run(repair[0].replace("NEW_PATH", str(moved)).split(), env=shared.world.variables, check=True)
    assert "checked out elsewhere" in kept(shared, task)
    [action] = pruned(shared, force=True)[task]
    assert f"its branch {run.branch} stays: it is checked out in {moved}" in action.reason
    assert shared.world.git(moved, "status", "--porcelain") == "?? u"
    assert shared.world.git(moved, "branch", "--show-current") == run.branch


def test_a_branch_that_is_checked_out_elsewhere_stays(shared: Desk) -> None:
    task = shared.ended("Elsewhere", "git checkout -q --detach; exit 3")
    run, mine = shared.newest(task), shared.world.root / "mine"
    shared.world.git(shared.repo, "worktree", "add", "-q", str(mine), run.branch)
    assert f"the branch {run.branch}, which is checked out elsewhere" in kept(shared, task)
    assert pruned(shared, force=True)[task][0].ok
    assert not os.path.lexists(run.worktree)
    assert shared.world.git(mine, "branch", "--show-current") == run.branch


@pytest.mark.parametrize("what", ["another repository", "unknown to git", "a link"])
def test_what_is_not_the_worktree_any_more_is_never_removed(shared: Desk, what: str) -> None:
    task = shared.ended("Replaced", "exit 3")
    run = shared.newest(task)
    tree = Path(run.worktree)
    if what == "another repository":
        shutil.rmtree(tree)
        subprocess.run(["git", "init", "-q", str(tree)], env=shared.world.variables, check=True)
    elif what == "unknown to git":
        (tree / "precious").write_text("x")
        shutil.rmtree(shared.repo / ".git" / "worktrees" / tree.name)
    else:
        os.rename(tree, shared.world.root / f"linked-{task}")
        tree.symlink_to(shared.world.root / f"linked-{task}")
    assert "holds what no ref could keep" in kept(shared, task, force=True)
    assert os.path.lexists(run.worktree)


def test_a_branch_that_a_run_only_wanted_is_not_its_own(desk: Desk) -> None:
    task = desk.add("Taken", "exit 0")
    desk.world.git(desk.repo, "branch", f"dispatch/{task}-taken")
    assert desk.run("dispatch", str(task)).code == 1
    assert desk.task(task).status is Status.FAILED
    assert desk.run(*ALL, "--force") == Said(0, "", "")
    desk.ok("rm", str(task), "--force")
    assert desk.world.git(desk.repo, "branch", "--list", "dispatch/*") == f"dispatch/{task}-taken"


# -- prune ----------------------------------------------------------------------------------------------------------------


def test_prune_clears_what_is_finished_and_nothing_else_and_is_quiet_then(desk: Desk) -> None:
    done, failed, cancelled = desk.ended("Done"), desk.ended("Failed", "exit 3"), desk.dispatched("C", "sleep 600")
    desk.ok("cancel", str(cancelled))
    review, ready = desk.ended("Review", "exit 0", "--review"), desk.ended("Ready", "exit 3")
    desk.ok("retry", str(ready))
    blocked, runs = desk.ended("Blocked", "dispatchctl block -m which"), desk.dispatched("Runs", "sleep 600")
    others = {task: left(desk, desk.newest(task)) for task in (review, ready, blocked, runs)}
    with desk.unchanged():
        assert desk.run("prune") == Said(0, "", "")
        said = desk.run(*ALL, "--dry-run")
    assert (said.code, said.out.count(" would be cleared: it is ")) == (0, 3)
    answer = desk.json(*ALL)["actions"]
    assert {tuple(each) for each in answer} == {("action", "task", "run", "reason", "ok")}
    assert [(each["action"], each["task"], each["ok"]) for each in answer] == [
        ("clear", task, True) for task in (done, failed, cancelled)
    ]
    for task in (done, failed, cancelled):
        assert left(desk, desk.newest(task)) == []
        assert answer[[done, failed, cancelled].index(task)]["run"] == desk.newest(task).token
    assert {task: left(desk, desk.newest(task)) for task in others} == others
    assert desk.run(*ALL) == Said(0, "", "")
    desk.refused("prune", "--older-than", "soon", says="is not a duration")


def test_after_a_prune_every_command_says_what_is_so(desk: Desk) -> None:
    task = desk.ended("Pruned", "echo hello; exit 3")
    first = desk.newest(task)
    desk.ok(*ALL)
    page = desk.ok("show", str(task))
    assert "status      failed" in page
    assert "its worktree, branch, window and output are gone" in page
    assert first.token in desk.ok("runs", str(task))
    assert "cleared" in desk.ok("history", str(task))
    desk.refused("logs", str(task), code=4, says=f"the output of run {first.token} of task {task} is not kept any more")
    desk.refused("attach", str(task), code=4, says=f"the window of task {task} is gone")
    desk.ok("retry", str(task))
    desk.ok("dispatch", str(task))
    desk.world.ended(desk.runtime, task)
    second = desk.newest(task)
    assert (second.number, second.resumed, second.exit_code) == (2, False, 3)
    assert desk.ok("logs", str(task)) == "hello\n"
    assert pruned(desk)[task][0].ok
    assert left(desk, second) == []


def test_a_place_is_cleared_once_for_all_runs_that_used_it(desk: Desk) -> None:
    task = desk.ended("Twice", "exit 3")
    desk.ok("retry", str(task))
    desk.ok("dispatch", str(task))
    desk.world.ended(desk.runtime, task)
    first, second = desk.runtime.store.runs(task)
    assert first.worktree == second.worktree
    desk.ok("retry", str(task))
    assert pruned(desk) == {}
    desk.ok("cancel", str(task))
    assert not os.path.lexists(first.worktree)
    assert [each.run for each in pruned(desk)[task]] == [first.token, second.token]
    assert left(desk, first) + left(desk, second) == []


def test_a_live_pane_is_never_closed(desk: Desk) -> None:
    task = desk.ended("Respawned", "exit 3")
    run = desk.newest(task)
    eventually(lambda: desk.world.tmux("display-message", "-p", "-t", str(run.pane_id), "#{pane_dead}") == "1")
    desk.world.tmux("respawn-pane", "-t", str(run.pane_id), "-c", "/", "sleep 600")
    assert f"something runs in its pane {run.pane_id}" in kept(desk, task, force=True)
    said = desk.run("rm", str(task), "--force")
    assert (said.code, "something runs in its pane" in said.err) == (4, True)
    assert run.token in desk.world.tmux("list-panes", "-a", "-F", "#{@dispatchctl_token}")


def test_a_tmux_that_does_not_answer_keeps_everything(desk: Desk) -> None:
    task = desk.ended("Silent", "exit 3")
    with desk.unchanged():
        said = desk.run(*ALL, DISPATCHCTL_TOOLS__TMUX="/bin/false")
    assert said.code == 1
    assert f"run {desk.newest(task).token} is kept: task {task}: whether its pane lives is unknown" in said.err


def test_a_branch_that_another_task_is_to_start_from_stays_even_by_force(desk: Desk) -> None:
    parent = desk.ended("Parent", "echo x > a; git add a; git commit -qm a; git branch too")
    child = desk.add("Child", "exit 0", "--after", str(parent))
    run = desk.newest(parent)
    for force in (False, True):
        assert f"task {child}, which is ready, is to start from its branch {run.branch}" in kept(
            desk, parent, force=force
        )
    desk.world.git(desk.repo, "merge", "-q", run.branch)
    assert pruned(desk)[parent][0].ok


def test_a_done_task_whose_work_its_base_does_not_have_is_kept_whatever_builds_on_it(desk: Desk) -> None:
    parent = desk.ended("Parent", "echo x > a; git add a; git commit -qm a; git branch too; git tag too")
    child = desk.ended("Child", "exit 0", "--after", str(parent))
    assert desk.newest(child).base_commit == desk.world.git(desk.repo, "rev-parse", desk.newest(parent).branch)
    how = f"not merged: dispatchctl merge {parent}"
    for dry_run in (True, False):
        found = pruned(desk, dry_run=dry_run)
        assert [(each.kind, each.reason) for each in found[parent]] == [(Kind.KEEP, how)]
        assert [each.kind for each in found[child]] == [Kind.CLEAR]
    said = desk.run(*ALL)
    assert said == Said(0, f"task {parent}, run {desk.newest(parent).token} is kept: {how}\n", "1 run is kept\n")
    assert "status      done\n              " + how in desk.ok("show", str(parent))
    assert [task["id"] for task in desk.json("list", "--unmerged")["tasks"]] == [parent]
    desk.world.git(desk.repo, "merge", "-q", desk.newest(parent).branch)
    assert "not merged" not in desk.ok("show", str(parent))
    assert desk.json("list", "--unmerged")["tasks"] == []
    assert pruned(desk)[parent][0].ok


def test_what_is_in_no_base_goes_by_force_and_stays_if_the_base_has_gone(desk: Desk) -> None:
    desk.world.git(desk.repo, "branch", "release")
    task = desk.ended("Work", "git commit -q --allow-empty -m a; git branch too", "--base", "release")
    desk.world.git(desk.repo, "branch", "-D", "release")
    assert kept(desk, task) == f"not merged: dispatchctl merge {task}"
    assert [each["id"] for each in desk.json("list", "--unmerged")["tasks"]] == [task]
    assert pruned(desk, force=True, dry_run=True)[task][0].ok
    assert pruned(desk, force=True)[task][0].ok


def test_a_dry_run_says_what_the_run_does_where_two_branches_keep_each_others_commits(desk: Desk) -> None:
    first = desk.ended("First", "git commit -q --allow-empty -m only; exit 3")
    second = desk.ended("Second", "exit 3", "--base", desk.newest(first).branch)
    foreseen = pruned(desk, dry_run=True)
    assert [[each.kind for each in foreseen[task]] for task in (first, second)] == [[Kind.CLEAR], [Kind.KEEP]]
    assert pruned(desk) == foreseen


def test_a_retry_that_would_be_refused_removes_nothing(desk: Desk) -> None:
    parent = desk.ended("Parent", "git commit -q --allow-empty -m x")
    child = desk.ended("Child", "exit 3", "--after", str(parent))
    desk.refused("retry", str(parent), "--fresh", code=4, says=f"task {child}, which builds on it, has started")
    desk.ok("retry", str(child))
    desk.refused("retry", str(child), "--fresh", code=4, says=f"task {child} is ready; there is nothing to retry")
    assert all(os.path.isdir(desk.newest(task).worktree) for task in (parent, child))


# -- retry --takeover -----------------------------------------------------------------------------------------------------


def test_a_run_of_another_machine_is_taken_over_and_one_of_this_is_not(desk: Desk) -> None:
    task = desk.dispatched("Far", "trap '' TERM HUP; sleep 600")
    desk.refused("retry", str(task), "--takeover", code=4, says="is this machine's own")
    desk.refused("retry", str(task), "--takeover", "--fresh", code=2, says="--takeover goes with neither")
    run = desk.newest(task)
    database = desk.runtime.store._database  # type: ignore[attr-defined]
    with database:
        database.execute("UPDATE runs SET host = 'elsewhere' WHERE token = ?", (run.token,))
    assert desk.ok("retry", str(task), "--takeover") == f"task {task} is ready\n"
    after = desk.task(task)
    assert (after.status, after.not_before, after.error) == (Status.READY, None, "taken over from host elsewhere")
    assert (desk.newest(task).outcome, desk.newest(task).exit_code) == ("lost", None)
    desk.refused("retry", str(task), "--takeover", code=4, says=f"task {task} has no open run")
    inside = {"DISPATCHCTL_TOKEN": run.token, "DISPATCHCTL_TASK": str(task)}
    assert f"run {run.token} is over" in desk.run("heartbeat", **inside).err
    assert "it ran on another machine (elsewhere)" in kept_when_cancelled(desk, task)


def test_work_that_another_machine_said_is_done_is_looked_at_first(desk: Desk) -> None:
    task = desk.dispatched("Far", "trap '' TERM HUP; sleep 600")
    run, database = desk.newest(task), desk.runtime.store._database  # type: ignore[attr-defined]
    desk.runtime.store.report(run.token, Report.DONE, "all of it", actor=Actor.AGENT, at=now())
    with database:
        database.execute("UPDATE runs SET host = 'elsewhere' WHERE token = ?", (run.token,))
    assert desk.ok("retry", str(task), "--takeover") == f"task {task} is in_review\n"
    assert desk.task(task).result == "all of it"


def test_a_start_on_another_machine_is_taken_over_too(desk: Desk) -> None:
    task = desk.add("Far", "exit 0")
    runtime = desk.world.runtime()
    runtime.host = "elsewhere"
    held = claim(runtime, task, room=Room(9), actor=Actor.DISPATCH)
    assert held is not None
    assert desk.ok("retry", str(task), "--takeover") == f"task {task} is ready\n"
    assert (desk.newest(task).phase, desk.newest(task).outcome) == (Phase.CLOSED, "rolled_back")
    held.owner.release()
    desk.ok("dispatch", str(task))
    assert desk.world.ended(desk.runtime, task).status is Status.DONE


def kept_when_cancelled(desk: Desk, task: int) -> str:
    """Why a prune keeps a task that is given up."""
    with_worktree_kept = desk.newest(task)
    Path(with_worktree_kept.worktree, "u").write_text("x")
    desk.ok("cancel", str(task))
    return kept(desk, task)
