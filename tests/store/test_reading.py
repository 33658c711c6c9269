"""What is there: listings in their order and within their limits, counts, runs, events, and when to look again."""

from dispatchctl.store.protocol import Store
from dispatchctl.task import Actor, NewTask, Status
from store.bench import SITUATIONS, Bench

NEED = ["asking", "in_review", "failed", "started", "ready", "backlog", "done", "cancelled"]


def ids(store: Store, **options: object) -> list[int]:
    """The ids that a listing shows."""
    return [task.id for task in store.tasks(**options)]  # type: ignore[arg-type] # a listing's own options


def test_what_needs_a_human_is_listed_first(bench: Bench) -> None:
    made = {situation: SITUATIONS[situation][1](bench) for situation in reversed(NEED)}
    expected = [made[situation] for situation in NEED]
    assert ids(bench.store) == expected
    for limit in range(1, len(NEED) + 2):
        assert ids(bench.store, limit=limit) == expected[:limit]


def test_what_is_finished_is_listed_newest_first(bench: Bench) -> None:
    done, cancelled = ([SITUATIONS[each][1](bench) for _ in range(3)] for each in ("done", "cancelled"))
    assert ids(bench.store) == [*reversed(done), *reversed(cancelled)]
    assert ids(bench.store, limit=2) == done[:0:-1]


def test_ready_tasks_are_listed_as_they_would_be_claimed_and_held_ones_after_them(bench: Bench) -> None:
    later = bench.add(priority=0, not_before=bench.now + 10**9)
    low, high = bench.add(priority=3), bench.add(priority=1)
    held = bench.add(priority=0, after=(low,))
    assert ids(bench.store, status=[Status.READY]) == [high, low, later, held]


def test_a_listing_is_narrowed_by_status_labels_and_repository(bench: Bench) -> None:
    first = bench.add(labels=("a", "b"), repo="/one")
    second = bench.add(labels=("a",), repo="/two", backlog=True)
    third = bench.add(repo="/one", backlog=True)
    assert ids(bench.store, labels=["a"]) == [first, second]
    assert ids(bench.store, labels=["a", "b"]) == [first]
    assert ids(bench.store, repo="/one") == [first, third]
    assert ids(bench.store, repo="/one", status=[Status.BACKLOG, Status.DONE]) == [third]
    assert ids(bench.store, status=[Status.BACKLOG], limit=1) == [second]
    assert ids(bench.store, repo="/on") == ids(bench.store, labels=["A"]) == []


def test_a_listed_task_comes_with_its_newest_run(bench: Bench) -> None:
    task = SITUATIONS["failed"][1](bench)
    bench.store.retry(task, note=None, fresh=False, recoveries=3, at=bench.tick())
    token = bench.claimed(task)
    (listed,) = bench.store.tasks()
    assert listed == bench.store.task(task)
    assert listed.run == bench.store.run(token) == bench.store.runs(task)[-1]


def test_tasks_are_counted_by_status(bench: Bench) -> None:
    assert bench.store.count() == {}
    for name in ("ready", "ready", "launching", "undoing", "done"):
        SITUATIONS[name][1](bench)
    assert bench.store.count() == {Status.READY: 2, Status.IN_PROGRESS: 2, Status.DONE: 1}


def test_open_runs_are_all_that_are_not_closed(bench: Bench) -> None:
    made = {name: bring_about(bench) for name, (_, bring_about) in SITUATIONS.items()}
    expected = [made[name] for name in ("launching", "started", "undoing", "stuck", "asking")]
    assert [run.task for run in bench.store.open_runs()] == sorted(expected)


def test_events_are_read_from_an_id_from_a_time_or_for_a_task(bench: Bench) -> None:
    first, second = SITUATIONS["done"][1](bench), SITUATIONS["done"][1](bench)
    everything = bench.store.events()
    assert [event.id for event in everything] == sorted(event.id for event in everything)
    assert [event.kind for event in everything] == 2 * ["added", "claimed", "started", "ended"]
    assert bench.store.events(task=second) == [event for event in everything if event.task == second]
    assert bench.store.events(after=everything[2].id) == everything[3:]
    assert bench.store.events(since=everything[5].at) == everything[5:]
    assert bench.store.events(since=everything[5].at + 1) == everything[6:]
    assert bench.store.events(task=first, after=everything[1].id, since=everything[1].at) == everything[2:4]
    assert bench.store.events(after=everything[-1].id) == []


def test_a_limit_gives_the_last_events_in_order(bench: Bench) -> None:
    SITUATIONS["done"][1](bench)
    second = SITUATIONS["done"][1](bench)
    everything = bench.store.events()
    assert bench.store.events(limit=3) == everything[-3:]
    assert bench.store.events(limit=100) == everything
    assert bench.store.events(task=second, limit=2) == everything[-2:]
    assert bench.store.events(since=everything[1].at, after=everything[2].id, limit=2) == everything[-2:]


def test_events_outlive_their_task(bench: Bench) -> None:
    task = SITUATIONS["done"][1](bench)
    bench.store.remove([task], at=bench.tick())
    kinds = ["added", "claimed", "started", "ended", "removed"]
    assert [event.kind for event in bench.store.events(task=task)] == kinds


def test_the_version_tells_when_another_one_has_written(bench: Bench) -> None:
    other = bench.backend.open()
    before = bench.store.version()
    assert bench.store.version() == before
    other.add([NewTask("Do it", "now", "/repo", "main", "shell")], actor=Actor.USER, at=1)
    assert bench.store.version() != before


def test_the_id_of_a_store_stays(bench: Bench) -> None:
    assert bench.store.id == bench.backend.open().id
    assert len(bench.store.id) == 16
