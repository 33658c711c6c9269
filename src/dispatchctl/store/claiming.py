"""The claim: a ready task gets a run, and with it every name that the run will use.

Which task: the best by priority, then age, of those that no pause and no limit keeps (`room`). What is kept may be any
number of tasks at the head of the queue, and must cost nothing: if something is in the way of the first task, the choice
goes from one repository and agent to the next and takes the first of each, so that its cost is the number of those.
"""

from collections.abc import Collection
from typing import Any

from dispatchctl.errors import NoSuchTask, Refused
from dispatchctl.store.ledger import Act
from dispatchctl.store.limits import CLAIMABLE, HEAD, Limiting, allowed
from dispatchctl.store.protocol import Claimant, Room
from dispatchctl.store.room import Occupancy
from dispatchctl.store.rows import SELECT_WITHOUT_PARENTS, to_task
from dispatchctl.task import Actor, Phase, Run, Status, Task

BY_PLACE = f"FROM tasks INDEXED BY tasks_claimable_by_place WHERE {CLAIMABLE}"
NEXT_AGENT = f"SELECT repo, agent {BY_PLACE} AND repo = ? AND agent > ? ORDER BY agent LIMIT 1"
NEXT_REPOSITORY = f"SELECT repo, agent {BY_PLACE} AND repo > ? ORDER BY repo, agent LIMIT 1"
"""One step each; a comparison of both columns in one would walk through every task of the repository (SQLite 3.40)."""
FIRST_THERE = f"SELECT priority, id {BY_PLACE} AND repo = ? AND agent = ?{{where}} ORDER BY priority, id LIMIT 1"


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
        """The first task that may be claimed; None if none could be, and `QueueFull` if only pauses and limits keep them."""
        where, values = allowed(labels, besides)
        head = self._database.row(HEAD.format(where=where), tuple(values))
        if head is None:
            return None
        chosen, occupied = int(head[0]), self._occupied()
        obstacle = occupied.everywhere(room) or occupied.obstacle(room, head[1], head[2])
        if obstacle is not None:
            found = None if obstacle.for_all else self._elsewhere(occupied, room, where, values)
            if found is None:
                raise obstacle.full()
            chosen = found
        return self._without_parents(chosen)

    def _without_parents(self, task: int) -> Task:
        """The task as if it had no parents: a claim does not ask for them, and there may be thousands."""
        return to_task(self._database.row(f"{SELECT_WITHOUT_PARENTS} WHERE tasks.id = ?", (task,)))

    def _elsewhere(self, occupied: Occupancy, room: Room, where: str, values: list[Any]) -> int | None:
        """The best task of those that nothing is in the way of."""
        best, place = list[tuple[int, int]](), ("", "")
        while row := self._database.row(NEXT_AGENT, place) or self._database.row(NEXT_REPOSITORY, place[:1]):
            place = (row[0], row[1])
            if occupied.obstacle(room, *place) is None:
                best += self._database.rows(FIRST_THERE.format(where=where), (*place, *values))
        return min(best)[1] if best else None

    def _wanted(self, task: int, besides: Collection[int], room: Room) -> Task:
        """The named task if it can be claimed now. Raises `Refused` with the reason if not, `QueueFull` for a limit."""
        if self._database.row("SELECT 1 FROM tasks WHERE id = ?", (task,)) is None:
            raise NoSuchTask(task)
        wanted = self._without_parents(task)
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
        obstacle = self._occupied().obstacle(room, wanted.repo, wanted.agent)
        if obstacle is not None:
            raise obstacle.refusal_of(task)
        return wanted


def _way_out(task: Task) -> str:
    """What to type for a task that is not ready."""
    if task.status is Status.BACKLOG:
        return f"dispatchctl release {task.id}"
    if task.status in (Status.IN_PROGRESS, Status.BLOCKED):
        return f"dispatchctl attach {task.id}"
    return f"dispatchctl retry {task.id}"
