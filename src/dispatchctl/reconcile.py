"""Make every status true again: observe, plan, apply.

It runs before each dispatch, by hand and from cron; twice in a row it does nothing the second time, and two at once do no
harm: every write is fenced by phase and token, an undo is done by whoever holds the run's owner lock, and an end is
recorded once.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from dispatchctl import launcher, processes, rundir
from dispatchctl.errors import DispatchctlError, Refused
from dispatchctl.launch import drop_locks, undo
from dispatchctl.plan import Action, Kind, plan
from dispatchctl.runtime import Runtime, now
from dispatchctl.snapshot import Answer, Holder, SeenRun, Server, Snapshot
from dispatchctl.steps import Launch
from dispatchctl.store.protocol import Window
from dispatchctl.task import Actor, Cause, Phase, Run
from dispatchctl.verdict import Cure, Ending

STEP_PATIENCE_S = 5.0
"""Seconds that an undo waits for the git or hook of a dead dispatcher to let go of the step lock after it was ended."""


@dataclass(frozen=True)
class Done:
    """What became of an action."""

    action: Action
    ok: bool
    error: str | None = None


@dataclass
class Reconciled:
    """What a call of `reconcile` did, and the sockets that did not answer."""

    done: list[Done] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)


def observe(runtime: Runtime) -> Snapshot:
    """Look at the world: panes first, then processes, locks and exit files, then rows.

    The other order would take an agent that was launched in between for one without a row. One request per socket.
    """
    sockets = dict.fromkeys(run.socket for run in runtime.store.open_runs())
    servers = {socket: runtime.windows(socket).look() for socket in sockets}
    carriers = processes.by_token() if sockets else {}
    runs = tuple(_seen(runtime, run, carriers) for run in runtime.store.open_runs())
    return Snapshot(now(), runtime.host, runtime.boot_id, servers, runs)


def _seen(runtime: Runtime, run: Run, carriers: Mapping[str, int]) -> SeenRun:
    known = None
    if run.launcher_pid is not None and run.launcher_start is not None:
        known = processes.is_alive((run.launcher_pid, run.launcher_start))
    return SeenRun(
        run,
        runtime.store.task(run.task).status,
        owner=_holder(run.owner_lock),
        ending=launcher.read_exit_file(run.run_dir),
        launcher=known,
        processes=carriers.get(run.token, 0),
    )


def _holder(path: str) -> Holder:
    held = processes.is_locked(path)
    if held is None:
        return Holder.MISSING
    return Holder.HELD if held else Holder.FREE


def reconcile(runtime: Runtime, *, actor: Actor = Actor.RECONCILE, dry_run: bool = False) -> Reconciled:
    """Do what is to be done; one run's trouble does not keep the others from theirs."""
    world = observe(runtime)
    silent = {path: each.said for path, each in world.servers.items() if each.answer is Answer.UNKNOWN}
    result = Reconciled(silent=silent)
    for action in plan(world):
        if dry_run or action.kind is Kind.REPORT:
            result.done.append(Done(action, action.kind is not Kind.REPORT))
            continue
        seen = next(seen for seen in world.runs if seen.run.token == action.run)
        try:
            APPLY[action.kind](Work(runtime, action.reason, seen, world.server_of(seen.run), actor))
            result.done.append(Done(action, True))
        except Refused:
            continue  # somebody else was quicker
        except (DispatchctlError, OSError) as error:
            result.done.append(Done(action, False, str(error)))
    return result


@dataclass(frozen=True)
class Work:
    """What an action is done with: the run as it was seen, and the server that it ran in."""

    runtime: Runtime
    reason: str
    seen: SeenRun
    server: Server
    actor: Actor

    @property
    def run(self) -> Run:
        """The run as it was seen; whoever writes names the phase that it expects."""
        return self.seen.run


def _close(work: Work) -> None:
    """Close the run from its exit file, once no process of it is left."""
    ending = work.seen.ending
    assert ending is not None, "planned from it"
    if ending.cause is Cause.HANGUP and ending.server_lives is None:
        run, server = work.run, work.server
        same = server.answer is Answer.RUNNING and (server.pid, server.start) == (run.server_pid, run.server_start)
        ending = replace(ending, server_lives=same)
    _end(work, ending)


def _hang_up(work: Work) -> None:
    _end(work, Ending(Cause.HANGUP, now(), server_lives=True))


def _lose(work: Work) -> None:
    _end(work, Ending(Cause.TERMINATED, now(), error=work.reason))


def _end(work: Work, ending: Ending) -> None:
    """End what is left of the run, then close it. A run of which something cannot be ended stays open.

    Under the run's lock, so that of two reconciles one does it and the other does not sweep away that one's git.
    """
    run = work.run
    lock = processes.lock(run.owner_lock)
    if lock is None:
        return  # somebody else is doing it
    try:
        if work.runtime.store.run(run.token).phase is Phase.STARTED:
            _sweep(work)
            launcher.close_run(_spec(work), ending, by_launcher=False)
        drop_locks(lock, run.step_lock)
    finally:
        lock.release()


def _spec(work: Work) -> launcher.Spec:
    """What the launcher was told; where its directory is lost, as far as row and settings say it."""
    run, runtime = work.run, work.runtime
    try:
        spec = launcher.Spec(run.run_dir)
        if "base_commit" in spec.values:
            return spec
    except OSError:
        pass
    values = {
        "token": run.token,
        "database": str(runtime.database),
        "worktree": run.worktree,
        "base_commit": run.base_commit or "HEAD",
        "result_file": os.path.join(run.worktree, ".dispatchctl", "result"),
        "git": runtime.git.program,
        "path": runtime.environment.path,
        "home": str(runtime.environment.home),
        "busy_timeout": str(runtime.settings.store.busy_timeout),
        "expects_changes": "0",
        "uncommitted": "review",
        "retry_wait_s": str(runtime.settings.dispatch.retry_wait),
    }
    return launcher.Spec(run.run_dir, values)


def _sweep(work: Work) -> None:
    run = work.run
    pairs = ((run.launcher_pid, run.launcher_start), (run.agent_pid, run.agent_start))
    roots = [(pid, start) for pid, start in pairs if pid is not None and start is not None]
    grace = work.runtime.settings.dispatch.kill_grace
    left = processes.sweep(lambda: processes.of_run(run.token, roots), grace=grace)
    if left:
        pids = ", ".join(str(pid) for pid, _ in left)
        raise DispatchctlError(f"task {run.task}: processes {pids} cannot be ended", f"ps -o pid,stat,args -p {pids}")


def _undo(work: Work) -> None:
    """Take over the run of a dead dispatcher: its lock first, then the row again, then everything by the row."""
    runtime = work.runtime
    owner = processes.lock(work.run.owner_lock)
    if owner is None:
        return  # it is being started or undone by somebody else
    try:
        run = runtime.store.run(work.run.token)
        if run.phase not in (Phase.LAUNCHING, Phase.UNDOING):
            return
        _end_step(work)
        error = run.error if run.phase is Phase.UNDOING and run.error else work.reason
        if runtime.store.begin_undo(run.token, error, actor=work.actor, at=now()):
            undo(Launch(runtime, runtime.store.task(run.task), run), error, cure=Cure.AGAIN, actor=work.actor)
        drop_locks(owner, run.step_lock)
    finally:
        owner.release()


def _end_step(work: Work) -> None:
    """End the git or hook that a dead dispatcher left at work, so that it cannot write while its work is taken back."""
    path = work.run.step_lock
    step = processes.lock(path)
    if step is None:
        _sweep(work)
        step = processes.lock(path, wait=STEP_PATIENCE_S)
    if step is None:
        raise DispatchctlError(f"task {work.run.task}: an unknown process still holds {path}", f"fuser {path}")
    step.release()


def _adopt(work: Work) -> None:
    server, pane = work.server, work.server.pane_of(work.run.token)
    assert pane is not None, "planned from it"
    assert server.pid is not None, "it answered"
    assert server.start is not None, "it answered"
    window = Window(pane.session, pane.window_id, pane.pane_id, server.pid, server.start)
    work.runtime.store.note_window(work.run.token, window, actor=work.actor, at=now())


def _ask_again(work: Work) -> None:
    rundir.tell(work.run.run_dir, f"end {work.run.ask}")


APPLY: Mapping[Kind, Callable[[Work], None]] = {
    Kind.CLOSE: _close,
    Kind.UNDO: _undo,
    Kind.ADOPT: _adopt,
    Kind.HANG_UP: _hang_up,
    Kind.LOSE: _lose,
    Kind.END: _ask_again,
}
