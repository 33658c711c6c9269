"""What commands cost on a database with a million events: whole processes, as somebody types them, and single queries."""

import argparse
import json
import os
import pty
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from world import World

from dispatchctl.metrics import exposition
from dispatchctl.runtime import Runtime, now
from dispatchctl.store.schema import TALLIES
from dispatchctl.task import Actor, NewTask
from figures.page import quantiles, table

A_TASK = 7
"""Events of a task that was run once."""
DAYS = 30
LONG = 2_000
"""Events of the one task that has many."""
ROUNDS = 15
DAY_MS = 86_400_000


@dataclass
class Big:
    """A world with a database in which much has happened."""

    world: World
    runtime: Runtime
    repo: Path
    events: int
    long: int = 0
    draft: int = 0


@dataclass(frozen=True)
class Figure:
    """A thing that is measured `rounds` times, in seconds, and the bar that its slowest one has to keep."""

    name: str
    what: Callable[[Big], object]
    bar: float | None = None
    rounds: int = ROUNDS


# -- the database ----------------------------------------------------------------------------------------------------------


def fill(big: Big) -> None:
    """Tasks that were done, failed or lost over the last month, evenly, and one with a long history."""
    store, tasks, at = big.runtime.make_store(), big.events // A_TASK, now()
    big.world.cli("add", "First", "-p", "exit 0", cwd=big.repo)
    step = DAYS * DAY_MS // tasks
    with closing(sqlite3.connect(str(big.runtime.database), isolation_level=None)) as raw:
        raw.execute("PRAGMA synchronous = OFF")
        raw.execute("BEGIN IMMEDIATE")
        first = raw.execute("SELECT max(id) + 1 FROM tasks").fetchone()[0]
        for begin in range(0, tasks, 10_000):
            rows = range(begin, min(begin + 10_000, tasks))
            made = [_task(first + row, at - DAYS * DAY_MS + row * step, big) for row in rows]
            _insert(raw, "tasks", [each[0] for each in made])
            _insert(raw, "runs", [each[1] for each in made])
            _insert(raw, "events", [event for each in made for event in each[2]])
        for statement in TALLIES:
            if statement.startswith("INSERT") and "FROM runs" in statement:
                raw.execute(statement)
        raw.execute("COMMIT")
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    draft = NewTask("Draft", "x", str(big.repo), "main", "shell", backlog=True)
    big.draft, big.long = (store.add([draft], actor=Actor.USER, at=now())[0].id for _ in range(2))
    with store._database:  # type: ignore[attr-defined]
        for _ in range(LONG):
            event = (big.long, now(), '{"task": {"title": "Draft"}}')
            store._database.execute(  # type: ignore[attr-defined]
                "INSERT INTO events (task, at, actor, kind, detail) VALUES (?, ?, 'user', 'edited', ?)", event
            )


def _insert(raw: sqlite3.Connection, name: str, rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    marks = ", ".join("?" * len(columns))
    sql = f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})"
    raw.executemany(sql, (tuple(row[column] for column in columns) for row in rows))


def _task(task: int, at: int, big: Big) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """A task that was run once: its row, its run's row and its events, as the program would have written them."""
    token, repo, agent = f"{task:08x}", f"{big.repo}-{task % 5}", ("shell", "claude", "codex")[task % 3]
    code = 1 if task % 10 == 0 else 0
    status = "failed" if code else "done"
    claimed, started = at + 1_000 + task % 60_000, at + 2_000 + task % 60_000
    ended = started + 60_000 + (task * 7919) % 3_600_000
    added = {
        "title": f"Do what number {task} says",
        "prompt": "Look at it, change it, and see that the tests pass. " * 4,
        "priority": 2,
        "labels": "[]",
        "agent": agent,
        "repo": repo,
        "base": "main",
        "review": 0,
        "retries_left": 0,
        "recoveries_left": 3,
        "timeout_s": 43_200,
        "created_at": at,
    }
    error = f"exited with {code}" if code else None
    closed = {"error": error, "status": status, "newest_run": token, "resume": token}
    claim = {
        "task": task,
        "number": 1,
        "phase": "launching",
        "agent": agent,
        "repo": repo,
        "branch": f"dispatch/{task}",
        "worktree": f"/worktrees/{task}",
        "resumed": 0,
        "run_dir": f"/runs/{token}",
        "owner_lock": f"/locks/{token}.owner",
        "step_lock": f"/locks/{token}.step",
        "host": "0" * 32,
        "boot_id": "0" * 36,
        "claimed_at": claimed,
        "ready_at": at,
        "socket": "/tmp/tmux.sock",
        "session": "dispatch",
    }
    end = {"phase": "closed", "outcome": "exited", "exit_code": code, "ended_at": ended, "closed_at": ended + 50}
    cleared = {"cleared_at": ended + DAY_MS}
    run = {**claim, **end, **cleared, "token": token, "started_at": started, "base_commit": "0" * 40, "life": "gone"}
    moves: list[tuple[int, str, str, str | None, str | None, dict[str, Any]]] = [
        (at, "user", "added", None, "ready", {"task": {**added, "status": "ready", "after": []}}),
        (claimed, "dispatch", "claimed", "ready", "in_progress", {"task": {"newest_run": token}, "run": claim}),
        (claimed + 20, "dispatch", "prepared", None, None, {"run": {"base_commit": "0" * 40, "owns_tree": 1}}),
        (claimed + 90, "dispatch", "window", None, None, {"run": {"window_id": "@1", "pane_id": "%1"}}),
        (started, "launcher", "started", None, None, {"run": {"phase": "started", "started_at": started}}),
        (ended + 50, "launcher", "ended", "in_progress", status, {"task": closed, "run": end}),
        (ended + DAY_MS, "user", "cleared", None, None, {"run": cleared}),
    ]
    events = [
        {
            "task": task,
            "run": None if kind == "added" else token,
            "at": when,
            "actor": actor,
            "kind": kind,
            "from_status": before,
            "to_status": after,
            "detail": json.dumps(detail),
        }
        for when, actor, kind, before, after, detail in moves
    ]
    return {**added, **closed, "id": task, "updated_at": ended + 50}, run, events


# -- what is measured ------------------------------------------------------------------------------------------------------


def command(*words: str, within: float = 60.0) -> Callable[[Big], object]:
    """A command, from its start to its end; `{long}` and `{draft}` are ids."""

    def run(big: Big) -> None:
        named = [word.format(long=big.long, draft=big.draft) for word in words]
        said = big.world.cli(*named, cwd=big.repo, within=within)
        assert said.code == 0, said

    return run


def on_a_terminal(*words: str) -> Callable[[Big], object]:
    """The same, drawn on a terminal."""

    def run(big: Big) -> None:
        master, slave = pty.openpty()
        arguments = [sys.executable, "-m", "dispatchctl", *words]
        with subprocess.Popen(
            arguments, env=big.world.variables, cwd=big.repo, stdin=slave, stdout=slave, stderr=slave
        ) as process:
            os.close(slave)
            while _read(master):
                pass
            assert process.wait(60) == 0
        os.close(master)

    return run


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65_536)
    except OSError:  # EIO: nobody has the terminal open any more
        return b""


HISTORY = ["history", "--limit", "1000"]
FIGURES = (
    Figure("`python -c pass`", lambda big: subprocess.run([sys.executable, "-c", "pass"], check=True)),
    Figure("submission: `add`", command("add", "One more", "-p", "exit 0"), 0.1),
    Figure("transition: `release`", command("release", "{draft}"), 1.0, rounds=1),
    Figure("transition: `cancel`", command("cancel", "{draft}"), 1.0, rounds=1),
    Figure("transition: `retry`", command("retry", "{draft}"), 1.0, rounds=1),
    Figure("`history --limit 1000`", command(*HISTORY), 0.5),
    Figure("`history --limit 1000 --json`", command(*HISTORY, "--json"), 0.5),
    Figure("`history --limit 1000` on a terminal", on_a_terminal(*HISTORY), 0.5),
    Figure(f"`history ID --limit 1000` of a task with {LONG:,} events", command(*HISTORY, "{long}"), 0.5),
    Figure("`history --since 20d --limit 1000`", command(*HISTORY, "--since", "20d"), 0.5),
    Figure("`history --since 1m`", command("history", "--since", "1m"), 0.5),
    Figure("its query alone: 1,000 of a million", lambda big: big.runtime.store.events(limit=1000), 0.5),
    Figure("`stats`, of a week", command("stats")),
    Figure("`stats --since 0`, of everything", command("stats", "--since", "0"), rounds=5),
    Figure("`metrics`", command("metrics")),
    Figure("a scrape, by itself", lambda big: exposition.text(big.runtime)),
)
"""One after the other, in this order: one more figure is one more line."""


def measured(big: Big, figure: Figure) -> tuple[list[float], float]:
    """Seconds of each round, and those that a processor was busy with one in the median."""
    taken, busy = [], []
    for _ in range(figure.rounds):
        began, worked = time.perf_counter(), sum(os.times()[:4])
        figure.what(big)
        taken.append(time.perf_counter() - began)
        busy.append(sum(os.times()[:4]) - worked)
    return taken, quantiles(busy)[0]


def forgetting(big: Big) -> tuple[float, list[float], int]:
    """How long it takes to drop the events of two thirds of the tasks, and what others wait meanwhile for each `add`."""
    before, waits, done = len_of_events(big), list[float](), threading.Event()
    new = NewTask("Meanwhile", "x", str(big.repo), "main", "shell", backlog=True)

    def prune() -> None:
        command("prune", "--older-than", "90d", "--events-older-than", "10d", within=3_600)(big)
        done.set()

    thread = threading.Thread(target=prune)
    began = time.perf_counter()
    thread.start()
    while not done.wait(0.01) and thread.is_alive():
        at = time.perf_counter()
        big.runtime.store.add([new], actor=Actor.USER, at=now())
        waits.append(time.perf_counter() - at)
    thread.join()
    return time.perf_counter() - began, waits, before + len(waits) - len_of_events(big)


def len_of_events(big: Big) -> int:
    with closing(sqlite3.connect(str(big.runtime.database))) as raw:
        return int(raw.execute("SELECT count(*) FROM events").fetchone()[0])


def _rows(big: Big, only: str) -> Iterator[tuple[tuple[object, ...], str | None]]:
    """A row of the table for each figure, and what bar it missed."""
    for figure in FIGURES:
        if only not in figure.name:
            continue
        taken, busy = measured(big, figure)
        median, p95, worst = quantiles(taken)
        missed = figure.bar is not None and worst > figure.bar
        bar = "" if figure.bar is None else f"{figure.bar * 1000:.0f} ms"
        numbers = [
            f"{1000 * each:.0f} ms" if each > 0.01 else f"{1000 * each:.1f} ms" for each in (busy, median, p95, worst)
        ]
        yield (figure.name, *numbers, bar), f"{figure.name}: {numbers[-1]}, and the bar is {bar}" if missed else None


def measure(wanted: argparse.Namespace) -> tuple[str, list[str]]:
    """The section of the page, and the bars that were missed."""
    world = World(Path(tempfile.mkdtemp(prefix="dctl-f", dir="/tmp")), extra={"PYTHONDONTWRITEBYTECODE": ""})
    try:
        big = Big(world, world.runtime(), world.repository(), wanted.events)
        fill(big)
        size = big.runtime.database.stat().st_size / 1_000_000
        found = list(_rows(big, wanted.only or ""))
        rows = table(("", "processor", "median", "95 %", "slowest", "bar"), *(row for row, _ in found))
        text = f"""{len_of_events(big):,} events, {size:,.0f} MB; commands are whole processes,
from start to end, {ROUNDS} each.

{rows}

"""
        if not wanted.only:
            took, waits, gone = forgetting(big)
            median, worst = (f"{1000 * each:.0f} ms" for each in (quantiles(waits)[0], max(waits)))
            text += f"""`prune --events-older-than 10d` dropped {gone:,} events in {took:.0f} s. Meanwhile another process
added {len(waits)} tasks, each of which waited {median} in the median and {worst} at most.
"""
        return text, [missed for _, missed in found if missed]
    finally:
        world.close()
        shutil.rmtree(world.root)


PARTS: Mapping[str, tuple[str, Callable[[argparse.Namespace], tuple[str, list[str]]]]] = {
    "million": ("On a database with a million events", measure)
}
