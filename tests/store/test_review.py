"""What a human says of work in review, and by how much the tries that follow by themselves are put off."""

from collections.abc import Callable
from typing import Any

import pytest

from dispatchctl.errors import Refused
from dispatchctl.task import Actor, Cause, Event, Status
from dispatchctl.verdict import Cure, Ending
from store.bench import SITUATIONS, Bench, assert_replayed, exited


def in_review(bench: Bench) -> int:
    return SITUATIONS["in_review"][1](bench)


def test_an_approved_task_releases_its_children_in_the_same_transaction(bench: Bench) -> None:
    parent, other = in_review(bench), bench.add()
    child, waits_on = bench.add(after=(parent,)), bench.add(after=(parent, other))
    assert [task.id for task in bench.store.claimable(at=bench.tick(), limit=0)] == [other]
    (done,) = bench.store.approve([parent], at=bench.tick())
    assert (done.status, done.error) == (Status.DONE, None)
    assert bench.store.task(child).ready_at == bench.now
    assert [task.id for task in bench.store.claimable(at=bench.tick(), limit=0)] == [other, child]
    assert bench.store.task(waits_on).waits == 1
    event = bench.store.events(task=parent)[-1]
    assert (event.kind, event.actor, event.from_status, event.to_status) == (
        "approved",
        Actor.USER,
        Status.IN_REVIEW,
        Status.DONE,
    )


def test_all_are_approved_or_none(bench: Bench) -> None:
    first, second = in_review(bench), SITUATIONS["failed"][1](bench)
    before = bench.everything()
    with pytest.raises(Refused, match=f"task {second} is failed, not in review"):
        bench.store.approve([first, second], at=bench.tick())
    assert bench.everything() == before
    third = in_review(bench)
    assert [task.id for task in bench.store.approve([third, first, third], at=bench.tick())] == [third, first, third]


def test_a_rejected_task_goes_on_in_its_worktree_with_what_was_said(bench: Bench) -> None:
    task = in_review(bench)
    first = bench.store.task(task).run
    assert first is not None
    after = bench.store.reject(task, note="rename it", recoveries=5, at=bench.tick())
    assert (after.status, after.note, after.recoveries_left, after.error, after.result, after.not_before) == (
        Status.READY,
        "rename it",
        5,
        None,
        None,
        None,
    )
    event = bench.store.events(task=task)[-1]
    assert (event.kind, event.actor, event.detail["task"]["note"]) == ("rejected", Actor.USER, "rename it")
    second = bench.store.run(bench.claimed(task))
    assert (second.resumed, second.worktree, second.branch) == (True, first.worktree, first.branch)


@pytest.mark.parametrize("verb", ["approve", "reject"])
@pytest.mark.parametrize("situation", [name for name in SITUATIONS if name != "in_review"])
def test_a_refusal_says_why_and_what_to_type(bench: Bench, verb: str, situation: str) -> None:
    task = SITUATIONS[situation][1](bench)
    verbs: dict[str, Callable[[], object]] = {
        "approve": lambda: bench.store.approve([task], at=bench.tick()),
        "reject": lambda: bench.store.reject(task, note="better", recoveries=3, at=bench.tick()),
    }
    with pytest.raises(Refused) as refused:
        verbs[verb]()
    is_open = situation in ("launching", "started", "undoing", "stuck", "asking")
    assert f"task {task} " in refused.value.message
    assert (f"is {bench.status(task)}, not in review" in refused.value.message) is not is_open
    assert str(task) in (refused.value.hint or "")


# ----------------------------------------------------------------------------------------------------------- waits


def waits_s(bench: Bench, task: int) -> int:
    """For how long the task is put off from its last write on, in seconds; 0 for one that is not."""
    not_before = bench.store.task(task).not_before
    return 0 if not_before is None else (not_before - bench.now) // 1000


def lose(bench: Bench, task: int) -> int:
    token = bench.claimed(task)
    bench.start(token)
    bench.end(token, Ending(Cause.HANGUP, bench.now + 1000, server_lives=False))
    return wait_over(bench, task)


def fail(bench: Bench, task: int) -> int:
    token = bench.claimed(task)
    bench.start(token)
    bench.end(token, exited(1, at=bench.now + 1000))
    return wait_over(bench, task)


def undo(bench: Bench, task: int, cure: Cure = Cure.AGAIN) -> int:
    token = bench.claimed(task)
    bench.begin_undo(token)
    bench.close_undone(token, cure=cure)
    return wait_over(bench, task)


def wait_over(bench: Bench, task: int) -> int:
    waited = waits_s(bench, task)
    bench.now += waited * 1000
    return waited


def test_retries_and_recoveries_wait_ever_longer_each_for_itself(bench: Bench) -> None:
    task = bench.add(retries=9, recoveries=9)
    assert [fail(bench, task), fail(bench, task), fail(bench, task)] == [15, 30, 60]
    assert [lose(bench, task), undo(bench, task), lose(bench, task)] == [15, 30, 60]
    assert [fail(bench, task), lose(bench, task)] == [120, 120]


def test_what_waits_for_others_waits_ever_longer_but_makes_no_other_wait_longer(bench: Bench) -> None:
    task = bench.add()
    assert [undo(bench, task, Cure.WAITING) for _ in range(9)] == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert lose(bench, task) == 15
    assert undo(bench, task, Cure.WAITING) == 60, "it had started meanwhile"
    bench.store.edit(task, {"priority": 1}, None, at=bench.tick())
    assert undo(bench, task, Cure.WAITING) == 60, "and then a human changed it"
    bench.store.cancel(task, at=bench.tick())
    bench.store.retry(task, note=None, fresh=False, recoveries=3, at=bench.tick())
    assert [undo(bench, task, Cure.WAITING) for _ in range(2)] == [60, 120]


# ---------------------------------------------------------------------------------------- what waits for several merges


def a_child(bench: Bench, parents: int = 3, **fields: Any) -> tuple[list[int], int]:
    """Parents that are done and not merged, and a task that is to run after them."""
    done = [SITUATIONS["done"][1](bench) for _ in range(parents)]
    return done, bench.add(after=tuple(done), **fields)


def merge(bench: Bench, task: int, commit: str = "f" * 40) -> None:
    bench.store.note_merged(bench.token(task), commit, at=bench.tick())


def claimable(bench: Bench) -> list[int]:
    return [task.id for task in bench.store.claimable(at=bench.tick(), limit=0)]


def last_event(bench: Bench, task: int) -> Event:
    return bench.store.events(task=task)[-1]


def test_a_merge_has_what_waits_for_it_tried_at_once(bench: Bench) -> None:
    (first, second, _), child = a_child(bench)
    for _ in range(5):
        undo(bench, child, Cure.WAITING)
    bench.now -= 60_000
    assert claimable(bench) == []
    merge(bench, first)
    task, event = bench.store.task(child), last_event(bench, child)
    assert (task.status, task.not_before, task.ready_at) == (Status.READY, None, bench.now)
    assert (event.kind, event.actor, event.detail["task"]) == ("parent_merged", Actor.USER, {"not_before": None})
    assert event.detail["why"] == f"task {first}, which it is to run after, was merged"
    assert_replayed(bench.backend, bench.store.events())
    assert claimable(bench) == [child]
    before = bench.everything()
    merge(bench, first)
    assert bench.everything() == before, "said again, changes nothing"
    assert undo(bench, child, Cure.WAITING) == 60, "and it waits as at first"
    merge(bench, second)
    assert undo(bench, child, Cure.WAITING) == 60, "also if it was due already"
    assert_replayed(bench.backend, bench.store.events())


def test_a_merge_in_the_middle_of_a_try_makes_its_wait_short(bench: Bench) -> None:
    (first, *_), child = a_child(bench)
    for _ in range(8):
        undo(bench, child, Cure.WAITING)
    token = bench.claimed(child)
    bench.begin_undo(token)
    merge(bench, first)
    bench.close_undone(token, cure=Cure.WAITING)
    assert wait_over(bench, child) == 60
    assert_replayed(bench.backend, bench.store.events())


def test_a_merge_moves_no_time_that_was_meant(bench: Bench) -> None:
    """Neither one that a human said, nor that of a task which has started; and one that was not tried yet hears nothing."""
    (parent, *_), asked = a_child(bench)
    undo(bench, asked, Cure.WAITING)
    later = bench.now + 9_000_000
    bench.store.edit(asked, {"not_before": later}, None, at=bench.tick())
    new, failed, works, done = (bench.add(after=(parent,), not_before=None, retries=1) for _ in range(4))
    token = bench.claimed(failed)
    bench.start(token)
    put_off = bench.end(token, exited(1, at=bench.now)).not_before
    bench.start(bench.claimed(works))
    bench.finish(done)
    before = [last_event(bench, task) for task in (new, failed, works, done)]
    merge(bench, parent)
    assert (bench.store.task(asked).not_before, bench.store.task(failed).not_before) == (later, put_off)
    assert [last_event(bench, task) for task in (new, failed, works, done)] == before
    assert_replayed(bench.backend, bench.store.events())


def test_a_merge_moves_nothing_of_a_child_that_waits_for_another_parent(bench: Bench) -> None:
    (parent, other, _), child = a_child(bench)
    undo(bench, child, Cure.WAITING)
    bench.store.retry(other, note=None, fresh=False, recoveries=3, at=bench.tick())
    merge(bench, parent)
    task = bench.store.task(child)
    assert (task.not_before, task.waits, task.ready_at) == (None, 1, None)
    assert claimable(bench) == [other]


@pytest.mark.parametrize("changed", [{"base": "next"}, {"after": ()}, {"priority": 1}])
def test_a_task_that_is_to_start_from_elsewhere_is_tried_at_once(bench: Bench, changed: dict[str, Any]) -> None:
    _, child = a_child(bench)
    undo(bench, child, Cure.WAITING)
    bench.now -= 30_000
    after = changed.pop("after", None)
    bench.store.edit(child, changed, after, at=bench.tick())
    assert claimable(bench) == ([] if "priority" in changed else [child])
    assert_replayed(bench.backend, bench.store.events())


@pytest.mark.parametrize("how", ["retry", "reject", "unblock"])
def test_what_a_human_gives_back_begins_with_a_short_wait(bench: Bench, how: str) -> None:
    task = bench.add(retries=9, recoveries=9, review=how == "reject")
    assert [fail(bench, task), fail(bench, task), lose(bench, task)] == [15, 30, 15]
    token = bench.claimed(task)
    bench.start(token)
    if how == "unblock":
        bench.store.block(token, "which?", actor=Actor.AGENT, at=bench.tick())
    bench.end(token, exited(0, at=bench.now))
    if how == "retry":
        bench.store.retry(task, note=None, fresh=False, recoveries=9, at=bench.tick())
    elif how == "reject":
        bench.store.reject(task, note="better", recoveries=9, at=bench.tick())
    else:
        bench.store.unblock(task, note="that one", at=bench.tick())
    assert [fail(bench, task), fail(bench, task), lose(bench, task), lose(bench, task)] == [15, 30, 15, 30]


def test_tries_that_were_edited_in_between_do_no_harm(bench: Bench) -> None:
    task = bench.add(retries=2)
    assert fail(bench, task) == 15
    bench.store.edit(task, {"retries_left": 50}, None, at=bench.tick())
    assert fail(bench, task) == 15
