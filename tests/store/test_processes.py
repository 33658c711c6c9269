"""Several processes on one database: first opens, claims, and holders that are stopped or killed."""

from collections import Counter
from pathlib import Path

from dispatchctl.store import open_store
from dispatchctl.task import Actor, NewTask, Status
from store.crowd import at_once, claim_all, open_first


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
