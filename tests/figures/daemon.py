"""How fast the daemon is, and what it costs while there is nothing to do.

Times of others are taken from the events in the file, in milliseconds; those of agents are what they write themselves at
their first and last instruction. Every sample is a new task on a new branch, and nothing is removed meanwhile: on some disks
that slows later worktrees down.
"""

import argparse
import os
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field

from watched import Account, Watched, private_world
from world import World, eventually

from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Actor, NewTask, Status
from figures.page import ms, quantiles, table

NOTE = 'date +%s%N > "{root}/{what}-$DISPATCHCTL_TASK"'
"""A shell command with which an agent notes a moment."""
WAKE_BAR_MS = 250
IDLE_BAR_S = 1.0
CROWD = 100
BIG = 100_000


@dataclass
class Samples:
    """Milliseconds of what was measured, by name."""

    ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def row(self, name: str, *, bar: str = "") -> tuple[object, ...]:
        """A row of a table: median, 95th percentile, largest."""
        return (name, *(f"{value:.0f} ms" for value in quantiles(self.ms[name])), *([bar] if bar else []))


class Desk:
    """A world with one repository, for tasks of the agent `shell` that note moments."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.repo = world.repository()
        self.runtime: Runtime = world.runtime()
        self.runtime.make_store()

    def prompt(self, *parts: str) -> str:
        """A script that notes the moments `parts` that begin with a colon, and does the others."""
        lines = [NOTE.replace("{what}", part[1:]) if part.startswith(":") else part for part in parts]
        return "\n".join(lines).replace("{root}", str(self.world.root))

    def add(self, prompt: str, *options: str) -> tuple[int, float]:
        """`dispatchctl add` in a process of its own: the task, and when it had returned, in seconds since the epoch."""
        said = self.world.cli("add", "Measure it", "-p", prompt, "--repo", str(self.repo), *options)
        assert said.code == 0, said
        return int(said.out), time.time()

    def noted(self, what: str, task: int) -> float:
        """When the task's agent noted that, in seconds since the epoch."""
        path = self.world.root / f"{what}-{task}"
        eventually(lambda: path.exists() and path.read_text().endswith("\n"), within=60)
        return int(path.read_text()) / 1e9

    def event(self, task: int, kind: str) -> float:
        """When the task's first event of the kind was written, in seconds since the epoch."""
        with closing(sqlite3.connect(f"file:{self.runtime.database}?mode=ro", uri=True)) as rows:
            [at] = rows.execute("SELECT min(at) FROM events WHERE task = ? AND kind = ?", (task, kind)).fetchone()
        assert at is not None, f"task {task} has no event {kind}"
        return float(at) / 1000

    def done(self, task: int) -> None:
        """Wait until the task is done."""
        assert self.world.ended(self.runtime, task, within=60).status is Status.DONE


# -- latency --------------------------------------------------------------------------------------------------------------


def _under_watch(desk: Desk, samples: Samples) -> None:
    began = time.time()
    task, returned = desk.add(desk.prompt(":first", "sleep 0.05", ":last"))
    first, last = desk.noted("first", task), desk.noted("last", task)
    desk.done(task)
    into = samples.ms
    into["`add`, the whole command"].append(1000 * (returned - began))
    into["`add` returns → agent's first instruction"].append(1000 * (first - returned))
    into["`add` commits → claim"].append(1000 * (desk.event(task, "claimed") - desk.event(task, "added")))
    into["claim → agent's first instruction"].append(1000 * (first - desk.event(task, "claimed")))
    into["agent's last instruction → final status"].append(1000 * (desk.event(task, "ended") - last))


def _by_hand(desk: Desk, samples: Samples) -> None:
    task, _ = desk.add(desk.prompt(":first", "sleep 0.05"))
    began = time.time()
    said = desk.world.cli("dispatch")
    returned = time.time()
    assert said.code == 0, said
    first = desk.noted("first", task)
    desk.done(task)
    again = time.time()
    assert desk.world.cli("ready").code == 0
    into = samples.ms
    into["`dispatch` starts → agent's first instruction"].append(1000 * (first - began))
    into["`dispatch` starts → claim"].append(1000 * (desk.event(task, "claimed") - began))
    into["`dispatch`, the whole command"].append(1000 * (returned - began))
    into["start-up: `ready` with nothing there, the whole command"].append(1000 * (time.time() - again))
    bare = time.time()
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
    into["beside them: a bare `python -I -S -c pass`"].append(1000 * (time.time() - bare))


def _later(desk: Desk, samples: Samples) -> None:
    """A task that waits for its time."""
    due = now() + 1_500
    task = desk.world.add(desk.runtime, "true", repo=desk.repo, not_before=due).id
    desk.done(eventually(lambda: task if desk.runtime.store.task(task).run else 0, within=60))
    samples.ms["`not_before` → claim"].append(1000 * desk.event(task, "claimed") - due)


def _reporting(desk: Desk, samples: Samples) -> None:
    """An agent that says that it is done, and goes home."""
    task, _ = desk.add(desk.prompt(":says", "dispatchctl done -m finished >/dev/null", ":said", "exit 3"))
    says, said = desk.noted("says", task), desk.noted("said", task)
    desk.done(task)
    samples.ms["the agent calls `dispatchctl done` → it returns"].append(1000 * (said - says))
    samples.ms["the agent calls `dispatchctl done` → final status"].append(1000 * (desk.event(task, "ended") - says))
    samples.ms["`dispatchctl done` has returned → final status"].append(1000 * (desk.event(task, "ended") - said))


def latency(wanted: argparse.Namespace) -> tuple[str, list[str]]:
    """From `add` to the agent's first instruction, beside a dispatch by hand, in turns."""
    samples = Samples()
    few = max(wanted.samples // 5, 1)
    with private_world("l") as one, private_world("l") as other:
        watching, by_hand = Desk(one), Desk(other)
        watched = Watched(one)
        watched.start()
        for number in range(wanted.samples):
            _under_watch(watching, samples)
            _by_hand(by_hand, samples)
            if number % 5 == 0:
                _later(watching, samples)
                _reporting(watching, samples)
        watched.stop()
    head = (f"{wanted.samples} samples", "median", "95 %", "largest")
    wakes = ("`add` commits → claim", "`not_before` → claim", "agent's last instruction → final status")
    text = f"""Under `watch` and by `dispatchctl dispatch`, in turns, each in a world of its own; a new task and
a new branch each time.

{
        table(
            head,
            samples.row("`add` returns → agent's first instruction"),
            samples.row("claim → agent's first instruction"),
            samples.row("`dispatch` starts → agent's first instruction"),
            samples.row("`dispatch` starts → claim"),
            samples.row("`dispatch`, the whole command"),
            samples.row("start-up: `ready` with nothing there, the whole command"),
            samples.row("beside them: a bare `python -I -S -c pass`"),
        )
    }

What wakes `watch` ({few} samples of `not_before` and `done`):

{
        table(
            (*head, "bar (95 %)"),
            *(samples.row(each, bar=f"{WAKE_BAR_MS} ms") for each in wakes),
            samples.row("`add`, the whole command", bar="(submission) 100 ms"),
            samples.row("the agent calls `dispatchctl done` → it returns", bar=" "),
            samples.row("`dispatchctl done` has returned → final status", bar=" "),
            samples.row("the agent calls `dispatchctl done` → final status", bar="(transition) 1000 ms"),
        )
    }
"""
    bars = [(each, WAKE_BAR_MS) for each in wakes]
    bars += [("the agent calls `dispatchctl done` → final status", 1000), ("`add`, the whole command", 100)]
    missed = [each for each, bar in bars if quantiles(samples.ms[each])[1] >= bar]
    return text, [f"{each}: over its bar" for each in missed]


# -- idleness -------------------------------------------------------------------------------------------------------------


def idle(wanted: argparse.Namespace) -> tuple[str, list[str]]:
    """The processor time of a daemon that has nothing to do, and of one that has 20 silent agents; at the same time."""
    used: dict[str, tuple[float, int]] = {}
    with private_world("i") as one, private_world("i") as other:
        desks = {"nothing to do": Desk(one), "20 agents that sleep": Desk(other)}
        for _ in range(20):
            desks["20 agents that sleep"].world.add(other.runtime(), "sleep 99999", repo=other.root / "repo")
        daemons = {name: Watched(desk.world, "--max-running", "20") for name, desk in desks.items()}
        for watched in daemons.values():
            watched.start()
        store = desks["20 agents that sleep"].runtime.store
        eventually(lambda: sum(run.started_at is not None for run in store.open_runs()) == 20, within=120)
        time.sleep(15)  # until it is quiet
        accounts = {name: Account(watched.pid, *watched.workers()) for name, watched in daemons.items()}
        try:
            before = {name: account.seconds() for name, account in accounts.items()}
            time.sleep(60 * wanted.idle_minutes)
            for name, watched in daemons.items():
                used[name] = (accounts[name].seconds() - before[name], watched.resident())
            assert len(store.open_runs()) == 20
        finally:
            for name, watched in daemons.items():
                watched.stop()
                accounts[name].close()
    rows = [
        (name, f"{seconds:.2f} s", f"{100 * seconds / 60 / wanted.idle_minutes:.2f} %", f"{memory >> 10} MiB")
        for name, (seconds, memory) in used.items()
    ]
    text = f"""In {wanted.idle_minutes:g} minutes; user and system time, that of every process that it has started included, by
the kernel's account of the group.

{table(("", "processor time", "of one core", "memory of the daemon"), *rows)}

It hears of changes by inotify; besides, a look a second, a reconcile a minute with nothing to do, and one every five seconds
(`watch.interval`) while agents run.
"""
    seconds = used["nothing to do"][0] * 10 / wanted.idle_minutes
    return text, [f"{seconds:.1f} s in ten idle minutes"] if seconds > 1.5 * IDLE_BAR_S else []


# -- beside their bars -----------------------------------------------------------------------------------------------------


def start(wanted: argparse.Namespace) -> tuple[str, list[str]]:
    """How long the daemon takes until it watches."""
    took: dict[str, list[float]] = {}
    for queue, tasks in (("an empty database", 0), (f"{BIG:,} ready tasks, paused", BIG)):
        with private_world("s") as world:
            desk = Desk(world)
            new = NewTask("Do it", "true", str(desk.repo), "main", "shell")
            for first in range(0, tasks, 5_000):
                desk.runtime.store.add([new] * min(5_000, tasks - first), actor=Actor.USER, at=now())
            desk.runtime.store.pause("", reason=None, at=now())
            took[queue] = []
            for _ in range(max(wanted.samples // 10, 3)):
                watched = Watched(world)
                took[queue].append(watched.start())
                watched.stop()
    rows = [(name, *map(ms, quantiles(each)), "5 s") for name, each in took.items()]
    text = f"""From the start of the process to its first line, which it writes when it watches.

{table(("", "median", "95 %", "largest", "bar"), *rows)}
"""
    return text, [f"start with {name}: over 5 s" for name, each in took.items() if max(each) >= 5]


def crowd(wanted: argparse.Namespace) -> tuple[str, list[str]]:
    """A hundred agents at once."""
    with private_world("c") as world:
        desk = Desk(world)
        prompt = desk.prompt(":first", 'until [ -e "{root}/release" ]; do sleep 0.2; done')
        for _ in range(CROWD + 5):
            world.add(desk.runtime, prompt, repo=desk.repo)
        watched = Watched(world, "--max-running", str(CROWD))
        watched.start()
        store = desk.runtime.store
        eventually(lambda: sum(run.started_at is not None for run in store.open_runs()) == CROWD, within=300)
        time.sleep(2)  # time for a run too many
        runs = store.open_runs()
        alive = sum(run.agent_pid is not None and os.path.exists(f"/proc/{run.agent_pid}") for run in runs)
        firsts = [desk.noted("first", run.task) for run in runs]
        wrong = [] if len(runs) == alive == CROWD else [f"{len(runs)} open runs and {alive} live agents at once"]
        (world.root / "release").touch()
        released = time.time()
        eventually(lambda: store.count() == {Status.DONE: CROWD + 5}, within=300)
        ended = time.time() - released
        wrong += [f"task {task.id} is {task.status}" for task in store.tasks() if task.status is not Status.DONE]
        watched.stop()
    text = f"""`watch --max-running {CROWD}` with {CROWD + 5} tasks in the queue: {len(runs)} open runs at once,
{alive} agents alive, and all were done in the end. From the first agent's start to the last of the hundred:
{max(firsts) - min(firsts):.1f} s. From their
release to the last end, the five that had waited included: {ended:.1f} s.
"""
    return text, wrong


PARTS: Mapping[str, tuple[str, Callable[[argparse.Namespace], tuple[str, list[str]]]]] = {
    "latency": ("From a task to its agent", latency),
    "start": ("The start of the daemon", start),
    "crowd": ("A hundred agents at once", crowd),
    "idle": ("What the daemon costs when nothing happens", idle),
}
