"""One night in a private world: who adds tasks, who answers, who kills, and who starts the daemon again."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from watched import Watched
from world import World

from dispatchctl.errors import DispatchctlError
from dispatchctl.runtime import now
from dispatchctl.task import Actor, NewTask, Status
from night import fates

LIMIT = 20
QUEUED = 40
"""So many tasks wait at most; more are added as these go."""
CALM = 0.95
"""When so large a part of the tasks has ended, nothing is killed any more."""
SETTLE_S = 180.0
STALL_S = 12
VICTIMS = {"watch": 3, "worker": 5, "launcher": 5, "agent": 3, "git": 5, "hook": 2, "server": 1}
HOOK = "sleep 0.03; : the hook"
SETTINGS = {
    "DISPATCHCTL_DISPATCH__KILL_GRACE": "1",
    "DISPATCHCTL_DISPATCH__REPORT_GRACE": "1",
    "DISPATCHCTL_DISPATCH__RETRY_WAIT": "1",
    "DISPATCHCTL_DISPATCH__STALL_AFTER": str(STALL_S),
    "DISPATCHCTL_DISPATCH__STALL_ACTION": "end",
    "DISPATCHCTL_WATCH__INTERVAL": "1",
    "DISPATCHCTL_TMUX__KEEP_WINDOWS": "30",
}
CONFIG = f"""
[hooks]
post_create = [["sh", "-c", "{HOOK}"]]
[agents.{fates.ABSENT}]
argv = ["/nonexistent/agent", "{{prompt}}"]
"""


@dataclass
class Told:
    """What happened in the night, as whoever made it happen knows."""

    fates: dict[int, str] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    killed_agents: Counter[int] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    git_locks: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    most_open: int = 0
    looks: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Night:
    """A night with so many tasks, decided by a seed."""

    def __init__(self, world: World, *, seed: int, tasks: int, kill_every: float) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.kill_every = kill_every
        self.told = Told()
        config = world.home / ".config" / "dispatchctl" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(CONFIG)
        (world.root / "agents").mkdir()
        self.repo = world.repository(files={f"f{number}": "x\n" for number in range(5)})
        self.runtime = world.runtime()
        self.store = self.runtime.make_store()
        self.database = str(self.runtime.database)
        self.coming = fates.chosen(tasks, self.chance)
        self.tasks = tasks
        self.watched = Watched(world, "--max-running", str(LIMIT))
        self.again_at = 0.0
        self.errands: dict[int, subprocess.Popen[str]] = {}
        self.answered: dict[int, int] = defaultdict(int)
        self.rows = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, isolation_level=None)

    def play(self) -> Told:
        """Kill until nearly all have ended, and let the rest end in peace. The daemon runs on."""
        began = time.monotonic()
        kill_at, tidy_at, say_at, calm_at = began + 1, began, began + 30, 0.0
        with closing(self.rows):
            while True:
                at = time.monotonic()
                self._attend()
                statuses = self._look()
                self._add_more(statuses)
                self._answer()
                if not calm_at and at >= kill_at:
                    self._kill()
                    kill_at = at + self.chance.expovariate(1 / self.kill_every)
                if at >= tidy_at:
                    self._let_time_pass()
                    self._count_git_locks()
                    tidy_at = at + 1
                if at >= say_at:
                    print(f"{at - began:.0f} s: {dict(statuses)}, {self.told.kills.total()} kills", flush=True)
                    say_at = at + 30
                if not calm_at and not self.coming and self._under_way() <= self.tasks * (1 - CALM):
                    calm_at = at
                if calm_at and self._is_over():
                    break
                if calm_at and at > calm_at + SETTLE_S:
                    self.told.wrong.append(f"after {SETTLE_S:.0f} s of peace: {dict(statuses)}")
                    break
                time.sleep(0.02)
        self.told.seconds = time.monotonic() - began
        self.told.starts = self.watched.starts
        return self.told

    # -- the daemon, as systemd keeps it ---------------------------------------------------------------------------

    def _attend(self) -> None:
        """Start it again a moment after it died."""
        if not self.watched.has_ended():
            return
        at = time.monotonic()
        if not self.again_at:
            process = self.watched.process
            if process is not None and process.returncode != -signal.SIGKILL:
                self.told.wrong.append(f"watch ended with {process.returncode}: {self.watched.said()[-600:]}")
            self.again_at = at + (self.chance.random() * 0.5 if process else 0)
        if at >= self.again_at:
            self.watched.begin()
            self.again_at = 0.0

    # -- the user --------------------------------------------------------------------------------------------------

    def _look(self) -> Counter[str]:
        """How many tasks have each status; those in progress and blocked are counted by their open runs as well."""
        open_runs = self.rows.execute("SELECT count(*) FROM runs WHERE phase <> 'closed'").fetchone()[0]
        self.told.most_open = max(self.told.most_open, open_runs)
        self.told.looks += 1
        return Counter(dict(self.rows.execute("SELECT status, count(*) FROM tasks GROUP BY status").fetchall()))

    def _under_way(self) -> int:
        """How many tasks run, or could."""
        query = (
            "SELECT count(*) FROM tasks WHERE status IN ('in_progress', 'blocked') OR status = 'ready' AND waits = 0"
        )
        return int(self.rows.execute(query).fetchone()[0])

    def _add_more(self, statuses: Counter[str]) -> None:
        while self.coming and statuses["ready"] < QUEUED:
            name = self.coming.pop()
            task = self._add(name)
            if task is None:
                self.coming.append(name)
                return
            self.told.fates[task] = name
            statuses["ready"] += 1

    def _add(self, name: str) -> int | None:
        options: dict[str, Any] = {"repo": str(self.repo), "base": "main", "agent": "shell", "recoveries": 100}
        options |= fates.FATES[name].options
        if name == fates.AFTER and self.told.fates:
            options["after"] = (self.chance.choice(list(self.told.fates)[-60:]),)
        prompt = fates.script(name, str(self.world.root), self.chance)
        try:
            return self.store.add([NewTask(name, prompt, **options)], actor=Actor.USER, at=now())[0].id
        except DispatchctlError:
            return None  # somebody writes; the next time

    def _answer(self) -> None:
        """Unblock, approve and reject, by the command line, one command for a task at a time."""
        for task, errand in list(self.errands.items()):
            if errand.poll() is not None:
                del self.errands[task]
                if errand.returncode:
                    assert errand.stderr is not None
                    self.told.refused.append(errand.stderr.read().strip().replace("\n", " "))
        waiting = self.rows.execute("SELECT id, status FROM tasks WHERE status IN ('blocked', 'in_review')").fetchall()
        for task, status in waiting:
            name = self.told.fates[task]
            if task in self.errands or len(self.errands) >= 4:
                continue
            if status == "blocked":
                self._call(task, "unblock", "-m", "blue")
            elif name == fates.REJECTED and not self.answered[task]:
                self._call(task, "reject", "-m", "once more")
            elif name in (fates.REVIEWED, fates.REJECTED):
                self._call(task, "approve")

    def _call(self, task: int, verb: str, *words: str) -> None:
        self.told.answers[verb] += 1
        self.answered[task] += 1
        self.errands[task] = subprocess.Popen(
            [sys.executable, "-m", "dispatchctl", verb, str(task), *words],
            env=self.world.variables,
            cwd=self.world.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _let_time_pass(self) -> None:
        """Nobody waits here for the growing pauses between tries."""
        soon = now() + 1_500
        waiting = self.rows.execute(
            "SELECT id FROM tasks WHERE status = 'ready' AND not_before > ?", (soon,)
        ).fetchall()
        for (task,) in waiting:
            with contextlib.suppress(DispatchctlError):
                self.store.edit(task, {"not_before": None}, None, at=now())

    def _is_over(self) -> bool:
        """Whether nothing is open and nothing can be claimed any more."""
        if self.errands or self.store.open_runs() or self.watched.has_ended():
            return False
        for task in self.store.tasks(status=[Status.READY, Status.BLOCKED, Status.IN_REVIEW]):
            name = self.told.fates[task.id]
            if task.status is Status.BLOCKED or (task.status is Status.READY and not task.waits):
                return False
            if task.status is Status.IN_REVIEW and name in (fates.REVIEWED, fates.REJECTED):
                return False
        return True

    # -- who kills -------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        what = self.chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        place = self.chance.random()
        victims = list(self._victims(what))
        if not victims:
            return
        pid, task = victims[int(place * len(victims))]
        if what == "agent":
            self.told.killed_agents[task] += 1
        self.told.kills[what] += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _victims(self, what: str) -> Iterator[tuple[int, int]]:
        """Pids of that kind, with the task where it matters."""
        if what == "watch":
            if not self.watched.has_ended():
                yield self.watched.pid, 0
        elif what == "worker":
            yield from ((pid, 0) for pid in self.watched.workers())
        elif what == "server":
            pid = self.runtime.windows().look().pid
            if pid:
                yield pid, 0
        elif what in ("git", "hook"):
            yield from ((pid, 0) for pid in self._programs(b"git" if what == "git" else HOOK.encode()))
        else:
            column = "launcher_pid" if what == "launcher" else "agent_pid"
            query = f"SELECT {column}, task FROM runs WHERE phase = 'started' AND {column} IS NOT NULL"
            yield from self.rows.execute(query).fetchall()

    def _programs(self, name: bytes) -> Iterator[int]:
        """Those of this world that have the name as a word of their command line, or as the program."""
        for pid in self.world.processes():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if os.path.basename(words[0]) == name or name in words:
                    yield pid

    def _count_git_locks(self) -> None:
        """Lock files that a killed git has left in the repository; they are removed here, since git never would."""
        for name in ("packed-refs.lock", "config.lock", "HEAD.lock"):
            path = self.repo / ".git" / name
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > 5:
                    path.unlink()
                    self.told.git_locks[name] += 1
