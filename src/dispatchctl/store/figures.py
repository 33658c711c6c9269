"""What is counted: how tasks stand, how runs have ended, and what has ever happened.

Each query is served by an index that holds all it needs: what stands costs by the number of tasks, what has happened by what
did happen in the window, and the tallies, which the file keeps itself, next to nothing.
"""

import json

from dispatchctl.store.counted import Counted, EndedRun, Happened, Oldest, Spent, Standing, Standings, Tally
from dispatchctl.store.ledger import Ledger
from dispatchctl.task import Status


def _left(of: str, which: str) -> str:
    return f"json_extract({of}.detail, '$.task.{which}_left')"


def _before(which: str) -> str:
    """How many there were left before an event: what the last event says that says anything of it."""
    said = _left("earlier", which)
    return f"""(SELECT {said} FROM events AS earlier INDEXED BY events_of_task
                WHERE earlier.task = events.task AND earlier.id < events.id AND {said} IS NOT NULL
                ORDER BY earlier.id DESC LIMIT 1)"""


class Counting(Ledger):
    """The figures, read."""

    def standing(self, *, at: int, tasks: bool = True) -> Standings:
        """How many open runs there are, what has been ready for longest, and with `tasks` how many there are of them."""
        with self._database.reading():
            counted = self._database.rows(
                """SELECT agent, repo, status, count(*) FROM tasks INDEXED BY tasks_by_status WHERE ?
                   GROUP BY status, agent, repo""",
                (tasks,),
            )
            open_runs = self._database.rows(
                """SELECT agent, repo, count(*) FROM runs INDEXED BY runs_open WHERE phase <> 'closed'
                   GROUP BY agent, repo"""
            )
            oldest = self._database.rows(
                """SELECT agent, repo, id, min(ready_at) FROM tasks INDEXED BY tasks_waiting
                   WHERE ready_at IS NOT NULL AND ready_at <= ? GROUP BY agent, repo""",
                (at,),
            )
        standing = [Standing(agent, repo, Status(status), count) for agent, repo, status, count in counted]
        return Standings(standing, [Counted(*row) for row in open_runs], [Oldest(*row) for row in oldest])

    def happened(self, *, since: int) -> Happened:
        """What has happened since then, to tasks that are still there."""
        with self._database.reading():
            first = self._database.row(
                "SELECT min(at) FROM (SELECT min(at) AS at FROM events UNION SELECT created_at FROM tasks WHERE id ="
                " (SELECT min(id) FROM tasks))"
            )[0]
            runs = self._database.rows(
                f"""SELECT {", ".join(EndedRun._fields)} FROM runs INDEXED BY runs_ended
                    WHERE phase = 'closed' AND closed_at >= ?""",
                (since,),
            )
            done = self._database.rows(
                """SELECT tasks.agent, tasks.repo, count(*) FROM events INDEXED BY events_moved
                   JOIN tasks ON tasks.id = events.task WHERE to_status = 'done' AND at >= ?
                   GROUP BY tasks.agent, tasks.repo""",
                (since,),
            )
            spent = self._database.rows(
                f"""SELECT runs.agent, runs.repo, total({_left("events", "retries")} < {_before("retries")}),
                           total({_left("events", "recoveries")} < {_before("recoveries")}),
                           total(kind = 'undone' AND {_left("events", "recoveries")} >= {_before("recoveries")})
                    FROM events INDEXED BY events_moved JOIN runs ON runs.token = events.run
                    WHERE to_status = 'ready' AND at >= ? AND kind IN ('ended', 'undone')
                    GROUP BY runs.agent, runs.repo""",
                (since,),
            )
            dropped = self._dropped(since)
        tries = [Spent(agent, repo, *map(int, counts)) for agent, repo, *counts in spent]
        return Happened(first, [EndedRun(*row) for row in runs], [Counted(*row) for row in done], tries, dropped)

    def _dropped(self, since: int) -> int:
        """How many moves to done were dropped; 0 if the oldest one that is kept came before `since`."""
        kept = "FROM events INDEXED BY events_moved WHERE to_status = 'done'"
        oldest = self._database.row(f"SELECT min(at) {kept}")[0]
        if oldest is not None and oldest <= since:
            return 0
        ever = "SELECT total(count) FROM tallies WHERE what = 'moved' AND json_extract(of, '$[1]') = 'done'"
        return int(self._database.row(f"SELECT ({ever}) - (SELECT count(*) {kept})")[0])

    def tallies(self) -> list[Tally]:
        """Everything that was ever counted."""
        rows = self._database.rows("SELECT what, of, count, total_ms FROM tallies")
        return [Tally(what, tuple(json.loads(of)), count, total_ms) for what, of, count, total_ms in rows]

    def only_read(self) -> None:
        """Have SQLite refuse every further write on this connection."""
        self._database.rows("PRAGMA query_only = ON")
