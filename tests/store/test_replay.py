"""What the events say the rows are."""

from typing import Any

from dispatchctl.replay import replay
from dispatchctl.task import Actor, Event
from store.bench import SITUATIONS, Bench, assert_replayed


def event(number: int, kind: str, task: int, run: str | None, detail: dict[str, Any]) -> Event:
    """An event at a moment of its own."""
    return Event(number, task, run, 100 + number, Actor.USER, kind, None, None, detail)


def test_events_are_folded_into_rows() -> None:
    replayed = replay(
        [
            event(1, "added", 1, None, {"task": {"title": "a", "after": []}}),
            event(2, "claimed", 1, "0a", {"task": {"status": "in_progress"}, "run": {"task": 1}}),
            event(3, "started", 1, "0a", {"run": {"phase": "started"}}),
            event(4, "edited", 1, None, {"task": {"title": "b"}}),
            event(5, "asked", 1, "0a", {"run": {"ask": "cancel"}}),
        ]
    )
    assert replayed.tasks == {1: {"id": 1, "title": "b", "after": [], "status": "in_progress", "updated_at": 104}}
    assert replayed.runs == {"0a": {"token": "0a", "task": 1, "phase": "started", "ask": "cancel"}}


def test_a_removed_task_takes_its_runs_along() -> None:
    claimed = [event(task, "claimed", task, f"0{task}", {"task": {"x": 1}, "run": {"task": task}}) for task in (1, 2)]
    replayed = replay([*claimed, event(9, "removed", 1, None, {})])
    assert replayed.tasks.keys() == {2}
    assert replayed.runs.keys() == {"02"}


def test_a_history_is_replayed_to_its_rows_after_tasks_were_removed(bench: Bench) -> None:
    made = {name: bring_about(bench) for name, (_, bring_about) in SITUATIONS.items()}
    assert_replayed(bench.backend, bench.store.events())
    for name in "backlog", "asked", "done", "cancelled":
        bench.store.remove([made[name]], at=bench.tick())
        assert_replayed(bench.backend, bench.store.events())


def test_the_events_of_one_task_are_enough_for_its_row(bench: Bench) -> None:
    for _, bring_about in SITUATIONS.values():
        task = bring_about(bench)
        replayed = replay(bench.store.events(task=task))
        assert replayed.tasks[task]["status"] == bench.status(task)
        assert len(replayed.runs) == len(bench.store.runs(task))
