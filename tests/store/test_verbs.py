"""Every verb in every situation: where it leads, and that whatever refuses changes nothing."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dispatchctl.errors import NoSuchTask, Refused
from dispatchctl.store.protocol import Store
from dispatchctl.task import NEXT, Activity, Actor, Ask, Cause, Life, Phase, Report, Status
from dispatchctl.verdict import Ending
from store.bench import CLEAN, DIRTY, NOWHERE, SITUATIONS, WINDOW, Bench, asking, assert_replayed, exited, started

B, R, I, K = Status.BACKLOG, Status.READY, Status.IN_PROGRESS, Status.BLOCKED  # noqa: E741 - one column each
V, D, F, C = Status.IN_REVIEW, Status.DONE, Status.FAILED, Status.CANCELLED

IDLE = {"backlog": B, "ready": R, "asked": K, "in_review": V, "done": D, "failed": F, "cancelled": C}
RUNNING = {"launching": I, "started": I, "asking": K}
HAS_CLOSED_RUN = {"asked": K, "in_review": V, "done": D, "failed": F}

Verb = Callable[[Bench, int, str], object]
VERBS: Mapping[str, tuple[Verb, Mapping[str, Status]]] = {
    "edit": (lambda b, task, _: b.store.edit(task, {"priority": 4}, None, at=b.tick()), IDLE),
    "release": (lambda b, task, _: b.store.release([task], at=b.tick()), {"backlog": R}),
    "retry": (
        lambda b, task, _: b.store.retry(task, note="again", fresh=False, recoveries=3, at=b.tick()),
        {"asked": R, "in_review": R, "done": R, "failed": R, "cancelled": R},
    ),
    "cancel": (
        lambda b, task, _: b.store.cancel(task, at=b.tick()),
        {"backlog": C, "ready": C, "asked": C, "in_review": C, "failed": C},
    ),
    "unblock": (lambda b, task, _: b.store.unblock(task, note="that one", at=b.tick()), {"asking": I, "asked": R}),
    "resolve done": (
        lambda b, task, _: b.store.resolve(task, Report.DONE, "fine", at=b.tick()),
        {"asked": D, "in_review": D},
    ),
    "resolve fail": (lambda b, task, _: b.store.resolve(task, Report.FAIL, "no", at=b.tick()), {"asked": F}),
    "claim": (lambda b, task, _: b.claim(task), {"ready": I}),
    "note_base": (
        lambda b, _, token: b.store.note_base(
            token, base_commit="f" * 40, owns_tree=True, owns_branch=True, at=b.tick()
        ),
        {"launching": I},
    ),
    "note_window": (
        lambda b, _, token: b.store.note_window(token, WINDOW, at=b.tick()),
        {**RUNNING, **HAS_CLOSED_RUN},
    ),
    "start": (lambda b, _, token: refused_if_false(b.start(token)), {"launching": I}),
    "begin_undo": (
        lambda b, _, token: refused_if_false(b.begin_undo(token)),
        {"launching": I, "undoing": I, "stuck": F},
    ),
    "undo_failed": (
        lambda b, _, token: b.store.undo_failed(token, "the pane stands", actor=Actor.RECONCILE, at=b.tick()),
        {"undoing": F, "stuck": F},
    ),
    "close_undone": (lambda b, _, token: b.close_undone(token), {"undoing": R, "stuck": F}),
    "close_ended": (lambda b, _, token: b.end(token), {"started": D, "asking": K, **HAS_CLOSED_RUN}),
    "report": (
        lambda b, _, token: b.store.report(token, Report.DONE, "did it", actor=Actor.AGENT, at=b.tick()),
        RUNNING,
    ),
    "block": (
        lambda b, _, token: b.store.block(token, None, actor=Actor.AGENT, at=b.tick()),
        {"started": K, "asking": K},
    ),
    "ask": (lambda b, _, token: b.store.ask(token, Ask.CANCEL, actor=Actor.USER, at=b.tick()), RUNNING),
    "heartbeat": (
        lambda b, _, token: b.store.heartbeat(token, Activity.WORKING, at=b.tick()),
        {"started": I, "asking": K},
    ),
    "sighted": (
        lambda b, _, token: b.store.sighted(token, Life.ALIVE, at=b.tick()),
        {name: status for name, (status, _) in SITUATIONS.items()},
    ),
}
SAYS_NOTHING_NEW = {
    *(("close_ended", name) for name in HAS_CLOSED_RUN),
    *(("begin_undo", name) for name in ("undoing", "stuck")),
    *(("sighted", name) for name in IDLE),
}
"""Allowed, and without effect: it is so already."""
LEAVES_NO_EVENT = {"heartbeat", "sighted"}


def refused_if_false(answer: bool) -> None:
    """The two verbs whose refusal is an ordinary answer."""
    if not answer:
        raise Refused("no row matched")


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_leads_where_it_should_or_changes_nothing(bench: Bench, verb: str, situation: str) -> None:
    do, allowed = VERBS[verb]
    status, bring_about = SITUATIONS[situation]
    task = bring_about(bench)
    token = bench.token(task)
    assert bench.status(task) is status
    before, count = bench.everything(), len(bench.store.events())

    if situation not in allowed:
        with pytest.raises(Refused) as refusal:
            do(bench, task, token)
        assert refusal.value.message
        assert bench.everything() == before
        return

    do(bench, task, token)
    assert bench.status(task) is allowed[situation]
    event = bench.store.events(task=task)[-1]
    if (verb, situation) in SAYS_NOTHING_NEW:
        assert bench.everything() == before
    elif verb in LEAVES_NO_EVENT:
        assert len(bench.store.events()) == count
        assert bench.everything() != before
    else:
        moved = (status, allowed[situation]) if allowed[situation] is not status else (None, None)
        assert (event.from_status, event.to_status) == moved
        assert event.at == bench.now
        assert len(bench.store.events()) > count
    assert_replayed(bench.backend, bench.store.events())


ENDINGS: Mapping[str, tuple[Mapping[str, Any], Status]] = {
    "reported done": ({"report": Report.DONE}, D),
    "reported done, not committed": ({"report": Report.DONE, "changes": DIRTY}, V),
    "reported failed": ({"report": Report.FAIL}, F),
    "reported failed, to be retried": ({"report": Report.FAIL, "retries": 1}, R),
    "cancelled": ({"ask": Ask.CANCEL}, C),
    "timed out": ({"ask": Ask.TIMEOUT}, F),
}


@pytest.mark.parametrize("bring_about", [started, asking])
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_open_run_ends_where_it_was_asked_to(bench: Bench, bring_about: Callable[..., int], ending: str) -> None:
    said, status = ENDINGS[ending]
    task = bring_about(bench, retries=said.get("retries", 0))
    token = bench.token(task)
    if report := said.get("report"):
        bench.store.report(token, report, None, actor=Actor.AGENT, at=bench.tick())
    if ask := said.get("ask"):
        bench.store.ask(token, ask, actor=Actor.USER, at=bench.tick())
    after = bench.end(token, Ending(Cause.ASKED, bench.now, signal=15), said.get("changes", CLEAN))
    assert after.status is status
    assert bench.store.run(token).phase is Phase.CLOSED


def test_the_verbs_reach_every_transition_of_the_table_and_no_other() -> None:
    reached = {
        (SITUATIONS[situation][0], after)
        for _, allowed in VERBS.values()
        for situation, after in allowed.items()
        if after is not SITUATIONS[situation][0]
    }
    reached |= {(before, after) for before in (I, K) for _, after in ENDINGS.values()}
    assert reached == {(before, after) for before, afters in NEXT.items() for after in afters}


TASK_VERBS: Mapping[str, Callable[[Store, int], object]] = {
    "task": lambda store, task: store.task(task),
    "runs": lambda store, task: store.runs(task),
    "edit": lambda store, task: store.edit(task, {"title": "x"}, None, at=1),
    "remove": lambda store, task: store.remove([task], at=1),
    "release": lambda store, task: store.release([task], at=1),
    "retry": lambda store, task: store.retry(task, note=None, fresh=False, recoveries=3, at=1),
    "cancel": lambda store, task: store.cancel(task, at=1),
    "unblock": lambda store, task: store.unblock(task, note=None, at=1),
    "resolve": lambda store, task: store.resolve(task, Report.DONE, None, at=1),
}


@pytest.mark.parametrize("verb", TASK_VERBS)
def test_an_id_that_names_no_task_is_said_so(bench: Bench, verb: str) -> None:
    bench.add()
    before = bench.everything()
    with pytest.raises(NoSuchTask, match="there is no task 99"):
        TASK_VERBS[verb](bench.store, 99)
    assert bench.everything() == before


def test_a_claim_of_no_task_is_said_so(bench: Bench) -> None:
    with pytest.raises(NoSuchTask):
        bench.claim(99)


def test_a_token_that_names_no_run_is_refused(bench: Bench) -> None:
    with pytest.raises(Refused, match=f"there is no run {NOWHERE}"):
        bench.store.run(NOWHERE)


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
