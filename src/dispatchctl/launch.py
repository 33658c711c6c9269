"""One run, from its claim to its start, or undone.

The claim is the intent record: every name the run will use is durable before anything outside the database is touched.
Then `STEPS`, in order. On any error, Ctrl-C or SIGTERM the run is undone: one committed write (`launching → undoing`, after
which the launcher's start matches no row), then the steps newest first, by the row alone, stopping at the first that fails.
The same undo serves whoever finds the run after a crash.
"""

import os
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from shlex import quote

from dispatchctl import handover, intent, names, processes
from dispatchctl.errors import (
    DispatchctlError,
    LaunchError,
    Refused,
    Terminated,
    Unavailable,
    UsageError,
)
from dispatchctl.faults import effect
from dispatchctl.intent import Intent
from dispatchctl.processes import Lock
from dispatchctl.room import within_limits
from dispatchctl.runtime import Runtime, jitter, new_token, now, session_id
from dispatchctl.saga import UndoFailed, perform, unwind
from dispatchctl.steps import STEPS, Launch
from dispatchctl.store.protocol import Claimant, Names, Room
from dispatchctl.task import Actor, Run, Task
from dispatchctl.verdict import Cure, Policy

UNDO_STOPPED = "; and the undo stopped at its "

MAKING_LOCKS = effect("make the locks")
CLAIMING = effect("claim")
NOTING_INTENT = effect("note the intent")
BEGINNING_UNDO = effect("begin the undo")
CLOSING_UNDONE = effect("close what was undone")
DROPPING_LOCKS = effect("drop the locks")


def claim(
    runtime: Runtime,
    task: int | None,
    *,
    labels: Collection[str] = (),
    besides: Collection[int] = (),
    room: Room,
    actor: Actor,
) -> "Held | None":
    """Claim a task but `besides`, with its owner lock taken before the commit; None if there is none to claim."""
    token, owner = _make_locks(runtime)
    try:
        claimant = Claimant(token, runtime.host, runtime.boot_id, lambda *named: name_run(runtime, token, *named))
        with CLAIMING:
            run = within_limits(
                runtime,
                room,
                lambda room: runtime.store.claim(
                    claimant, task=task, labels=labels, besides=besides, room=room, actor=actor, at=now()
                ),
            )
        if run is not None:
            return Held(Launch(runtime, runtime.store.task(run.task), run), owner)
    except BaseException:
        if _is_known(runtime, token):
            owner.release()  # claimed, but nobody will start it: reconcile finds the lock free
        else:
            drop_locks(owner, _lock_path(runtime, token, "step"))
        raise
    drop_locks(owner, _lock_path(runtime, token, "step"))
    return None


def _make_locks(runtime: Runtime) -> tuple[str, Lock]:
    """A new token with both its lock files and the owner lock taken.

    A reconcile may take the file for what a dead dispatcher left, between its making and its locking; then another token is
    tried.
    """
    while True:
        token = new_token()
        try:
            with MAKING_LOCKS:
                owner = processes.lock(_lock_path(runtime, token, "owner"))
                if owner is None:
                    continue
                if not owner.is_in_place():
                    owner.release()
                    continue
                step = processes.lock(_lock_path(runtime, token, "step"))
        except OSError as error:
            raise Unavailable(
                f"nothing can be written in {runtime.state}: {error.strerror or error}",
                f"ls -ld {quote(str(runtime.state))}",
            ) from error
        assert step is not None, "whoever wants it needs the owner lock first"
        step.release()
        return token, owner


def _is_known(runtime: Runtime, token: str) -> bool:
    """Whether the database has, or may have, a run with this token."""
    try:
        runtime.store.run(token)
    except Refused:
        return False
    except Exception:  # noqa: BLE001 - it cannot be asked, so a claim may have been committed
        return True
    return True


def name_run(runtime: Runtime, token: str, task: Task, number: int, earlier: Run | None) -> Names:
    """Every name that a run of the task will use. An invalid file of the repository is reported by the first step."""
    try:
        settings = runtime.settings_for(task.repo)
    except UsageError:
        settings = runtime.settings
    place = names.place(task.repo)
    if earlier is not None:
        branch, worktree = earlier.branch, earlier.worktree
    else:
        branch = names.branch(settings.worktrees.branch, task.id, task.title, number)
        worktree = str(runtime.worktrees_root / place / names.leaf(task.id, task.title, number))
    return Names(
        agent=task.agent,
        branch=branch,
        worktree=worktree,
        run_dir=str(runtime.state / "runs" / token),
        owner_lock=_lock_path(runtime, token, "owner"),
        step_lock=_lock_path(runtime, token, "step"),
        socket=runtime.socket,
        session=f"dispatch-{place}",
        agent_session=_agent_session(runtime, token, task, earlier),
        tmux=runtime.tmux,
        git=runtime.git.program,
    )


def _agent_session(runtime: Runtime, token: str, task: Task, earlier: Run | None) -> str:
    """The session that the run continues, or else a new one."""
    profile = runtime.profiles.get(task.agent)
    can_resume = profile is not None and profile.resume is not None
    own = session_id(runtime.store.id, earlier.token) if earlier is not None else ""
    if handover.continues(earlier, task.agent, can_resume=can_resume, host=runtime.host, own=own):
        assert earlier is not None
        assert earlier.agent_session is not None
        return earlier.agent_session
    return session_id(runtime.store.id, token)


def _lock_path(runtime: Runtime, token: str, kind: str) -> str:
    return str(runtime.state / "locks" / f"{token}.{kind}")


def drop_locks(owner: Lock, step: str) -> None:
    """Remove both lock files of a run that no longer needs them, then let go."""
    with DROPPING_LOCKS:
        for path in (step, owner.path):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
    owner.release()


@dataclass
class Held:
    """A claimed run with its owner lock: whoever holds it must start or undo the run."""

    launch: Launch
    owner: Lock

    @property
    def task(self) -> Task:
        """The claimed task."""
        return self.launch.task


def start(held: Held, *, actor: Actor) -> Task:
    """Do the steps; on any failure undo them. Raises what went wrong, after the undo, unless the agent runs after all.

    If the undo cannot be finished, the owner lock is let go and its file stays: whoever takes it next goes on with it.
    """
    launch, runtime = held.launch, held.launch.runtime
    try:
        with NOTING_INTENT:
            intent.write(held.owner.path, Intent(runtime.store.id, held.task, launch.run))
        perform(STEPS, launch)
    except BaseException as error:
        try:
            with undisturbed():
                with BEGINNING_UNDO:
                    lives = not runtime.store.begin_undo(launch.run.token, sentence(error), actor=actor, at=now())
                if not lives:
                    undo(launch, sentence(error), cure=Cure.of(error), actor=actor)
                drop_locks(held.owner, launch.run.step_lock)
        finally:
            held.owner.release()
        if not (lives and isinstance(error, (DispatchctlError, OSError))):
            _tell(launch.task.id, error)
            raise
    drop_locks(held.owner, launch.run.step_lock)
    return runtime.store.task(launch.task.id)


def _tell(task: int, error: BaseException) -> None:
    """Raise an expected error as one that names the task."""
    if isinstance(error, OSError):
        raise LaunchError(f"task {task} was not started: {sentence(error)}", "dispatchctl config worktrees") from error
    if isinstance(error, DispatchctlError) and f"task {task}" not in error.message:
        raise LaunchError(
            f"task {task} was not started: {error.message}",
            error.hint,
            curable=getattr(error, "curable", True),
            exit_code=error.exit_code,
        ) from error


def undo(launch: Launch, error: str, *, cure: Cure, actor: Actor) -> Task:
    """Take back, by its row, everything a run in phase undoing may have made, and close it.

    If a step cannot be taken back the task is failed, the run stays open and names what stands, and `UndoFailed` comes out
    as a `LaunchError`; doing it again goes on from there.
    """
    runtime = launch.runtime
    launch.run = runtime.store.run(launch.run.token)
    try:
        unwind(STEPS, launch)
    except UndoFailed as failure:
        error = error.partition(UNDO_STOPPED)[0]  # it may be what an earlier undo came to
        stands = f"{error}{UNDO_STOPPED}{failure}"
        runtime.store.undo_failed(launch.run.token, stands, actor=actor, at=now())
        raise LaunchError(f"task {launch.task.id}: {stands}", "dispatchctl reconcile", curable=False) from failure
    policy = Policy(retry_wait_s=runtime.settings.dispatch.retry_wait)
    with CLOSING_UNDONE:
        return runtime.store.close_undone(
            launch.run.token, error, cure=cure, policy=policy, actor=actor, at=now(), jitter=jitter()
        )


def sentence(error: BaseException) -> str:
    """What to write down about an error."""
    if isinstance(error, DispatchctlError):
        return error.message
    if isinstance(error, KeyboardInterrupt):
        return "interrupted by Ctrl-C while it was being started"
    if isinstance(error, Terminated):
        return f"{error} while it was being started"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that would interrupt an undo are noted and take effect after it. Python hears signals in its main thread
    only: elsewhere nothing can be interrupted, and nothing is done."""
    pending: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, lambda caught, _: pending.append(caught)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for caught in pending:
            os.kill(os.getpid(), caught)
