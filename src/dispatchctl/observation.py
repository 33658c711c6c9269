"""Looking at the world once: panes first, then processes, lock files and what launchers left, then rows.

The other order would take an agent that was launched in between for one without a row. One request per tmux socket, one look
at the process table; nothing is asked of finished tasks.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dispatchctl import intent, launcher, names, processes
from dispatchctl.config import StallAction
from dispatchctl.errors import DispatchctlError, NoSuchTask, Unavailable
from dispatchctl.processes import Carriers
from dispatchctl.runtime import Runtime, now
from dispatchctl.snapshot import Answer, Holder, Limits, Pane, SeenRun, Server, Snapshot, Stray, Tree
from dispatchctl.store.protocol import Sighting
from dispatchctl.task import Run, Task


def observe(runtime: Runtime) -> Snapshot:
    """Everything that reconcile and doctor decide by."""
    store = runtime.store
    before = store.open_runs()
    servers = _servers(runtime, before)
    carriers = processes.by_token()
    trees = _trees(runtime, before)
    locks = _locked_tokens(runtime.state / "locks")
    tasks = store.open_tasks()
    sightings = store.sightings()
    awake = processes.awake()
    opened = [_seen(runtime, task, task.run, carriers, sightings, awake) for task in tasks if task.run is not None]
    runs = _still_so(runtime, opened)
    panes = {
        pane.token: (socket, pane)
        for socket, server in servers.items()
        for pane in server.panes
        if pane.database == store.id
    }
    ours = {token for token, each in carriers.items() if str(runtime.database) in each.databases}
    unknown = trees.keys() - store.find_runs(trees).keys()
    strange = (panes.keys() | ours | locks | unknown) - {seen.run.token for seen in opened}
    strays = _strays(runtime, sorted(strange), panes, carriers, {seen.run.task for seen in opened})
    strays = tuple(_with_tree(stray, trees.get(stray.token)) for stray in strays)
    return Snapshot(now(), runtime.host, runtime.boot_id, servers, runs, strays, limits(runtime))


def _still_so(runtime: Runtime, opened: Sequence[SeenRun]) -> tuple[SeenRun, ...]:
    """Those of the runs whose rows are as they were read, so that what was seen after belongs to them.

    A run that goes on while it is looked at is somebody's; nothing is wrong with it that the next look would not see.
    """
    doubtful = {seen.run.token: seen.run.phase for seen in opened if not seen.launcher}
    rows = runtime.store.find_runs(doubtful)
    changed = {token for token, phase in doubtful.items() if token not in rows or rows[token].phase is not phase}
    return tuple(seen for seen in opened if seen.run.token not in changed)


def look_at(runtime: Runtime, run: Run) -> Snapshot:
    """The world as far as it concerns one open run; of one whose launcher lives, nothing else has to be asked."""
    task = runtime.store.task(run.task)
    seen = _seen(runtime, task, run, {}, {}, processes.awake())
    servers: dict[str, Server] = {}
    if not seen.launcher:
        servers = {run.socket: _look(runtime, run.socket)}
        seen = _seen(runtime, task, run, processes.by_token(), {}, processes.awake())
    return Snapshot(now(), runtime.host, runtime.boot_id, servers, (seen,), (), limits(runtime))


def limits(runtime: Runtime) -> Limits:
    """What the user's settings say of time."""
    of_dispatch = runtime.settings.dispatch
    return Limits(
        of_dispatch.kill_grace,
        of_dispatch.report_grace,
        of_dispatch.stall_after,
        of_dispatch.stall_action is StallAction.END,
        runtime.settings.tmux.keep_windows,
    )


def new_sightings(runtime: Runtime, world: Snapshot) -> list[Sighting]:
    """What to remember of runs that have stirred since they were last seen to, and not a moment ago."""
    before, awake = runtime.store.sightings(), processes.awake()
    found = []
    for seen in world.runs:
        last = before.get(seen.run.token)
        recent = last is not None and awake - last.stirred_awake < 100 * world.limits.stall_after
        if world.limits.stall_after and seen.quiet_s == 0.0 and not recent:
            found.append(Sighting(seen.run.token, _written(seen.run), seen.run.heartbeat_at, awake))
    return found


def _servers(runtime: Runtime, opened: Sequence[Run]) -> dict[str, Server]:
    """Every tmux server that runs have used, or will: the database may have been put back to before the first of them.

    A socket that is gone and that no open run needs is not asked.
    """
    needed = dict.fromkeys(run.socket for run in opened)
    known = [place.path for place in runtime.store.places() if place.kind == "tmux"]
    servers = {}
    for socket in dict.fromkeys([*needed, *known, runtime.socket]):
        if socket in needed or os.path.exists(socket):
            servers[socket] = _look(runtime, socket)
    return servers


def _look(runtime: Runtime, socket: str) -> Server:
    """The server on the socket; a tmux that is not there at all does not answer either."""
    try:
        return runtime.windows(socket).look()
    except Unavailable as error:
        return Server(Answer.UNKNOWN, said=error.message)


def _trees(runtime: Runtime, opened: Sequence[Run]) -> dict[str, Tree]:
    """The worktrees that are locked in the name of runs, by token: in the repositories that are in use, one request each."""
    found = {}
    for repo in dict.fromkeys(run.repo for run in opened):
        try:
            listed = runtime.git.listed(repo)
        except DispatchctlError:
            continue  # it does not say: then nothing is known of what is there
        for each in listed:
            owner = names.of_lock_reason(each.reason, str(runtime.database))
            if owner is not None and os.path.isdir(each.path):
                found[owner[1]] = Tree(repo, each.path, each.branch, owner[0])
    return found


def _with_tree(stray: Stray, tree: Tree | None) -> Stray:
    if tree is None:
        return stray
    return replace(stray, tree=tree, task=tree.task if stray.task is None else stray.task)


def _locked_tokens(directory: Path) -> set[str]:
    """The runs that have lock files: those that are being started, or that nobody has finished with."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return {name.partition(".")[0] for name in names if name.endswith((".owner", ".step"))}


def _seen(
    runtime: Runtime,
    task: Task,
    run: Run,
    carriers: Mapping[str, Carriers],
    sightings: Mapping[str, Sighting],
    awake: int,
) -> SeenRun:
    carried = carriers[run.token].count if run.token in carriers else 0
    here = run.host == runtime.host and run.boot_id == runtime.boot_id
    return SeenRun(
        run,
        task.status,
        owner=holder(run.owner_lock),
        ending=launcher.read_exit_file(run.run_dir),
        launcher=_lives(run.launcher_pid, run.launcher_start),
        processes=carried + bool(_lives(run.agent_pid, run.agent_start)),
        began=os.path.exists(os.path.join(run.run_dir, "started")),
        timeout_s=task.timeout_s,
        age_s=_since(run.started_awake, awake) if here else None,
        asked_s=_since(run.asked_awake, awake) if here else None,
        quiet_s=_quiet(run, sightings.get(run.token), awake) if here else None,
    )


def _lives(pid: int | None, started: int | None) -> bool | None:
    return None if pid is None or started is None else processes.is_alive((pid, started))


def _since(then: int | None, awake: int) -> float | None:
    return None if then is None else (awake - then) / 1000


def _quiet(run: Run, last: Sighting | None, awake: int) -> float:
    """How long the run has neither written nor sent a heartbeat, as far as it was looked at: 0 if it has, since then."""
    if last is None or (last.output_size, last.heartbeat_at) != (_written(run), run.heartbeat_at):
        return 0.0
    return (awake - last.stirred_awake) / 1000


def _written(run: Run) -> int:
    try:
        return os.stat(os.path.join(run.run_dir, "output.log")).st_size
    except OSError:
        return 0


def holder(path: str) -> Holder:
    """Whether somebody holds the lock file."""
    held = processes.is_locked(path)
    if held is None:
        return Holder.MISSING
    return Holder.HELD if held else Holder.FREE


def _strays(
    runtime: Runtime,
    tokens: list[str],
    panes: Mapping[str, tuple[str, Pane]],
    carriers: Mapping[str, Carriers],
    busy: set[int],
) -> tuple[Stray, ...]:
    """What carries one of the tokens, with what the database knows of it now."""
    known = runtime.store.find_runs(tokens)
    # Another reconcile may have ended and closed a run between the look at the process table and the one at the rows.
    living = processes.by_token().keys() if carriers.keys() & set(tokens) else set()
    found, numbers = [], {}
    for token in tokens:
        run = known.get(token)
        if run is not None and run.closed_at is None:
            continue  # opened while we were looking
        socket, pane = panes.get(token, (None, None))
        if pane is not None and not pane.dead and _is_gone(pane.pid):
            pane = replace(pane, dead=True)  # tmux 3.3a may not notice for long
        directory, written = intended(runtime, token, run)
        task = _task_of(pane, run, written)
        found.append(
            Stray(
                token,
                task,
                run,
                socket or (run.socket if run else written.run.socket if written else None),
                pane,
                alive=token in living,
                began=os.path.exists(os.path.join(directory, "started")),
                ended=launcher.read_exit_file(directory) is not None,
                enterable=written is not None
                and task not in busy
                and _is_same(runtime, written, alive=token in living),
                owner=_holder_of_either(lock_file(runtime, token, run)),
            )
        )
        numbers[token] = written.run.number if written is not None else 0
    return tuple(sorted(found, key=lambda stray: numbers[stray.token]))  # of a task's runs the last has the last word


def _holder_of_either(owner: str) -> Holder:
    """Who holds the owner lock, or the step lock where only that was left."""
    held = holder(owner)
    return held if held is not Holder.MISSING else holder(step_lock(owner))


def intended(runtime: Runtime, token: str, run: Run | None) -> tuple[str, intent.Intent | None]:
    """The run's directory, and the run as it was claimed, as far as that was written down for this database."""
    directory = run.run_dir if run is not None else str(runtime.state / "runs" / token)
    for path in (os.path.join(directory, "run.json"), lock_file(runtime, token, run)):
        written = intent.read(path)
        if written is not None and written.database == runtime.store.id and written.run.token == token:
            return written.run.run_dir, written
    return directory, None


def lock_file(runtime: Runtime, token: str, run: Run | None) -> str:
    """The run's owner lock file."""
    return run.owner_lock if run is not None else str(runtime.state / "locks" / f"{token}.owner")


def step_lock(owner: str) -> str:
    """The step lock file beside that owner lock file."""
    return f"{owner.removesuffix('owner')}step"


def _is_gone(pid: int) -> bool:
    """Whether no process has that pid; False where the process table cannot be read."""
    return processes.is_alive((pid, processes.start_time(pid) or 0)) is False


def _task_of(pane: Pane | None, run: Run | None, written: intent.Intent | None) -> int | None:
    if run is not None:
        return run.task
    if written is not None:
        return written.task.id
    return pane.task if pane is not None else None


def _is_same(runtime: Runtime, written: intent.Intent, *, alive: bool) -> bool:
    """Whether the task that the run was claimed for is the one the database has, or is lost; and the run its newest.

    What lives is the newest, whatever the numbers say: a restored database counts them again.
    """
    try:
        task = runtime.store.task(written.task.id)
    except NoSuchTask:
        return True
    last = task.run
    newest = last is None or last.token == written.run.token or last.number < written.run.number or alive
    return task.created_at == written.task.created_at and newest
