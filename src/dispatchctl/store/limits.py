"""What is paused, how many runs are open, and the conditions under which a task is one that a claim could take."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from dispatchctl.store.ledger import Ledger
from dispatchctl.store.protocol import Pause
from dispatchctl.store.room import Occupancy
from dispatchctl.store.rows import having_labels
from dispatchctl.task import Status

CLAIMABLE = "status = 'ready' AND waits = 0 AND due = 1"
"""The condition of both indexes of what a claim could take, word for word."""
HEAD = f"""SELECT id, repo, agent FROM tasks INDEXED BY tasks_claimable
           WHERE {CLAIMABLE}{{where}} ORDER BY priority, id LIMIT 1"""
"""The first claimable task under further conditions: one step into the index, however many tasks there are."""


def allowed(
    labels: Collection[str], besides: Collection[int], repos: Sequence[str] = (), agents: Sequence[str] = ()
) -> tuple[str, list[Any]]:
    """Further conditions on tasks that may be claimed, with their values: with every label, and not one of the rest."""
    where, values = having_labels(labels)
    for column, left_out in (("id", besides), ("repo", repos), ("agent", agents)):
        if left_out:
            where += f" AND tasks.{column} NOT IN ({', '.join('?' * len(left_out))})"
            values += left_out
    return where, values


class Limiting(Ledger):
    """Pauses, and what is occupied at this moment."""

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

    def occupied(self) -> Occupancy:
        """Pauses and open runs, of one moment."""
        with self._database.reading():
            return self._occupied()

    def _occupied(self) -> Occupancy:
        """The same inside a transaction."""
        repos, agents, blocked = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
        for repo, agent, status in self._database.rows(
            """SELECT runs.repo, runs.agent, tasks.status FROM runs INDEXED BY runs_open
               CROSS JOIN tasks ON tasks.id = runs.task WHERE runs.phase <> 'closed'"""
        ):
            repos[repo] += 1
            agents[agent] += 1
            if status == Status.BLOCKED:
                blocked[repo, agent] += 1
        return Occupancy({pause.repo: pause for pause in self.pauses()}, repos, agents, blocked)
