"""A task that waits until its parents are merged: it is tried seldom, and at once when one of them is."""

from pathlib import Path

from launch.stage import add
from watch.daemon import become, watching
from world import World, eventually

from dispatchctl.runtime import Runtime
from dispatchctl.task import Outcome, Status


def committing(runtime: Runtime, repo: Path, name: str) -> int:
    return add(runtime, repo, f"echo {name} > {name}; git add {name}; git commit -qm {name}", title=name).id


def test_a_task_that_waits_for_merges_starts_at_the_merge_that_lets_it(world: World) -> None:
    """Not at the next try, which would be a minute later or more."""
    repo, runtime = world.repository(), world.runtime()
    with watching(world):
        first, second, third = (committing(runtime, repo, name) for name in "abc")
        become(runtime, [first, second, third], Status.DONE)
        child = add(runtime, repo, "true", after=(first, second, third)).id

        def tries() -> list[Outcome | None]:
            return [run.outcome for run in runtime.store.runs(child)]

        eventually(lambda: tries() == [Outcome.ROLLED_BACK], within=30)
        assert world.cli("merge", str(first)).code == 0
        eventually(lambda: tries() == [Outcome.ROLLED_BACK] * 2, within=30)
        assert world.cli("merge", str(second)).code == 0
        become(runtime, [child], Status.DONE, within=30)
        assert len(tries()) == 3
    kinds = [event.kind for event in runtime.store.events(task=child)]
    assert kinds.count("parent_merged") == 2
    times = {event.kind: event.at for event in runtime.store.events(task=child)}
    assert times["claimed"] - times["parent_merged"] < 30_000
