"""Random histories: whatever is done in whatever order, the rows are what the events say, and the promises hold."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from dispatchctl.errors import Busy, NoSuchTask, Refused
from dispatchctl.task import NEXT, Activity, Actor, Ask, Cause, Life, Phase, Report, Run, Status, Task
from dispatchctl.verdict import Changes, Cure, Ending, Policy
from store.bench import BACKENDS, NOWHERE, SITUATIONS, WINDOW, Bench, assert_replayed

ANY = st.integers(0, 7)
"""Which of the tasks or runs there are; 7 may name none."""

ENDINGS = [
    Ending(Cause.BY_ITSELF, 5, exit_code=0),
    Ending(Cause.BY_ITSELF, 5, exit_code=1),
    Ending(Cause.ASKED, 5, signal=15, asked=Ask.TIMEOUT),
    Ending(Cause.HANGUP, 5, signal=1, server_lives=True),
    Ending(Cause.TERMINATED, 5),
]


COMMON = {"added", "removed", "claimed", "prepared", "started", "ended", "undoing", "undone", "reported", "blocked"}
"""What the histories have to be made of, to be worth anything; every verb by itself is in `test_verbs`."""

THOROUGH = settings(
    max_examples=80,
    stateful_step_count=25,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class Histories(RuleBasedStateMachine):
    """A store to which anything may happen."""

    backend_name = ""
    accepted: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        backend = BACKENDS[self.backend_name](Path(self.directory.name))
        self.bench = Bench(backend, backend.open())
        self.store = self.bench.store
        self.seen = self.bench.everything()

    def teardown(self) -> None:
        self.bench.backend.close()
        self.directory.cleanup()

    def attempt(self, verb: Callable[[], object]) -> None:
        """Do it, or see it refused without any effect."""
        try:
            verb()
        except (Refused, NoSuchTask, Busy):
            assert self.bench.everything() == self.seen
        else:
            self.accepted.update(event.kind for event in self.store.events(limit=1))

    def task(self, which: int, *likely: Status) -> int:
        """One of the tasks; those with a likely status come first."""
        tasks = sorted(self.seen[0], key=lambda task: (task.status not in likely, task.id))
        return tasks[which].id if which < len(tasks) else 99

    def run_token(self, which: int, *likely: Phase) -> str:
        """One of the open runs, those in a likely phase first, or the newest of one of the tasks."""
        runs = sorted(self.seen[3], key=lambda run: (run.phase not in likely, run.token))
        if which < len(runs):
            return runs[which].token
        try:
            return self.bench.token(self.task(which - len(runs)))
        except NoSuchTask:
            return NOWHERE

    @initialize(situations=st.lists(st.sampled_from(sorted(SITUATIONS)), min_size=3, max_size=6))
    def in_the_middle(self, situations: list[str]) -> None:
        """Begin where something has happened already: chance alone seldom comes this far."""
        for each in situations:
            SITUATIONS[each][1](self.bench)

    # -- a user -------------------------------------------------------------------------------------------------
    @rule(after=st.sets(ANY, max_size=2), retries=st.integers(0, 1), backlog=st.booleans(), wait=st.booleans())
    def add(self, after: set[int], retries: int, backlog: bool, wait: bool) -> None:
        if len(self.seen[0]) < 7:
            not_before = self.bench.now + 10_000 if wait else None
            parents = tuple(map(self.task, after))
            self.attempt(
                lambda: self.bench.add(
                    after=parents, retries=retries, recoveries=retries, backlog=backlog, not_before=not_before
                )
            )

    @rule(task=ANY, wait=st.booleans())
    def edit(self, task: int, wait: bool) -> None:
        changes = {"title": "é", "labels": ("x", "ü"), "review": wait, "not_before": self.bench.now if wait else None}
        self.attempt(lambda: self.store.edit(self.task(task), changes, None, at=self.bench.tick()))

    @rule(task=ANY, after=st.sets(ANY, max_size=2))
    def edit_after(self, task: int, after: set[int]) -> None:
        parents = [self.task(each) for each in after]
        self.attempt(lambda: self.store.edit(self.task(task), {}, parents, at=self.bench.tick()))

    @rule(tasks=st.sets(ANY, min_size=1, max_size=2))
    def remove(self, tasks: set[int]) -> None:
        self.attempt(lambda: self.store.remove([self.task(each) for each in tasks], at=self.bench.tick()))

    @rule(task=ANY)
    def release(self, task: int) -> None:
        self.attempt(lambda: self.store.release([self.task(task, Status.BACKLOG)], at=self.bench.tick()))

    @rule(task=ANY, fresh=st.booleans())
    def retry(self, task: int, fresh: bool) -> None:
        self.attempt(
            lambda: self.store.retry(self.task(task), note="so", fresh=fresh, recoveries=1, at=self.bench.tick())
        )

    @rule(task=ANY)
    def cancel(self, task: int) -> None:
        self.attempt(lambda: self.store.cancel(self.task(task), at=self.bench.tick()))

    @rule(task=ANY)
    def unblock(self, task: int) -> None:
        self.attempt(lambda: self.store.unblock(self.task(task, Status.BLOCKED), note="yes", at=self.bench.tick()))

    @rule(task=ANY, report=st.sampled_from(Report))
    def resolve(self, task: int, report: Report) -> None:
        self.attempt(
            lambda: self.store.resolve(self.task(task, Status.IN_REVIEW), report, "seen", at=self.bench.tick())
        )

    @rule(seconds=st.integers(1, 100))
    def time_passes(self, seconds: int) -> None:
        self.bench.now += seconds * 1_000

    # -- a run, mostly one that makes progress ------------------------------------------------------------------
    @rule(task=st.none() | ANY)
    def claim(self, task: int | None) -> None:
        wanted = None if task is None else self.task(task)
        self.attempt(lambda: self.bench.claim(wanted, max_running=3))

    @rule(run=ANY, owns=st.booleans())
    def note_base(self, run: int, owns: bool) -> None:
        token = self.run_token(run, Phase.LAUNCHING)
        self.attempt(
            lambda: self.store.note_base(
                token, base_commit="f" * 40, owns_tree=owns, owns_branch=owns, at=self.bench.tick()
            )
        )

    @rule(run=ANY)
    def note_window(self, run: int) -> None:
        self.attempt(lambda: self.store.note_window(self.run_token(run), WINDOW, at=self.bench.tick()))

    @rule(run=ANY)
    def start(self, run: int) -> None:
        self.attempt(lambda: self.bench.start(self.run_token(run, Phase.LAUNCHING)))

    @rule(run=ANY)
    def begin_undo(self, run: int) -> None:
        self.attempt(lambda: self.bench.begin_undo(self.run_token(run, Phase.LAUNCHING)))

    @rule(run=ANY)
    def undo_failed(self, run: int) -> None:
        token = self.run_token(run, Phase.UNDOING)
        self.attempt(lambda: self.store.undo_failed(token, "stands", actor=Actor.DISPATCH, at=self.bench.tick()))

    @rule(run=ANY, cure=st.sampled_from(Cure))
    def close_undone(self, run: int, cure: Cure) -> None:
        self.attempt(lambda: self.bench.close_undone(self.run_token(run, Phase.UNDOING), cure=cure))

    @rule(
        run=ANY,
        ending=st.sampled_from(ENDINGS),
        changes=st.sampled_from([None, Changes(0, 0), Changes(2, 0), Changes(0, 3)]),
        result=st.sampled_from([None, "half of it"]),
        expects=st.booleans(),
    )
    def close_ended(self, run: int, ending: Ending, changes: Changes | None, result: str | None, expects: bool) -> None:
        token, ending = self.run_token(run, Phase.STARTED), replace(ending, ended_at=self.bench.now)
        self.attempt(lambda: self.bench.end(token, ending, changes, result, Policy(expects_changes=expects)))

    @rule(run=ANY, report=st.sampled_from(Report), actor=st.sampled_from([Actor.AGENT, Actor.USER]))
    def report(self, run: int, report: Report, actor: Actor) -> None:
        token = self.run_token(run, Phase.STARTED)
        self.attempt(lambda: self.store.report(token, report, "said", actor=actor, at=self.bench.tick()))

    @rule(run=ANY)
    def block(self, run: int) -> None:
        token = self.run_token(run, Phase.STARTED)
        self.attempt(lambda: self.store.block(token, "which?", actor=Actor.AGENT, at=self.bench.tick()))

    @rule(run=ANY, ask=st.sampled_from(Ask))
    def ask(self, run: int, ask: Ask) -> None:
        self.attempt(
            lambda: self.store.ask(self.run_token(run, Phase.STARTED), ask, actor=Actor.USER, at=self.bench.tick())
        )

    @rule(run=ANY, life=st.sampled_from(Life))
    def sighted(self, run: int, life: Life) -> None:
        token = self.run_token(run)
        self.attempt(lambda: self.store.heartbeat(token, Activity.WORKING, at=self.bench.tick()))
        self.store.sighted(token, life, at=self.bench.tick())

    # -- what is always so --------------------------------------------------------------------------------------
    @invariant()
    def every_promise_holds(self) -> None:
        self.seen = self.bench.everything()
        tasks, _, events, open_runs = self.seen
        assert_replayed(self.bench.backend, events)
        assert_open_as_their_status_says(tasks, open_runs)
        assert_held_by_what_is_not_done(tasks)
        assert all(
            event.to_status in NEXT[event.from_status] for event in events if event.to_status and event.from_status
        )


def assert_held_by_what_is_not_done(tasks: Sequence[Task]) -> None:
    """Each task waits for each of its parents that is not done."""
    status = {task.id: task.status for task in tasks}
    for task in tasks:
        assert task.waits == sum(status[parent] is not Status.DONE for parent in task.after)


def assert_open_as_their_status_says(tasks: Sequence[Task], open_runs: Sequence[Run]) -> None:
    """At most one run of a task is open, and only where its status allows one."""
    by_task = {run.task: run for run in open_runs}
    assert len(by_task) == len(open_runs)
    for task in tasks:
        run = by_task.get(task.id)
        assert run is None or run == task.run
        assert may_have(task.status, run), (task, run)


def may_have(status: Status, run: Run | None) -> bool:
    """Section 4: which statuses have an open run, and in which phase."""
    if status is Status.IN_PROGRESS:
        return run is not None
    if run is None:
        return True
    expected = {Status.BLOCKED: Phase.STARTED, Status.FAILED: Phase.UNDOING}
    return run.phase is expected.get(status)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_random_history_keeps_every_promise(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted: Counter[str] = Counter()
    monkeypatch.setattr(Histories, "backend_name", backend)
    monkeypatch.setattr(Histories, "accepted", accepted)
    run_state_machine_as_test(Histories, settings=THOROUGH)
    assert set(accepted) >= COMMON
