"""Every verb in every situation: where it leads, and that whatever refuses changes nothing."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from dispatchctl.errors import NoSuchTask, Refused
from dispatchctl.store.protocol import Store
from dispatchctl.task import NEXT, Activity, Actor, Ask, Cause, Life, Phase, Report, Status
from dispatchctl.verdict import Ending
from store.bench import CLEAN, DIRTY, IDLE, NOWHERE, SITUATIONS, WINDOW, Bench, asking, assert_replayed, started

B, R, I, K = Status.BACKLOG, Status.READY, Status.IN_PROGRESS, Status.BLOCKED  # noqa: E741 - one column each
V, D, F, C = Status.IN_REVIEW, Status.DONE, Status.FAILED, Status.CANCELLED

WITHOUT_OPEN_RUN = {name: SITUATIONS[name][0] for name in IDLE}
RUNNING = {"launching": I, "started": I, "asking": K}
HAS_CLOSED_RUN = {"asked": K, "in_review": V, "done": D, "failed": F}

Verb = Callable[[Bench, int, str], object]
VERBS: Mapping[str, tuple[Verb, Mapping[str, Status]]] = {
    "edit": (lambda b, task, _: b.store.edit(task, {"priority": 4}, None, at=b.tick()), WITHOUT_OPEN_RUN),
    "release": (lambda b, task, _: b.store.release([task], at=b.tick()), {"backlog": R}),
    "retry": (
        lambda b, task, _: b.store.retry(task, note="again", fresh=False, recoveries=3, at=b.tick()),
        {"asked": R, "in_review": R, "done": R, "failed": R, "cancelled": R},
    ),
    "approve": (lambda b, task, _: b.store.approve([task], at=b.tick()), {"in_review": D}),
    "reject": (
        lambda b, task, _: b.store.reject(task, note="better", recoveries=3, at=b.tick()),
        {"in_review": R},
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
    "close_undone": (lambda b, _, token: b.close_undone(token), {"undoing": R, "stuck": R}),
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
    "note_merged": (lambda b, _, token: b.store.note_merged(token, "f" * 40, at=b.tick()), {"in_review": D, "done": D}),
    "note_pull_request": (
        lambda b, _, token: b.store.note_pull_request(token, "https://example.invalid/1", at=b.tick()),
        {"in_review": V, "done": D},
    ),
    "leave_place": (lambda b, _, token: b.store.leave_place(token, at=b.tick()), HAS_CLOSED_RUN),
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
    "approve": lambda store, task: store.approve([task], at=1),
    "reject": lambda store, task: store.reject(task, note="better", recoveries=3, at=1),
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
