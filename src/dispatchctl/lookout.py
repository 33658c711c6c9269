"""Looking: why a task waits, whether a run lives, what it wrote, and waiting for its end."""

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import IO

from dispatchctl.durations import format_time
from dispatchctl.errors import Refused, TimedOut, UsageError
from dispatchctl.room import room_for
from dispatchctl.runtime import Runtime, now
from dispatchctl.store.protocol import Room
from dispatchctl.store.room import Obstacle
from dispatchctl.task import FINISHED, Life, Outcome, Phase, Run, Status, Task

PIECE = 1 << 16

MEND_EVERY_S = 5.0
SETTLED = FINISHED | {Status.IN_REVIEW}


NAMED = 5
"""Parents that are named of what may be thousands."""


def held(runtime: Runtime, tasks: Collection[Task]) -> dict[int, str]:
    """Why each of the ready tasks cannot be claimed now; those that can are left out."""
    reasons = waiting(runtime, tasks)
    in_the_way = obstacles(runtime, [task for task in tasks if task.id not in reasons])
    return reasons | {task: in_words(each) for task, each in in_the_way.items()}


def held_back(runtime: Runtime, tasks: Collection[Task]) -> dict[int, str]:
    """The same but for those that only wait for their turn, which is no news in a listing."""
    reasons = waiting(runtime, tasks)
    in_the_way = obstacles(runtime, [task for task in tasks if task.id not in reasons])
    return reasons | {task: in_words(each) for task, each in in_the_way.items() if each.is_pause}


def waiting(runtime: Runtime, tasks: Collection[Task]) -> dict[int, str]:
    """What each of the ready tasks waits for, other tasks or its time; those that do not wait are left out."""
    ready = [task for task in tasks if task.status is Status.READY]
    parents = runtime.store.parents([task.id for task in ready if task.waits])
    reasons, at = dict[int, str](), now()
    for task in ready:
        if task.id in parents:
            reasons[task.id] = _after(parents[task.id])
        elif task.not_before is not None and task.not_before > at:
            why = f" ({task.error})" if task.error else ""
            reasons[task.id] = f"not before {format_time(task.not_before)}{why}"
    return reasons


def obstacles(runtime: Runtime, tasks: Collection[Task]) -> dict[int, Obstacle]:
    """The pause or the limit that keeps each of the ready tasks; everything is counted once, however many there are."""
    ready = [task for task in tasks if task.status is Status.READY]
    if not ready:
        return {}
    of = keeper(runtime)
    found = ((task.id, of(task.repo, task.agent)) for task in ready)
    return {task: obstacle for task, obstacle in found if obstacle is not None}


def keeper(runtime: Runtime) -> Callable[[str, str], Obstacle | None]:
    """What tells the pause or the limit that keeps tasks of a repository and an agent, as everything is at this moment."""
    occupied = runtime.store.occupied()
    if not occupied.pauses and not occupied.repos:
        return lambda repo, agent: None  # noqa: ARG005 - nothing is paused, and nothing runs
    try:
        room = room_for(runtime, occupied=occupied)
    except UsageError:  # which `dispatch` reports; what else is known is shown
        room = Room(runtime.settings.dispatch.max_running)
    return lambda repo, agent: occupied.obstacle(room, repo, agent)


def in_words(obstacle: Obstacle) -> str:
    """What is in the way, and what to type where it waits for a human."""
    return f"{obstacle.why}: {obstacle.hint}" if obstacle.is_pause or obstacle.awaits_you else obstacle.why


def _after(parents: Sequence[Task]) -> str:
    """Which tasks it waits for; of many those that somebody has to try again come first."""
    if len(parents) <= NAMED:
        return "; ".join(map(_unfinished, parents))
    named = sorted(parents, key=lambda parent: parent.status not in (Status.FAILED, Status.CANCELLED))[:NAMED]
    return f"{'; '.join(map(_unfinished, named))}; and {len(parents) - NAMED} more"


def _unfinished(parent: Task) -> str:
    if parent.status in (Status.FAILED, Status.CANCELLED):
        return f"task {parent.id} is {parent.status}: dispatchctl retry {parent.id}"
    return f"after task {parent.id}, which is {parent.status}"


def look(runtime: Runtime, task: Task) -> Task:
    """The task with the life of its newest run as it is now; remembered if it changed."""
    run = task.run
    if run is None or run.phase is Phase.CLOSED:
        return task
    life, at = life_of(runtime, run), now()
    if life is not run.life or at - (run.life_at or 0) > 60_000:
        runtime.store.sighted(run.token, life, at=at)
    return replace(task, run=replace(run, life=life, life_at=at))


def life_of(runtime: Runtime, run: Run) -> Life:
    """Whether anything of the run lives, as `snapshot.life` says of what is there now."""
    from dispatchctl.observation import look_at
    from dispatchctl.snapshot import life  # what a listing does not need

    world = look_at(runtime, run)
    return life(world, world.runs[0])


def wait(
    runtime: Runtime,
    ids: Sequence[int],
    *,
    timeout: float | None,
    through_blocked: bool,
    idle: Callable[[Task], None] = lambda _: None,
) -> Iterator[Task]:
    """Each task as it settles: finished, in review, blocked (unless that is waited through), or held for ever.

    Runs whose launcher or server died are mended meanwhile, so that nobody waits for an agent that is gone.

    `idle` hears, each time it looks, of tasks that only wait for somebody to start them. Raises `TimedOut` after
    `timeout` seconds, naming those that have not settled.
    """
    from dispatchctl.reconcile import reconcile  # for a listing it would be 20 ms of start-up

    left = dict.fromkeys(ids)
    deadline = None if timeout is None else time.monotonic() + timeout
    version, mend_at = None, time.monotonic()
    while left:
        if time.monotonic() >= mend_at:
            reconcile(runtime)
            mend_at = time.monotonic() + MEND_EVERY_S
        seen = runtime.store.version()
        if seen != version:
            version = seen
            for task in [runtime.store.task(task) for task in left]:
                if _settled(runtime, task, through_blocked):
                    del left[task.id]
                    yield task
                elif task.status is Status.BACKLOG or (task.status is Status.READY and not task.waits):
                    idle(task)  # who listens says whether it is held for a time
        if left and deadline is not None and time.monotonic() > deadline:
            many = len(left) > 1
            raise TimedOut(
                f"task{'s' if many else ''} {', '.join(map(str, left))} {'have' if many else 'has'} not ended within"
                f" {timeout:g} s",
                f"dispatchctl show {next(iter(left))}",
            )
        if left:
            time.sleep(0.02)


def _settled(runtime: Runtime, task: Task, through_blocked: bool) -> bool:
    if task.run is not None and task.run.phase is not Phase.CLOSED and task.status is not Status.BLOCKED:
        return task.status is Status.FAILED
    if task.status is Status.BLOCKED:
        return not through_blocked
    if task.status is Status.READY and task.waits:
        return held_for_ever(runtime, task) is not None
    return task.status in SETTLED


def held_for_ever(runtime: Runtime, task: Task) -> Task | None:
    """The failed or cancelled task, near or far above, for which this one would wait until somebody retries it."""
    seen, above = {task.id}, [task.id]
    while above:
        parents = [parent for each in runtime.store.parents(above).values() for parent in each]
        above = []
        for parent in parents:
            if parent.status in (Status.FAILED, Status.CANCELLED):
                return parent
            if parent.id not in seen and parent.waits:
                above.append(parent.id)
            seen.add(parent.id)
    return None


def output(runtime: Runtime, task: int, *, follow: bool) -> Iterator[bytes]:
    """What the agent of the task's newest run wrote, in pieces; with `follow` until the run is closed."""
    run = runtime.store.task(task).run
    if run is None:
        raise Refused(f"task {task} has not run yet", f"dispatchctl dispatch {task}")
    while not _log_files(run):
        run = runtime.store.run(run.token)
        if run.outcome is Outcome.ROLLED_BACK:
            raise Refused(f"run {run.token} of task {task} never started: {run.error}", f"dispatchctl history {task}")
        if run.phase is Phase.CLOSED:
            raise Refused(
                f"the output of run {run.token} of task {task} is not kept any more", f"dispatchctl runs {task}"
            )
        if not follow:
            raise Refused(f"task {task} is just being started", f"dispatchctl logs {task} -f")
        time.sleep(0.05)
    yield from _Log(run).read(lambda: runtime.store.run(run.token).phase is Phase.CLOSED, follow=follow)


def _log_files(run: Run) -> list[str]:
    """The files that hold what the run's agent wrote, oldest first."""
    path = os.path.join(run.run_dir, "output.log")
    return [each for each in (path + ".1", path) if os.path.exists(each)]


class _Log:
    """The output of a run, read while its launcher writes it and, when it has grown large, begins a new file."""

    def __init__(self, run: Run) -> None:
        self.directory = run.run_dir
        self.current = os.path.join(self.directory, "output.log")
        self.older = self.current + ".1"

    def read(self, is_closed: Callable[[], bool], *, follow: bool) -> Iterator[bytes]:
        """Everything, then with `follow` what is added until `is_closed` says that nothing will be."""
        last = None
        while True:
            for file in self._opened(last):
                with file:
                    yield from self._rest(file, is_closed if follow else lambda: True)
                    last = os.fstat(file.fileno()).st_ino
            if not follow or _inode(self.current) == last or not os.path.isdir(self.directory):
                return

    def _rest(self, file: IO[bytes], is_closed: Callable[[], bool]) -> Iterator[bytes]:
        """What is and will be in this file."""
        while True:
            moved = _inode(self.current) != os.fstat(file.fileno()).st_ino
            closed = is_closed()
            piece = file.read(PIECE)
            if piece:
                yield piece
            elif moved or closed:
                return
            else:
                time.sleep(0.05)

    def _opened(self, last: int | None) -> list[IO[bytes]]:
        """The files that come after the one with the inode `last`, oldest first."""
        while True:
            files: list[IO[bytes]] = []
            for path in (self.older, self.current):
                try:
                    files.append(open(path, "rb"))  # noqa: SIM115 - whoever reads it closes it
                except FileNotFoundError:
                    pass  # there is no older one, or right now no current one
            inodes = [os.fstat(file.fileno()).st_ino for file in files]
            if not files or inodes[0] == (_inode(self.older) or inodes[0]):
                after = inodes.index(last) + 1 if last in inodes else 0
                for file in files[:after]:
                    file.close()
                if len(files) == after:
                    time.sleep(0.01)  # the launcher is between the old file and the new one
                return files[after:]
            for file in files:
                file.close()


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None
