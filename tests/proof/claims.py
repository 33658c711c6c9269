"""What a claim costs with any number of links, and of tasks at the head of the queue that must not be started now.

Printed as ratios to a claim in a queue of the same size where nothing is in the way. Run by
`PYTHONPATH=tests python -m proof.claims [TASKS]`.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from store.bench import names

from dispatchctl.errors import QueueFull
from dispatchctl.store import open_store
from dispatchctl.store.protocol import Claimant, Room, Store
from dispatchctl.task import Actor, NewTask

ROUNDS = 200
LINKS = 5_000
PLACES = 300


@dataclass(frozen=True)
class Case:
    """A queue, and the limits under which is claimed from it."""

    what: str
    fill: Callable[[Store, int], None]
    room: Room


def _new(repo: str = "/repo", agent: str = "shell", priority: int = 2, after: tuple[int, ...] = ()) -> NewTask:
    return NewTask("Do it", "now", repo, "main", agent, priority=priority, after=after)


def _add(store: Store, count: int, **fields: object) -> None:
    store.add([_new(**fields)] * count, actor=Actor.USER, at=1)  # type: ignore[arg-type]


def _plain(store: Store, tasks: int) -> None:
    _add(store, tasks)


def _linked(store: Store, tasks: int) -> None:
    """The tasks that are claimed come after thousands that are done."""
    _add(store, LINKS)
    for task in range(1, LINKS + 1):
        store.cancel(task, at=1)
    _add(store, tasks, priority=4)
    linked = _new(after=tuple(range(1, LINKS + 1)))
    store.add([linked] * (2 * ROUNDS), actor=Actor.USER, at=1)
    done = f"UPDATE tasks SET status = 'done' WHERE id <= {LINKS}"
    with store._database as database:  # type: ignore[attr-defined]
        database.execute(done)
        database.execute(f"UPDATE tasks SET waits = 0 WHERE id > {LINKS}")


def _paused(store: Store, tasks: int) -> None:
    _add(store, tasks, repo="/paused")
    _add(store, 2 * ROUNDS, priority=4)
    store.pause("/paused", reason=None, at=1)


def _full(store: Store, tasks: int) -> None:
    _add(store, tasks + 1, repo="/full")
    _claim(store, -1, Room(0))
    _add(store, 2 * ROUNDS, priority=4)


def _full_agent(store: Store, tasks: int) -> None:
    _add(store, tasks + 1, agent="busy")
    _claim(store, -1, Room(0))
    _add(store, 2 * ROUNDS, priority=4)


def _everywhere(store: Store, tasks: int) -> None:
    """The free tasks are spread over hundreds of repositories as well."""
    _paused(store, tasks)
    for place in range(PLACES):
        _add(store, 3, repo=f"/repo-{place}", priority=4)


def _nowhere(store: Store, tasks: int) -> None:
    _add(store, tasks, repo="/paused")
    store.pause("/paused", reason=None, at=1)


FREE = Room(0)
CASES = (
    Case("nothing is in the way", _plain, FREE),
    Case(f"each task comes after {LINKS:,} that are done", _linked, FREE),
    Case("all tasks but a few are in a paused repository, and before them", _paused, FREE),
    Case("the same, in a repository that is full", _full, Room(0, {"/full": 1, "/repo": 0})),
    Case("the same, of an agent that is full", _full_agent, Room(0, None, {"busy": 1})),
    Case(f"the same as paused, and {PLACES} other repositories have tasks", _everywhere, FREE),
    Case("every task is in a paused repository: nothing is claimed", _nowhere, FREE),
)


def _claim(store: Store, number: int, room: Room) -> bool:
    """Whether a task was claimed."""
    claimant = Claimant(f"{number & 0xFFFFFFFF:08x}", "host", "boot", names)
    try:
        return store.claim(claimant, room=room, actor=Actor.DISPATCH, at=2) is not None
    except QueueFull:
        return False


def measure(tasks: int) -> Mapping[str, float]:
    """Median seconds of a claim in each case, in turns. Each claimed run is closed at once, so that few are open."""
    with tempfile.TemporaryDirectory(prefix="dctl-c") as directory:
        stores = {}
        for number, case in enumerate(CASES):
            stores[case.what] = open_store(str(Path(directory) / f"{number}.db"), create=True)
            case.fill(stores[case.what], tasks)
        taken: dict[str, list[float]] = {case.what: [] for case in CASES}
        for number in range(ROUNDS):
            for case in CASES:
                store = stores[case.what]
                began = time.perf_counter()
                claimed = _claim(store, number, case.room)
                taken[case.what].append(time.perf_counter() - began)
                if claimed:
                    _close(store, number)
        for store in stores.values():
            store.close()
        return {what: statistics.median(each) for what, each in taken.items()}


def _close(store: Store, number: int) -> None:
    token = f"{number:08x}"
    task = store.run(token).task
    with store._database as database:  # type: ignore[attr-defined]
        end = "UPDATE runs SET phase = 'closed', outcome = 'cancelled', closed_at = 3 WHERE token = ?"
        database.execute(end, (token,))
        database.execute("UPDATE tasks SET status = 'cancelled' WHERE id = ?", (task,))


def page(tasks: int = 20_000) -> str:
    """A section for a page."""
    took = measure(tasks)
    first = took[CASES[0].what]
    lines = [
        "## What a claim costs",
        "",
        f"One durable transaction in a queue of {tasks:,} ready tasks, medians of {ROUNDS} in turns.",
        "",
        "| the queue | a claim | |",
        "|---|---|---|",
        *(f"| {what} | {1000 * each:.2f} ms | {each / first:.1f} × |" for what, each in took.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(*map(int, sys.argv[1:])))
