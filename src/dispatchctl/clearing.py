"""The one door through which a worktree, branch, pane or run directory of a finished run goes.

It refuses when anything would be lost; with `force` a rescue ref keeps it first, and the way to get it back is said. Nothing
goes with a process at work in it, with what no ref could keep, or that its runs did not make. Killed anywhere, it has lost
nothing, and doing it again goes on: see `worktrees.removing`.
"""

import os
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from dispatchctl import processes, rundir
from dispatchctl.errors import Refused, Unanswered
from dispatchctl.faults import effect
from dispatchctl.runtime import Runtime, now
from dispatchctl.snapshot import Answer, Pane, Server
from dispatchctl.task import Actor, Phase, Run, Status, Task
from dispatchctl.worktrees import Found, Losses, NotARepository, Repository, aside, given_up

LEAVING = effect("leave the place")
SETTING_ASIDE = effect("set the worktree aside")
RESCUING = effect("rescue the work")
GIVING_UP = effect("give the files up")
REMOVING_TREE = effect("remove the worktree")
DELETING_BRANCH = effect("delete the branch")
DELETING_FILES = effect("delete the files")
CLOSING_PANE = effect("close the pane")
REMOVING_RUN_DIR = effect("remove the run directory")
NOTING_CLEARED = effect("note what is cleared")

EXITING = ("server exited", "no current target")
"""What tmux says while it exits, as it does with its last pane."""
PANE_PATIENCE_S = 3.0
"""How long a launcher that has closed its run may take to leave its pane."""


@dataclass(frozen=True)
class Obstacle:
    """Why something stays; the rescue refs of `--force` overcome it if it is `rescuable`. No `hint`: the command forced."""

    reason: str
    hint: str | None = None
    rescuable: bool = False


class Kept(Refused):
    """Nothing was removed, because of an obstacle; whoever called says what is to be typed."""

    def __init__(self, run: Run, obstacle: Obstacle) -> None:
        super().__init__(f"task {run.task}: {obstacle.reason}", obstacle.hint)
        self.obstacle = obstacle


def remove(runtime: Runtime, tasks: Collection[int], *, force: bool, tell: Callable[[str], None]) -> None:
    """Delete tasks with everything their runs left. All are checked before anything is touched.

    `tell` hears at once what was rescued and how to get it back. Raises `Refused` if something would be lost and `force` is
    not given. What stops it midway leaves the rows, and doing it again goes on.
    """
    runs = {task: runtime.store.runs(task) for task in tasks}
    for task, each in runs.items():
        if any(run.phase is not Phase.CLOSED for run in each):
            raise Refused(f"task {task} cannot be removed: it has an open run", f"dispatchctl cancel {task}")
        _refuse_children(runtime, task, tasks)
    every = [run for each in runs.values() for run in each]
    ours = [place for each in runs.values() for place in places(each)]
    going = {run.branch for run in ours if run.owns_branch}
    servers = look_at(runtime, every)
    for run, found in [(run, obstacle(runtime, run, going)) for run in ours]:
        _refuse(run, found, force=force)
    for run in every:
        _refuse(run, pane_obstacle(runtime, run, servers), force=force)
    for task, each in runs.items():
        _keep_from_starting(runtime, task, each)
    for run in ours:
        try:
            clear_place(runtime, run, going, force=force, tell=tell)
        except Kept as kept:
            _refuse(run, kept.obstacle, force=force)
            raise
    for run in every:
        clear_rest(runtime, run, servers)
    runtime.store.remove(tasks, at=now())


def _refuse(run: Run, found: Obstacle | None, *, force: bool) -> None:
    if found and not (force and found.rescuable):
        hint = found.hint or f"dispatchctl rm {run.task} --force"
        raise Refused(f"task {run.task} was not removed: {found.reason}", hint)


def _keep_from_starting(runtime: Runtime, task: int, seen: Sequence[Run]) -> None:
    """Have no dispatcher claim the task, whose next run would go on in the worktree that is about to be removed."""
    if runtime.store.task(task).status is Status.READY:
        runtime.store.cancel(task, at=now())
    if [run.token for run in runtime.store.runs(task)] != [run.token for run in seen]:
        raise Refused(f"task {task} was not removed: it was started meanwhile", f"dispatchctl show {task}")


def _refuse_children(runtime: Runtime, task: int, removed: Collection[int]) -> None:
    """Raise `Refused` if a task that stays is to run after this one."""
    waiting = [child for child in runtime.store.children(task) if child not in removed]
    if waiting:
        kept = [parent for parent in runtime.store.task(waiting[0]).after if parent not in removed]
        raise Refused(
            f"task {task} cannot be removed: task {', '.join(map(str, waiting))} is to run after it",
            f"dispatchctl edit {waiting[0]} --after {shlex.quote(','.join(map(str, kept)))}",
        )


# -- worktree and branch --------------------------------------------------------------------------------------------------


def places(runs: Sequence[Run]) -> list[Run]:
    """One run for each worktree and branch that the runs of a task used: the newest there, with all that they made of it.

    What a run that never started had made was taken back by its undo: what stands there now is somebody else's.
    """
    found: dict[tuple[str, str], Run] = {}
    for run in runs:
        before = found.get((run.worktree, run.branch))
        tree = run.started_at is not None and (run.owns_tree or run.resumed)
        branch = run.started_at is not None and (run.owns_branch or run.resumed)
        found[run.worktree, run.branch] = replace(
            run,
            owns_tree=tree or (before is not None and before.owns_tree),
            owns_branch=branch or (before is not None and before.owns_branch),
        )
    return list(found.values())


def repository_of(runtime: Runtime, run: Run) -> Repository | None:
    """The run's repository; None if there is none any more."""
    try:
        return runtime.git.repository(run.repo)
    except NotARepository:
        return None


def obstacle(runtime: Runtime, run: Run, going: Collection[str] = ()) -> Obstacle | None:
    """What keeps the worktree and branch of a closed run from going along with the branches `going`; nothing is touched."""
    repository = repository_of(runtime, run)
    if repository is None:
        left = next((path for path in (run.worktree, aside(run)) if os.path.lexists(path)), None)
        if left is None or not run.owns_tree:
            return None
        why = f"its repository {run.repo} is gone, so nobody can say what of {left} would be lost"
        return Obstacle(why, f"rm -r {shlex.quote(left)}")
    with _locked(runtime, repository):
        found = runtime.git.find(run)
        return _obstacle_of(run, found, runtime.git.weigh(run, found, going))


@contextmanager
def _locked(runtime: Runtime, repository: Repository) -> Iterator[None]:
    """Under the repository's lock, so that nobody else's removal is seen half done."""
    lock = runtime.git.lock(repository)
    try:
        yield
    finally:
        lock.release()


def _obstacle_of(run: Run, found: Found, losses: Losses) -> Obstacle | None:
    """The processes at work in the worktree, or what would be lost."""
    inside = processes.working_in(found.files) if found.files else []
    if inside:
        why = f"process {', '.join(map(str, inside))} works in {run.worktree}"
        return Obstacle(why, f"ps -o pid,args {' '.join(map(str, inside))}")
    named = losses.named(run.branch)
    if losses.beyond:
        rest = [each for each in named if each not in losses.beyond]
        why = f"{run.worktree} holds what no ref could keep: {', '.join([*losses.beyond, *rest])}"
        return Obstacle(why, f"ls -la {shlex.quote(run.worktree)}")
    if losses.missing:
        moved = f"git -C {shlex.quote(run.repo)} worktree repair NEW_PATH"
        why = f"{run.worktree} was moved or deleted by hand; if it was moved, tell git: {moved}"
        return Obstacle(why, rescuable=True)
    return Obstacle(f"{run.worktree} holds what would be lost: {', '.join(named)}", rescuable=True) if named else None


def needed(runtime: Runtime, task: Task, place: Run) -> Obstacle | None:
    """The task that is still to run from the branch of this finished one; if that were gone, it would start from its base."""
    if task.status is not Status.DONE or task.run is None or task.run.branch != place.branch:
        return None
    for number in runtime.store.children(task.id):
        child = runtime.store.task(number)
        if child.status is Status.DONE or child.repo != place.repo:
            continue
        if not runtime.git.is_merged(place.repo, place.branch, child.base, merged=task.run.merged):
            why = f"task {number}, which is {child.status}, is to start from its branch {place.branch}"
            by_hand = f"git -C {shlex.quote(place.repo)} merge {shlex.quote(place.branch)}"
            return Obstacle(why, f"dispatchctl merge {task.id}" if child.base == task.base else by_hand)
    return None


def is_there(runtime: Runtime, run: Run) -> bool:
    """Whether there is anything of the worktree and branch, or of a worktree on its way out."""
    if run.owns_tree and any(os.path.lexists(path) for path in (aside(run), given_up(run))):
        return True
    repository = repository_of(runtime, run)
    if repository is None:
        return False
    with _locked(runtime, repository):
        return bool(runtime.git.find(run))


def clear_place(
    runtime: Runtime, run: Run, going: Collection[str] = (), *, force: bool, tell: Callable[[str], None]
) -> bool:
    """Remove the worktree and branch of a closed run, as far as its row says that they were made by it (see `places`).

    What would be lost is kept by a ref first, and `tell` hears of it. Raises `Kept` if they must not go. False if there was
    nothing. Under the repository's lock: of two branches that keep each other's commits, one stays.
    """
    repository = repository_of(runtime, run)
    if repository is None:
        _stop(run, obstacle(runtime, run, going), force=force)
        if run.owns_tree:
            runtime.git.delete_files(run)
        return False
    git = runtime.git
    with _locked(runtime, repository):
        git.bring_back(run)
        found = git.find(run)
        _stop(run, _obstacle_of(run, found, git.weigh(run, found, going)), force=force)
        if found:
            _leave(runtime, run)
            _remove_found(runtime, run, going, force=force, tell=tell)
    if run.owns_tree:
        with DELETING_FILES:
            git.delete_files(run)
        git.tidy(run)
    return bool(found)


def _stop(run: Run, found: Obstacle | None, *, force: bool) -> None:
    if found and not (force and found.rescuable):
        raise Kept(run, found)


def _leave(runtime: Runtime, run: Run) -> None:
    """Have no run that is claimed from now on go on there. A run that the database has lost has no task that could."""
    if runtime.store.find_runs([run.token]):
        with LEAVING:
            runtime.store.leave_place(run.token, at=now())


def _remove_found(
    runtime: Runtime, run: Run, going: Collection[str], *, force: bool, tell: Callable[[str], None]
) -> None:
    """Set the worktree aside, look at it once more, rescue what it holds, and have git forget it and its branch."""
    git = runtime.git
    try:
        if git.find(run).files:
            with SETTING_ASIDE:
                git.set_aside(run)
        found = git.find(run)
        losses = git.weigh(run, found, going)
        _stop(run, _obstacle_of(run, found, losses), force=force)
        if losses.is_work:
            with RESCUING:
                back = git.rescue(run, found)
            tell(back)
        if found.files:
            with GIVING_UP:
                git.give_up(run)
    except BaseException:
        git.bring_back(run)
        raise
    if found.own:
        with REMOVING_TREE:
            git.forget(run)
    with DELETING_BRANCH:
        git.delete_branch(run, found)
    if found.elsewhere:
        tell(f"task {run.task}: its branch {run.branch} stays: it is checked out in {', '.join(found.elsewhere)}")
    for entry in git.stashes(run):
        tell(
            f"task {run.task}: {entry}, made on its branch, stays: git -C {shlex.quote(run.repo)} stash show -p {entry}"
        )


# -- panes and run directories --------------------------------------------------------------------------------------------


def look_at(runtime: Runtime, runs: Iterable[Run]) -> dict[str, Server]:
    """The tmux servers of the runs, by socket: one request for each."""
    return {socket: _look(runtime, socket) for socket in dict.fromkeys(run.socket for run in runs)}


def _look(runtime: Runtime, socket: str) -> Server:
    """The server; looked at once more if it was just exiting."""
    server = runtime.windows(socket).look()
    if server.answer is Answer.UNKNOWN and any(each in server.said for each in EXITING):
        time.sleep(0.1)
        server = runtime.windows(socket).look()
    return server


def pane_obstacle(runtime: Runtime, run: Run, servers: dict[str, Server]) -> Obstacle | None:
    """What keeps the run's pane from being closed: something lives in it. Raises `Unanswered` if tmux does not say.

    A launcher that has just closed its run gets a moment to leave.
    """
    deadline = time.monotonic() + PANE_PATIENCE_S
    pane = _pane(run, servers)
    while pane is not None and not pane.dead:
        if time.monotonic() > deadline:
            why = f"something runs in its pane {pane.pane_id} (process {pane.pid})"
            return Obstacle(why, f"dispatchctl attach {run.task}")
        time.sleep(0.02)
        servers[run.socket] = _look(runtime, run.socket)
        pane = _pane(run, servers)
    return None


def _pane(run: Run, servers: dict[str, Server]) -> Pane | None:
    server = servers[run.socket]
    if server.answer is Answer.UNKNOWN:
        raise Unanswered(
            f"task {run.task}: whether its pane lives is unknown: {server.said}",
            f"tmux -S {shlex.quote(run.socket)} ls",
        )
    return server.pane_of(run.token)


def has_rest(run: Run, servers: dict[str, Server]) -> bool:
    """Whether the closed run has a pane or a directory."""
    return _pane(run, servers) is not None or os.path.lexists(run.run_dir)


def clear_rest(runtime: Runtime, run: Run, servers: dict[str, Server]) -> bool:
    """Close the dead pane of a closed run and remove its directory; whether there was either.

    With them goes the ref that a merge has left which was killed and, the task being retried, never said again.
    """
    there = has_rest(run, servers)
    if repository_of(runtime, run) is not None:
        runtime.git.forget_intended(run)
    if _pane(run, servers) is not None:
        with CLOSING_PANE:
            _close_pane(runtime, run)
    with REMOVING_RUN_DIR:
        rundir.remove(run.run_dir)
    return there


def _close_pane(runtime: Runtime, run: Run) -> None:
    """Close the run's pane. The server exits with its last pane, and may not come to answer: then it is looked for."""
    try:
        runtime.windows(run.socket).kill(run.token)
    except Unanswered:
        server = _look(runtime, run.socket)
        if server.answer is Answer.UNKNOWN or server.pane_of(run.token) is not None:
            raise


def note_cleared(runtime: Runtime, run: Run, *, actor: Actor) -> None:
    """Note that nothing of the run is left."""
    with NOTING_CLEARED:
        runtime.store.note_cleared(run.token, actor=actor, at=now())
