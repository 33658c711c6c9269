"""Several processes on one database: what each of them does, in a module of its own so that it can be imported there."""

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from dispatchctl.errors import DispatchctlError, QueueFull, Refused
from dispatchctl.store import fence, open_store
from dispatchctl.store.connection import Database
from dispatchctl.store.protocol import Claimant, Room, Sighting, Store
from dispatchctl.task import Activity, Actor, Ask, Cause, NewTask, Report
from dispatchctl.verdict import Changes, Cure, Ending, Policy
from store.bench import names

Answer = TypeVar("Answer")


def at_once(work: Callable[..., Answer], *arguments: Any, processes: int = 8) -> list[Answer]:
    """Call `work(number, processes, *arguments)` in that many processes, which begin together; their answers."""
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = [pool.submit(work, number, processes, *arguments) for number in range(processes)]
        return [each.result(timeout=120) for each in asked]


def meet(directory: str, number: int, processes: int) -> None:
    """Wait until every process has come here."""
    os.makedirs(directory, exist_ok=True)
    open(os.path.join(directory, str(number)), "x").close()
    while len(os.listdir(directory)) < processes:
        time.sleep(0)


def open_first(number: int, processes: int, directory: str, rounds: int) -> list[str]:
    """Open a new path together with the others, each round another one, and add a task; what went wrong."""
    failures = []
    for each in range(rounds):
        path = os.path.join(directory, f"{each}.db")
        meet(os.path.join(directory, f"{each}.meet"), number, processes)
        try:
            store = open_store(path, create=True, busy_timeout=30)
            store.add([NewTask("Do it", "now", "/repo", "main", "shell")], actor=Actor.USER, at=number)
            store.close()
        except DispatchctlError as error:
            failures.append(error.message)
    return failures


def claim_all(number: int, processes: int, path: str) -> list[int]:
    """Claim, start and finish tasks until there is none; their ids. Nothing is caught: an error fails the test."""
    meet(f"{path}.meet", number, processes)
    store = open_store(path, busy_timeout=60)
    done: list[int] = []
    database = Database(path, busy_timeout=60)
    while True:
        claimant = Claimant(f"{number:04x}{len(done):04x}", "host", "boot", names)
        run = store.claim(claimant, room=Room(processes), actor=Actor.DISPATCH, at=1)
        if run is None:
            break
        assert fence.start(database, run.token, at=2, launcher=(1, 1), agent=(2, 2))
        ending = Ending(Cause.BY_ITSELF, 3, exit_code=0)
        store.close_ended(run.token, ending, Changes(1, 0), None, Policy(), actor=Actor.LAUNCHER, at=3, jitter=0.5)
        done.append(run.task)
    database.close()
    store.close()
    return done


LIMITS = Room(6, {"/a": 2, "/b": 0, "/c": 4}, {"x": 3})


def claim_within(number: int, processes: int, path: str) -> list[int]:
    """Claim within `LIMITS`, look, and finish now and then, until there is none; the ids."""
    meet(f"{path}.meet", number, processes)
    store, database, chance = open_store(path, busy_timeout=60), Database(path, busy_timeout=60), random.Random(number)
    done, mine = list[int](), list[str]()
    over = False
    while not over or mine:
        token = f"{number:04x}{len(done):04x}"
        try:
            run = store.claim(Claimant(token, "host", "boot", names), room=LIMITS, actor=Actor.DISPATCH, at=1)
        except QueueFull:
            run = None
        else:
            over = run is None
        if run is not None:
            done.append(run.task)
            mine.append(run.token)
        occupied = store.occupied()
        assert occupied.repos.total() <= LIMITS.in_all
        assert occupied.repos["/a"] <= 2
        assert occupied.repos["/c"] <= 4
        assert occupied.agents["x"] <= 3
        if mine and (run is None or chance.random() < 0.5):
            ended = mine.pop(chance.randrange(len(mine)))
            assert fence.start(database, ended, at=2, launcher=(1, 1), agent=(2, 2))
            ending = Ending(Cause.BY_ITSELF, 3, exit_code=0)
            store.close_ended(ended, ending, Changes(1, 0), None, Policy(), actor=Actor.LAUNCHER, at=3, jitter=0.5)
    database.close()
    store.close()
    return done


def anything(number: int, processes: int, path: str, rounds: int) -> list[str]:
    """Claim, start, undo, finish, report, ask, block, retry and cancel what comes; what was wrong, but for refusals.

    Every process sees every task, so most of what it tries was true a moment ago and is not any more.
    """
    meet(f"{path}.anything", number, processes)
    store = open_store(path, busy_timeout=60)
    database = Database(path, busy_timeout=60)
    chance = random.Random(number)
    wrong = []
    for each in range(rounds):
        task = chance.randint(1, 12)
        try:
            _one_thing(chance, store, database, task, f"{number:04x}{each:04x}", each)
        except (Refused, QueueFull):
            pass  # another was quicker, or enough are running
        except DispatchctlError as error:
            wrong.append(error.message)
    database.close()
    store.close()
    return wrong


def _one_thing(chance: random.Random, store: Store, database: Database, task: int, token: str, at: int) -> None:
    run = store.task(task).run
    mine = run.token if run is not None else token
    actor = Actor.RECONCILE
    ending = Ending(Cause.BY_ITSELF, at, exit_code=chance.choice((0, 0, 3)))
    verbs: list[Callable[[], object]] = [
        lambda: store.claim(Claimant(token, "host", "boot", names), room=Room(8), actor=Actor.DISPATCH, at=at),
        lambda: store.claim(Claimant(token, "host", "boot", names), task=task, room=Room(8), actor=Actor.WATCH, at=at),
        lambda: fence.start(database, mine, at=at, launcher=(1, 1), agent=(2, 2)),
        lambda: store.close_ended(mine, ending, Changes(1, 0), None, Policy(), actor=actor, at=at, jitter=0.5),
        lambda: (
            store.begin_undo(mine, "gone", actor=actor, at=at)
            and store.close_undone(mine, "gone", cure=Cure.NEVER, policy=Policy(), actor=actor, at=at, jitter=0.5)
        ),
        lambda: store.ask(mine, Ask.CANCEL, actor=Actor.USER, at=at, awake=at),
        lambda: store.report(mine, Report.DONE, None, actor=Actor.AGENT, at=at, awake=at),
        lambda: store.block(mine, "?", actor=Actor.AGENT, at=at),
        lambda: store.unblock(task, note=None, at=at),
        lambda: store.retry(task, note=None, fresh=True, recoveries=3, at=at),
        lambda: store.cancel(task, at=at),
        lambda: store.heartbeat(mine, Activity.WORKING, at=at),
        lambda: store.note_activity(mine, Activity.STALLED, actor=actor, at=at),
        lambda: store.sight([Sighting(mine, at, None, at)]),
    ]
    chance.choice(verbs)()
