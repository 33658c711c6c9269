"""The workers of the daemon that are under way, and the server that forks them."""

import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from dispatchctl.errors import DispatchctlError
from dispatchctl.runtime import Runtime
from dispatchctl.workers import ForkServer, ServerGone, Tell, Worker

LONG_S = 10.0
"""A launch that takes longer no longer keeps others from being launched at the same time."""
DISPATCH, RECONCILE = "dispatch", "reconcile"

Task = Callable[[Runtime, Tell], None]


class Crew:
    """What works for the daemon. `tasks` are what can be done, by name, each with a runtime of its own.

    The server is made, and made again, while the daemon has no database open: `runtime` hands out settings, not connections.
    """

    def __init__(self, runtime: Runtime, tasks: Mapping[str, Task], dropping: Collection[int]) -> None:
        self.workers: list[Worker] = []
        self._tasks = tasks
        self._unclaimed: set[Worker] = set()
        self._server = self._served(runtime, dropping)

    def _served(self, runtime: Runtime, dropping: Collection[int]) -> ForkServer:
        works = {name: _with(runtime, task) for name, task in self._tasks.items()}
        return ForkServer(works, dropping=(*dropping, *(worker.pipe for worker in self.workers)))

    def renew(self, runtime: Runtime, dropping: Collection[int]) -> None:
        """Have new workers get that runtime's settings. To be called while the database is closed."""
        self._server.close()
        self._server = self._served(runtime, dropping)

    @property
    def descriptors(self) -> list[int]:
        """What can be read when a worker tells something or has ended."""
        return [worker.pipe for worker in self.workers]

    @property
    def unclaimed(self) -> int:
        """How many workers are about to claim a task."""
        return len(self._unclaimed)

    @property
    def launching(self) -> int:
        """How many workers start a task, less those that take long."""
        return sum(worker.name == DISPATCH and worker.age < LONG_S for worker in self.workers)

    def is_under_way(self, name: str) -> bool:
        """Whether such a worker is there."""
        return any(worker.name == name for worker in self.workers)

    def age_of(self, name: str) -> float:
        """Seconds since the oldest such worker was forked; 0 if there is none."""
        return max((worker.age for worker in self.workers if worker.name == name), default=0.0)

    def start(self, name: str) -> None:
        """Start a worker. Raises `DispatchctlError` if the server is gone; `renew` makes another."""
        try:
            worker = self._server.fork(name)
        except ServerGone as error:
            raise DispatchctlError(f"the process that starts workers is gone: {error}", "dispatchctl doctor") from error
        self.workers.append(worker)
        if name == DISPATCH:
            self._unclaimed.add(worker)

    def heard(self) -> Iterator[tuple[Worker, dict[str, Any]]]:
        """What workers have told. Those that have ended are here no more after it."""
        for worker in list(self.workers):
            for word in worker.heard():
                if "claimed" in word:
                    self._unclaimed.discard(worker)
                yield worker, word
            if worker.has_ended:
                self.workers.remove(worker)
                worker.close()
                idle = worker in self._unclaimed
                self._unclaimed.discard(worker)
                yield worker, {"ended": "well" if worker.ended_well else "", "idle": idle}

    def signal(self, number: int, name: str | None = None) -> None:
        """Send a signal to all workers, or to those of that name."""
        for worker in self.workers:
            if name in (None, worker.name):
                worker.signal(number)

    def close(self, patience: float, until: Callable[[], bool]) -> Iterator[tuple[Worker, dict[str, Any]]]:
        """End the workers: launches are undone. Waits at most `patience` seconds, or `until`; what takes longer goes on."""
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + patience
        while self.workers and not until() and time.monotonic() < deadline:
            yield from self.heard()
            time.sleep(0.01)
        self._server.close()


def _with(runtime: Runtime, task: Task) -> Callable[[Tell], None]:
    return lambda tell: task(runtime.anew(), tell)
