"""What may not be started now: pauses, and the limits on open runs in all, in one repository and of one agent."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

from dispatchctl.store.ledger import Ledger
from dispatchctl.store.protocol import Pause, Room, UnknownLimit
from dispatchctl.store.rows import having_labels


@dataclass(frozen=True)
class Full:
    """What is paused, and what has as many open runs as its limit says, each with the sentence that says so."""

    all: str = ""
    repos: Mapping[str, str] = field(default_factory=dict)
    agents: Mapping[str, str] = field(default_factory=dict)
    paused: frozenset[str] = frozenset()
    hint: str = ""

    def __bool__(self) -> bool:
        return bool(self.all or self.repos or self.agents or self.paused)

    @property
    def why(self) -> str:
        """Why nothing is started, as one sentence."""
        return self.all or "; ".join([*self.repos.values(), *self.agents.values()])

    def why_not(self, repo: str, agent: str) -> str:
        """Why a task of that repository and agent is not started."""
        return self.all or self.repos.get(repo) or self.agents.get(agent, "")


def repo_option(repo: str) -> str:
    """How `pause` and `unpause` are told of one repository; nothing for the whole queue."""
    return f" --repo {quote(repo)}" if repo else ""


def allowed(labels: Collection[str], besides: Collection[int], full: Full) -> tuple[str, list[Any]]:
    """Further conditions on tasks that may be claimed, with their values."""
    where, values = having_labels(labels)
    for column, left_out in (("id", besides), ("repo", full.repos), ("agent", full.agents)):
        if left_out:
            where += f" AND tasks.{column} NOT IN ({', '.join('?' * len(left_out))})"
            values += left_out
    return where, values


class Limiting(Ledger):
    """Pauses, and what is full at this moment."""

    def pause(self, repo: str, *, reason: str | None, at: int) -> bool:
        """A second pause changes nothing."""
        with self._database:
            sql = "INSERT INTO pauses VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
            return self._database.execute(sql, (repo, at, reason)) == 1

    def unpause(self, repo: str) -> bool:
        """Take the one pause away."""
        with self._database:
            return self._database.execute("DELETE FROM pauses WHERE repo = ?", (repo,)) == 1

    def pauses(self) -> list[Pause]:
        """What is paused; '' sorts before every path."""
        return [Pause(*row) for row in self._database.rows("SELECT repo, at, reason FROM pauses ORDER BY repo")]

    def _full(self, room: Room) -> Full:
        """What must not be started now. Raises `UnknownLimit` for a repository with open runs that nobody has looked at."""
        paused = {pause.repo for pause in self.pauses()}
        if "" in paused:
            return Full("the queue is paused", paused=frozenset(paused), hint="dispatchctl unpause")
        counted = (
            "SELECT repo, agent, count(*) FROM runs INDEXED BY runs_open WHERE phase <> 'closed' GROUP BY repo, agent"
        )
        in_all, repos, agents = 0, dict[str, int](), dict[str, int]()
        for repo, agent, count in self._database.rows(counted):
            in_all += count
            repos[repo] = repos.get(repo, 0) + count
            agents[agent] = agents.get(agent, 0) + count
        if room.in_all and in_all >= room.in_all:
            hint = f"dispatchctl dispatch --max-running {in_all + 1}"
            return Full(f"{_runs(in_all)} open and the limit is {room.in_all}", paused=frozenset(paused), hint=hint)
        full_repos = {repo: f"{repo} is paused" for repo in paused}
        for repo, count in repos.items():
            if room.in_repository is not None and repo not in room.in_repository:
                raise UnknownLimit(repo)
            limit = room.in_repository[repo] if room.in_repository is not None else 0
            if limit and count >= limit:
                full_repos.setdefault(repo, f"{_runs(count)} open in {repo} and its limit is {limit}")
        full_agents = {
            agent: f"{_runs(count)} open of agent {agent} and its limit is {limit}"
            for agent, count in agents.items()
            if (limit := room.of_agent.get(agent, 0)) and count >= limit
        }
        return Full("", full_repos, full_agents, frozenset(paused), "dispatchctl ready --explain")


def _runs(count: int) -> str:
    return "1 run is" if count == 1 else f"{count} runs are"
