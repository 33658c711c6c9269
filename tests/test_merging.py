"""A merge brings the work into the base or changes nothing, wherever the base is checked out and wherever it is killed."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from world import World, eventually

from dispatchctl import clearing, faults, merging
from dispatchctl.dispatch import dispatch
from dispatchctl.errors import Busy, DispatchctlError, Refused, Unavailable
from dispatchctl.merging import How, Merged, Wish, merge
from dispatchctl.prune import Wish as Pruning
from dispatchctl.prune import prune
from dispatchctl.replay import replay
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Run, Status, Task
from dispatchctl.worktrees import aside, given_up

WORK = "echo work > work; git add work; git commit -qm work"
SAME = "echo agent > README; git commit -qam agent"
"""In conflict with what `Stage.commit` changes in README."""
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
POINTS = [
    f"{when} {each.name}"
    for module in (merging, clearing)
    for each in vars(module).values()
    if isinstance(each, faults.Effect) and each not in (clearing.RESCUING, clearing.CLOSING_PANE)
    for when in ("before", "after")
    if each not in (clearing.REMOVING_RUN_DIR, clearing.NOTING_CLEARED)
]


@dataclass
class Stage:
    """A world with a repository of this test, and tasks whose agent has done something there."""

    world: World
    repo: Path
    runtime: Runtime

    def git(self, *words: str, at: Path | None = None) -> str:
        return self.world.git(at or self.repo, *words)

    def ended(self, script: str = WORK, **changes: Any) -> Run:
        """The run of a task whose agent has done this."""
        task = self.world.add(self.runtime, script, repo=self.repo, **changes)
        done = dispatch(self.runtime, [task.id])
        assert [failure.error.message for failure in done.failed] == []
        after = self.world.ended(self.runtime, task.id)
        assert after.run is not None
        return after.run

    def task(self, run: Run) -> Task:
        return self.runtime.store.task(run.task)

    def commit(self, name: str = "other", text: str = "base\n", *, at: Path | None = None) -> str:
        """A commit in the user's checkout; its id."""
        ((at or self.repo) / name).write_text(text)
        self.git("add", name, at=at)
        self.git("commit", "-qm", f"change {name}", at=at)
        return self.git("rev-parse", "HEAD", at=at)

    def merge(self, run: Run, **wish: bool) -> Merged:
        self.said: list[str] = []
        return merge(self.world.runtime(), run.task, Wish(**wish), tell=self.said.append)

    def tip(self, branch: str = "main") -> str:
        return self.git("rev-parse", f"refs/heads/{branch}")

    def files(self, commit: str = "main") -> dict[str, str]:
        names = self.git("ls-tree", "-r", "--name-only", commit).splitlines()
        return {name: self.git("show", f"{commit}:{name}") for name in names}

    def is_clean(self, at: Path | None = None) -> bool:
        """Whether branch, index and files of the checkout are the same."""
        return self.git("status", "--porcelain", at=at) == ""

    def left(self, run: Run) -> list[str]:
        """What is left of worktree and branch."""
        places = [run.worktree, aside(run), given_up(run)]
        left = [path for path in places if os.path.lexists(path)]
        left += [path for path in places if path in self.git("worktree", "list", "--porcelain")]
        return left + self.git("branch", "--list", run.branch).split()

    def state(self, *places: str | Path) -> dict[str, Any]:
        """Refs, indexes and files of the repository and of these places, byte for byte, and the rows."""
        state: dict[str, Any] = {"refs": self.git("for-each-ref"), "head": self.git("rev-parse", "HEAD")}
        for place in (self.repo, *map(Path, places)):
            for path in sorted(place.rglob("*")):
                if path.is_file() and "objects" not in path.parts and path.name != "dispatchctl.lock":
                    state[str(path)] = (path.read_bytes(), path.stat().st_mtime_ns)
        state["events"] = len(self.runtime.store.events())
        state["tasks"] = self.runtime.store.tasks()
        return state

    def refuses(self, run: Run, says: str, kind: type[DispatchctlError] = Refused, **wish: bool) -> DispatchctlError:
        """Check that a merge is refused with these words and a hint, and that nothing at all has changed."""
        before = self.state(run.worktree)
        with pytest.raises(kind) as refusal:
            self.merge(run, **wish)
        assert says in refusal.value.message, refusal.value.message
        assert f"task {run.task}" in refusal.value.message or kind is Unavailable
        assert refusal.value.hint
        assert self.state(run.worktree) == before
        return refusal.value


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """One world for all tests of this file: each has a repository of its own there."""
    root = Path(tempfile.mkdtemp(prefix="dctl-", dir="/tmp"))
    made = World(root)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(root)


NUMBERS = itertools.count()


@pytest.fixture
def stage(shared: World) -> Stage:
    return Stage(shared, shared.repository(f"repo{next(NUMBERS)}"), shared.runtime())


# -- how it is merged -----------------------------------------------------------------------------------------------------


def test_a_base_that_has_not_moved_is_fast_forwarded_with_its_checkout(stage: Stage) -> None:
    run = stage.ended()
    tip = stage.tip(run.branch)
    done = stage.merge(run)
    assert (done.how, done.commit, done.checkout) == (How.FAST_FORWARD, tip, str(stage.repo))
    assert stage.tip() == tip
    assert (stage.repo / "work").read_text() == "work\n"
    assert stage.is_clean()
    assert stage.left(run) == []
    assert done.kept == ()
    assert stage.said == []


def test_a_base_that_has_moved_gets_a_merge_commit_that_names_the_task(stage: Stage) -> None:
    run = stage.ended(title='-F "$(touch x)" %s')
    tip, base = stage.tip(run.branch), stage.commit()
    done = stage.merge(run)
    assert done.how is How.MERGE
    assert stage.git("log", "-1", "--format=%P", "main") == f"{base} {tip}"
    assert stage.git("log", "-1", "--format=%B", "main") == f'Merge task {run.task}: -F "$(touch x)" %s'
    assert stage.files() == {"README": "hello", "other": "base", "work": "work"}
    assert stage.is_clean()
    assert stage.left(run) == []


def test_a_merge_commit_says_what_the_agent_did(stage: Stage) -> None:
    run = stage.ended(f"{WORK}; dispatchctl done -m 'did this'", title="Title")
    stage.merge(run, no_ff=True)
    assert stage.git("log", "-1", "--format=%B", "main") == f"Merge task {run.task}: Title\n\ndid this"


def test_no_ff_makes_a_merge_commit_where_none_is_needed(stage: Stage) -> None:
    run = stage.ended()
    tip, base = stage.tip(run.branch), stage.tip()
    assert stage.merge(run, no_ff=True).how is How.MERGE
    assert stage.git("log", "-1", "--format=%P", "main") == f"{base} {tip}"


@pytest.mark.parametrize("moved", [False, True], ids=["in place", "moved"])
def test_a_squash_is_one_commit_of_the_users_and_the_branchs_own_are_kept(stage: Stage, moved: bool) -> None:
    run = stage.ended(f"{WORK}; echo more >> work; git commit -qam more; dispatchctl done -m 'did this'", title="Title")
    tip, base = stage.tip(run.branch), stage.commit() if moved else stage.tip()
    done = stage.merge(run, squash=True)
    assert done.how is How.SQUASH
    assert stage.git("log", "-1", "--format=%P%n%an%n%cn%n%B", "main") == (
        f"{base}\nAda\nAda\nTitle\n\ndid this\n\n- work\n- more\n\nTask: dispatchctl {run.task}"
    )
    assert stage.git("log", "-1", "--format=%(trailers:key=Task,valueonly)", "main") == f"dispatchctl {run.task}"
    assert stage.files()["work"] == "work\nmore"
    assert stage.is_clean()
    assert stage.left(run) == []
    [said] = stage.said
    subprocess.run(["sh", "-c", said.partition("to get it back: ")[2]], env=stage.world.variables, check=True)
    assert stage.tip(said.split()[-2]) == tip


def test_what_is_in_the_base_already_is_said_and_cleared(stage: Stage) -> None:
    run = stage.ended()
    stage.git("merge", "-q", "--no-ff", "-m", "by hand", run.branch)
    base = stage.tip()
    done = stage.merge(run)
    assert (done.how, done.checkout, stage.tip()) == (How.NOTHING, None, base)
    assert stage.left(run) == []
    assert stage.task(run).run.merged == done.commit  # type: ignore[union-attr] # it has run


def test_what_was_squashed_by_hand_is_in_the_base_already(stage: Stage) -> None:
    run = stage.ended()
    stage.git("merge", "-q", "--squash", run.branch)
    stage.git("commit", "-qm", "squashed by hand")
    assert stage.merge(run).how is How.NOTHING
    assert stage.left(run) == []
    assert "to get it back" in stage.said[0]


def test_a_run_without_a_commit_has_nothing_to_be_merged(stage: Stage) -> None:
    run = stage.ended("exit 0")
    assert stage.merge(run).how is How.NOTHING
    assert stage.left(run) == []


def test_keep_leaves_worktree_and_branch(stage: Stage) -> None:
    run = stage.ended()
    tip = stage.tip(run.branch)
    stage.merge(run, keep=True)
    assert stage.tip(run.branch) == tip
    assert os.path.isfile(f"{run.worktree}/work")
    assert stage.merge(run).how is How.ALREADY
    assert stage.left(run) == []


def test_commits_that_are_made_after_a_merge_are_merged_by_the_next(stage: Stage) -> None:
    run = stage.ended()
    for number, squash in enumerate((False, True, True)):
        stage.merge(run, keep=True, squash=squash)
        stage.commit(f"by-hand-{number}", at=Path(run.worktree))
    assert stage.merge(run, squash=True).how is How.SQUASH
    assert {"work", "by-hand-0", "by-hand-1", "by-hand-2"} <= stage.files().keys()


def test_a_review_is_approved_by_the_merge_in_the_event_that_notes_it(stage: Stage) -> None:
    run = stage.ended(review=True)
    assert stage.task(run).status is Status.IN_REVIEW
    done = stage.merge(run, keep=True)
    assert (done.approved, done.task.status, done.task.error) == (True, Status.DONE, None)
    event = stage.runtime.store.events(task=run.task)[-1]
    assert (event.kind, event.actor, event.from_status, event.to_status) == ("merged", "user", "in_review", "done")
    assert event.detail["run"] == {"merged": stage.tip()}


def test_the_base_of_a_bare_repository_is_moved(stage: Stage) -> None:
    bare = stage.world.root / f"{stage.repo.name}.git"
    stage.git("clone", "-q", "--bare", str(stage.repo), str(bare))
    stage.repo = bare
    run = stage.ended()
    done = stage.merge(run)
    assert (done.how, done.checkout) == (How.FAST_FORWARD, None)
    assert stage.files()["work"] == "work"
    assert stage.left(run) == []


def test_a_base_that_is_checked_out_nowhere_is_moved_alone(stage: Stage) -> None:
    stage.git("checkout", "-qb", "elsewhere")
    run = stage.ended()
    head = stage.tip("elsewhere")
    done = stage.merge(run)
    assert (done.checkout, stage.tip("elsewhere")) == (None, head)
    assert stage.files()["work"] == "work"
    assert not (stage.repo / "work").exists()
    assert stage.is_clean()


def test_a_base_in_a_linked_worktree_goes_along_there(stage: Stage) -> None:
    stage.git("checkout", "-qb", "elsewhere")
    linked = stage.world.root / f"{stage.repo.name} linked"
    stage.git("worktree", "add", "-q", str(linked), "main")
    run = stage.ended()
    stage.commit(at=linked)
    done = stage.merge(run)
    assert (done.how, done.checkout) == (How.MERGE, str(linked))
    assert (linked / "work").read_text() == "work\n"
    assert stage.is_clean(linked)
    assert stage.is_clean()


def test_a_base_in_a_submodule_goes_along_there(stage: Stage) -> None:
    above = stage.world.repository(f"{stage.repo.name}-above")
    stage.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(stage.repo), "s", at=above)
    stage.repo = above / "s"
    run = stage.ended()
    (stage.repo / "work").write_text("precious\n")
    with pytest.raises(Refused, match="'work' there is not tracked"):
        stage.merge(run)
    (stage.repo / "work").unlink()
    assert stage.merge(run).checkout == str(stage.repo)
    assert (stage.repo / "work").read_text() == "work\n"
    assert stage.is_clean()


def test_a_repository_that_is_gone_is_said_so(stage: Stage) -> None:
    run = stage.ended()
    stage.repo.rename(stage.world.root / f"{stage.repo.name}-moved")
    with pytest.raises(DispatchctlError, match=f"task {run.task}: its repository {stage.repo} is gone"):
        stage.merge(run)


def test_no_hook_of_the_repository_runs(stage: Stage) -> None:
    ran = stage.world.root / f"{stage.repo.name}-hooks"
    for name in ("post-merge", "reference-transaction", "commit-msg", "post-checkout", "pre-merge-commit"):
        hook = stage.repo / ".git" / "hooks" / name
        hook.write_text(f"#!/bin/sh\necho {name} >> {ran}\n")
        hook.chmod(0o755)
    run = stage.ended("echo x > x; git add x; git commit -qnm x")
    ran.unlink(missing_ok=True)
    stage.merge(run, squash=True, keep=True)
    assert not ran.exists(), ran.read_text()


def test_settings_of_the_repository_do_not_change_how_the_checkout_goes_along(stage: Stage) -> None:
    for key, value in (
        ("branch.main.mergeOptions", "--squash --no-commit"),
        ("merge.autoStash", "true"),
        ("merge.ff", "false"),
        ("commit.gpgSign", "true"),
        ("i18n.commitEncoding", "ISO-8859-1"),
    ):
        stage.git("config", key, value)
    run = stage.ended("echo x > x; git add x; git -c commit.gpgSign=false commit -qm x", title="Ümläut")
    done = stage.merge(run, no_ff=True)
    assert stage.tip() == done.commit
    assert (
        stage.git("-c", "i18n.logOutputEncoding=UTF-8", "log", "-1", "--format=%s") == f"Merge task {run.task}: Ümläut"
    )
    assert stage.is_clean()


# -- what refuses ---------------------------------------------------------------------------------------------------------


def test_a_conflict_names_its_files_and_changes_nothing(stage: Stage) -> None:
    run = stage.ended("echo agent > README; echo agent > 'ü\n-x'; git add .; git commit -qm agent")
    stage.commit("README")
    stage.commit("ü\n-x")
    stage.refuses(run, "in conflict with main in README, ü\n-x", squash=True)
    hint = stage.refuses(run, "in conflict with main in README, ü\n-x").hint or ""
    subprocess.run(["sh", "-c", hint], env=stage.world.variables, check=False, capture_output=True)
    stage.refuses(run, "a merge that is not finished")
    at = Path(run.worktree)
    stage.git("checkout", "--ours", ".", at=at)
    stage.git("commit", "-qam", "resolved", at=at)
    assert stage.merge(run).how is How.FAST_FORWARD


def test_an_agent_that_takes_a_message_is_asked_to_resolve_and_to_commit(stage: Stage) -> None:
    run = stage.ended(SAME, review=True)
    stage.commit("README")
    stage.runtime.store.edit(run.task, {"agent": "claude"}, None, at=now())
    ask = "merge main into your branch and resolve the conflicts"
    assert stage.refuses(run, "in conflict").hint == f"dispatchctl retry {run.task} -m '{ask}'"
    Path(run.worktree, "new").write_text("x")
    assert stage.refuses(run, "task.uncommitted").hint == f"dispatchctl reject {run.task} -m 'commit your work'"


def test_what_is_not_committed_is_committed_by_the_hint(stage: Stage) -> None:
    run = stage.ended(f"{WORK}; echo x >> README; echo new > new", title="It's done")
    hint = stage.refuses(run, 'task.uncommitted = "commit"').hint
    subprocess.run(["sh", "-c", str(hint)], env=stage.world.variables, check=True, capture_output=True)
    stage.merge(run)
    assert stage.files() == {"README": "hello\nx", "new": "new", "work": "work"}
    assert stage.git("log", "-1", "--format=%s") == "It's done"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo x >> README", "1 uncommitted file"),
        ("echo x > new", "1 uncommitted file"),
        ("git rm -q README", "1 uncommitted file"),
        ("git init -q in; git -C in commit -q --allow-empty -m x", "the repository in/"),
        (
            "git checkout -q --detach; git commit -q --allow-empty -m x",
            "commits checked out that are not in its branch",
        ),
        ("git checkout -qb other; git commit -q --allow-empty -m x", "commits checked out that are not in its branch"),
    ],
)
def test_work_that_is_not_in_the_branch_is_refused(stage: Stage, script: str, says: str) -> None:
    run = stage.ended(f"{WORK}; {script}", review=True)
    stage.refuses(run, says)


def test_ignored_files_are_no_work(stage: Stage) -> None:
    run = stage.ended(f"{WORK}; echo built >> .gitignore; git add .; git commit -qm x; echo x > built")
    assert stage.merge(run).how is How.FAST_FORWARD
    assert stage.left(run) == []


def test_dirt_in_the_checkout_of_the_base_is_refused(stage: Stage) -> None:
    run = stage.ended()
    (stage.repo / "README").write_text("mine\n")
    refusal = stage.refuses(run, f"main is checked out in {stage.repo}, and 1 changed file there is not committed")
    assert refusal.hint == f"git -C {stage.repo} status"
    stage.git("add", "README")
    stage.refuses(run, "1 changed file there")
    stage.git("reset", "-q", "--hard")
    assert stage.merge(run).how is How.FAST_FORWARD


@pytest.mark.parametrize("ignored", [False, True], ids=["untracked", "ignored"])
def test_a_file_of_the_users_that_git_does_not_track_is_never_overwritten(stage: Stage, ignored: bool) -> None:
    if ignored:
        stage.commit(".gitignore", "work\n")
    run = stage.ended("echo work > work; git add -f work; git commit -qm work")
    (stage.repo / "work").write_text("precious\n")
    stage.refuses(run, "'work' there is not tracked and would be overwritten")
    stage.refuses(run, "'work' there is not tracked and would be overwritten", squash=True)
    (stage.repo / "work").unlink()
    stage.merge(run)
    assert (stage.repo / "work").read_text() == "work\n"


@pytest.mark.parametrize("there", ["d", "d/e"], ids=["file for directory", "directory for file"])
def test_what_stands_in_the_way_of_a_directory_is_not_overwritten(stage: Stage, there: str) -> None:
    other = {"d": "d/e", "d/e": "d"}[there]
    run = stage.ended(f"mkdir -p $(dirname {other}); echo x > {other}; git add .; git commit -qm x")
    (stage.repo / there).parent.mkdir(exist_ok=True)
    (stage.repo / there).write_text("precious\n")
    with pytest.raises(Refused):
        stage.merge(run)
    assert (stage.repo / there).read_text() == "precious\n"
    assert stage.files().keys() == {"README"}


def test_what_comes_in_the_way_meanwhile_git_does_not_overwrite(stage: Stage, monkeypatch: Any) -> None:
    stage.commit(".gitignore", "work\n")
    run = stage.ended("echo work > work; git add -f work; git commit -qm work")
    before = stage.tip()
    at(monkeypatch, "before move the base", lambda: (stage.repo / "work").write_text("precious\n"))
    with pytest.raises(Refused, match=r"could not be brought along: .*would be overwritten by merge: work"):
        stage.merge(run, squash=True)
    assert (stage.repo / "work").read_text() == "precious\n"
    assert stage.tip() == before
    assert stage.git("for-each-ref", "refs/dispatchctl/merging/") == ""


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_change_that_git_was_told_not_to_look_at_is_not_overwritten(stage: Stage, flag: str) -> None:
    run = stage.ended(SAME)
    stage.git("update-index", flag, "README")
    (stage.repo / "README").write_text("precious\n")
    stage.refuses(run, "git was told not to look at 'README'")
    other = stage.ended()
    assert stage.merge(other).how is How.FAST_FORWARD
    assert (stage.repo / "README").read_text() == "precious\n"


@pytest.mark.parametrize(
    ("commands", "says"),
    [
        ("git cherry-pick side", "a cherry-pick waits there"),
        ("git merge side", "a merge waits there"),
        ("git rebase side", "a rebase or bisect that began on main is not finished"),
        ("git bisect start; git bisect bad", "a rebase or bisect that began on main is not finished"),
        ("git bisect start; git checkout --detach", "a rebase or bisect that began on main is not finished"),
    ],
)
def test_a_base_on_which_something_is_not_finished_is_refused(stage: Stage, commands: str, says: str) -> None:
    run = stage.ended()
    stage.git("checkout", "-qb", "side")
    stage.commit("README", "side\n")
    stage.git("checkout", "-q", "main")
    stage.commit("README", "main\n")
    subprocess.run(["sh", "-c", commands], cwd=stage.repo, env=stage.world.variables, capture_output=True, check=False)
    stage.refuses(run, says)


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("v1", "its base v1 is a tag"),
        ("origin/main", "its base origin/main is a remote branch"),
        ("HEAD~0", "its base HEAD~0 is a commit"),
        ("gone", "its base gone is nothing that git knows"),
        ("-x", "its base -x is nothing that git knows"),
    ],
)
def test_a_base_that_is_no_local_branch_is_refused(stage: Stage, base: str, says: str) -> None:
    stage.git("tag", "v1")
    stage.git("update-ref", "refs/remotes/origin/main", "HEAD")
    run = stage.ended()
    stage.runtime.store.edit(run.task, {"base": base}, None, at=now())
    refusal = stage.refuses(run, f"{says}, not a local branch")
    assert refusal.hint == f"dispatchctl edit {run.task} --base main"


def test_the_base_of_a_hint_is_the_repositorys_main_branch_or_none(stage: Stage) -> None:
    run = stage.ended()
    stage.runtime.store.edit(run.task, {"base": stage.tip()}, None, at=now())
    stage.git("branch", "trunk")
    stage.git("checkout", "-q", "--detach")
    assert stage.refuses(run, "is a commit").hint == f"dispatchctl edit {run.task} --base main"
    stage.git("branch", "-D", "main")
    assert stage.refuses(run, "is a commit").hint == f"git -C {stage.repo} branch --all"
    stage.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk")
    assert stage.refuses(run, "is a commit").hint == f"dispatchctl edit {run.task} --base trunk"


def test_its_own_branch_is_no_base(stage: Stage) -> None:
    run = stage.ended()
    stage.runtime.store.edit(run.task, {"base": run.branch}, None, at=now())
    stage.refuses(run, "its base is its own branch")


def test_a_base_on_which_another_task_is_at_work_is_refused(stage: Stage) -> None:
    stage.git("checkout", "-qb", "elsewhere")
    run = stage.ended()
    busy = stage.world.add(stage.runtime, "git checkout -q main; touch $HOME/there; sleep 600", repo=stage.repo)
    dispatch(stage.runtime, [busy.id])
    eventually((stage.world.home / "there").exists)
    with pytest.raises(Refused, match=f"where task {busy.id} is at work"):
        stage.merge(run)
    assert stage.files().keys() == {"README"}


def test_a_base_that_is_checked_out_twice_or_in_a_lost_place_is_refused(stage: Stage) -> None:
    linked = stage.world.root / f"{stage.repo.name}-twice"
    stage.git("worktree", "add", "-q", "--force", str(linked), "main")
    run = stage.ended()
    stage.refuses(run, "only one could be brought along")
    stage.git("checkout", "-qb", "elsewhere")
    shutil.rmtree(linked)
    refusal = stage.refuses(run, f"checked out in {linked}, which is not there")
    assert refusal.hint == f"git -C {stage.repo} worktree prune"


def test_without_an_identity_there_is_no_commit_and_a_clear_sentence(stage: Stage, monkeypatch: Any) -> None:
    run = stage.ended()
    stage.commit()
    stage.git("config", "user.useConfigOnly", "true")
    (stage.world.home / ".gitconfig").rename(stage.world.home / "aside")
    try:
        refusal = stage.refuses(run, "git does not know who you are", DispatchctlError)
        assert refusal.hint is not None
        assert "git config --global user.name" in refusal.hint
        assert refusal.exit_code == 1
        for role in ("AUTHOR", "COMMITTER"):
            monkeypatch.setitem(stage.world.extra, f"GIT_{role}_NAME", "Eve")
            monkeypatch.setitem(stage.world.extra, f"GIT_{role}_EMAIL", "eve@example.invalid")
        stage.merge(run)
        assert stage.git("log", "-1", "--format=%an %ae", "main") == "Eve eve@example.invalid"
    finally:
        (stage.world.home / "aside").rename(stage.world.home / ".gitconfig")


def test_an_old_git_is_told_from_a_conflict(stage: Stage, monkeypatch: Any) -> None:
    run = stage.ended()
    stage.commit()
    old = stage.world.root / "old-git"
    old.write_text(
        '#!/bin/sh\ncase "$*" in\n  *merge-tree*) echo usage >&2; exit 129;;\n'
        '  *" version") echo git version 2.34.1;;\n  *) exec git "$@";;\nesac\n'
    )
    old.chmod(0o755)
    monkeypatch.setitem(stage.world.extra, "DISPATCHCTL_TOOLS__GIT", str(old))
    refusal = stage.refuses(run, "git 2.34.1 cannot merge without a work tree: that takes git 2.38", Unavailable)
    assert refusal.exit_code == 69


@pytest.mark.parametrize("status", ["ready", "failed", "cancelled", "blocked", "backlog"])
def test_only_what_is_done_or_in_review_is_merged(stage: Stage, status: str) -> None:
    scripts = {"failed": f"{WORK}; exit 3", "blocked": f"{WORK}; dispatchctl block -m why"}
    run = stage.ended(scripts.get(status, f"{WORK}; exit 3"))
    if status == "ready":
        stage.runtime.store.retry(run.task, note=None, fresh=False, recoveries=3, at=now())
    if status == "cancelled":
        stage.runtime.store.cancel(run.task, at=now())
    if status == "backlog":
        task = stage.world.add(stage.runtime, WORK, repo=stage.repo, backlog=True)
        with pytest.raises(Refused, match=r"has not run yet|is backlog"):
            merge(stage.runtime, task.id, Wish(), tell=lambda _: None)
        return
    stage.refuses(run, f"it is {status}, and only what is done or in review is merged")


def test_a_branch_that_is_gone_was_not_merged(stage: Stage) -> None:
    run = stage.ended()
    stage.git("worktree", "remove", "-f", "-f", run.worktree)
    stage.git("branch", "-q", "-D", run.branch)
    refusal = stage.refuses(run, f"its branch {run.branch} is gone")
    assert refusal.hint is not None
    assert "for-each-ref" in refusal.hint


# -- the base moves meanwhile ---------------------------------------------------------------------------------------------


def at(monkeypatch: Any, point: str, do: Any) -> None:
    """Let this happen once, at this point."""
    left = [do]

    def happen(name: str) -> None:
        if name == point and left:
            left.pop()()

    monkeypatch.setattr(faults, "at_point", happen)


@pytest.mark.parametrize("out", [True, False], ids=["checked out", "nowhere"])
def test_a_base_that_moves_between_the_look_and_the_swap_is_not_lost(stage: Stage, monkeypatch: Any, out: bool) -> None:
    run = stage.ended()
    if not out:
        stage.git("checkout", "-q", "--detach")
    moved: list[str] = []

    def move() -> None:
        moved.append(stage.commit())
        if not out:
            stage.git("update-ref", "refs/heads/main", "HEAD")

    at(monkeypatch, "before move the base", move)
    with pytest.raises(Busy, match=f"task {run.task} was not merged: main moved"):
        stage.merge(run, no_ff=True)
    assert stage.tip() == moved[0]
    assert stage.is_clean()
    assert stage.merge(run).how is How.MERGE
    assert stage.files().keys() == {"README", "other", "work"}


def test_a_base_that_is_checked_out_in_the_moment_of_the_swap_is_not_moved_under_it(
    stage: Stage, monkeypatch: Any
) -> None:
    stage.git("checkout", "-qb", "elsewhere")
    run = stage.ended()
    base = stage.tip()
    at(monkeypatch, "before move the base", lambda: stage.git("checkout", "-q", "main"))
    with pytest.raises(Busy, match="was checked out, in the middle"):
        stage.merge(run)
    assert (stage.tip(), stage.is_clean()) == (base, True)
    assert stage.merge(run).checkout == str(stage.repo)


def test_a_checkout_that_changes_its_branch_meanwhile_keeps_it(stage: Stage, monkeypatch: Any) -> None:
    run = stage.ended()
    stage.git("branch", "mine")
    at(monkeypatch, "before move the base", lambda: stage.git("checkout", "-q", "mine"))
    before = stage.tip()
    with pytest.raises(Busy):
        stage.merge(run)
    assert (stage.tip(), stage.tip("mine")) == (before, before)


def test_of_many_merges_at_once_none_is_lost(stage: Stage) -> None:
    runs = [stage.ended(f"echo {n} > f{n}; git add .; git commit -qm {n}") for n in range(4)]
    words = [sys.executable, "-m", "dispatchctl", "merge"]
    env = stage.world.variables
    every = [
        subprocess.Popen([*words, str(run.task), *more], env=env, cwd=stage.repo, stderr=subprocess.PIPE, text=True)
        for run in runs
        for more in ([], ["--squash"])
    ]
    for each in every:
        said = each.communicate(timeout=120)[1]
        assert each.returncode in (0, 75), said
    for run in runs:
        assert stage.merge(run).how is How.ALREADY
        assert stage.left(run) == []
    assert stage.files().keys() == {"README", "f0", "f1", "f2", "f3"}
    assert stage.git("log", "--format=%s", "--no-merges", "main").split().count("0") <= 1
    assert stage.is_clean()


def test_a_task_that_is_retried_meanwhile_is_said_so(stage: Stage, monkeypatch: Any) -> None:
    run = stage.ended()

    def retry() -> None:
        stage.runtime.store.retry(run.task, note=None, fresh=False, recoveries=3, at=now())

    at(monkeypatch, "before note the merge", retry)
    with pytest.raises(Refused, match=f"main has the work of task {run.task} now, but task {run.task} is ready"):
        stage.merge(run)
    assert stage.files()["work"] == "work"
    assert stage.left(run) != []


# -- killed, and done again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--squash"], ["--no-ff"]], ids=["ff", "squash", "merge"])
@pytest.mark.parametrize("point", POINTS)
def test_a_merge_that_is_killed_is_gone_on_with_when_it_is_said_again(
    stage: Stage, point: str, options: list[str]
) -> None:
    run = stage.ended(review=True)
    tip = stage.tip(run.branch)
    words = ["merge", str(run.task), *options]
    command = [sys.executable, "-c", KILLED, point, *words]
    dead = subprocess.run(
        command, env=stage.world.variables, cwd=stage.repo, capture_output=True, text=True, check=False
    )
    reached = ("squash" not in point or options == ["--squash"]) and ("is to be merged" not in point or options)
    assert dead.returncode == (-signal.SIGKILL if reached else 0), dead.stderr
    assert stage.is_clean()
    assert stage.task(run).status is (Status.DONE if stage.task(run).run.merged else Status.IN_REVIEW)  # type: ignore[union-attr]
    assert subprocess.run(["git", "-C", stage.repo, "cat-file", "-e", tip], check=False).returncode == 0
    again = stage.world.cli(*words, cwd=stage.repo)
    assert again.code == 0, again
    assert stage.left(run) == []
    assert stage.files() == {"README": "hello", "work": "work"}
    assert int(stage.git("rev-list", "--count", "main")) == (3 if options == ["--no-ff"] else 2)
    [merged] = [event for event in stage.runtime.store.events(task=run.task) if event.kind == "merged"]
    assert merged.detail["run"]["merged"] == stage.tip()
    assert stage.git("for-each-ref", "refs/dispatchctl/merging/") == ""
    if options == ["--squash"]:
        assert stage.git("rev-parse", f"refs/dispatchctl/rescue/{run.task}/{run.token}") == tip
    assert stage.is_clean()


def test_what_a_killed_merge_noted_goes_with_its_run_if_the_task_is_retried_instead(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stage.ended("date +%N > work; git add work; git commit -qm work")
    stage.commit()
    with monkeypatch.context() as during:
        during.setattr(faults, "at_point", lambda name: _die_at(name, "after keep what is to be merged"))
        with pytest.raises(KeyboardInterrupt):
            stage.merge(first)
    stage.runtime.store.retry(first.task, note=None, fresh=False, recoveries=3, at=now())
    dispatch(stage.runtime, [first.task])
    again = stage.world.ended(stage.runtime, first.task).run
    assert again is not None
    assert stage.merge(again).how is How.MERGE
    assert stage.git("for-each-ref", "refs/dispatchctl/merging/").endswith(first.token)
    pruned = [each for each in prune(stage.runtime, Pruning(now()), tell=lambda _: None) if each.task == first.task]
    assert all(each.ok for each in pruned)
    assert stage.git("for-each-ref", "refs/dispatchctl/merging/") == ""


def _die_at(name: str, point: str) -> None:
    if name == point:
        raise KeyboardInterrupt


# -- what becomes of others -----------------------------------------------------------------------------------------------


def test_a_child_starts_from_the_base_that_has_its_squashed_parent(stage: Stage) -> None:
    parent = stage.ended(title="parent")
    stage.commit()
    stage.merge(parent, squash=True, keep=True)
    child = stage.ended(after=(parent.task,))
    assert child.base_commit == stage.tip()
    stage.commit("later", at=Path(parent.worktree))
    other = stage.ended(after=(parent.task,))
    assert other.base_commit == stage.tip(parent.branch)


def test_several_squashed_parents_hold_nobody(stage: Stage) -> None:
    parents = [stage.ended(f"echo {n} > f{n}; git add .; git commit -qm {n}") for n in range(2)]
    for parent in parents:
        stage.merge(parent, squash=True, keep=True)
    assert stage.ended(after=tuple(parent.task for parent in parents)).base_commit == stage.tip()


def test_a_branch_from_which_a_child_with_another_base_is_to_start_stays(stage: Stage) -> None:
    stage.git("branch", "release")
    run = stage.ended()
    child = stage.world.add(stage.runtime, WORK, repo=stage.repo, after=(run.task,))
    stage.runtime.store.edit(child.id, {"base": "release"}, None, at=now())
    done = stage.merge(run)
    assert done.how is How.FAST_FORWARD
    [kept] = done.kept
    assert f"task {child.id}, which is ready, is to start from its branch" in kept.message
    assert stage.left(run) != []


def test_what_stays_is_said_with_the_reason(stage: Stage) -> None:
    run = stage.ended()
    with subprocess.Popen(["sleep", "600"], cwd=run.worktree) as visitor:
        try:
            done = stage.merge(run)
        finally:
            visitor.kill()
    assert f"process {visitor.pid} works in {run.worktree}" in done.kept[0].message
    assert stage.files()["work"] == "work"
    assert stage.merge(run).how is How.ALREADY
    assert stage.left(run) == []


def test_a_squashed_branch_that_was_kept_is_pruned_by_force_only(stage: Stage) -> None:
    run = stage.ended()
    stage.merge(run, squash=True, keep=True)
    wish = Pruning(now())
    [pruned] = [each for each in prune(stage.world.runtime(), wish, tell=lambda _: None) if each.task == run.task]
    assert "1 commit that no other branch has" in pruned.why


def test_a_merge_can_be_replayed(stage: Stage) -> None:
    run = stage.ended(review=True)
    stage.merge(run)
    replayed = replay(stage.runtime.store.events(task=run.task))
    assert replayed.runs[run.token]["merged"] == stage.tip()
    assert replayed.tasks[run.task]["status"] == "done"


def test_a_lock_that_a_killed_git_left_does_not_keep_a_merge_from_its_end(stage: Stage) -> None:
    """`packed-refs.lock` stops git from deleting the ref that a merge notes what it is about to do by."""
    run = stage.ended("date +%N > work; git add work; git commit -qm work")
    stage.commit()
    lock = stage.repo / ".git" / "packed-refs.lock"
    lock.touch()
    try:
        assert stage.merge(run).how is How.MERGE
        assert stage.git("for-each-ref", "refs/dispatchctl/merging/") == ""
    finally:
        lock.unlink()
