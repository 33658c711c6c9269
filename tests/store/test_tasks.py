"""What a user does to tasks: several at once, adding, editing, removing, answering."""

from typing import Any

import pytest

from dispatchctl.errors import NoSuchTask, Refused
from dispatchctl.task import Actor, Status
from store.bench import IDLE, SITUATIONS, Bench


@pytest.mark.parametrize("verb", ["release", "remove"])
def test_what_is_done_to_several_tasks_is_done_to_all_or_none(bench: Bench, verb: str) -> None:
    first, second = bench.add(backlog=True), SITUATIONS["launching"][1](bench)
    before = bench.everything()
    with pytest.raises(Refused):
        getattr(bench.store, verb)([first, second], at=bench.tick())
    assert bench.everything() == before


@pytest.mark.parametrize("verb", ["release", "remove"])
def test_a_task_that_is_named_twice_is_done_once(bench: Bench, verb: str) -> None:
    task = bench.add(backlog=True)
    getattr(bench.store, verb)([task, task], at=bench.tick())
    assert len(bench.store.events(task=task)) == 2


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_task_is_removed_only_without_an_open_run(bench: Bench, situation: str) -> None:
    task = SITUATIONS[situation][1](bench)
    before = bench.everything()
    if situation in IDLE:
        bench.store.remove([task], at=bench.tick())
        assert bench.store.tasks() == []
        assert bench.store.events()[-1].kind == "removed"
    else:
        with pytest.raises(Refused, match=f"task {task} cannot be removed"):
            bench.store.remove([task], at=bench.tick())
        assert bench.everything() == before


def test_tasks_are_added_all_or_none(bench: Bench) -> None:
    with pytest.raises(NoSuchTask, match="99"):
        bench.add(after=(99,))
    assert bench.store.tasks() == []
    assert bench.store.events() == []


def test_an_added_task_reads_back_as_it_was_given(bench: Bench) -> None:
    parent = bench.add()
    given: dict[str, Any] = {
        "title": "; rm -rf / #{q} 'é'\n",
        "prompt": "\u2028\x1b[31m",
        "repo": "/r",
        "base": "origin/x",
        "agent": "codex",
        "priority": 0,
        "labels": ("a b", "ü,"),
        "after": (parent,),
        "review": True,
        "timeout_s": 0,
        "not_before": 5,
    }
    task = bench.store.task(bench.add(**given, retries=2, recoveries=1))
    assert {name: getattr(task, name) for name in given} == given
    assert (task.retries_left, task.recoveries_left, task.status, task.run) == (2, 1, Status.READY, None)


def test_an_edit_changes_what_it_names(bench: Bench) -> None:
    task = bench.add(title="old", labels=("a",), review=False)
    after = bench.store.edit(task, {"title": "new", "labels": ("b", "c"), "review": True}, None, at=bench.tick())
    assert (after.title, after.labels, after.review, after.prompt) == ("new", ("b", "c"), True, "now")
    assert after.updated_at == bench.now


def test_an_edit_of_nothing_leaves_no_event(bench: Bench) -> None:
    task = bench.add()
    before = bench.everything()
    bench.store.edit(task, {}, None, at=bench.tick())
    assert bench.everything() == before


@pytest.mark.parametrize("column", ["status", "newest_run", "waits", "title = '', priority"])
def test_an_edit_cannot_reach_what_is_not_the_users(bench: Bench, column: str) -> None:
    task = bench.add()
    with pytest.raises(AssertionError):
        bench.store.edit(task, {column: "done"}, None, at=bench.tick())
    assert bench.status(task) is Status.READY


def test_an_answer_without_words_keeps_what_was_said_before(bench: Bench) -> None:
    task = SITUATIONS["failed"][1](bench)
    bench.store.retry(task, note="mind the gap", fresh=False, recoveries=3, at=bench.tick())
    token = bench.claimed(task)
    bench.start(token)
    bench.store.block(token, "which one?", actor=Actor.AGENT, at=bench.tick())
    assert bench.store.unblock(task, note=None, at=bench.tick()).note == "mind the gap"
