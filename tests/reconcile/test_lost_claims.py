"""Claims that were never committed, and claims that the database has lost: everything of them goes, and nothing else."""

import os
import signal
from pathlib import Path

import pytest
from reconcile.scene import copy_of, dispatcher, history_holds, is_stopped, killed_at, kinds, put_back, settles
from world import World, eventually

from dispatchctl import intent, processes
from dispatchctl.dispatch import dispatch
from dispatchctl.plan import Kind
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.task import Phase, Run, Status

BEFORE_THE_CLAIM = ["after make the locks", "before claim"]
AFTER_THE_CLAIM = ["after claim", "before note the intent", "after note the intent", "before step branch"]
WITHOUT_LAUNCHER = [
    *AFTER_THE_CLAIM,
    "after note what the run makes",
    "after register the worktree",
    "after check out",
    "after step setup",
    "after step run directory",
    "after open the window",
    "after note the window",
]


def one_task(world: World, prompt: str = "touch began; sleep 600") -> tuple[Runtime, Path]:
    world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "users-own", "sleep 600")
    repo, runtime = world.repository(), world.runtime()
    world.add(runtime, prompt, repo=repo)
    return runtime, repo


def locks(runtime: Runtime) -> list[str]:
    return sorted(path.name for path in (runtime.state / "locks").iterdir())


@pytest.mark.parametrize("point", BEFORE_THE_CLAIM)
def test_lock_files_of_a_dispatcher_killed_before_its_claim_are_removed(world: World, point: str) -> None:
    runtime, _ = one_task(world)
    killed_at(world, point)
    assert len(locks(runtime)) == 2
    assert kinds(reconcile(runtime)) == [Kind.CLEAR]
    assert locks(runtime) == []
    assert runtime.store.task(1).status is Status.READY
    settles(runtime, rounds=0)
    assert len(dispatch(runtime).started) == 1


@pytest.mark.parametrize("point", AFTER_THE_CLAIM)
def test_a_dispatcher_killed_just_after_its_claim_is_undone(world: World, point: str) -> None:
    runtime, repo = one_task(world)
    killed_at(world, point)
    (run,) = runtime.store.open_runs()
    assert kinds(reconcile(runtime)) == [Kind.UNDO]
    assert world.leftovers(run, repo) == []
    assert runtime.store.task(1).status is Status.READY
    settles(runtime, rounds=0)
    history_holds(runtime)


def lost(world: World, runtime: Runtime, point: str) -> tuple[Runtime, Run]:
    """Have a dispatcher claim, and be killed at the point, where no launcher has begun; then put the database back."""
    copy = copy_of(runtime, world.root / "copy.db")
    killed_at(world, point, launches=False)
    (run,) = runtime.store.open_runs()
    return put_back(world, runtime, copy), run


@pytest.mark.parametrize("point", WITHOUT_LAUNCHER)
def test_a_claim_that_the_database_has_lost_is_taken_back(world: World, point: str) -> None:
    runtime, repo = one_task(world)
    runtime, run = lost(world, runtime, point)
    assert runtime.store.open_runs() == []
    assert kinds(reconcile(runtime)) == [Kind.CLEAR]
    assert world.leftovers(run, repo) == []
    assert world.git(repo, "for-each-ref", "--format=%(refname)") == "refs/heads/main", "nothing had to be rescued"
    assert "users-own" in world.tmux("list-sessions")
    assert runtime.store.task(1).status is Status.READY
    settles(runtime, rounds=0)
    (started,) = dispatch(runtime).started
    assert started.id == 1


@pytest.mark.parametrize("point", ["after register the worktree", "after check out", "after open the window"])
def test_what_a_launching_run_has_made_is_known_though_the_database_forgot_it(world: World, point: str) -> None:
    """The copy is of the moment after the claim: its run is launching, and has made nothing as far as it knows."""
    runtime, repo = one_task(world)
    copy = world.root / "copy.db"
    with_copy = dispatcher(world, "after note the intent", signal.SIGSTOP, launches=False)
    eventually(lambda: is_stopped(with_copy))
    copy_of(runtime, copy)
    with_copy.kill()
    with_copy.communicate()
    (run,) = runtime.store.open_runs()
    # The same run goes on to the point, in the world; then the database is put back.
    runtime = put_back(world, runtime, copy)
    _go_on(world, runtime, run, point)
    runtime = put_back(world, runtime, copy)
    assert not runtime.store.run(run.token).owns_tree
    assert os.path.isdir(run.worktree)
    assert kinds(reconcile(runtime)) == [Kind.UNDO]
    assert world.leftovers(run, repo) == []
    assert runtime.store.task(1).status is Status.READY
    history_holds(runtime)


def _go_on(world: World, runtime: Runtime, run: Run, point: str) -> None:
    """Do the steps of the run up to the point, as its dispatcher would have."""
    from dispatchctl import steps

    launch = steps.Launch(runtime, runtime.store.task(run.task), run)
    last = {"after register the worktree": 2, "after check out": 2, "after open the window": 5}[point]
    launches, steps.LAUNCH = steps.LAUNCH, "import time; time.sleep(600)"
    try:
        for step in steps.STEPS[:last]:
            step.do(launch)
    finally:
        steps.LAUNCH = launches
    if point == "after register the worktree":
        for path in Path(run.worktree).iterdir():
            if path.name != ".git":
                path.unlink()


def test_what_looks_like_a_lost_claim_but_is_anothers_is_left(world: World) -> None:
    """A user has made a worktree at the very path meanwhile, and another database has a lock file with an intent here."""
    runtime, repo = one_task(world)
    runtime, run = lost(world, runtime, "after check out")
    world.git(repo, "worktree", "remove", "-f", "-f", run.worktree)
    world.git(repo, "branch", "-D", run.branch)
    world.git(repo, "worktree", "add", "-q", "-b", run.branch, run.worktree)
    Path(run.worktree, "precious").touch()
    assert kinds(reconcile(runtime)) == [Kind.CLEAR]
    assert Path(run.worktree, "precious").exists()
    assert world.git(repo, "branch", "--list", run.branch)
    assert locks(runtime) == []


def test_an_intent_of_another_database_takes_nothing_back(world: World) -> None:
    runtime, _ = one_task(world)
    runtime, run = lost(world, runtime, "after check out")
    written = intent.read(run.owner_lock)
    assert written is not None
    Path(run.owner_lock).write_text(Path(run.owner_lock).read_text().replace(written.database, "0123456789abcdef"))
    assert kinds(reconcile(runtime)) == [Kind.CLEAR]
    assert os.path.isdir(run.worktree), "it is that database's"
    assert locks(runtime) == []


def test_a_claim_is_left_alone_while_its_dispatcher_lives_whatever_became_of_the_database(world: World) -> None:
    runtime, repo = one_task(world)
    copy = copy_of(runtime, world.root / "copy.db")
    process = dispatcher(world, "after check out", signal.SIGSTOP)
    eventually(lambda: is_stopped(process))
    (run,) = runtime.store.open_runs()
    runtime = put_back(world, runtime, copy)
    assert kinds(reconcile(runtime)) == []
    assert os.path.isdir(run.worktree)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    reconcile(runtime)
    assert world.leftovers(run, repo) == [], "its launcher found no row to start"
    assert runtime.store.task(1).status is Status.READY


def test_a_dispatcher_that_was_killed_when_its_run_had_started_leaves_only_locks(world: World) -> None:
    runtime, _ = one_task(world)
    killed_at(world, "before drop the locks")
    run = world.started(runtime, 1)
    assert kinds(reconcile(runtime)) == [Kind.ADOPT]
    assert locks(runtime) == []
    assert runtime.store.run(run.token).phase is Phase.STARTED
    settles(runtime, rounds=0)


def test_step_locks_that_were_left_alone_are_removed(world: World) -> None:
    runtime, _ = one_task(world, "true")
    dispatch(runtime)
    run = world.ended(runtime, 1).run
    assert run is not None
    Path(run.step_lock).touch()
    (runtime.state / "locks" / "0123abcd.step").touch()
    assert kinds(reconcile(runtime)) == [Kind.CLEAR, Kind.CLEAR]
    assert locks(runtime) == []


def test_a_lock_file_that_a_reconcile_took_for_a_dead_ones_is_not_relied_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed between its making and its locking: the dispatcher holds a lock that nobody else can see."""
    runtime, _ = one_task(world)
    real, removed = processes.lock, list[str]()

    def lock(path: str, *, wait: float = 0.0) -> processes.Lock | None:
        taken = real(path, wait=wait)
        if path.endswith(".owner") and not removed:
            os.unlink(path)
            removed.append(path)
        return taken

    monkeypatch.setattr(processes, "lock", lock)
    (started,) = dispatch(runtime).started
    assert started.run is not None
    assert len(removed) == 1
    assert started.run.owner_lock not in removed
