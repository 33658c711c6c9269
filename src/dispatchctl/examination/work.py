"""The work: open runs with their servers, tasks that wait, and the database from inside."""

import os
from dataclasses import replace
from functools import partial
from shlex import quote

from dispatchctl import machine
from dispatchctl.doctor.health import Contents, Fault, Fleet, Queue, Socket
from dispatchctl.errors import DispatchctlError, UsageError
from dispatchctl.examination.attendance import is_attended
from dispatchctl.examination.looker import Looker, modified
from dispatchctl.observation import observe
from dispatchctl.reconcile import LAST_TIME
from dispatchctl.room import room_for, within_limits
from dispatchctl.runtime import now
from dispatchctl.snapshot import Snapshot
from dispatchctl.task import Phase, Run, Status, Task

QUICK_CHECK_S = 30.0
"""Seconds that looking through the whole database may take."""
MANY = 1_000
"""Rows that are looked at of what there may be any number of."""


def contents(looker: Looker) -> Contents:
    return looker.stored.contents(at=now(), within=QUICK_CHECK_S)


def queue(looker: Looker) -> Queue:
    store, at = looker.stored, now()
    waiting = store.tasks(status={Status.READY, Status.BACKLOG})
    parents = store.parents([task.id for task in waiting if task.waits])
    claimable = _claimable(looker, at)
    since = min((task.ready_at or task.updated_at for task in claimable), default=None)
    closed = store.last_closed()
    return Queue(
        at,
        tuple(waiting),
        {task: tuple(each) for task, each in parents.items()},
        tuple(store.tasks(status={Status.FAILED}, limit=MANY)),
        tuple(task.id for task in claimable),
        max(since, closed or 0) if since is not None else None,
        looker.settings.dispatch.max_running - len(store.open_runs()),
        {pause.repo: pause.at for pause in store.pauses()},
        is_attended(looker),
    )


def _claimable(looker: Looker, at: int) -> list[Task]:
    """What a claim would take now."""
    ask = partial(looker.stored.claimable, at=at, limit=MANY)
    return within_limits(looker.runtime, room_for(looker.runtime), lambda room: ask(room=room))


def fleet(looker: Looker) -> Fleet:
    runtime, settings = looker.runtime, looker.settings
    world = observe(runtime)
    servers = dict(world.servers)
    own = runtime.windows()
    fault = None
    try:
        own.check()
        if own.socket not in servers and os.path.exists(own.socket):
            servers[own.socket] = own.look()
    except DispatchctlError as error:
        fault = Fault(own.socket, error.message, error.hint or "dispatchctl config tmux.socket")
    world = replace(world, servers=servers)
    sockets = tuple(
        Socket(path, path == own.socket, fault if path == own.socket else None, _unit(world, path))
        for path in dict.fromkeys([*servers, own.socket])
    )
    runs = [seen.run for seen in world.runs]
    holders = machine.holders([run.owner_lock for run in runs if run.phase is not Phase.STARTED])
    pids = {pid for run in runs for pid in (run.launcher_pid, run.agent_pid) if pid is not None} | {*holders.values()}
    hooks = max((_hooks_timeout(looker, repo) for repo in {run.repo for run in runs}), default=0)
    return Fleet(
        world,
        {pid: state for pid in pids if (state := machine.state(pid)) is not None},
        {pid: machine.name(pid) for pid in {run.server_pid for run in runs} if pid is not None},
        holders,
        {run.token: fault for run in runs if (fault := _missing(world, run)) is not None},
        sockets,
        settings.dispatch.launch_timeout + hooks + settings.git.checkout_timeout + settings.git.timeout,
        modified(os.path.join(runtime.state, LAST_TIME)),
    )


def _unit(world: Snapshot, socket: str) -> str | None:
    server = world.servers.get(socket)
    return machine.unit(server.pid) if server is not None and server.pid is not None else None


def _hooks_timeout(looker: Looker, repo: str) -> int:
    try:
        return looker.runtime.settings_for(repo).hooks.timeout
    except UsageError:
        return looker.settings.hooks.timeout


def _missing(world: Snapshot, run: Run) -> Fault | None:
    """What of a started run of this machine is not where it was made."""
    if run.phase is not Phase.STARTED or (run.host, run.boot_id) != (world.host, world.boot_id):
        return None
    if not os.path.isdir(run.worktree):
        there = machine.working_directory(run.agent_pid) if run.agent_pid is not None else None
        moved = f"; its agent works in {there}" if there and there != run.worktree and os.path.isdir(there) else ""
        hint = f"mv {quote(there)} {quote(run.worktree)}" if there and moved else f"dispatchctl attach {run.task}"
        return Fault(run.token, f"its worktree {run.worktree} is gone, deleted or moved by hand{moved}", hint)
    if not os.path.isdir(run.run_dir):
        return Fault(run.token, f"its run directory {run.run_dir} is gone", f"dispatchctl attach {run.task}")
    return None
