"""Why each task that is not running does not run, in one sentence with what to type: `ready --explain`.

What belongs to all tasks, such as open runs, pauses and the order of the queue, is looked at once.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dispatchctl import agents, lookout
from dispatchctl.errors import DispatchctlError, LaunchError, NotYet
from dispatchctl.runtime import Runtime, now
from dispatchctl.store.room import Obstacle
from dispatchctl.task import Phase, Status, Task

LOOKED_AT = 200
"""Parents of which git is asked, at most, whether they are merged; those of the foremost tasks."""


def explain(runtime: Runtime, tasks: Sequence[Task]) -> dict[int, str]:
    """Why each of the tasks is not running, or that it is."""
    ready = [task for task in tasks if task.status is Status.READY]
    queue = _Queue(runtime, ready) if ready else None
    return {task.id: queue.why(task) if queue and task.status is Status.READY else _why(task) for task in tasks}


def _why(task: Task) -> str:
    """The same for a task that is not ready, by its own row."""
    error = f": {task.error}" if task.error else ""
    match task.status:
        case Status.BACKLOG:
            return f"backlog: a draft, which nobody starts (dispatchctl release {task.id})"
        case Status.BLOCKED:
            answer = f"dispatchctl unblock {task.id} -m 'ANSWER'"
            has_session = task.run is not None and task.run.phase is not Phase.CLOSED
            return f"blocked{error} ({f'dispatchctl attach {task.id}, or {answer}' if has_session else answer})"
        case Status.IN_REVIEW:
            return f"in_review{error} (dispatchctl approve {task.id})"
        case Status.FAILED if task.run is not None and task.run.phase is Phase.UNDOING:
            return f"failed{error} (dispatchctl reconcile)"
        case Status.FAILED | Status.CANCELLED:
            return f"{task.status}{error} (dispatchctl retry {task.id})"
    return str(task.status)


@dataclass
class _Queue:
    """The ready tasks that are asked about, with what keeps them and their places in the line."""

    runtime: Runtime
    tasks: Sequence[Task]

    def why(self, task: Task) -> str:
        """Why this one is not running."""
        return f"{self._why(task)}{self._warning(task.agent)}"

    def _why(self, task: Task) -> str:
        obstacle = self._obstacles.get(task.id)
        if task.id in self._waiting:
            return f"held: {self._waiting[task.id]}"
        if task.id in self._strays:
            return "held: an agent of it may still be alive: dispatchctl doctor"
        if obstacle is not None and not _is_for_room(obstacle):
            return f"held: {lookout.in_words(obstacle)}"
        if task.id in self._unmerged:
            return self._unmerged[task.id]
        place = self._places.get(task.id)
        standing = "ready" if place is None else f"ready: {_ordinal(place)} in line"  # None: it has just come
        return f"{standing}; {lookout.in_words(obstacle)}" if obstacle else f"{standing}: dispatchctl dispatch"

    @cached_property
    def _waiting(self) -> Mapping[int, str]:
        return lookout.waiting(self.runtime, self.tasks)

    @cached_property
    def _obstacles(self) -> Mapping[int, Obstacle]:
        return lookout.obstacles(self.runtime, self.tasks)

    @cached_property
    def _strays(self) -> Collection[int]:
        """Tasks of which a process was seen that no open run owns; none if nobody can look now."""
        from dispatchctl.reconcile import reconcile  # for a task that cannot be claimed anyway it would be 20 ms

        try:
            return reconcile(self.runtime, dry_run=True).held
        except DispatchctlError:
            return ()

    @cached_property
    def _places(self) -> Mapping[int, int]:
        """Where each task stands among those that a claim would take one after the other, the first at 1."""
        places: dict[int, int] = {}
        keeps = _obstacle_of_places(self.runtime)
        for task, repo, agent in self.runtime.store.line(at=now()):
            if not keeps(repo, agent):
                places[task] = len(places) + 1
        return places

    @cached_property
    def _unmerged(self) -> Mapping[int, str]:
        """What is to be said of tasks whose several parents are done and not merged yet, or that git cannot start."""
        return dict(self._from_git())

    def _from_git(self) -> Iterator[tuple[int, str]]:
        from dispatchctl.steps import start_point  # what launches is not needed for anything else here

        several = [task for task in self.tasks if len(task.after) > 1 and task.id not in self._waiting]
        asked = 0
        for task in sorted(several, key=lambda task: (task.priority, task.id)):
            asked += len(task.after)
            if asked > LOOKED_AT:
                return
            try:
                start_point(self.runtime, task)
            except NotYet as wait:
                yield task.id, f"held: {wait.message}: {wait.hint}"
            except LaunchError as error:
                yield task.id, f"ready, but it would fail: {error.message}: {error.hint}"
            except DispatchctlError:
                pass  # git does not answer now, which says nothing of the task

    def _warning(self, agent: str) -> str:
        if agent not in self._warnings:
            self._warnings[agent] = _missing_program(self.runtime, agent)
        return self._warnings[agent]

    @cached_property
    def _warnings(self) -> dict[str, str]:
        return {}


def _obstacle_of_places(runtime: Runtime) -> Callable[[str, str], bool]:
    """Whether something other than the limit in all keeps what is of a repository and an agent."""
    keeper = lookout.keeper(runtime)
    known: dict[tuple[str, str], bool] = {}

    def keeps(repo: str, agent: str) -> bool:
        if (repo, agent) not in known:
            obstacle = keeper(repo, agent)
            known[repo, agent] = obstacle is not None and not _is_for_room(obstacle)
        return known[repo, agent]

    return keeps


def _is_for_room(obstacle: Obstacle) -> bool:
    """Whether only the limit in all is in the way: then there still is a line."""
    return obstacle.for_all and not obstacle.is_pause


def _ordinal(place: int) -> str:
    if place == 1:
        return "next"
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def _missing_program(runtime: Runtime, agent: str) -> str:
    """A warning if the agent could not be started, as the launch itself looks for its program."""
    try:
        profile = runtime.profile(agent)
    except DispatchctlError as error:
        return f"; it would fail: {error.message}: dispatchctl agents"
    variables = agents.agent_environment(runtime.environment.inherited, profile, {})
    if agents.find_program(profile, variables.get("PATH") or os.defpath) is not None:
        return ""
    return f"; it would fail: the program of agent {agent}, {profile.argv[0]!r}, is not on PATH: dispatchctl agents"
