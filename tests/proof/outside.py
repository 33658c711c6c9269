"""Whether the promises hold, seen from outside: rows, processes, tmux, git and the file system, and nothing of the program's
own opinion. Each violation is a sentence that begins with the number of its promise."""

import json
import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from store.bench import Sqlite, complete
from world import World

from dispatchctl import processes
from dispatchctl.replay import replay
from dispatchctl.store import open_store

Row = dict[str, Any]

BY_HAND = "by hand"
"""A file in a world whose rows were changed by hand, which no event says."""

AGENT = """
exec 9>>"{root}/agents/$DISPATCHCTL_TASK.lock"
flock -n 9 || echo "$DISPATCHCTL_TASK $DISPATCHCTL_TOKEN" >> "{root}/agents/second"
echo "$DISPATCHCTL_TASK $DISPATCHCTL_TOKEN $PWD" >> "{root}/agents/began"
echo "$DISPATCHCTL_TOKEN" > "work-$DISPATCHCTL_TOKEN"
until [ -e "{root}/agents/release" ]; do sleep 0.02; done
git add -A 2>/dev/null && git commit -qm "work of $DISPATCHCTL_TOKEN" 2>/dev/null
echo "$DISPATCHCTL_TASK $DISPATCHCTL_TOKEN 3" >> "{root}/agents/ended"
exit 3
"""
"""An agent that would notice a second one of its task, works, waits to be released, and ends with 3."""


def agent(root: Path) -> str:
    """The prompt for the agent `shell` that does what `AGENT` says."""
    (root / "agents").mkdir(exist_ok=True)
    return AGENT.replace("{root}", str(root))


def violations(world: World, database: str, repo: Path) -> list[str]:
    """Every promise that does not hold now."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        tasks = {row["id"]: dict(row) for row in connection.execute("SELECT * FROM tasks")}
        runs = {row["token"]: dict(row) for row in connection.execute("SELECT * FROM runs")}
    return [
        *_statuses(tasks, runs),
        *_one_agent(world, runs),
        *_work(world, repo, runs),
        *_left_behind(world, database, repo, runs),
        *([] if (world.root / BY_HAND).exists() else _history(database)),
    ]


def _statuses(tasks: dict[int, Row], runs: dict[str, Row]) -> Iterator[str]:
    """P1: in progress only while an agent lives or is being started."""
    open_runs = {run["task"]: run for run in runs.values() if run["phase"] != "closed"}
    for number, task in tasks.items():
        run = open_runs.get(number)
        if task["status"] == "in_progress" and run is None:
            yield f"P1 task {number} is in progress without an open run"
        if task["status"] in ("ready", "done", "in_review", "cancelled") and run is not None:
            yield f"P1 task {number} is {task['status']} with the open run {run['token']}"
    for run in open_runs.values():
        if run["phase"] == "started":
            if processes.start_time(run["launcher_pid"] or 0) != run["launcher_start"]:
                yield f"P1 run {run['token']} is open and its launcher is gone"
        elif not processes.is_locked(run["owner_lock"]):
            yield f"P1 run {run['token']} is {run['phase']} and nobody holds its lock"


def _one_agent(world: World, runs: dict[str, Row]) -> Iterator[str]:
    """P2: no agent found another one of its task; and each live one has its open run."""
    second = world.root / "agents" / "second"
    if second.exists():
        yield f"P2 a second agent ran at the same time: {second.read_text().split()}"
    for token, _ in _lines(world, "began"):
        run = runs.get(token)
        if (run is None or run["phase"] == "closed") and _alive(token):
            yield f"P2 an agent of run {token} lives, which the database does not have open"


def _work(world: World, repo: Path, runs: dict[str, Row]) -> Iterator[str]:
    """P3: whatever an agent wrote is in its worktree or in a commit that a ref keeps."""
    for token, place in _lines(world, "began"):
        name = f"work-{token}"
        if os.path.exists(os.path.join(place, name)) or world.git(repo, "log", "--all", "--oneline", "--", name):
            continue
        if _alive(token) or (token in runs and runs[token]["phase"] != "closed"):
            continue  # it has just begun
        yield f"P3 what the agent of run {token} wrote is lost"


def _left_behind(world: World, database: str, repo: Path, runs: dict[str, Row]) -> Iterator[str]:
    """P4: every worktree, branch, pane, process, run directory and lock file belongs to a row."""
    owned = {token: run for token, run in runs.items() if run["outcome"] != "rolled_back"}
    open_runs = {token for token, run in runs.items() if run["phase"] != "closed"}
    state = Path(database).with_suffix(".d")
    yield from _trees_left(world, state, repo, owned.values())
    for line in world.tmux("list-panes", "-a", "-F", "#{@dispatchctl_token}").splitlines():
        if line and line not in owned:
            yield f"P4 a pane of run {line} is there"
    for path in state.glob("runs/*"):
        if path.name not in owned:
            yield f"P4 run directory {path.name} belongs to no run"
    for path in state.glob("locks/*"):
        if path.stem not in open_runs:
            yield f"P4 lock file {path.name} belongs to no open run"
    for token, carriers in processes.by_token().items():
        if database in carriers.databases and token not in open_runs:
            yield f"P4 {carriers.count} processes of run {token} live, which is not open"


def _trees_left(world: World, state: Path, repo: Path, owned: Collection[Row]) -> Iterator[str]:
    trees, branches = {run["worktree"] for run in owned}, {run["branch"] for run in owned}
    listed = world.git(repo, "worktree", "list", "--porcelain").splitlines()
    for line in listed:
        if line.startswith("worktree ") and line[9:] != str(repo) and line[9:] not in trees:
            yield f"P4 worktree {line[9:]} belongs to no run"
    for path in state.glob("worktrees/*/*"):
        if str(path) not in trees:
            yield f"P4 directory {path} belongs to no run"
    for branch in world.git(repo, "for-each-ref", "--format=%(refname:short)", "refs/heads/dispatch").splitlines():
        if branch not in branches:
            yield f"P4 branch {branch} belongs to no run"


def _history(database: str) -> Iterator[str]:
    """P7: the events give the rows."""
    store = open_store(database)
    try:
        replayed = replay(store.events())
    finally:
        store.close()
    backend = Sqlite(Path(database).parent)
    backend.path = database
    tasks, runs = backend.rows()
    if complete(replayed.tasks, tasks) != tasks or complete(replayed.runs, runs) != runs:
        yield "P7 the events do not give the rows"


def unrecorded(world: World, database: str) -> Iterator[str]:
    """P5: agents that ended and whose end is not on their rows. For when no launcher was killed, and all is quiet."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        codes = dict(connection.execute("SELECT token, exit_code FROM runs WHERE phase = 'closed'").fetchall())
    for token, code in _lines(world, "ended"):
        if codes.get(token) != int(code):
            yield f"P5 run {token} ended with {code}, and its row says {codes.get(token)}"


def _alive(token: str) -> bool:
    return bool(processes.of_run(token))


def _lines(world: World, name: str) -> list[tuple[str, str]]:
    path = world.root / "agents" / name
    lines = path.read_text().splitlines() if path.exists() else []
    return [(token, rest) for _, token, rest in (line.split(" ", 2) for line in lines)]


def told(world: World) -> dict[str, Any]:
    """What this world's fault was to be."""
    found: dict[str, Any] = json.loads((world.root / "fault.json").read_text())
    return found
