"""What one reconcile costs beside one bare `tmux list-panes -a`, with many runs in progress and a live window for each."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from world import World

from dispatchctl import processes
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime, now
from dispatchctl.store import fence
from dispatchctl.store.connection import Database
from dispatchctl.store.protocol import Claimant, Names, Room, Window
from dispatchctl.task import Actor, Run, Task

ROUNDS = 9


def measure(runs: int) -> dict[str, float]:
    """Median seconds of `tmux list-panes -a`, of a reconcile, and of the whole command, measured in turns."""
    world = World(Path(tempfile.mkdtemp(prefix="dctl-s", dir="/tmp")))
    try:
        runtime = _fleet(world, runs)
        command = [sys.executable, "-m", "dispatchctl", "--db", str(runtime.database), "reconcile"]
        taken: dict[str, list[float]] = {"tmux": [], "reconcile": [], "command": [], "python": []}
        for _ in range(ROUNDS):
            taken["tmux"].append(_timed(lambda: world.tmux("list-panes", "-a")))
            taken["reconcile"].append(_timed(lambda: _quiet(runtime)))
            taken["command"].append(_timed(lambda: _say_nothing(command, world)))
            taken["python"].append(_timed(lambda: _say_nothing([sys.executable, "-c", "pass"], world)))
        return {name: statistics.median(each) for name, each in taken.items()}
    finally:
        world.close()
        shutil.rmtree(world.root)


def _timed(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def _quiet(runtime: Runtime) -> None:
    done = reconcile(runtime).done
    assert done == [], done[:3]


def _say_nothing(command: list[str], world: World) -> None:
    done = subprocess.run(command, env=world.variables, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == "", done.stdout + done.stderr


def _fleet(world: World, count: int) -> Runtime:
    """So many started runs; the process in each window is a `sleep` that carries the token, since launchers need memory."""
    repo, runtime = world.repository(), world.runtime()
    for _ in range(count):
        world.add(runtime, "sleep 9999", repo=repo)
    store, tmux = runtime.store, shutil.which("tmux") or "tmux"
    for number in range(count):
        token = f"{number + 1:08x}"
        claimant = Claimant(token, runtime.host, runtime.boot_id, lambda task, number, _: _names(runtime, task, number))
        run = store.claim(claimant, room=Room(count + 1), actor=Actor.DISPATCH, at=now())
        assert run is not None
        store.note_base(token, base_commit="0" * 40, owns_tree=True, owns_branch=True, at=now())
        window, pid = _window(world, tmux, runtime, run)
        process = (pid, processes.start_time(pid) or 0)
        database = Database(str(runtime.database))
        fence.start(database, token, at=now(), launcher=process, agent=process, awake=processes.awake())
        database.close()
        store.note_window(token, window, at=now())
    reconcile(runtime)
    return runtime


def _names(runtime: Runtime, task: Task, number: int) -> Names:
    place = str(runtime.state / "nowhere" / f"{task.id}-{number}")
    locks = (f"{place}.owner", f"{place}.step")
    return Names("shell", f"dispatch/{task.id}", place, place, *locks, runtime.socket, "fleet", runtime.tmux, "/git")


def _window(world: World, tmux: str, runtime: Runtime, run: Run) -> tuple[Window, int]:
    """A window of which everything is as the program makes it, but for what runs in it."""
    shown = "#{session_name}|#{window_id}|#{pane_id}|#{pid}|#{start_time}|#{pane_pid}"
    first = run.task == 1
    where = ["new-session", "-d", "-s", "fleet"] if first else ["new-window", "-d", "-t", "=fleet:"]
    marks = [f"DISPATCHCTL_TOKEN={run.token}", f"DISPATCHCTL_DB={runtime.database}"]
    made = world.tmux(*where, "-P", "-F", shown, "--", "/usr/bin/env", *marks, "sleep", "9999")
    session, window_id, pane_id, server, start, pid = made.split("|")
    for option, value in (("token", run.token), ("database", runtime.store.id), ("task", str(run.task))):
        world.tmux("set-option", "-p", "-t", pane_id, f"@dispatchctl_{option}", value)
    assert tmux
    return Window(session, window_id, pane_id, int(server), int(start)), int(pid)


def page(counts: tuple[int, ...] = (10, 100, 1_000)) -> str:
    """A section for the page."""
    lines = [
        f"""## What a reconcile costs

With so many runs in progress and a live window for each, in one run, in turns, medians of {ROUNDS}. The process in a window is
a `sleep` with the run's token. {os.cpu_count()} cores.

| runs | `tmux list-panes -a` | reconcile itself | | whole command | `python -c pass` |
|---|---|---|---|---|---|""",
    ]
    for count in counts:
        took = measure(count)
        ms = {name: f"{1000 * each:.0f} ms" for name, each in took.items()}
        ratio = f"{took['reconcile'] / took['tmux']:.1f} ×"
        lines.append(f"| {count} | {ms['tmux']} | {ms['reconcile']} | {ratio} | {ms['command']} | {ms['python']} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    page(tuple(map(int, sys.argv[1:])) or (10, 100, 1_000))
