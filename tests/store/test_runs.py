"""What a run keeps: who started it, what was asked of it, where it goes on, how it ended."""

import pytest

from dispatchctl.task import Actor, Ask, Life, Phase, Report, Status
from store.bench import SITUATIONS, Bench, exited, started


def test_nothing_replaces_a_cancellation(bench: Bench) -> None:
    token = bench.token(started(bench))
    bench.store.ask(token, Ask.TIMEOUT, actor=Actor.RECONCILE, at=bench.tick())
    bench.store.ask(token, Ask.CANCEL, actor=Actor.USER, at=bench.tick())
    before = bench.everything()
    assert bench.store.ask(token, Ask.TIMEOUT, actor=Actor.RECONCILE, at=bench.tick()).ask is Ask.CANCEL
    assert bench.store.ask(token, Ask.CANCEL, actor=Actor.USER, at=bench.tick()).ask is Ask.CANCEL
    assert bench.everything() == before


def test_an_undo_that_fails_again_in_the_same_way_is_said_once(bench: Bench) -> None:
    token = bench.token(SITUATIONS["stuck"][1](bench))
    before = bench.everything()
    bench.store.undo_failed(token, "the worktree stands", actor=Actor.RECONCILE, at=bench.tick())
    assert bench.everything() == before


@pytest.mark.parametrize("said", ["ask", "report"])
def test_an_agent_is_not_started_once_its_run_was_asked_to_end(bench: Bench, said: str) -> None:
    task = SITUATIONS["launching"][1](bench)
    token = bench.token(task)
    if said == "ask":
        bench.store.ask(token, Ask.CANCEL, actor=Actor.USER, at=bench.tick())
    else:
        bench.store.report(token, Report.FAIL, "never mind", actor=Actor.USER, at=bench.tick())
    before = bench.everything()
    assert not bench.start(token)
    assert bench.everything() == before


def test_a_start_stores_who_launched_and_who_runs(bench: Bench) -> None:
    run = bench.store.run(bench.token(started(bench)))
    assert (run.launcher_pid, run.launcher_start, run.agent_pid, run.agent_start) == (50, 500, 60, 600)
    assert (run.phase, run.started_at) == (Phase.STARTED, bench.now)


@pytest.mark.parametrize("report", list(Report))
def test_what_was_reported_before_a_failed_undo_does_not_keep_its_run_open(bench: Bench, report: Report) -> None:
    task = SITUATIONS["launching"][1](bench)
    token = bench.token(task)
    bench.store.report(token, report, "never mind", actor=Actor.USER, at=bench.tick())
    assert bench.begin_undo(token)
    bench.store.undo_failed(token, "the worktree stands", actor=Actor.DISPATCH, at=bench.tick())
    assert bench.close_undone(token).status is Status.FAILED
    assert bench.store.open_runs() == []


def test_a_resumed_run_goes_on_where_the_last_started_one_was(bench: Bench) -> None:
    task = bench.add(retries=1)
    bench.finish(task, 1)
    first = bench.store.runs(task)[0]
    bench.store.edit(task, {"not_before": None}, None, at=bench.tick())
    second = bench.claim(task)
    assert second is not None
    assert (second.resumed, second.worktree, second.branch, second.number) == (True, first.worktree, first.branch, 2)
    bench.begin_undo(second.token)
    assert bench.close_undone(second.token).resume == first.token


def test_a_fresh_retry_starts_anew(bench: Bench) -> None:
    task = SITUATIONS["failed"][1](bench)
    bench.store.retry(task, note="from scratch", fresh=True, recoveries=3, at=bench.tick())
    run = bench.claim(task)
    assert run is not None
    assert (run.resumed, run.worktree) == (False, f"/worktrees/{task}-2")
    assert bench.store.task(task).note == "from scratch"


def test_an_end_is_written_down_as_it_was(bench: Bench) -> None:
    task = started(bench)
    ending = exited(7, at=123)
    bench.end(bench.token(task), ending, result="half of it")
    after = bench.store.task(task)
    assert after.run is not None
    assert (after.run.exit_code, after.run.signal, after.run.ended_at, after.run.error) == (
        7,
        None,
        123,
        "exited with 7",
    )
    assert (after.run.life, after.run.closed_at, after.run.activity) == (Life.GONE, bench.now, None)
    assert (after.result, after.error, after.resume) == ("half of it", "exited with 7", after.run.token)
