"""Which task a claim takes, and when it takes none."""

from typing import Any

import pytest

from dispatchctl.errors import Busy, Refused
from dispatchctl.task import Actor, Phase, Status
from store.bench import SITUATIONS, Bench, assert_replayed, exited


def claims(bench: Bench, **options: Any) -> list[int]:
    """The ids of the tasks that are claimed one after the other, until there is none."""
    return [run.task for run in iter(lambda: bench.claim(**options), None)]


def test_the_most_urgent_task_is_claimed_first_and_of_those_the_oldest(bench: Bench) -> None:
    priorities = [2, 0, 4, 0, 1, 2, 3]
    tasks = [bench.add(priority=priority) for priority in priorities]
    expected = [tasks[place] for place in sorted(range(len(priorities)), key=lambda place: (priorities[place], place))]
    assert [task.id for task in bench.store.claimable(at=bench.now, limit=0)] == expected
    assert [task.id for task in bench.store.claimable(at=bench.now, limit=3)] == expected[:3]
    assert claims(bench) == expected


def test_nothing_is_claimed_when_nothing_is_ready(bench: Bench) -> None:
    for name, (_, bring_about) in SITUATIONS.items():
        if name != "ready":
            bring_about(bench)
    before = bench.everything()
    assert bench.claim() is None
    assert bench.store.claimable(at=bench.now, limit=0) == []
    assert bench.everything() == before


def test_a_claim_fixes_every_name_of_the_run(bench: Bench) -> None:
    task = bench.add(agent="codex")
    run = bench.claim(task, actor=Actor.WATCH)
    assert run is not None
    assert bench.store.task(task).run == run == bench.store.run(run.token)
    assert (run.phase, run.number, run.agent, run.repo) == (Phase.LAUNCHING, 1, "codex", "/repo")
    assert (run.branch, run.worktree, run.run_dir) == ("task/1-1", "/worktrees/1-1", "/runs/1-1")
    assert (run.owner_lock, run.step_lock) == ("/locks/1-1.owner", "/locks/1-1.step")
    assert (run.host, run.boot_id, run.socket, run.session) == ("host", "boot", "/tmux.sock", "dispatch-repo")
    assert (run.claimed_at, run.base_commit, run.owns_tree, run.started_at) == (bench.now, None, False, None)
    event = bench.store.events(task=task)[-1]
    assert (event.kind, event.actor, event.run) == ("claimed", Actor.WATCH, run.token)


def test_a_task_is_claimed_once(bench: Bench) -> None:
    task = bench.add()
    bench.claimed(task)
    assert bench.claim() is None
    with pytest.raises(Refused, match=f"task {task} is in_progress, not ready"):
        bench.claim(task)


def test_a_task_is_not_claimed_before_its_time(bench: Bench) -> None:
    due = bench.now + 5_500
    task = bench.add(not_before=due)
    assert bench.store.claimable(at=due - 1, limit=0) == []
    assert [each.id for each in bench.store.claimable(at=due, limit=0)] == [task]
    with pytest.raises(Refused, match="not to start yet"):
        bench.claim(task)
    before = bench.everything()
    while bench.now + 1_000 < due:
        assert bench.claim() is None
    assert bench.everything() == before
    assert claims(bench) == [task]


def test_an_edit_brings_a_task_forward_or_puts_it_off(bench: Bench) -> None:
    task = bench.add(not_before=bench.now + 1_000_000)
    bench.store.edit(task, {"not_before": None}, None, at=bench.tick())
    assert [each.id for each in bench.store.claimable(at=bench.now, limit=0)] == [task]
    bench.store.edit(task, {"not_before": bench.now + 1_000_000}, None, at=bench.tick())
    assert bench.claim() is None


def test_a_released_task_waits_for_its_time_too(bench: Bench) -> None:
    task = bench.add(backlog=True, not_before=bench.now + 5_000)
    bench.store.release([task], at=bench.tick())
    assert bench.claim() is None
    bench.now += 5_000
    assert claims(bench) == [task]


def test_a_lost_launch_comes_back_after_a_growing_wait(bench: Bench) -> None:
    task, waits = bench.add(recoveries=3), []
    for _ in range(3):
        run = bench.claim()
        assert run is not None
        bench.begin_undo(run.token)
        after = bench.close_undone(run.token)
        assert after.not_before is not None
        waits.append(after.not_before - bench.now)
        assert bench.claim() is None
        bench.now = after.not_before
    assert waits == [15_000, 30_000, 60_000]
    bench.begin_undo(bench.claimed(task))
    assert bench.close_undone(bench.token(task)).status is Status.FAILED


def test_a_task_that_is_put_off_lets_others_pass(bench: Bench) -> None:
    bench.add(priority=0, not_before=bench.now + 1_000_000)
    later = bench.add(priority=4)
    assert claims(bench) == [later]


def test_labels_choose_tasks_that_have_every_one_of_them(bench: Bench) -> None:
    both = bench.add(labels=("a", "b"))
    bench.add(labels=("ab",))
    one = bench.add(labels=("b",), priority=0)
    assert [task.id for task in bench.store.claimable(at=bench.now, limit=0, labels=["a", "b"])] == [both]
    assert claims(bench, labels=["a", "b"]) == [both]
    assert claims(bench, labels=["b"]) == [one]
    assert claims(bench, labels=["%", "'"]) == []


def test_no_more_runs_are_opened_than_may_be(bench: Bench) -> None:
    tasks = [bench.add() for _ in range(3)]
    for _ in range(2):
        assert bench.claim(max_running=2) is not None
    before = bench.everything()
    with pytest.raises(Busy, match="2 runs are open and the limit is 2"):
        bench.claim(max_running=2)
    with pytest.raises(Busy):
        bench.claim(tasks[2], max_running=2)
    assert bench.everything() == before
    bench.start(bench.token(tasks[0]))
    bench.end(bench.token(tasks[0]))
    assert bench.claim(max_running=2) is not None


@pytest.mark.parametrize("situation", ["launching", "undoing", "stuck", "started", "asking"])
def test_the_limit_counts_open_runs_whatever_their_tasks_status(bench: Bench, situation: str) -> None:
    SITUATIONS[situation][1](bench)
    bench.add()
    with pytest.raises(Busy):
        bench.claim(max_running=1)


def test_a_full_house_is_no_news_when_nothing_is_ready(bench: Bench) -> None:
    SITUATIONS["started"][1](bench)
    assert bench.claim(max_running=1) is None


def test_a_held_task_says_why_it_cannot_be_claimed(bench: Bench) -> None:
    parent = bench.add()
    child = bench.add(after=(parent,))
    with pytest.raises(Refused, match=f"task {child} is held: 1 of the tasks"):
        bench.claim(child)


def test_a_retried_run_gets_a_number_of_its_own(bench: Bench) -> None:
    task = bench.add(retries=2)
    for code in (1, 2):
        bench.finish(task, code)
        bench.store.edit(task, {"not_before": None}, None, at=bench.tick())
    token = bench.claimed(task)
    assert [run.number for run in bench.store.runs(task)] == [1, 2, 3]
    assert bench.store.task(task).run == bench.store.run(token)
    bench.start(token)
    assert bench.end(token, exited(3, at=bench.now)).status is Status.FAILED


def test_a_clock_that_was_put_back_does_not_make_a_short_wait_long(bench: Bench) -> None:
    """Nor does it start what the user put off: that is about the clock on the wall."""
    failed, wished = bench.add(recoveries=3), bench.add(not_before=bench.now + 10_000)
    token = bench.claimed(failed)
    bench.begin_undo(token)
    bench.close_undone(token)
    before = bench.store.task(failed)
    assert before.not_before is not None
    assert bench.store.shorten_waits(at=bench.now) == []
    an_hour_ago = bench.now - 3_600_000
    assert bench.store.shorten_waits(at=an_hour_ago) == [failed]
    assert [task.id for task in bench.store.claimable(at=an_hour_ago, limit=0)] == [failed]
    assert bench.store.task(wished).not_before is not None
    assert bench.store.shorten_waits(at=an_hour_ago) == []
    assert_replayed(bench.backend, bench.store.events())
