"""Worktrees, branches, run directories and locks: what is on disk and should not be, and what should be and is not."""

from collections.abc import Iterator
from shlex import quote

from dispatchctl.doctor.health import Ground, Repositories, Repository, Tree
from dispatchctl.doctor.table import Mend, Problem, Severity, check
from dispatchctl.durations import format_duration
from dispatchctl.task import Outcome, Phase

ERROR, WARNING, INFO = Severity

STALE_S = 60.0
"""Seconds after which a lock of git's that nobody has open is one that was left behind."""


@check(ERROR, WARNING)
def repository_there(repositories: Repositories) -> Iterator[Problem]:
    """The repository of every unfinished task is there and answers."""
    for each in repositories.each:
        tasks = (*each.ready, *each.others)
        if each.fault is not None and tasks:
            shown = ", ".join(map(str, tasks[:5])) + (", …" if len(tasks) > 5 else "")
            text = f"{each.fault.text}; it is the repository of task{'s' if len(tasks) > 1 else ''} {shown}"
            yield Problem(each.path, text, each.fault.fix, ERROR if each.ready else WARNING)


@check(ERROR, WARNING)
def base_there(repositories: Repositories) -> Iterator[Problem]:
    """The base of every task that is still to be started names a commit."""
    for each in repositories.each:
        for task, base, is_ready in each.unresolved:
            text = f"its base {base!r} names no commit in {each.path}"
            yield Problem(
                f"task {task}", text, f"dispatchctl edit {task} --base BRANCH", ERROR if is_ready else WARNING
            )


@check(WARNING)
def worktree_owned(repositories: Repositories) -> Iterator[Problem]:
    """Every worktree that is locked in this database's name belongs to a run that the database knows."""
    for each, tree in _trees(repositories):
        if tree.run is None and tree.exists:
            text = f"is a worktree for task {tree.task}, of whose run {tree.token} the database knows nothing"
            yield Problem(tree.path, text, _removal(each, tree))


@check(WARNING)
def worktree_whole(repositories: Repositories) -> Iterator[Problem]:
    """No worktree is half made, or half gone: of a run that never started, or without its directory."""
    for each, tree in _trees(repositories):
        closed = tree.run is None or tree.run.phase is Phase.CLOSED
        if closed and not tree.exists:
            text = f"is registered as a worktree for task {tree.task}, and its directory is gone"
            yield Problem(tree.path, text, _forced_removal(each, tree))
        elif tree.run is not None and tree.run.outcome is Outcome.ROLLED_BACK and tree.run.owns_tree and tree.exists:
            text = f"was made for run {tree.token} of task {tree.task}, which never started"
            yield Problem(tree.path, text, _removal(each, tree))


def _trees(repositories: Repositories) -> Iterator[tuple[Repository, Tree]]:
    for each in repositories.each:
        for tree in each.trees:
            yield each, tree


def _removal(repository: Repository, tree: Tree) -> str:
    """The way that git refuses where something would be lost."""
    repo, path = quote(repository.path), quote(tree.path)
    return f"git -C {repo} worktree unlock {path} && git -C {repo} worktree remove {path}"


def _forced_removal(repository: Repository, tree: Tree) -> str:
    return f"git -C {quote(repository.path)} worktree remove -f -f {quote(tree.path)}"


@check(WARNING)
def git_lock_fresh(repositories: Repositories) -> Iterator[Problem]:
    """No lock of git's was left behind in a repository or in a worktree of ours, where it would refuse every command."""
    for each in repositories.each:
        for lock in each.locks:
            if lock.age_s > STALE_S and not lock.in_use:
                age = format_duration(int(lock.age_s))
                text = f"was left behind by a git that is gone: it is {age} old, and nobody has it open"
                yield Problem(lock.path, text, f"rm {quote(lock.path)}")


@check(INFO)
def branch_owned(repositories: Repositories) -> Iterator[Problem]:
    """Every branch that is named as those of runs is one of a run."""
    for each in repositories.each:
        for branch in each.branches:
            text = f"branch {branch} is named like that of a run, and the database knows no such run"
            yield Problem(each.path, text, f"git -C {quote(each.path)} branch -d {quote(branch)}")


@check(WARNING, mend=Mend.REMOVE_RUN_DIRECTORY)
def run_directory_owned(ground: Ground) -> Iterator[Problem]:
    """Every run directory belongs to a run that the database knows."""
    for each in ground.directories:
        target = None if each.began else each.path
        what = "in which an agent began" if each.began else "whose agent never began"
        fix = f"ls -la {quote(each.path)}" if each.began else "dispatchctl doctor --fix --check run-directory-owned"
        yield Problem(
            each.path, f"is the directory of a run {what}, and of which the database knows nothing", fix, target=target
        )


@check(WARNING)
def removal_finished(ground: Ground) -> Iterator[Problem]:
    """No worktree stands beside its place, where a removal that was killed has put it."""
    for each in ground.aside:
        if each.age_s <= STALE_S:
            continue
        if each.judged:
            text = "is what a removal that was killed has left of a worktree in which nothing could be lost"
            yield Problem(each.path, text, f"rm -r {quote(each.path)}")
        else:
            text = f"is the worktree {each.worktree}, put aside by a removal that was killed before it had judged it"
            yield Problem(each.path, text, f"mv -T {quote(each.path)} {quote(each.worktree)}")


@check(WARNING, mend=Mend.MAKE_PRIVATE)
def private(ground: Ground) -> Iterator[Problem]:
    """Nobody else can read the database, or what agents were told and have written."""
    for path in ground.open_to_others:
        yield Problem(path, "can be read by other users of this machine", f"chmod go= {quote(path)}", target=path)
