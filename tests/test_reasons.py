"""Why each task that is not running is not, in a sentence; and what it costs to say so of very many."""

from pathlib import Path

import pytest
from reconcile.scene import at_work, copy_of, put_back
from store.bench import SITUATIONS, Bench, Sqlite
from world import World

from dispatchctl import reasons
from dispatchctl.lookout import NAMED, held
from dispatchctl.runtime import Runtime, now
from dispatchctl.store.sqlite import SqliteStore
from dispatchctl.task import Actor, NewTask, Status

STATEMENTS = 30
"""More than are asked for any number of tasks, and fewer than for ten of them one by one."""


@pytest.fixture
def runtime(world: World) -> Runtime:
    world.repository()
    made = world.runtime()
    made.make_store()
    return made


def why(runtime: Runtime, task: int) -> str:
    """The one sentence about that task."""
    return reasons.explain(runtime, [runtime.store.task(task)])[task]


def test_every_situation_is_explained(world: World, tmp_path: Path) -> None:
    runtime = world.runtime()
    backend = Sqlite(tmp_path)
    bench = Bench(backend, backend.open())
    runtime.store = bench.store
    explained = {}
    for name, (status, bring_about) in SITUATIONS.items():
        task = bring_about(bench)
        explained[name] = why(runtime, task).replace(str(task), "ID")
        assert explained[name].startswith(status), (name, explained[name])
    assert explained["stuck"] == "failed: the worktree stands (dispatchctl reconcile)"
    assert explained["failed"].endswith("(dispatchctl retry ID)")
    assert explained["asked"] == "blocked: which one? (dispatchctl unblock ID -m 'ANSWER')"
    assert len(set(explained.values())) > 7
    backend.close()


def test_of_thousands_of_parents_those_that_failed_are_named_first(world: World, runtime: Runtime) -> None:
    repo = str(world.root / "repo")
    new = NewTask("Do it", "now", repo, "main", "shell")
    parents = [task.id for task in runtime.store.add([new] * 3_000, actor=Actor.USER, at=now())]
    [child] = runtime.store.add(
        [NewTask("C", "x", repo, "main", "shell", after=tuple(parents))], actor=Actor.USER, at=1
    )
    runtime.store.cancel(parents[2_000], at=now())
    said = why(runtime, child.id)
    assert said.startswith(f"held: task {parents[2_000]} is cancelled: dispatchctl retry {parents[2_000]}; after task ")
    assert said.endswith(f"; and {3_000 - NAMED} more")
    assert len(said) < 500
    assert held(runtime, [child])[child.id] == said.removeprefix("held: ")


def test_several_parents_that_are_not_merged_hold_a_task(world: World, runtime: Runtime) -> None:
    repo = world.root / "repo"
    commit = 'echo x > "$DISPATCHCTL_TASK"; git add -A; git commit -qm x'
    parents = [world.add(runtime, commit, repo=repo).id for _ in range(2)]
    from dispatchctl.dispatch import dispatch

    dispatch(runtime)
    for parent in parents:
        world.ended(runtime, parent)
    task = world.add(runtime, "exit 0", repo=repo, after=tuple(parents)).id
    listed = ", ".join(map(str, parents))
    assert why(runtime, task).startswith(f"held: task {task} waits until tasks {listed} are merged into main")
    for parent in parents:
        run = runtime.store.task(parent).run
        assert run is not None
        world.git(repo, "merge", "-q", "--no-edit", run.branch)
    assert why(runtime, task) == "ready: next in line: dispatchctl dispatch"


def test_an_agent_that_may_be_alive_holds_its_task(world: World) -> None:
    world.runtime().make_store()
    copy = copy_of(world.runtime(), world.root / "copy.db")
    runtime, _ = at_work(world)
    runtime = put_back(world, runtime, copy)
    other = world.add(runtime, "exit 0", repo=world.root / "repo")
    assert other.id == 1
    assert why(runtime, 1) == "held: an agent of it may still be alive: dispatchctl doctor"
    foreseen = world.cli("dispatch", "1", "--dry-run")
    assert (foreseen.code, "may still be alive" in foreseen.err) == (4, True)
    assert world.cli("dispatch", "--dry-run").out == ""


def test_everything_is_counted_once_however_many_tasks_there_are(world: World, runtime: Runtime) -> None:
    repo = str(world.root / "repo")
    new = [NewTask("Do it", "now", repo, "main", "shell", priority=n % 5) for n in range(1_000)]
    first = runtime.store.add(new, actor=Actor.USER, at=now())[0].id
    child = NewTask("C", "x", repo, "main", "shell", after=(first,))
    runtime.store.add([child] * 1_000, actor=Actor.USER, at=now())
    runtime.store.pause("/elsewhere", reason=None, at=now())
    store, said = runtime.store, list[str]()
    assert isinstance(store, SqliteStore)
    tasks = store.tasks(status=[Status.READY])
    store._database._connection.set_trace_callback(said.append)
    try:
        explained = reasons.explain(runtime, tasks)
        assert len(held(runtime, tasks)) == 1_000
    finally:
        store._database._connection.set_trace_callback(None)
    assert len(explained) == 2_000
    assert explained[first + 5] == "ready: 2nd in line: dispatchctl dispatch"
    assert explained[first + 4] == "ready: 801st in line: dispatchctl dispatch"
    assert len(said) < STATEMENTS
