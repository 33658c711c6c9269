"""Clearing away what finished tasks left: worktrees, branches, panes and run directories. Rows stay, and events unless asked.

A task is finished when it is done, failed or cancelled and all its runs are closed. Work that would be lost is kept and
named, and so is what a done task has committed and its base has not, and the branch that a task which is still to run would
start from.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dispatchctl import clearing
from dispatchctl.changes import place_of
from dispatchctl.clearing import Obstacle
from dispatchctl.durations import format_time
from dispatchctl.errors import DispatchctlError, NoSuchTask
from dispatchctl.runtime import Runtime, now
from dispatchctl.snapshot import Server
from dispatchctl.store.counted import Forgettable
from dispatchctl.task import FINISHED, Actor, Phase, Run, Status, Task
from dispatchctl.unmerged import has_unmerged, how_to_merge

BATCH = 300
"""Events that are dropped in one transaction, or as many as one task has."""


class Kind(StrEnum):
    """What becomes of a run's worktree, branch, pane and directory, or of a task's events."""

    CLEAR = "clear"
    KEEP = "keep"
    FORGET = "forget"


@dataclass(frozen=True)
class Pruned:
    """What became of one run, why, and what was said of it meanwhile; without a run, of a task's events.

    `failed` says that it could not be told or done, not that there is work in it; `forcible` that by force a ref keeps it.
    """

    kind: Kind
    task: int
    run: str | None
    why: str
    hint: str | None = None
    failed: bool = False
    forcible: bool = False
    said: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """All of it in one line."""
        return "; ".join((self.why, *self.said))

    @property
    def ok(self) -> bool:
        """Whether it was cleared, or forgotten."""
        return self.kind is not Kind.KEEP


@dataclass(frozen=True)
class Wish:
    """What is to be cleared: tasks whose newest run was closed before (milliseconds since the epoch), by force or not."""

    closed_before: int
    force: bool = False
    dry_run: bool = False


def prune(runtime: Runtime, wish: Wish, *, tell: Callable[[str], None]) -> Iterator[Pruned]:
    """Clear what finished tasks left, one after the other; one task's trouble does not keep the rest from being cleared.

    `tell` hears what was rescued and how to get it back. Two at once do no harm, and one that was killed is gone on with.
    """
    kept = runtime.store.kept_runs(closed_before=wish.closed_before)
    servers = clearing.look_at(runtime, kept)
    pruning = _Pruning(runtime, wish, servers, tell, {})
    for task in dict.fromkeys(run.task for run in kept):
        try:
            yield from pruning.task(task)
        except NoSuchTask:
            continue  # removed meanwhile


@dataclass(frozen=True)
class Retention:
    """Which finished and removed tasks lose their events: those to which nothing has happened since `last_before`
    (milliseconds since the epoch), and those that come after the `keep_tasks` newest. None: not for that."""

    last_before: int | None = None
    keep_tasks: int | None = None
    dry_run: bool = False


def forget(runtime: Runtime, wanted: Retention) -> Iterator[Pruned]:
    """Drop all events of a task or none, few tasks at a time, so that no other write waits for long.

    One event stays that holds the rows as they are; of a removed task nothing does.
    """
    if wanted.last_before is None and wanted.keep_tasks is None:
        return
    chosen = [each for rank, each in enumerate(runtime.store.forgettable()) if _is_over(wanted, rank, each)]
    while chosen:
        batch, events = [chosen.pop()], 0
        while chosen and events < BATCH:
            events += batch[-1].events
            batch.append(chosen.pop())
        gone = batch if wanted.dry_run else runtime.store.forget(batch, actor=Actor.USER, at=now())
        for each in gone:
            why = f"{each.events} events, the last of {format_time(each.last_at)}"
            yield Pruned(Kind.FORGET, each.task, None, why)


def _is_over(wanted: Retention, rank: int, each: Forgettable) -> bool:
    too_old = wanted.last_before is not None and each.last_at <= wanted.last_before
    return too_old or (wanted.keep_tasks is not None and rank >= wanted.keep_tasks)


@dataclass(frozen=True)
class _Pruning:
    runtime: Runtime
    wish: Wish
    servers: dict[str, Server]
    tell: Callable[[str], None]
    going: dict[str, set[str]]
    """The branches, by repository, that a dry run has said would go: what only they have too would be lost with the next."""

    def task(self, number: int) -> Iterator[Pruned]:
        """What becomes of each run of the task; nothing of one that is not finished, or not for long enough."""
        task, runs = self.runtime.store.task(number), self.runtime.store.runs(number)
        if task.status not in FINISHED or any(run.phase is not Phase.CLOSED for run in runs):
            return
        if any((run.closed_at or 0) > self.wish.closed_before for run in runs):
            return
        for place in clearing.places(runs):
            there = [run for run in runs if (run.worktree, run.branch) == (place.worktree, place.branch)]
            left = [run for run in there if run.cleared_at is None]
            try:
                if left:
                    yield from self._place(task, place, left)
            except clearing.Kept as kept:
                yield self._keep(place, kept.obstacle)
            except (DispatchctlError, OSError) as error:
                yield Pruned(Kind.KEEP, number, place.token, str(error), getattr(error, "hint", None), failed=True)

    def _place(self, task: Task, place: Run, left: Sequence[Run]) -> Iterator[Pruned]:
        """Clear a worktree and branch, then what else its runs left."""
        going = self.going.setdefault(place.repo, set())
        found = self._obstacle(task, place, left)
        if found is None and self.wish.dry_run:
            found = clearing.obstacle(self.runtime, place, going)
        if found and not (self.wish.force and found.rescuable):
            yield self._keep(place, found)
            return
        if self.wish.dry_run:
            if place.owns_branch:
                going.add(place.branch)
            there = clearing.is_there(self.runtime, place)
            for run in left:
                if (there and run.token == place.token) or clearing.has_rest(run, self.servers):
                    yield Pruned(Kind.CLEAR, task.id, run.token, self._why(task, found))
            return
        said: list[str] = []

        def tell(line: str) -> None:
            said.append(line)
            self.tell(line)

        anything = clearing.clear_place(self.runtime, place, force=self.wish.force, tell=tell)
        for run in left:
            there = clearing.clear_rest(self.runtime, run, self.servers)
            clearing.note_cleared(self.runtime, run, actor=Actor.USER)
            last = run.token == place.token
            if there or (anything and last):
                yield Pruned(Kind.CLEAR, task.id, run.token, self._why(task, None), said=tuple(said) if last else ())

    def _why(self, task: Task, found: Obstacle | None) -> str:
        return f"it is {task.status}" + (f"; a rescue ref is to keep its work: {found.reason}" if found else "")

    def _keep(self, run: Run, found: Obstacle) -> Pruned:
        return Pruned(Kind.KEEP, run.task, run.token, found.reason, found.hint, forcible=found.rescuable)

    def _obstacle(self, task: Task, place: Run, left: Sequence[Run]) -> Obstacle | None:
        """What keeps the runs of this place from being cleared, but for what is in their worktree."""
        runtime = self.runtime
        if place.host != runtime.host:
            return Obstacle(f"it ran on another machine ({place.host})", rescuable=True)
        for run in left:
            live = clearing.pane_obstacle(runtime, run, self.servers)
            if live:
                return live
        if clearing.repository_of(runtime, place) is None:
            gone = Obstacle(f"its repository {place.repo} is not there, nor can its branch be seen", rescuable=True)
            return clearing.obstacle(runtime, place) or gone
        return clearing.needed(runtime, task, place) or self._unmerged(task, place)

    def _unmerged(self, task: Task, place: Run) -> Obstacle | None:
        """Of a done task, that the base has not its work: only there is it safe from what becomes of other branches."""
        if self.wish.force or task.status is not Status.DONE or task.run is None:
            return None
        newest = place_of(self.runtime, task)
        if newest.token != place.token or not has_unmerged(self.runtime, task, newest):
            return None
        return Obstacle(how_to_merge(task.id))
