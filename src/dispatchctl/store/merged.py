"""What became of a finished run's work: the commit of the base that holds it, or the pull request that asks for it."""

from typing import Any

from dispatchctl.errors import Refused
from dispatchctl.store.ledger import Act
from dispatchctl.store.waiting import Waiting
from dispatchctl.task import Actor, Run, Status, Task

MERGEABLE = frozenset({Status.DONE, Status.IN_REVIEW})


class MergeVerbs(Waiting):
    """Both expect the task's newest run, closed, and a task whose work somebody may want."""

    def note_merged(self, token: str, commit: str, *, at: int) -> Task:
        """The base has the work; in_review → done, since whoever merges has looked. Children that were tried in vain are
        tried at once. Said again, changes nothing."""
        with self._database:
            run, task = self._finished(token, "merged")
            if run.merged != commit or task.status is not Status.DONE:
                columns: dict[str, Any] = {} if task.status is Status.DONE else {"error": None}
                act = Act("merged", Actor.USER, at)
                self._change(task, act, to=Status.DONE, columns=columns, run=run, run_columns={"merged": commit})
                self._try_children(task.id, at)
            return self.task(task.id)

    def note_pull_request(self, token: str, url: str, *, at: int) -> Task:
        """A pull request asks for the work; the status stays. Said again, changes nothing."""
        with self._database:
            run, task = self._finished(token, "offered for a merge")
            if run.pull_request != url:
                act = Act("pull_request", Actor.USER, at)
                self._change(task, act, run=run, run_columns={"pull_request": url})
            return self.task(task.id)

    def _finished(self, token: str, verb: str) -> tuple[Run, Task]:
        """The run and its task, inside the transaction. Raises `Refused` if the work may not be merged now."""
        run = self.run(token)
        task = self.task(run.task)
        self._refuse_open(task.id, verb)
        if task.status not in MERGEABLE:
            raise Refused(f"task {task.id} is {task.status} and cannot be {verb}", f"dispatchctl show {task.id}")
        if task.run is None or task.run.token != token:
            raise Refused(f"run {token} is not the newest one of task {task.id}", f"dispatchctl runs {task.id}")
        return run, task
