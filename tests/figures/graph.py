"""Chains and fans of dependent tasks under `watch`, which is killed in the middle: a legal order, and a limit that holds.

What is judged is what the agents wrote themselves, each at its first and its last moment, and the open runs as they are seen
in the file all the time.
"""

import argparse
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from watched import Watched, private_world
from world import World

from figures.page import table

LIMIT = 5
BLOCK = 10
AT_WORK = 0.6
"""The first task ends when so large a part of the others has been added, so that the limit is reached on any machine."""
AGENT = """
echo "$DISPATCHCTL_TASK $(date +%s%N)" >> "{root}/began"
sleep 0.{pause}
until [ "$DISPATCHCTL_TASK" -gt 1 ] || [ -e "{root}/go" ]; do sleep 0.05; done
echo "$DISPATCHCTL_TASK $(date +%s%N)" >> "{root}/ended"
"""


def parents(number: int) -> list[int]:
    """The parents of the task with that number, from 1: blocks of a joint, a fan of six, and a chain of three.

    The joint comes after every end of the block before: all of its fan that goes on nowhere, and the end of its chain.
    """
    place, first = (number - 1) % BLOCK, number - (number - 1) % BLOCK
    if place == 0:
        return [] if first == 1 else [*range(first - BLOCK + 2, first - BLOCK + 7), first - 1]
    if place <= 6:
        return [first]
    return [first + 1] if place == 7 else [number - 1]


@dataclass
class Played:
    """What came of it."""

    tasks: int
    seconds: float = 0.0
    most_agents: int = 0
    most_runs: int = 0
    samples: int = 0
    done_when_killed: int = 0
    open_when_killed: int = 0
    wrong: list[str] = field(default_factory=list)


def play(world: World, tasks: int, *, limit: int = LIMIT, within: float = 600.0) -> Played:
    """Add the tasks from other processes while `watch` runs, kill it in the middle, start it again, and look."""
    played = Played(tasks)
    repo = world.repository()
    runtime = world.runtime()
    runtime.make_store().close()
    watched = Watched(world, "--max-running", str(limit))
    began = time.monotonic()
    watched.start()
    with ThreadPoolExecutor(1) as user, closing(_reader(str(runtime.database))) as rows:
        adding = user.submit(_add_all, world, repo, tasks)
        while time.monotonic() < began + within:
            open_runs = rows.execute("SELECT count(*) FROM runs WHERE phase <> 'closed'").fetchone()[0]
            status = Counter(dict(rows.execute("SELECT status, count(*) FROM tasks GROUP BY status").fetchall()))
            played.samples += 1
            played.most_runs = max(played.most_runs, open_runs)
            if watched.starts == 1 and status["done"] >= tasks * 0.4 and open_runs:
                watched.kill()
                played.done_when_killed, played.open_when_killed = status["done"], open_runs
                watched.start()
            if status["done"] == tasks or (status["failed"] and not open_runs):
                break
            time.sleep(0.005)
        adding.result()
        played.seconds = time.monotonic() - began
        code, _ = watched.stop()
        played.wrong += _judge(world, rows, played, limit)
    if code:
        played.wrong.append(f"watch ended with {code}")
    if watched.starts != 2:
        played.wrong.append("watch was not killed in the middle")
    return played


def _reader(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)


def _add_all(world: World, repo: Path, tasks: int) -> None:
    for number in range(1, tasks + 1):
        _add(world, repo, number)
        if number >= tasks * AT_WORK:
            (world.root / "go").touch()


def _add(world: World, repo: Path, number: int) -> None:
    prompt = AGENT.replace("{root}", str(world.root)).replace("{pause}", str(1 + number % 3))
    after = [word for parent in parents(number) for word in ("--after", str(parent))]
    said = world.cli("add", f"Task {number}", "-p", prompt, "--repo", str(repo), *after)
    assert said.out == f"{number}\n", said


def _judge(world: World, rows: sqlite3.Connection, played: Played, limit: int) -> Iterator[str]:
    """What is not as it should be."""
    for number, status, error in rows.execute("SELECT id, status, error FROM tasks WHERE status <> 'done'"):
        yield f"task {number} is {status}: {error}"
    for number, count in rows.execute("SELECT task, count(*) FROM runs GROUP BY task HAVING count(*) > 1"):
        yield f"task {number} had {count} runs"
    began, ended = _times(world, "began"), _times(world, "ended")
    for what, times in (("began", began), ("ended", ended)):
        twice = [number for number, count in Counter(number for number, _ in times).items() if count > 1]
        if twice or len(times) != played.tasks:
            yield f"{len(times)} agents {what}, twice those of {twice}"
    first, last = dict(began), dict(ended)
    for number, at in first.items():
        for parent in parents(number):
            if last.get(parent, at) >= at:
                yield f"task {number} began before its parent {parent} had ended"
    running = 0
    for _, step in sorted([(at, 1) for at in first.values()] + [(at, -1) for at in last.values()]):
        running += step
        played.most_agents = max(played.most_agents, running)
    if played.most_agents > limit or played.most_runs > limit:
        yield f"{played.most_agents} agents and {played.most_runs} open runs at once, and the limit is {limit}"


def _times(world: World, name: str) -> list[tuple[int, int]]:
    path = world.root / name
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(number), int(at)) for number, at in map(str.split, lines)]


def measure(wanted: argparse.Namespace) -> tuple[str, list[str]]:
    """The section of the page."""
    with private_world("g") as world:
        played = play(world, wanted.tasks)
    edges = sum(len(parents(number)) for number in range(1, wanted.tasks + 1))
    text = f"""`watch --max-running {LIMIT}` in one process; {wanted.tasks} shell tasks with {
        edges
    } dependencies between them (fans of six, chains of
three, joints) added by `dispatchctl add` from others meanwhile. It was killed with SIGKILL when {
        played.done_when_killed
    } were done and
{
        played.open_when_killed
    } were open, and started again. The order is judged by what the agents wrote at their first and last moment.

{
        table(
            ("", "seen", "to be"),
            ("tasks done, each by one agent", wanted.tasks - sum("is" in each for each in played.wrong), wanted.tasks),
            ("agents at once, by their own times", played.most_agents, f"≤ {LIMIT}"),
            (f"open runs at once, in {played.samples} looks", played.most_runs, f"≤ {LIMIT}"),
            ("what was out of order, or twice", len(played.wrong), 0),
            ("from the first `add` to the last end", f"{played.seconds:.1f} s", ""),
        )
    }
"""
    return text, played.wrong


PARTS: Mapping[str, tuple[str, Callable[[argparse.Namespace], tuple[str, list[str]]]]] = {
    "graph": ("A hundred tasks that depend on each other", measure)
}
