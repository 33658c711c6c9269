"""What has to be true of the model's world: after every move, and of what reconcile leaves when everything has come to rest."""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from dispatchctl.plan import Action, Kind
from dispatchctl.snapshot import Holder, SeenRun, Snapshot
from dispatchctl.store.protocol import Store
from dispatchctl.task import NEXT, Phase, Run, Status, Task
from model import computer as machine
from model.computer import Computer, Process
from model.doors import KEEP_WINDOWS, TABLE
from model.repository import Repository

LIVING = (machine.Kind.AGENT, machine.Kind.HELPER)


def at_work(computer: Computer) -> list[Process]:
    """Every agent that was let go, and what agents left."""
    return [each for each in computer.with_kind(*LIVING) if each.works]


# -- after every move ------------------------------------------------------------------------------------------------------
def one_agent_per_task(computer: Computer, tasks: dict[str, tuple[int, int]], destroyed: set[str]) -> None:
    """P2: whatever lives of a task's agents belongs to one run.

    The one exception: a database that is older than an agent that lives, whose run directory was deleted by hand, and whose
    pane is gone or was. Its processes are seen and reported, but nothing says of which task they are.
    """
    tokens: dict[tuple[int, int], str] = {}
    for process in at_work(computer):
        if process.token in destroyed:
            continue
        first = tokens.setdefault(tasks[process.token], process.token)
        assert first == process.token, f"P2: runs {first} and {process.token} of task {tasks[first]} both live"


def nothing_closed_lives(computer: Computer, runs: dict[str, Run]) -> None:
    """P1: a run is open until every process of it is gone."""
    for process in at_work(computer):
        run = runs.get(process.token)
        assert run is not None, f"P1: {process.kind} {process.name} lives of a run {process.token} that has no row"
        assert run.phase is Phase.STARTED, f"P1: {process.kind} {process.name} lives of a run that is {run.phase}"


def work_is_kept(repositories: Iterable[Repository], work: Sequence[tuple[str, str]]) -> None:
    """P3: each file that an agent wrote is where it was, or a ref keeps it."""
    for worktree, name in work:
        there = os.path.exists(os.path.join(worktree, name))
        assert there or any(each.keeps(name) for each in repositories), f"P3: {name} of {worktree} is lost"


def ends_are_kept(computer: Computer, runs: dict[str, Run]) -> None:
    """P5: what a launcher wrote down, and nobody has removed since, is what the closed row says."""
    for token, (code, signal) in computer.recorded.items():
        run = runs.get(token)
        there = run is not None and os.path.exists(os.path.join(run.run_dir, "exit.json"))
        if run is not None and there and run.phase is Phase.CLOSED and run.started_at is not None:
            assert (run.exit_code, run.signal) == (code, signal), f"P5: {run} ended with {code}, {signal}"


def moves_are_allowed(store: Store, after: int) -> int:
    """Every new event is one that the table of transitions has; the last event's number."""
    for event in store.events(after=after):
        if event.from_status is not None and event.to_status is not None:
            assert event.to_status in NEXT[event.from_status], event
        after = event.id
    return after


def consistent(path: str) -> None:
    """What SQLite checks of what is stored."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    finally:
        connection.close()


def began_for_good(process: Process, run: Run | None) -> None:
    """P3, P6: what began is ended as a run that began, and never taken back as one that did not."""
    began = run is not None and run.phase is Phase.STARTED
    assert began, f"P3: {process} worked and is ended, though its run is {run}"


# -- of each plan ----------------------------------------------------------------------------------------------------------
def unknown_changes_nothing(world: Snapshot, actions: Sequence[Action], silent: set[str], held: set[str]) -> None:
    """P6: where tmux or the process table did not answer, nothing is done that only they could have justified.

    `silent` and `held` are what is true: who did not answer, and which lock files somebody else holds.
    """
    for seen in world.runs:
        planned = {action.kind for action in actions if action.run == seen.run.token}
        for why in _unknowns(world, seen, silent, held):
            assert planned <= {Kind.REPORT}, f"P6: {why}, and {planned} is planned for {seen}"


def _unknowns(world: Snapshot, seen: SeenRun, silent: set[str], held: set[str]) -> list[str]:
    run = seen.run
    if run.boot_id != world.boot_id:
        return []
    if run.phase is Phase.STARTED:
        found = ["the process table was silent"] if TABLE in silent else []
        if run.socket in silent and seen.launcher is False and seen.ending is None:
            found.append("tmux was silent")
        return found
    if run.owner_lock in held:
        return ["its dispatcher lives"]
    if seen.owner is Holder.MISSING and not seen.began and run.phase is Phase.LAUNCHING:
        return ["whether its dispatcher lives is unknown"]
    return []


# -- when all has come to rest -----------------------------------------------------------------------------------------------
def statuses_are_true(computer: Computer, tasks: Sequence[Task], reported: set[str]) -> None:
    """P1: in progress exactly while an agent lives; nobody starts anything now."""
    living = {each.token for each in at_work(computer)}
    for task in tasks:
        run = task.run
        if task.status is Status.IN_PROGRESS:
            assert run is not None
            assert run.token in living | reported, f"P1: task {task.id} is in progress, and run {run} does not live"
        elif run is not None and run.phase is not Phase.CLOSED:
            assert task.status is Status.BLOCKED, f"P1: task {task.id} is {task.status} with an open run {run}"
            assert run.token in living | reported, f"P1: run {run} of a blocked task is open and does not live"


def nobody_is_forgotten(computer: Computer, runs: dict[str, Run], reported: set[str]) -> None:
    """P1, P4: whatever lives of a run belongs to an open one, or is reported, whichever database was put in place."""
    for process in at_work(computer):
        run = runs.get(process.token)
        known = run is not None and run.phase is Phase.STARTED
        assert known or process.token in reported, f"P1: {process} lives, and its run is {run}"


def nothing_without_a_row(
    computer: Computer, repositories: Iterable[Repository], runs: dict[str, Run], reported: set[str]
) -> None:
    """P4: every pane, process, lock file, run directory, worktree and branch has a row that owns it."""
    open_runs = {token for token, run in runs.items() if run.phase is not Phase.CLOSED}
    for process in computer.processes.values():
        assert process.token in open_runs | reported | {""}, f"P4: nobody owns {process}"
    for pane in computer.panes():
        run = runs.get(pane.token)
        assert run is not None or pane.token in reported, f"P4: no row for {pane}"
        if run is not None and run.closed_at is not None:
            assert run.started_at is not None, f"P4: nothing ever ran in {pane}"
            assert computer.wall - run.closed_at <= KEEP_WINDOWS * 1000 + 60_000, f"P4: kept for too long: {pane}"
    state = computer.root / "tasks.d"
    locks = os.listdir(state / "locks") if (state / "locks").exists() else []
    assert not [name for name in locks if name.partition(".")[0] not in reported], f"P4: left behind: {locks}"
    directories = os.listdir(state / "runs") if (state / "runs").exists() else []
    owned = [run for run in runs.values() if run.started_at is not None or run.phase is not Phase.CLOSED]
    left = set(directories) - {run.token for run in owned} - reported
    assert not left, f"P4: nobody owns the run directories {left}"
    for repository in repositories:
        trees = set(repository.trees) - {run.worktree for run in owned}
        assert not trees, f"P4: no row for {trees}"
        branches = {ref[11:] for ref in repository.refs if ref.startswith("refs/heads/")}
        left = branches - {run.branch for run in owned} - {"main"}
        assert not left, f"P4: no row for {left}"


def rows(path: str) -> dict[str, list[dict[str, Any]]]:
    """All that is stored, to be shown when a promise is broken."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        return {
            table: [dict(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in ("tasks", "runs")
        }
    finally:
        connection.close()
