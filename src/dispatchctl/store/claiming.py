"""The claim: a ready task gets a run, and with it every name that the run will use.

Which task: neither paused nor over a limit, by priority, then age. The choice is one walk along the index of claimable
tasks, which also holds what pauses and limits go by, so that what may not be started is stepped over without being read.
"""

from collections.abc import Collection
from typing import Any

from dispatchctl.errors import QueueFull, Refused
from dispatchctl.store.ledger import Act
from dispatchctl.store.limits import Full, Limiting, allowed, repo_option
from dispatchctl.store.protocol import Claimant, Room
from dispatchctl.task import Actor, Phase, Run, Status, Task


class Claiming(Limiting):
    """The one verb that opens a run."""

    def claim(
        self,
        claimant: Claimant,
        *,
        task: int | None = None,
        labels: Collection[str] = (),
        besides: Collection[int] = (),
        room: Room,
        actor: Actor,
        at: int,
    ) -> Run | None:
        """One transaction: the best claimable task becomes in_progress with a run whose every name is fixed."""
        with self._database:
            self._database.execute(
                "UPDATE tasks INDEXED BY tasks_deferred SET due = 1 WHERE status = 'ready' AND due = 0 AND not_before <= ?",
                (at,),
            )
            chosen = self._best(labels, besides, room) if task is None else self._wanted(task, besides, room)
            if chosen is None:
                return None
            columns = self._new_run(chosen, claimant, at)
            places = ", ".join(f":{column}" for column in columns)
            self._database.execute(
                f"INSERT INTO runs (token, {', '.join(columns)}) VALUES (:token, {places})",
                {"token": claimant.token, **columns},
            )
            act, newest = Act("claimed", actor, at), {"newest_run": claimant.token, "error": None}
            changes = self._change_task(chosen, act, Status.IN_PROGRESS, newest)
            self._record(chosen, act, Status.IN_PROGRESS, claimant.token, changes, columns)
            return self.run(claimant.token)

    def _new_run(self, task: Task, claimant: Claimant, at: int) -> dict[str, Any]:
        """The columns of the task's next run; those left out are not known yet."""
        last = self._database.row("SELECT ifnull(max(number), 0) FROM runs WHERE task = ?", (task.id,))[0]
        earlier = self.run(task.resume) if task.resume else None
        names = claimant.names(task, last + 1, earlier)
        self._remember_place("tmux", names.socket, names.tmux)
        self._remember_place("git", task.repo, names.git)
        return {
            "task": task.id,
            "number": last + 1,
            "phase": Phase.LAUNCHING,
            "agent": names.agent,
            "repo": task.repo,
            "branch": names.branch,
            "worktree": names.worktree,
            "resumed": int(earlier is not None),
            "run_dir": names.run_dir,
            "owner_lock": names.owner_lock,
            "step_lock": names.step_lock,
            "host": claimant.host,
            "boot_id": claimant.boot_id,
            "claimed_at": at,
            "socket": names.socket,
            "session": names.session,
            "agent_session": names.agent_session,
            "ready_at": task.ready_at,
            "owns_tree": 0,
            "owns_branch": 0,
        }

    def _remember_place(self, kind: str, path: str, program: str) -> None:
        """Where a run is to be, and with which program: for whoever looks later with another PATH, or none."""
        if program:
            self._database.execute(
                """INSERT INTO places VALUES (?1, ?2, ?3)
                   ON CONFLICT DO UPDATE SET program = ?3 WHERE program <> ?3""",
                (kind, path, program),
            )

    def _best(self, labels: Collection[str], besides: Collection[int], room: Room) -> Task | None:
        """The first task that may be claimed; None if none could be, and `QueueFull` if only what is full keeps them."""
        full = self._full(room)
        row = None if full.all else self._first(labels, besides, full)
        if row is None and full and self._first(labels, besides, Full()) is not None:
            raise QueueFull(full.why, full.hint)
        return self.task(row[0]) if row else None

    def _first(self, labels: Collection[str], besides: Collection[int], full: Full) -> Any:
        where, values = allowed(labels, besides, full)
        return self._database.row(
            f"""SELECT id FROM tasks INDEXED BY tasks_claimable
                WHERE status = 'ready' AND waits = 0 AND due = 1{where} ORDER BY priority, id LIMIT 1""",
            tuple(values),
        )

    def _wanted(self, task: int, besides: Collection[int], room: Room) -> Task:
        """The named task if it can be claimed now. Raises `Refused` with the reason if not, `QueueFull` for a limit."""
        wanted = self.task(task)
        if task in besides:
            raise Refused(f"task {task} is held: an agent of it may still be alive", "dispatchctl doctor")
        if wanted.status is not Status.READY:
            raise Refused(f"task {task} is {wanted.status}, not ready", _way_out(wanted))
        if wanted.waits:
            raise Refused(
                f"task {task} is held: {wanted.waits} of the tasks it is to run after are not done",
                f"dispatchctl ready --explain {task}",
            )
        if self._database.row("SELECT 1 FROM tasks WHERE id = ? AND due = 0", (task,)):
            raise Refused(f"task {task} is not to start yet", f"dispatchctl edit {task} --not-before now")
        full = self._full(room)
        for repo in ("", wanted.repo):
            if repo in full.paused:
                what = f"{repo} is" if repo else "the queue is"
                raise Refused(f"task {task} was not started: {what} paused", f"dispatchctl unpause{repo_option(repo)}")
        if full.all or wanted.repo in full.repos or wanted.agent in full.agents:
            raise QueueFull(full.why_not(wanted.repo, wanted.agent), full.hint)
        return wanted


def _way_out(task: Task) -> str:
    """What to type for a task that is not ready."""
    if task.status is Status.BACKLOG:
        return f"dispatchctl release {task.id}"
    if task.status in (Status.IN_PROGRESS, Status.BLOCKED):
        return f"dispatchctl attach {task.id}"
    return f"dispatchctl retry {task.id}"
