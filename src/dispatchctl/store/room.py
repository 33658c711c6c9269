"""What keeps a task from being started: a pause, or a limit on open runs in all, in its repository, or of its agent.

Pure, so that the claim, which asks inside its transaction, and whoever explains or foresees a claim say the same.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from shlex import quote

from dispatchctl.durations import format_time
from dispatchctl.errors import QueueFull, Refused
from dispatchctl.store.protocol import Pause, Room, UnknownLimit

BLOCKED = "dispatchctl list --status blocked"


@dataclass(frozen=True)
class Obstacle:
    """Why a task is not started, as a clause, and what to type about it; `for_all`: it is in the way of every task."""

    why: str
    hint: str
    is_pause: bool = False
    for_all: bool = False
    awaits_you: bool = False
    """Whether runs that are in the way are blocked: what they wait for is a human, not the time."""

    def full(self) -> QueueFull:
        """The error for whoever named no task."""
        return QueueFull(self.why, self.hint, paused=self.is_pause)

    def refusal_of(self, task: int) -> Refused | QueueFull:
        """The error for whoever named the task: a limit may be gone the next moment, a pause has to be taken away."""
        why, hint = f"task {task} was not started: {self.why}", self.hint.replace("dispatch --", f"dispatch {task} --")
        return Refused(why, hint) if self.is_pause else QueueFull(why, hint)


@dataclass(frozen=True)
class Occupancy:
    """What is paused at one moment, by repository ('': the whole queue), and how many runs are open where, and of whom.

    `blocked` counts those of them that wait for a human, by repository and agent.
    """

    pauses: Mapping[str, Pause]
    repos: Counter[str]
    agents: Counter[str]
    blocked: Counter[tuple[str, str]] = field(default_factory=Counter)

    def everywhere(self, room: Room) -> Obstacle | None:
        """What keeps every task from being started."""
        if "" in self.pauses:
            return paused(self.pauses[""])
        count = self.repos.total()
        if not room.in_all or count < room.in_all:
            return None
        blocked = self.blocked.total()
        why = f"{_open(count, blocked)} and the limit is {room.in_all}"
        hint = BLOCKED if blocked else f"dispatchctl dispatch --max-running {count + 1}"
        return Obstacle(why, hint, for_all=True, awaits_you=blocked > 0)

    def obstacle(self, room: Room, repo: str, agent: str) -> Obstacle | None:
        """What keeps a task of that repository and agent from being started, a pause before any limit.

        Raises `UnknownLimit` for a repository with open runs of which `room` does not say the limit.
        """
        everywhere = self.everywhere(room)
        if everywhere is not None and everywhere.is_pause:
            return everywhere
        if repo in self.pauses:
            return paused(self.pauses[repo])
        return everywhere or self._full_repository(room, repo) or self._full_agent(room, agent)

    def left_out(self, room: Room) -> tuple[list[str], list[str]]:
        """The repositories and the agents of which nothing may be started. Raises `UnknownLimit`."""
        repos = {*self.pauses, *(repo for repo in self.repos if self._full_repository(room, repo))}
        return sorted(repos), [agent for agent in self.agents if self._full_agent(room, agent)]

    def with_one_more(self, repo: str, agent: str) -> "Occupancy":
        """As it would be with another open run."""
        return Occupancy(self.pauses, self.repos + Counter([repo]), self.agents + Counter([agent]), self.blocked)

    def _full_repository(self, room: Room, repo: str) -> Obstacle | None:
        count = self.repos[repo]
        if not count or room.in_repository is None:
            return None
        if repo not in room.in_repository:
            raise UnknownLimit(repo)
        limit = room.in_repository[repo]
        if not limit or count < limit:
            return None
        blocked = sum(number for (where, _), number in self.blocked.items() if where == repo)
        why = f"{_open(count, blocked, f' in {repo}')} and its limit, dispatch.max_per_repo, is {limit}"
        option = f" --repo {quote(repo)}"
        hint = f"{BLOCKED}{option}" if blocked else f"dispatchctl config dispatch.max_per_repo{option}"
        return Obstacle(why, hint, awaits_you=blocked > 0)

    def _full_agent(self, room: Room, agent: str) -> Obstacle | None:
        count, limit = self.agents[agent], room.of_agent.get(agent, 0)
        if not limit or count < limit:
            return None
        blocked = sum(number for (_, whose), number in self.blocked.items() if whose == agent)
        why = f"{_open(count, blocked, f' of agent {agent}')} and its limit, agents.{agent}.max_running, is {limit}"
        return Obstacle(why, BLOCKED if blocked else "dispatchctl agents", awaits_you=blocked > 0)


def paused(pause: Pause) -> Obstacle:
    """What a pause is to the tasks that it keeps."""
    reason = f" ({pause.reason})" if pause.reason else ""
    why = f"{pause.repo or 'the queue'} has been paused since {format_time(pause.at)}{reason}"
    return Obstacle(why, f"dispatchctl unpause{repo_option(pause.repo)}", is_pause=True, for_all=not pause.repo)


def repo_option(repo: str) -> str:
    """How `pause` and `unpause` are told of one repository; nothing for the whole queue."""
    return f" --repo {quote(repo)}" if repo else ""


def _open(count: int, blocked: int, where: str = "") -> str:
    """How many runs are open, and how many of them only a human can let go on."""
    if count == 1:
        return f"1 run is open{where}{', blocked and waiting for you,' if blocked else ''}"
    return f"{count} runs are open{where}{f', {blocked} of them blocked and waiting for you,' if blocked else ''}"
