"""Tasks that run after others: the counter of unfinished parents, in every way it can change."""

import pytest

from dispatchctl.errors import NoSuchTask, Refused
from dispatchctl.task import Report, Status
from store.bench import SITUATIONS, Bench


def waits(bench: Bench, task: int) -> int:
    """The counter, which always is what counting gives."""
    found = bench.store.task(task)
    unfinished = [parent for parent in found.after if bench.status(parent) is not Status.DONE]
    assert found.waits == len(unfinished)
    parents = bench.store.parents([task])
    assert [parent.id for parent in parents.get(task, [])] == unfinished
    assert parents.keys() == ({task} if unfinished else set())
    return found.waits


def retry(bench: Bench, task: int) -> None:
    """Once more."""
    bench.store.retry(task, note=None, fresh=False, recoveries=3, at=bench.tick())


def test_a_task_waits_for_each_of_its_parents(bench: Bench) -> None:
    first, second = bench.add(), bench.add()
    child = bench.add(after=(second, first))
    assert (bench.store.task(child).after, waits(bench, child)) == ((first, second), 2)
    assert bench.store.children(first) == [child]
    bench.finish(first)
    assert waits(bench, child) == 1
    assert bench.claim() is not None
    assert bench.claim() is None
    token = bench.token(second)
    bench.start(token)
    bench.end(token)
    assert waits(bench, child) == 0
    run = bench.claim()
    assert run is not None
    assert run.task == child


@pytest.mark.parametrize("situation", SITUATIONS)
def test_only_a_parent_that_is_done_lets_its_children_go(bench: Bench, situation: str) -> None:
    parent = SITUATIONS[situation][1](bench)
    child = bench.add(after=(parent,))
    assert waits(bench, child) == (0 if situation == "done" else 1)


def test_a_parent_that_is_named_twice_counts_once(bench: Bench) -> None:
    parent = bench.add()
    child = bench.add(after=(parent, parent))
    assert waits(bench, child) == 1
    bench.finish(parent)
    assert waits(bench, child) == 0


def test_a_failed_or_cancelled_parent_holds_its_children(bench: Bench) -> None:
    failed, cancelled = bench.add(), bench.add()
    child = bench.add(after=(failed, cancelled))
    bench.finish(failed, 1)
    bench.store.cancel(cancelled, at=bench.tick())
    assert waits(bench, child) == 2
    for parent in (failed, cancelled):
        retry(bench, parent)
        assert waits(bench, child) == 2
    bench.finish(failed)
    bench.finish(cancelled)
    assert waits(bench, child) == 0


def test_a_parent_that_is_retried_holds_its_children_again(bench: Bench) -> None:
    parent = bench.add()
    child = bench.add(after=(parent,))
    bench.finish(parent)
    retry(bench, parent)
    assert waits(bench, child) == 1
    assert bench.store.claimable(at=bench.now, limit=0)[0].id == parent
    bench.finish(parent)
    assert waits(bench, child) == 0


@pytest.mark.parametrize("situation", ["launching", "undoing", "started", "asking", "failed"])
def test_a_parent_is_not_retried_once_a_child_has_begun(bench: Bench, situation: str) -> None:
    parent = SITUATIONS["done"][1](bench)
    child = SITUATIONS[situation][1](bench)
    if situation == "failed":
        bench.store.edit(child, {}, [parent], at=bench.tick())
    else:  # a child with an open run cannot be edited, so it is made as one
        child = bench.add(after=(parent,))
        token = bench.claimed(child)
        if situation in ("started", "asking"):
            bench.start(token)
        elif situation == "undoing":
            bench.begin_undo(token)
    before = bench.everything()
    with pytest.raises(Refused, match=f"task {child}, which builds on it, has started"):
        retry(bench, parent)
    assert bench.everything() == before


def test_a_parent_is_retried_after_a_childs_launch_was_undone(bench: Bench) -> None:
    parent = SITUATIONS["done"][1](bench)
    child = bench.add(after=(parent,))
    token = bench.claimed(child)
    bench.begin_undo(token)
    bench.close_undone(token)
    retry(bench, parent)
    assert waits(bench, child) == 1


def test_a_human_finishes_a_parent(bench: Bench) -> None:
    parent = SITUATIONS["in_review"][1](bench)
    child = bench.add(after=(parent,))
    bench.store.resolve(parent, Report.DONE, None, at=bench.tick())
    assert waits(bench, child) == 0


def test_an_edit_of_the_parents_counts_anew(bench: Bench) -> None:
    done, open_, other = SITUATIONS["done"][1](bench), bench.add(), bench.add()
    child = bench.add(after=(open_,))
    for after, expected in ([done], 0), ([done, open_], 1), ([open_, other, done], 2), ([], 0):
        changed = bench.store.edit(child, {}, after, at=bench.tick())
        assert changed.after == tuple(sorted(after))
        assert waits(bench, child) == expected
        assert changed.updated_at == bench.now
        assert bench.store.events(task=child)[-1].detail == {"task": {"after": sorted(after)}}


def test_an_edit_without_parents_leaves_them(bench: Bench) -> None:
    parent = bench.add()
    child = bench.add(after=(parent,))
    bench.store.edit(child, {"title": "x"}, None, at=bench.tick())
    assert waits(bench, child) == 1


def test_a_circle_is_refused(bench: Bench) -> None:
    first = bench.add()
    second = bench.add(after=(first,))
    third = bench.add(after=(second,))
    before = bench.everything()
    for task, after in (first, first), (first, second), (first, third), (second, third):
        with pytest.raises(Refused, match=f"task {task} cannot run after task {after}"):
            bench.store.edit(task, {"title": "x"}, [after], at=bench.tick())
    assert bench.everything() == before
    bench.store.edit(third, {}, [first], at=bench.tick())
    bench.store.edit(second, {}, [third], at=bench.tick())


def test_a_parent_that_does_not_exist_is_said_so(bench: Bench) -> None:
    task = bench.add()
    before = bench.everything()
    with pytest.raises(NoSuchTask, match="99"):
        bench.store.edit(task, {"title": "x"}, [99], at=bench.tick())
    assert bench.everything() == before


def test_a_parent_is_not_removed_before_its_children(bench: Bench) -> None:
    parent = bench.add()
    child = bench.add(after=(parent,))
    before = bench.everything()
    with pytest.raises(Refused, match=f"task {parent} cannot be removed: task {child} is to run after it"):
        bench.store.remove([parent], at=bench.tick())
    assert bench.everything() == before
    bench.store.remove([parent, child], at=bench.tick())
    assert bench.store.tasks() == []


def test_a_removed_child_leaves_its_parent(bench: Bench) -> None:
    parent = bench.add()
    child = bench.add(after=(parent,))
    bench.store.remove([child], at=bench.tick())
    assert bench.store.children(parent) == []
    bench.finish(parent)


def test_the_id_of_a_removed_task_is_not_given_again(bench: Bench) -> None:
    task = bench.add()
    bench.store.remove([task], at=bench.tick())
    assert bench.add() == task + 1
