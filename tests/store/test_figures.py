"""What is counted agrees with the rows and with the events, whatever happened; and what retention leaves can be replayed."""

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from dispatchctl.errors import DispatchctlError, Unavailable
from dispatchctl.figures import Limits, Spread, Wanted, cause, counted, percentile
from dispatchctl.handover import Heard, heard
from dispatchctl.replay import replay
from dispatchctl.store import open_store
from dispatchctl.store.counted import BOUNDS_S, EndedRun, Forgettable, Tally
from dispatchctl.store.schema import TALLIES
from dispatchctl.task import Actor, Event, Outcome, Phase, Report, Status
from store.bench import BACKENDS, SITUATIONS, Bench, Sqlite, assert_replayed
from store.test_histories import THOROUGH, Histories

Counts = Counter[tuple[Any, ...]]


# -- the events, counted by hand -----------------------------------------------------------------------------------------


def bucket(ms: int) -> float | None:
    return next((bound for bound in BOUNDS_S if ms <= bound * 1000), None)


def tallied(events: Iterable[Event]) -> Counts:
    """What the file should have counted, from every event that there ever was."""
    found: Counts = Counter()
    agents: dict[int, str] = {}
    runs: dict[str, dict[str, Any]] = {}
    left: dict[int, dict[str, int]] = {}
    for event in events:
        if event.to_status:
            found["moved", event.from_status, event.to_status] += 1
        of_task, of_run = event.detail.get("task", {}), event.detail.get("run", {})
        agents[event.task] = of_task.get("agent", agents.get(event.task, ""))
        before = left.setdefault(event.task, {})
        if event.kind in ("ended", "undone") and event.to_status is Status.READY:
            for name, word in (("retries_left", "retry"), ("recoveries_left", "recovery")):
                if of_task[name] < before[name]:
                    found["spent", agents[event.task], word] += 1
        before.update({name: of_task[name] for name in ("retries_left", "recoveries_left") if name in of_task})
        if event.run is not None:
            run = runs.setdefault(event.run, {})
            run.update(of_run)
            if of_run.get("phase") == Phase.CLOSED:
                found["ended", *(run.get(name) for name in ("agent", "outcome", "report", "exit_code", "signal"))] += 1
                if run.get("ready_at") is not None:
                    found["waited", run["agent"], bucket(max(run["claimed_at"] - run["ready_at"], 0))] += 1
                if run.get("started_at") is not None and run.get("ended_at") is not None:
                    found["ran", run["agent"], bucket(max(run["ended_at"] - run["started_at"], 0))] += 1
    return found


def counted_by_file(tallies: Sequence[Tally]) -> Counts:
    return Counter({(each.what, *each.of): each.number for each in tallies})


def spent_since(events: Sequence[Event], since: int) -> tuple[int, int, int]:
    """Retries and recoveries, of tasks that are still there, and launches that were undone and have spent neither."""
    there, left, found = replay(events).tasks, dict[int, dict[str, int]](), Counter[str]()
    for event in events:
        row = left.setdefault(event.task, {})
        said = event.detail.get("task", {})
        for name in ("retries_left", "recoveries_left"):
            ends = event.kind in ("ended", "undone") and event.to_status is Status.READY and event.at >= since
            if ends and event.task in there and said[name] < row[name]:
                found[name] += 1
            elif ends and event.task in there and event.kind == "undone" and name == "recoveries_left":
                found["waited"] += 1
            row[name] = said.get(name, row.get(name, 0))
    return found["retries_left"], found["recoveries_left"], found["waited"]


class Counted(Histories):
    """The histories of `test_histories`, in which old events are forgotten now and then, and everything is counted."""

    forgotten = 0

    def __init__(self) -> None:
        self.log: dict[int, Event] = {}
        super().__init__()

    @rule(which=st.integers(0, 3))
    def forget(self, which: int) -> None:
        chosen = self.store.forgettable()[which : which + 2]
        if chosen:
            gone = self.store.forget(chosen, actor=Actor.USER, at=self.bench.tick())
            assert gone == chosen
            type(self).forgotten += len(gone)

    def teardown(self) -> None:
        self.forget(which=0)  # in each history once at least
        self.everything_is_counted()
        super().teardown()

    @invariant()
    def everything_is_counted(self) -> None:
        tasks, runs, events, _ = self.bench.everything()
        self.log.update({event.id: event for event in events})
        assert counted_by_file(self.store.tallies()) == tallied(self.log[id] for id in sorted(self.log))
        for since in (0, self.bench.now - 5_000):
            self.agrees(tasks, runs, events, since)

    def agrees(self, tasks: Any, runs: Any, events: Sequence[Event], since: int) -> None:
        """`stats` with what is listed, and with what the events say."""
        at = self.bench.now
        found = counted(
            self.store.standing(at=at), self.store.happened(since=since), Wanted(since), Limits(), at=at
        ).everything
        assert found.tasks == Counter(task.status for task in tasks)
        assert found.tasks == Counter(row["status"] for row in replay(events).tasks.values())
        ended = [run for of_task in runs for run in of_task if run.phase is Phase.CLOSED and run.closed_at >= since]
        assert found.runs == len(ended)
        why = (cause(run.outcome, run.report, run.exit_code, run.signal) for run in ended)
        retries, recoveries, waited = spent_since(events, since)
        failed = Counter(each for each in why if each is not None)
        failed["could not start"] -= waited
        assert found.failures == +failed
        assert found.ran == Spread.of(run.ended_at - run.started_at for run in ended if run.started_at and run.ended_at)
        there = {task.id for task in tasks}
        done = [each for each in events if each.to_status is Status.DONE and each.at >= since and each.task in there]
        assert found.done == len(done)
        assert (found.retries, found.recoveries) == (retries, recoveries)
        waiting = [task.ready_at for task in tasks if task.ready_at is not None and task.ready_at <= at]
        assert (found.oldest and found.oldest.ready_at) == min(waiting, default=None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_counted_is_what_happened(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted: Counter[str] = Counter()
    monkeypatch.setattr(Counted, "backend_name", backend)
    monkeypatch.setattr(Counted, "accepted", accepted)
    monkeypatch.setattr(Counted, "forgotten", 0)
    run_state_machine_as_test(Counted, settings=settings(THOROUGH, max_examples=40))
    assert Counted.forgotten
    assert "ended" in accepted


# -- what the words and numbers mean -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "median", "p95"),
    [([7], 7, 7), ([1, 2], 1, 2), ([1, 2, 3], 2, 3), (list(range(1, 101)), 50, 95), (list(range(1, 22)), 11, 20)],
)
def test_a_percentile_is_a_value_that_was_measured(values: list[int], median: int, p95: int) -> None:
    assert (percentile(values, 50), percentile(values, 95)) == (median, p95)
    assert Spread.of(reversed(values)) == Spread(len(values), median, p95, values[-1])
    assert Spread.of([]) == Spread()


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ((Outcome.EXITED, None, 0, None), None),
        ((Outcome.EXITED, None, 7, None), "exit code 7"),
        ((Outcome.EXITED, None, None, 9), "signal 9"),
        ((Outcome.EXITED, None, None, None), "could not be executed"),
        ((Outcome.REPORTED, Report.DONE, 1, None), None),
        ((Outcome.REPORTED, Report.FAIL, 0, None), "reported as failed"),
        ((Outcome.TIMED_OUT, None, None, 15), "timed out"),
        ((Outcome.HUNG_UP, None, None, 1), "window closed"),
        ((Outcome.LOST, None, None, None), "lost"),
        ((Outcome.ROLLED_BACK, None, None, None), "could not start"),
        ((Outcome.CANCELLED, None, None, 15), None),
    ],
)
def test_a_cause_is_a_word_that_many_runs_share(end: tuple[Any, ...], why: str | None) -> None:
    assert cause(*end) == why


def test_shares_are_those_of_each_agent_and_repository(bench: Bench) -> None:
    for agent, repo, code in (("a", "/x", 0), ("a", "/y", 1), ("b", "/y", 1)):
        bench.finish(bench.add(agent=agent, repo=repo), code)
    bench.claimed(bench.add(agent="b", repo="/z"))
    bench.add(agent="c", repo="/x", not_before=bench.now + 9_000_000)
    oldest = bench.add(agent="c", repo="/x")
    at = bench.now
    standings, happened = bench.store.standing(at=at), bench.store.happened(since=0)

    def of(**wanted: Any) -> dict[str | None, tuple[int, int, int, int]]:
        found = counted(standings, happened, Wanted(0, **wanted), Limits(5, {"a": 2}, {"/y": 3}), at=at)
        shares = (found.everything, *found.agents, *found.repos)
        return {each.name: (each.tasks.total(), each.open_runs, each.runs, each.limit) for each in shares}

    assert of() == {
        None: (6, 1, 3, 5),
        "a": (2, 0, 2, 2),
        "b": (2, 1, 1, 0),
        "c": (2, 0, 0, 0),
        "/x": (3, 0, 1, 0),
        "/y": (2, 0, 2, 3),
        "/z": (1, 1, 0, 0),
    }
    assert of(agent="b") == {None: (2, 1, 1, 5), "b": (2, 1, 1, 0), "/y": (1, 0, 1, 3), "/z": (1, 1, 0, 0)}
    assert of(repo="/y", agent="a") == {None: (1, 0, 1, 5), "a": (1, 0, 1, 2), "/y": (1, 0, 1, 3)}
    found = counted(standings, happened, Wanted(0), Limits(), at=at)
    assert found.everything.oldest is not None
    assert found.everything.oldest.task == oldest


def test_a_window_ends_what_it_costs(bench: Bench) -> None:
    bench.finish(bench.add())
    since = bench.now + 1
    bench.finish(bench.add())
    happened = bench.store.happened(since=since)
    assert [type(run) for run in happened.runs] == [EndedRun]
    assert [each.number for each in happened.done] == [1]
    found = counted(bench.store.standing(at=bench.now), happened, Wanted(since), Limits(), at=bench.now)
    assert (found.since, found.until) == (since, bench.now)


def test_a_recovery_that_was_spent_after_a_failed_undo_is_counted_and_what_a_human_gives_is_not(bench: Bench) -> None:
    stuck, failed = SITUATIONS["stuck"][1](bench), SITUATIONS["failed"][1](bench)
    assert bench.close_undone(bench.token(stuck)).recoveries_left == 2
    bench.store.retry(failed, note=None, fresh=False, recoveries=1, at=bench.tick())
    happened = bench.store.happened(since=0)
    found = counted(bench.store.standing(at=bench.now), happened, Wanted(0), Limits(), at=bench.now)
    tallies = {key: number for key, number in counted_by_file(bench.store.tallies()).items() if key[0] == "spent"}
    assert found.everything.recoveries == 1
    assert tallies == {("spent", "shell", "recovery"): 1}


def test_what_is_removed_stays_counted(bench: Bench) -> None:
    task = bench.add()
    bench.finish(task, 3)
    before = bench.store.tallies()
    bench.store.remove([task], at=bench.tick())
    bench.store.forget(bench.store.forgettable(), actor=Actor.USER, at=bench.tick())
    assert bench.store.events() == []
    assert bench.store.tallies() == before


def test_a_store_that_only_reads_writes_nothing(bench: Bench) -> None:
    bench.add()
    reader = bench.backend.open()
    reader.only_read()
    assert reader.standing(at=bench.now).standing[0].number == 1
    with pytest.raises(Unavailable, match="readonly"):
        reader.pause("", reason=None, at=1)
    assert bench.store.pauses() == []


# -- a file of an earlier version ------------------------------------------------------------------------------------------


def test_an_older_file_is_counted_when_it_is_upgraded(bench: Bench) -> None:
    for _, bring_about in SITUATIONS.values():
        bring_about(bench)
    bench.finish(bench.add(), 7)
    before = counted_by_file(bench.store.tallies())
    assert isinstance(bench.backend, Sqlite)
    with closing(sqlite3.connect(bench.backend.path, isolation_level=None)) as raw:
        for kind, name in raw.execute(
            "SELECT type, name FROM sqlite_schema WHERE name LIKE '%_are_counted'"
        ).fetchall():
            raw.execute(f"DROP {kind} {name}")
        raw.execute("DROP TABLE tallies")
        for statement in TALLIES:
            raw.execute(statement)
    after = counted_by_file(bench.store.tallies())
    old = {key: number for key, number in before.items() if key[0] in ("moved", "ended", "ran")}
    assert after == old
    bench.finish(bench.add(), 7)
    assert counted_by_file(bench.store.tallies())["ended", "shell", "exited", None, 7, None] == 2


# -- retention -------------------------------------------------------------------------------------------------------------


def test_events_are_forgotten_of_finished_tasks_alone(bench: Bench) -> None:
    made = {name: bring_about(bench) for name, (_, bring_about) in SITUATIONS.items()}
    removed = bench.add()
    bench.store.remove([removed], at=bench.tick())
    found = bench.store.forgettable()
    assert [each.task for each in found] == [removed, *(made[name] for name in ("cancelled", "failed", "done"))]
    assert {each.events for each in found if each.task == made["done"]} == {4}
    everything = bench.store.events()
    gone = bench.store.forget(found, actor=Actor.USER, at=bench.tick())
    assert gone == found
    left = bench.store.events()
    forgotten = {each.task for each in found}
    assert [event for event in left if event.kind != "pruned"] == [
        event for event in everything if event.task not in forgotten
    ]
    assert sorted(event.task for event in left if event.kind == "pruned") == sorted(forgotten - {removed})
    assert_replayed(bench.backend, left)
    assert bench.store.forgettable() == []
    assert bench.store.contents(at=bench.now, within=5).unrecorded == ()


def test_a_forgotten_task_has_a_future(bench: Bench) -> None:
    parent = SITUATIONS["done"][1](bench)
    task = bench.add(after=(parent,), labels=("x", "ü"))
    bench.finish(task, 1)
    bench.store.forget(bench.store.forgettable(), actor=Actor.USER, at=bench.tick())
    bench.store.retry(task, note="again", fresh=False, recoveries=3, at=bench.tick())
    assert bench.store.contents(at=bench.now, within=5).unrecorded == ()
    bench.finish(task)
    assert_replayed(bench.backend, bench.store.events())
    assert [event.kind for event in bench.store.events(task=task)][:2] == ["pruned", "retried"]
    again = [each for each in bench.store.forgettable() if each.task == task]
    bench.store.forget(again, actor=Actor.USER, at=bench.tick())
    assert [event.kind for event in bench.store.events(task=task)] == ["pruned"]
    assert_replayed(bench.backend, bench.store.events())
    assert len(replay(bench.store.events()).runs) == 3


def test_what_was_said_to_whom_outlives_its_events(bench: Bench) -> None:
    task = bench.add()
    bench.finish(task, 1)
    last, before = bench.token(task), Heard()
    for word in ("rename it", "and test it"):
        bench.store.retry(task, note=word, fresh=False, recoveries=3, at=bench.tick())
        bench.finish(task, 1)
        last = bench.token(task)
        before = heard(bench.store.events(task=task), last)
        bench.store.forget(bench.store.forgettable(), actor=Actor.USER, at=bench.tick())
        assert heard(bench.store.events(task=task), last) == before, "it has heard that"
    assert before == Heard(("rename it", "and test it"), ())
    bench.store.edit(task, {"prompt": "otherwise"}, None, at=bench.tick())
    bench.store.retry(task, note="soon", fresh=False, recoveries=3, at=bench.tick())
    bench.store.cancel(task, at=bench.tick())
    bench.store.forget(bench.store.forgettable(), actor=Actor.USER, at=bench.tick())
    [event] = bench.store.events(task=task)
    assert heard([event], last) == Heard(before.before, ("soon",), changed=True), "it has not heard that"
    assert_replayed(bench.backend, bench.store.events())


def test_a_task_to_which_something_happens_meanwhile_keeps_its_events(bench: Bench) -> None:
    first, second = SITUATIONS["failed"][1](bench), SITUATIONS["failed"][1](bench)
    chosen = bench.store.forgettable()
    bench.store.retry(first, note=None, fresh=False, recoveries=3, at=bench.tick())
    gone = bench.store.forget(chosen, actor=Actor.USER, at=bench.tick())
    assert [each.task for each in gone] == [second]
    assert [event.kind for event in bench.store.events(task=first)][-1] == "retried"


def test_forgetting_is_whole_or_not_at_all(bench: Bench) -> None:
    assert isinstance(bench.backend, Sqlite)
    SITUATIONS["done"][1](bench)
    before = bench.store.events()
    with closing(sqlite3.connect(bench.backend.path)) as raw:
        raw.execute(
            "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.kind = 'pruned' BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    with pytest.raises(DispatchctlError, match="full"):
        bench.store.forget(bench.store.forgettable(), actor=Actor.USER, at=bench.tick())
    assert bench.store.events() == before
    with (
        closing(sqlite3.connect(bench.backend.path)) as raw,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        raw.execute("DELETE FROM events")


def test_others_write_between_two_batches(bench: Bench) -> None:
    """Two at once forget, and a third adds: none waits for the others' whole work, and each event goes once."""
    for _ in range(60):
        SITUATIONS["cancelled"][1](bench)
    assert isinstance(bench.backend, Sqlite)
    gone, path = list[Forgettable](), bench.backend.path

    def forget() -> None:
        store = open_store(path)
        for each in store.forgettable():
            gone.extend(store.forget([each], actor=Actor.USER, at=bench.now))
        store.close()

    threads = [threading.Thread(target=forget) for _ in range(2)]
    for thread in threads:
        thread.start()
    added = 0
    while any(thread.is_alive() for thread in threads):
        bench.add()
        added += 1
    for thread in threads:
        thread.join()
    assert added > 2
    assert Counter(each.task for each in gone) == Counter(range(1, 61))
    assert_replayed(bench.backend, bench.store.events())
