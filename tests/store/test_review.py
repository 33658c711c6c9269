"""What a human says of work in review, and by how much the tries that follow by themselves are put off."""

from collections.abc import Callable

import pytest

from dispatchctl.errors import Refused
from dispatchctl.task import Actor, Cause, Status
from dispatchctl.verdict import Cure, Ending
from store.bench import SITUATIONS, Bench, exited


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


def test_what_waits_for_others_makes_no_wait_longer(bench: Bench) -> None:
    task = bench.add()
    assert [undo(bench, task, Cure.WAITING) for _ in range(8)] == [60] * 8
    assert lose(bench, task) == 15


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
