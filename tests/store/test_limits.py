"""What is not started now: pauses, and limits in all, in a repository, and of an agent; and who passes by it."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatchctl.errors import QueueFull, Refused
from dispatchctl.store import open_store
from dispatchctl.store.protocol import Pause, Room, UnknownLimit
from dispatchctl.store.room import BLOCKED
from dispatchctl.task import Actor, Event, NewTask, Status
from store.bench import SITUATIONS, Bench
from store.crowd import LIMITS, at_once, claim_within

FREE = Room(0)


def claims(bench: Bench, room: Room = FREE) -> Iterator[int]:
    """The tasks that are claimed one after the other until nothing is, or something keeps the rest."""
    while True:
        try:
            run = bench.claim(room=room)
        except QueueFull:
            return
        if run is None:
            return
        yield run.task


def ready(bench: Bench, room: Room | None = None) -> list[int]:
    return [task.id for task in bench.store.claimable(at=bench.now, limit=0, room=room)]


# -- pauses ------------------------------------------------------------------------------------------------------------


def test_a_paused_queue_starts_nothing_until_it_goes_on(bench: Bench) -> None:
    task = bench.add()
    assert bench.store.pause("", reason="lunch", at=1_767_225_600_000)
    before = bench.everything()
    says = r"the queue has been paused since 2026-01-01T00:00:00.000Z \(lunch\)"
    with pytest.raises(QueueFull, match=says) as full:
        bench.claim()
    with pytest.raises(Refused, match=f"task {task} was not started: {says}") as refused:
        bench.claim(task)
    assert full.value.hint == refused.value.hint == "dispatchctl unpause"
    assert ready(bench) == []
    assert bench.everything() == before
    assert bench.store.unpause("")
    assert ready(bench) == list(claims(bench)) == [task]


def test_a_paused_queue_is_no_news_when_nothing_is_ready(bench: Bench) -> None:
    bench.store.pause("", reason=None, at=1)
    assert bench.claim() is None


def test_what_runs_goes_on_in_a_paused_queue(bench: Bench) -> None:
    task = SITUATIONS["started"][1](bench)
    bench.store.pause("", reason=None, at=bench.tick())
    assert bench.end(bench.token(task)).status is Status.DONE


def test_a_paused_repository_lets_the_others_pass(bench: Bench) -> None:
    kept, late, soon = bench.add(repo="/a b", priority=0), bench.add(repo="/b", priority=3), bench.add(repo="/c")
    bench.store.pause("/a b", reason=None, at=bench.tick())
    assert ready(bench) == [soon, late]
    with pytest.raises(Refused, match="/a b has been paused since") as refused:
        bench.claim(kept)
    assert refused.value.hint == "dispatchctl unpause --repo '/a b'"
    assert list(claims(bench)) == [soon, late]
    with pytest.raises(QueueFull, match="/a b has been paused since"):
        bench.claim()
    assert [id for id, _, _ in bench.store.line(at=bench.now)] == [kept], "a pause is not out of the line"
    bench.store.unpause("/a b")
    assert list(claims(bench)) == [kept]


def test_the_first_pause_stays_as_it_is_and_one_unpause_takes_it_away(bench: Bench) -> None:
    assert bench.store.pause("/b", reason="why", at=1)
    assert not bench.store.pause("/b", reason="another", at=2)
    assert bench.store.pause("", reason=None, at=3)
    other = bench.backend.open()
    assert other.pauses() == [Pause("", 3, None), Pause("/b", 1, "why")], "it is for everybody, and survives them"
    assert other.unpause("")
    assert bench.store.pauses() == [Pause("/b", 1, "why")]
    assert not bench.store.unpause("")


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_full_repository_lets_the_others_pass(bench: Bench) -> None:
    full = [bench.add(repo="/full", priority=0) for _ in range(4)]
    others = [bench.add(repo="/free") for _ in range(2)]
    room = Room(0, {"/full": 2, "/free": 0})
    assert list(claims(bench, room)) == [*full[:2], *others]
    says = "2 runs are open in /full and its limit, dispatch.max_per_repo, is 2"
    with pytest.raises(QueueFull, match=says) as error:
        bench.claim(room=room)
    assert error.value.hint == "dispatchctl config dispatch.max_per_repo --repo /full"
    with pytest.raises(QueueFull, match=f"task {full[2]} was not started: {says}"):
        bench.claim(full[2], room=room)
    bench.start(bench.token(full[0]))
    bench.end(bench.token(full[0]))
    assert list(claims(bench, room)) == [full[2]]


def test_a_full_agent_lets_the_others_pass(bench: Bench) -> None:
    slow = [bench.add(agent="claude", priority=0) for _ in range(2)]
    other = bench.add(agent="codex")
    room = Room(0, None, {"claude": 1})
    assert list(claims(bench, room)) == [slow[0], other]
    says = "1 run is open of agent claude and its limit, agents.claude.max_running, is 1"
    with pytest.raises(QueueFull, match=says) as error:
        bench.claim(slow[1], room=room)
    assert error.value.hint == "dispatchctl agents"


def test_runs_that_wait_for_a_human_are_named_where_a_limit_keeps_the_rest(bench: Bench) -> None:
    tasks = [bench.add(repo="/full", agent="claude") for _ in range(3)]
    blocked = ", 1 of them blocked and waiting for you, and"
    rooms = {
        f"2 runs are open{blocked} the limit is 2": (Room(2), BLOCKED),
        f"2 runs are open in /full{blocked} its limit, dispatch.max_per_repo, is 2": (
            Room(0, {"/full": 2}),
            f"{BLOCKED} --repo /full",
        ),
        f"2 runs are open of agent claude{blocked} its limit, agents.claude.max_running, is 2": (
            Room(0, None, {"claude": 2}),
            BLOCKED,
        ),
    }
    for task in tasks[:2]:
        bench.claim(task)
        bench.start(bench.token(task))
    bench.store.block(bench.token(tasks[0]), "which?", actor=Actor.AGENT, at=bench.now)
    for says, (room, hint) in rooms.items():
        with pytest.raises(QueueFull) as full:
            bench.claim(room=room)
        assert (full.value.message, full.value.hint) == (says, hint)
    bench.store.unblock(tasks[0], note=None, at=bench.now)
    with pytest.raises(QueueFull, match="2 runs are open and the limit is 2"):
        bench.claim(room=Room(2))


def test_the_limit_in_all_says_how_to_raise_it_for_once(bench: Bench) -> None:
    tasks = [bench.add() for _ in range(2)]
    bench.claim(max_running=1)
    with pytest.raises(QueueFull) as some:
        bench.claim(max_running=1)
    with pytest.raises(QueueFull) as named:
        bench.claim(tasks[1], max_running=1)
    assert some.value.hint == "dispatchctl dispatch --max-running 2"
    assert named.value.hint == f"dispatchctl dispatch {tasks[1]} --max-running 2"
    assert named.value.message == f"task {tasks[1]} was not started: 1 run is open and the limit is 1"


def test_a_limit_that_nobody_has_looked_up_is_asked_for_and_nothing_changes(bench: Bench) -> None:
    bench.claimed(bench.add(repo="/new"))
    task = bench.add(repo="/new", not_before=bench.now + 1)
    bench.now += 10_000
    before = bench.everything()
    for named in (None, task):
        with pytest.raises(UnknownLimit) as unknown:
            bench.claim(named, room=Room(0, {"/known": 1}))
        assert unknown.value.repo == "/new"
    with pytest.raises(UnknownLimit):
        ready(bench, Room(0, {}))
    assert bench.everything() == before
    assert list(claims(bench, Room(0, {"/new": 2}))) == [task]


def test_a_repository_without_open_runs_is_not_asked_for(bench: Bench) -> None:
    task = bench.add(repo="/new")
    assert ready(bench, Room(1, {})) == list(claims(bench, Room(1, {}))) == [task]


@pytest.mark.parametrize("seed", range(8))
def test_a_claim_takes_the_best_of_what_nothing_keeps(bench: Bench, seed: int) -> None:
    """Beside a model that looks at every task: the same choice, whatever is paused or full; and `claimable` says it before."""
    chance = random.Random(seed)
    room = Room(12, {repo: chance.randint(0, 3) for repo in ("/a", "/b", "/c")}, {"x": 2, "y": chance.randint(0, 5)})
    for _ in range(40):
        labels = chance.sample(["l", "m"], chance.randint(0, 2))
        where = {"repo": chance.choice(("/a", "/b", "/c")), "agent": chance.choice("xyz")}
        bench.add(priority=chance.randint(0, 4), labels=tuple(labels), **where)
    for _ in range(30):
        if chance.random() < 0.3:
            repo = chance.choice(("/a", "/b", "/c"))
            bench.store.unpause(repo) or bench.store.pause(repo, reason=None, at=1)
        labels = chance.choice(([], ["l"], ["l", "m"]))
        besides = chance.sample(range(1, 41), 3)
        expected = _allowed(bench, room, set(labels), set(besides))
        options: dict[str, Any] = {"labels": labels, "besides": besides, "room": room}
        assert [task.id for task in bench.store.claimable(at=bench.now, limit=0, **options)] == expected
        try:
            run = bench.claim(**options)
        except QueueFull:
            run = None
        assert (run.task if run else None) == next(iter(expected), None)
        if chance.random() < 0.5 and (open_runs := bench.store.open_runs()):
            bench.start(token := chance.choice(open_runs).token)
            bench.end(token)


def _allowed(bench: Bench, room: Room, labels: set[str], besides: set[int]) -> list[int]:
    runs, paused = bench.store.open_runs(), {pause.repo for pause in bench.store.pauses()}
    repos, agents = Counter(run.repo for run in runs), Counter(run.agent for run in runs)
    limits = room.in_repository or {}
    return [
        task.id
        for task in sorted(bench.store.tasks(status=[Status.READY]), key=lambda task: (task.priority, task.id))
        if len(runs) < room.in_all
        and labels <= set(task.labels)
        and task.id not in besides
        and task.repo not in paused
        and repos[task.repo] < (limits[task.repo] or 99)
        and agents[task.agent] < (room.of_agent.get(task.agent) or 99)
    ]


def test_dispatchers_that_race_never_open_more_runs_than_any_limit_allows(tmp_path: Path) -> None:
    path = str(tmp_path / "tasks.db")
    store = open_store(path, create=True)
    new = [NewTask("Do it", "now", f"/{'abc'[n % 3]}", "main", "xy"[n % 2]) for n in range(300)]
    store.add(new, actor=Actor.USER, at=0)
    done = at_once(claim_within, path)
    assert sorted(task for each in done for task in each) == list(range(1, 301))
    peaks = most_at_once(store.events())
    assert peaks["all"] == LIMITS.in_all, "they did race, to the brim"
    assert peaks["/a"] <= 2
    assert peaks["x"] <= 3
    store.close()


def most_at_once(events: list[Event]) -> Counter[str]:
    """The most runs that were open at once in all, in each repository and of each agent, as the history says."""
    where, now, most = dict[str, tuple[str, str, str]](), Counter[str](), Counter[str]()
    for event in events:
        run = event.detail.get("run", {})
        if event.kind == "claimed":
            where[str(event.run)] = ("all", run["repo"], run["agent"])
            now.update(where[str(event.run)])
            most |= now
        elif run.get("phase") == "closed":
            now.subtract(where[str(event.run)])
    return most


# -- what comes to be ready --------------------------------------------------------------------------------------------


def test_what_is_ready_but_for_its_time_a_limit_or_a_pause_is_known_at_once(bench: Bench) -> None:
    parent = bench.add(backlog=True)
    bench.add(after=(parent,))
    bench.add(after=(parent,), not_before=bench.now + 1_000)
    assert not bench.store.has_ready(), "all wait for another task"
    late = bench.add(not_before=bench.now + 1_000)
    assert bench.store.has_ready()
    bench.store.cancel(late, at=bench.tick())
    assert not bench.store.has_ready()
    bench.add()
    assert bench.store.has_ready()
    bench.store.pause("", reason=None, at=bench.tick())
    assert bench.store.has_ready()


def test_the_next_moment_is_that_of_a_task_that_waits_for_nothing_else(bench: Bench) -> None:
    assert bench.store.next_due(at=bench.now) is None
    soon, later = bench.now + 100_000, bench.now + 200_000
    parent = bench.add(not_before=later)
    bench.add(after=(parent,), not_before=soon)
    bench.add(backlog=True, not_before=soon)
    assert bench.store.next_due(at=bench.now) == later, "the others wait for more than their time"
    task = bench.add(not_before=soon)
    assert bench.store.next_due(at=soon - 1) == soon
    assert bench.store.next_due(at=soon) == later, "what can be claimed now is not waited for"
    bench.store.cancel(parent, at=bench.tick())
    assert bench.store.next_due(at=soon) is None
    bench.now = later
    assert ready(bench) == [task]
    assert [id for id, _, _ in bench.store.line(at=bench.now)] == [task]
