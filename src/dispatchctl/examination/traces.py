"""What is on disk: worktrees, branches, locks of git's, and the state directory beside the database."""

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from shlex import quote

from dispatchctl import machine, processes
from dispatchctl.doctor.health import Aside, Directory, Fault, GitLock, Ground, Repositories, Repository, Tree
from dispatchctl.errors import DispatchctlError, Unanswered, UsageError
from dispatchctl.examination.looker import Looker, modified, names
from dispatchctl.runtime import now
from dispatchctl.task import Status, Task
from dispatchctl.worktrees import Listed, Worktrees

ALTOGETHER_S = 30.0
"""Seconds that all repositories together may take; those that are left then are said not to have been looked at."""
ASIDE, GONE = ".going-", ".gone-"
"""What the names of worktrees begin with that `worktrees.removing` has put beside their place."""
TOKEN = re.compile(r"[0-9a-f]{8}")


def repositories(looker: Looker) -> Repositories:
    store = looker.stored
    tasks = looker.unfinished
    known = [place.path for place in store.places() if place.kind == "git"]
    repos = dict.fromkeys([*known, *(task.repo for task in tasks)])
    deadline = time.monotonic() + ALTOGETHER_S
    by_repo = {repo: [task for task in tasks if task.repo == repo] for repo in repos}
    return Repositories(tuple(_repository(looker, repo, by_repo[repo], deadline) for repo in repos))


def _repository(looker: Looker, repo: str, tasks: Sequence[Task], deadline: float) -> Repository:
    git = looker.runtime.git
    ready = tuple(task.id for task in tasks if task.status is Status.READY)
    others = tuple(task.id for task in tasks if task.status is not Status.READY)
    try:
        if time.monotonic() > deadline:
            raise Unanswered("it was not looked at: the repositories before it took too long")
        common = git.repository(repo).common_dir
        listed = git.listed(repo)
        trees = tuple(_trees(looker, repo, listed))
        locks = git.lock_files(common, _mark(looker))
        elsewhere = {each.branch for each in listed if each.reason and each.reason.startswith("dispatchctl ")}
        return Repository(
            repo,
            None,
            ready,
            others,
            trees,
            tuple(_git_locks(locks, [repo, *(tree.path for tree in trees)])),
            tuple(_unresolved(git, repo, tasks)),
            tuple(_branches(looker, repo, {branch for branch in elsewhere if branch})),
        )
    except (DispatchctlError, OSError) as error:
        said = error if isinstance(error, DispatchctlError) else DispatchctlError(str(error))
        fault = Fault(repo, said.message, said.hint or f"git -C {quote(repo)} status")
        return Repository(repo, fault, ready, others)


def _mark(looker: Looker) -> str:
    """What the reason begins with for which our worktrees are locked, as `steps.lock_reason` makes it."""
    return f"dispatchctl {looker.database} "


def _trees(looker: Looker, repo: str, listed: Sequence[Listed]) -> Iterator[Tree]:
    """Those of the worktrees that are this database's, each with its run."""
    mark = _mark(looker)
    ours = {
        each: each.reason.removeprefix(mark).partition(" ")
        for each in listed
        if each.reason is not None and each.reason.startswith(mark)
    }
    runs = looker.stored.find_runs([token for _, _, token in ours.values()])
    for each, (task, _, token) in ours.items():
        yield Tree(repo, each.path, token, task, each.branch, _is_there(each.path), runs.get(token))


def _is_there(worktree: str) -> bool:
    """Whether the worktree is at its path, or beside it, where a removal puts it."""
    directory, leaf = os.path.split(worktree)
    return any(os.path.isdir(os.path.join(directory, f"{beside}{leaf}")) for beside in ("", ASIDE, GONE))


def _git_locks(paths: Sequence[str], places: Iterable[str]) -> list[GitLock]:
    """git closes a lock file while a hook or an editor runs, so a git at work in one of the places counts as its owner."""
    if not paths:
        return []
    users = machine.openers(paths)
    at_work = any(machine.name(pid).startswith("git") for place in places for pid in processes.working_in(place))
    found = []
    for path in paths:
        made = modified(path)
        if made is not None:
            found.append(GitLock(path, (now() - made) / 1000, at_work or path in users))
    return found


def _unresolved(git: Worktrees, repo: str, tasks: Sequence[Task]) -> list[tuple[int, str, bool]]:
    to_start = [task for task in tasks if task.status in (Status.READY, Status.BACKLOG)]
    bases = list(dict.fromkeys(task.base for task in to_start))
    wrong = git.without_commit(repo, bases) if bases else set()
    return [(task.id, task.base, task.status is Status.READY) for task in to_start if task.base in wrong]


def _branches(looker: Looker, repo: str, elsewhere: set[str]) -> list[str]:
    """Branches that are named by the pattern and that no run has, of this database or, as far as is seen, of another."""
    try:
        pattern = looker.runtime.settings_for(repo).worktrees.branch
    except UsageError:
        pattern = looker.settings.worktrees.branch
    prefix, _, rest = pattern.partition("{")
    if not prefix:
        return []
    numbered = re.compile(re.escape(prefix) + (r"\d+\b" if rest.startswith("id}") else ""))
    named = [branch for branch in looker.runtime.git.branches(repo, prefix) if numbered.match(branch)]
    known = {*looker.stored.known_branches(repo), *elsewhere} if named else set()
    return [branch for branch in named if branch not in known]


def ground(looker: Looker) -> Ground:
    state = str(looker.runtime.state)
    runs = os.path.join(state, "runs")
    tokens = [name for name in names(runs) if TOKEN.fullmatch(name)]  # before the rows: a claim writes its row first
    known = looker.stored.find_runs(tokens)
    directories = [os.path.join(runs, token) for token in tokens if token not in known]
    private = [state, looker.database, *(os.path.join(runs, token) for token in tokens)]
    return Ground(
        state,
        tuple(path for path in private if _is_open_to_others(path)),
        tuple(Directory(path, _began(path)) for path in directories),
        tuple(_put_aside(str(looker.runtime.worktrees_root))),
    )


def _put_aside(root: str) -> Iterator[Aside]:
    """What removals have put beside its place, and when."""
    for directory in (os.path.join(root, name) for name in names(root)):
        for name in names(directory):
            beside = next((each for each in (ASIDE, GONE) if name.startswith(each)), None)
            if beside is None:
                continue
            path, worktree = os.path.join(directory, name), os.path.join(directory, name.removeprefix(beside))
            try:
                age = time.time() - os.stat(path).st_ctime  # a rename sets it
            except OSError:
                continue
            yield Aside(path, worktree, beside == GONE, age)


def _began(run_dir: str) -> bool:
    """Whether an agent was started from the run directory, or anything else is there that somebody may miss."""
    return any(os.path.lexists(os.path.join(run_dir, name)) for name in ("started", "exit.json", "output.log"))


def _is_open_to_others(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & 0o077)
    except OSError:
        return False
