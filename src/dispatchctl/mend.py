"""What reconcile does about each thing that was seen: one function a kind of action.

Each takes what was seen, looks again under the run's lock where somebody else may be quicker, and writes what it expects:
two at once do no harm, and one that was killed is gone on with by the next.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from dispatchctl import launcher, processes, rundir
from dispatchctl.errors import DispatchctlError, Refused, Unanswered
from dispatchctl.faults import effect
from dispatchctl.intent import Intent
from dispatchctl.launch import drop_locks, undo
from dispatchctl.observation import intended, lock_file, step_lock
from dispatchctl.plan import Kind
from dispatchctl.runtime import Runtime, now
from dispatchctl.saga import unwind
from dispatchctl.snapshot import Answer, Holder, SeenRun, Server, Snapshot, Stray, Tree
from dispatchctl.steps import STEPS, Launch, lock_reason
from dispatchctl.store.protocol import Window
from dispatchctl.task import Activity, Actor, Ask, Cause, Phase, Run
from dispatchctl.verdict import Cure, Ending

STEP_PATIENCE_S = 5.0
"""Seconds that an undo waits for the git or hook of a dead dispatcher to let go of the step lock after it was ended."""
GLANCE_S = 0.1
"""Seconds for a lock: whoever only looks whether it is held holds it for that moment."""


@dataclass(frozen=True)
class Work:
    """What an action is done with: the open run as it was seen, or the stray."""

    runtime: Runtime
    world: Snapshot
    reason: str
    seen: SeenRun | None
    stray: Stray | None
    actor: Actor

    @property
    def open(self) -> SeenRun:
        """The open run as it was seen; whoever writes names the phase that it expects."""
        assert self.seen is not None, "planned for an open run"
        return self.seen

    @property
    def run(self) -> Run:
        """The open run's row as it was seen."""
        return self.open.run

    @property
    def server(self) -> Server:
        """The server that the open run ran in."""
        return self.world.server_of(self.run)


def _close(work: Work) -> None:
    """Close the run from its exit file, once no process of it is left."""
    assert work.open.ending is not None, "planned from it"
    _end(work, work.open.ending)


def _hang_up(work: Work) -> None:
    """A human closed its window; looked at again, since window or server may have come or gone since the first look."""
    server = _server_now(work)
    if server.is_of(work.run) and server.pane_of(work.run.token) is None:
        _end(work, Ending(Cause.HANGUP, now(), server_lives=True))
    else:
        _end(work, Ending(Cause.TERMINATED, now(), error="its launcher was killed, or its tmux server"))


def _server_now(work: Work) -> Server:
    """The run's tmux server as it is now. Raises `Unanswered` if that cannot be told."""
    server = work.runtime.windows(work.run.socket).look()
    if server.answer is Answer.UNKNOWN:
        raise Unanswered(f"tmux on {work.run.socket} does not answer: {server.said}", f"tmux -S {work.run.socket} ls")
    return server


def _lose(work: Work) -> None:
    _end(work, Ending(Cause.TERMINATED, now(), error=work.reason))


def _end(work: Work, ending: Ending) -> None:
    """End what is left of the run, then close it. A run of which something cannot be ended stays open.

    Under the step lock, so that of two reconciles one does it and the other does not sweep away that one's git. Not under
    the owner lock: a dispatcher that was stopped when it had just started the run would keep it from being closed. What
    the launcher wrote down before the sweep, or in it, is the better word.
    """
    run = work.run
    lock = _locked(run, run.step_lock)
    try:
        _refuse_unless(work.runtime, run, Phase.STARTED)
        _sweep(work)
        ending = launcher.read_exit_file(run.run_dir) or ending
        if ending.cause is Cause.HANGUP and ending.server_lives is None:
            ending = replace(ending, server_lives=_server_now(work).is_of(run))
        launcher.close_run(_spec(work), ending, by_launcher=False)
        _drop(run.owner_lock)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(run.step_lock)
        lock.release()


def _locked(run: Run, path: str) -> processes.Lock:
    """The lock, which is one of the run's. Raises `Refused` if somebody else has it and so does what is to be done."""
    lock = processes.lock(path, wait=GLANCE_S)
    if lock is None:
        raise _quicker(run)
    if not lock.is_in_place():
        lock.release()
        raise _quicker(run)
    return lock


def _refuse_unless(runtime: Runtime, run: Run, *phases: Phase) -> None:
    """Raise `Refused` if the run has gone on from these phases since it was seen."""
    if runtime.store.run(run.token).phase not in phases:
        raise _quicker(run)


def _quicker(run: Run) -> Refused:
    return Refused(f"somebody else has seen to run {run.token} of task {run.task}", f"dispatchctl show {run.task}")


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
    here = run.boot_id == work.runtime.boot_id  # start times are counted from the boot
    roots = [(pid, start) for pid, start in pairs if pid is not None and start is not None and here]
    grace = work.runtime.settings.dispatch.kill_grace
    left = processes.sweep(lambda: processes.of_run(run.token, roots), grace=grace)
    if left:
        pids = ", ".join(str(pid) for pid, _ in left)
        raise DispatchctlError(f"task {run.task}: processes {pids} cannot be ended", f"ps -o pid,stat,args -p {pids}")


def _undo(work: Work) -> None:
    """Take over the run of a dead dispatcher: its lock first, then the row again, then everything by the row."""
    runtime = work.runtime
    owner = _locked(work.run, work.run.owner_lock)
    try:
        _refuse_unless(runtime, work.run, Phase.LAUNCHING, Phase.UNDOING)
        run = runtime.store.run(work.run.token)
        _end_step(work)
        if rundir.started(run.run_dir) is not None:
            raise _quicker(run)  # it began meanwhile; the next look enters it again
        error = run.error if run.phase is Phase.UNDOING and run.error else work.reason
        launch = Launch(runtime, runtime.store.task(run.task), run)
        _note_what_it_made(launch)
        if runtime.store.begin_undo(run.token, error, actor=work.actor, at=now()):
            undo(launch, error, cure=Cure.AGAIN, actor=work.actor)
        drop_locks(owner, run.step_lock)
    finally:
        owner.release()


def _note_what_it_made(launch: Launch) -> None:
    """Store again what the database was restored to before: without it the undo would leave worktree and branch alone."""
    run = launch.run
    made = _with_what_it_made(launch) if run.phase is Phase.LAUNCHING and os.path.isdir(run.repo) else run
    if made.owns_tree and not run.owns_tree:
        launch.run = launch.runtime.store.note_base(
            run.token,
            base_commit=str(made.base_commit),
            owns_tree=True,
            owns_branch=made.owns_branch,
            at=now(),
        )


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
    """Do what a dispatcher does last: note where the run is, and let its locks go."""
    run, token = work.run, work.run.token
    window = _window_of(work.server, token)
    if run.window_id is None and window is not None and work.runtime.store.run(token).window_id is None:
        work.runtime.store.note_window(token, window, actor=work.actor, at=now())
    elif not os.path.exists(run.owner_lock):
        raise _quicker(run)
    if work.open.owner is Holder.FREE:
        _drop(run.owner_lock)


def _window_of(server: Server, token: str) -> Window | None:
    pane = server.pane_of(token)
    if pane is None or server.pid is None or server.start is None:
        return None
    return Window(pane.session, pane.window_id, pane.pane_id, server.pid, server.start)


def _drop(owner: str) -> None:
    """Remove the lock files of a run that has started, if nobody holds them."""
    lock = processes.lock(owner) if os.path.exists(owner) else None
    if lock is not None:
        drop_locks(lock, step_lock(owner))


def _time_out(work: Work) -> None:
    """Do what its launcher should have done, or what the settings say of a stalled run: end it."""
    run = work.run
    ask = Ask.TIMEOUT
    if work.runtime.store.run(run.token).ask is not None:
        raise _quicker(run)
    work.runtime.store.ask(run.token, ask, actor=work.actor, at=now(), awake=processes.awake(), why=work.reason)
    rundir.tell(run.run_dir, f"end {ask}")


def _ask_again(work: Work) -> None:
    rundir.tell(work.run.run_dir, f"end {work.run.ask or Ask.REPORT}")


def _kill(work: Work) -> None:
    """Its launcher lives and does nothing: end it with the rest of the run, and say what it should have said.

    A launcher that was stopped may come to say it itself, when the sweep wakes it.
    """
    _end(work, Ending(Cause.ASKED, now(), asked=work.run.ask or Ask.REPORT))


def _stall(work: Work) -> None:
    if work.runtime.store.run(work.run.token).activity is not work.run.activity:
        raise _quicker(work.run)
    work.runtime.store.note_activity(work.run.token, Activity.STALLED, actor=work.actor, at=now(), why=work.reason)


def _stir(work: Work) -> None:
    if work.runtime.store.run(work.run.token).activity is not Activity.STALLED:
        raise _quicker(work.run)
    work.runtime.store.note_activity(work.run.token, Activity.WORKING, actor=work.actor, at=now(), why=work.reason)


# -- what has no open run, or began without the database's knowing -------------------------------------------------------


def _reenter(work: Work) -> None:
    """Enter the run as its launcher left word of it; what became of it since is seen in the next round."""
    runtime = work.runtime
    token = work.seen.run.token if work.seen else _stray_of(work).token
    run = work.seen.run if work.seen else _stray_of(work).run
    directory, written = intended(runtime, token, run)
    began = rundir.started(directory)
    if written is None or began is None:
        raise DispatchctlError(f"what run {token} was is not written down in {directory}", f"ls -la {directory}")
    server = work.world.servers.get(written.run.socket, Server(Answer.UNKNOWN))
    pane = server.pane_of(token)
    window = _window_of(server, token)
    launcher_ = began.launcher
    if launcher_ is None:  # the disk was full; the launcher is the pane's own process
        launcher_ = (pane.pid, processes.start_time(pane.pid) or 0) if pane is not None else (0, 0)
    entered = replace(
        run or written.run,
        phase=Phase.STARTED,
        started_at=began.at,
        started_awake=began.awake,
        launcher_pid=launcher_[0],
        launcher_start=launcher_[1],
        agent_pid=began.agent[0] if began.agent else None,
        agent_start=began.agent[1] if began.agent else None,
        base_commit=written.run.base_commit,
        session=window.session if window else written.run.session,
        window_id=window.window_id if window else None,
        pane_id=window.pane_id if window else None,
        server_pid=window.server_pid if window else None,
        server_start=window.server_start if window else None,
        outcome=None,
        exit_code=None,
        signal=None,
        ended_at=None,
        closed_at=None,
        cleared_at=None,
        error=None,
    )
    lock = _locked(entered, entered.owner_lock)
    try:
        was = run.phase if run is not None else None
        runtime.store.reenter(entered, written.task, was=was, actor=work.actor, at=now())
        drop_locks(lock, entered.step_lock)
    finally:
        lock.release()


def _stray_of(work: Work) -> Stray:
    assert work.stray is not None, "planned for a stray"
    return work.stray


def _clear(work: Work) -> None:
    """Take back, by what it was to be, a claim that the database does not know; or only drop the lock files of a closed run."""
    runtime, stray = work.runtime, _stray_of(work)
    path = lock_file(runtime, stray.token, stray.run)
    gone = stray.owner is Holder.FREE and not any(map(os.path.exists, (path, step_lock(path))))
    owner = None if gone else processes.lock(path, wait=GLANCE_S)
    if owner is None:
        raise Refused(f"somebody else has seen to the locks of run {stray.token}", "dispatchctl reconcile")
    try:
        known = runtime.store.find_runs([stray.token]).get(stray.token)
        if known is not None and known.phase is not Phase.CLOSED:
            raise _quicker(known)
        directory, written = intended(runtime, stray.token, stray.run)
        if known is None and rundir.started(directory) is not None:
            raise Refused(f"run {stray.token} began meanwhile", "dispatchctl reconcile")
        if known is None and written is not None:
            _take_back(runtime, written)
        elif known is None:
            if stray.socket is not None:
                runtime.windows(stray.socket).kill(stray.token)  # dead, or it would not be cleared
            if stray.tree is not None:
                _remove_tree(runtime, stray.token, stray.tree)
        drop_locks(owner, step_lock(path))
    finally:
        owner.release()


def _remove_tree(runtime: Runtime, token: str, tree: Tree) -> None:
    """Remove a worktree of ours that no row and no word of a launcher knows, if nothing would be lost."""
    from dispatchctl import clearing  # most reconciles remove nothing

    run = Run(
        token=token,
        task=tree.task,
        number=1,
        phase=Phase.CLOSED,
        agent="",
        repo=tree.repo,
        branch=tree.branch or "",
        worktree=tree.path,
        resumed=False,
        run_dir=str(runtime.state / "runs" / token),
        owner_lock=lock_file(runtime, token, None),
        step_lock=step_lock(lock_file(runtime, token, None)),
        host=runtime.host,
        boot_id=runtime.boot_id,
        claimed_at=0,
        socket=runtime.socket,
        session="",
        owns_tree=True,
        owns_branch=tree.branch is not None,
    )
    try:
        clearing.clear_place(runtime, run, force=False, tell=lambda _: None)
    except clearing.Kept as kept:
        raise DispatchctlError(f"{tree.path} was kept: {kept.obstacle.reason}", kept.obstacle.hint) from kept


def _take_back(runtime: Runtime, written: Intent) -> None:
    launch = Launch(runtime, written.task, written.run)
    launch.run = _with_what_it_made(launch)
    unwind(STEPS, launch)


def _with_what_it_made(launch: Launch) -> Run:
    """The run with the worktree and branch that it made though the row does not say so: the worktree is locked in its name."""
    run, git = launch.run, launch.git
    if run.owns_tree or not os.path.lexists(run.worktree) or not git.is_locked_for(run, lock_reason(launch)):
        return run
    return replace(
        run,
        owns_tree=True,
        owns_branch=not run.resumed,
        base_commit=git.commit(run.repo, launch.task.base),
    )


def _close_pane(work: Work) -> None:
    stray = _stray_of(work)
    assert stray.socket is not None, "planned from its pane"
    work.runtime.windows(stray.socket).kill(stray.token)


APPLY: Mapping[Kind, Callable[[Work], None]] = {
    Kind.CLOSE: _close,
    Kind.UNDO: _undo,
    Kind.REENTER: _reenter,
    Kind.ADOPT: _adopt,
    Kind.HANG_UP: _hang_up,
    Kind.LOSE: _lose,
    Kind.TIME_OUT: _time_out,
    Kind.END: _ask_again,
    Kind.KILL: _kill,
    Kind.STALL: _stall,
    Kind.STIR: _stir,
    Kind.CLOSE_PANE: _close_pane,
    Kind.CLEAR: _clear,
}

EFFECTS = {kind: effect(f"reconcile: {kind}") for kind in APPLY}
