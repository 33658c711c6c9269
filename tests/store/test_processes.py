"""Several processes on one database: first opens, claims, and holders that are stopped or killed."""

from collections import Counter
from pathlib import Path

from dispatchctl.store import open_store
from dispatchctl.task import Actor, NewTask, Phase, Status
from store.bench import Sqlite, assert_replayed
from store.crowd import anything, at_once, claim_all, open_first


def test_eight_first_opens_at_once_make_one_database_without_failure(tmp_path: Path) -> None:
    assert at_once(open_first, str(tmp_path), 20) == [[]] * 8
    for number in range(20):
        store = open_store(str(tmp_path / f"{number}.db"))
        assert len(store.tasks()) == 8
        store.close()


def test_eight_processes_take_every_task_exactly_once(tmp_path: Path) -> None:
    path = str(tmp_path / "tasks.db")
    store = open_store(path, create=True)
    store.add([NewTask("Do it", "now", "/repo", "main", "shell")] * 400, actor=Actor.USER, at=0)
    done = at_once(claim_all, path)
    assert Counter(task for each in done for task in each) == Counter(range(1, 401))
    assert store.count() == {Status.DONE: 400}
    assert len(store.events()) == 400 * 4
    store.close()


def test_eight_processes_that_do_anything_at_once_never_lose_an_update(tmp_path: Path) -> None:
    """Every row is what its events say, in one order for all of them, and nobody was told that the database is locked."""
    backend = Sqlite(tmp_path)
    store = backend.open()
    store.add([NewTask("Do it", "now", "/repo", "main", "shell", retries=100)] * 12, actor=Actor.USER, at=0)
    assert at_once(anything, backend.path, 1_000) == [[]] * 8
    events = store.events()
    assert_replayed(backend, events)
    claimed = Counter(event.task for event in events if event.kind == "claimed")
    assert sum(claimed.values()) > 100
    for task in range(1, 13):
        runs = store.runs(task)
        assert [run.number for run in runs] == list(range(1, claimed[task] + 1))
        assert [run.phase for run in runs[:-1]] == [Phase.CLOSED] * (len(runs) - 1)
        status = store.task(task).status
        assert (status in (Status.IN_PROGRESS, Status.BLOCKED)) or not any(run.phase != Phase.CLOSED for run in runs)
    moves: dict[int, Status] = {}
    for event in events:
        if event.to_status is not None:
            assert event.from_status == moves.get(event.task), "each move begins where the last one ended"
            moves[event.task] = event.to_status
    backend.close()
