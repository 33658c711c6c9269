"""What would be lost if a run's worktree and branch went.

A worktree is looked at with git's own directory of it named outright, so that it is judged alike at its path and set aside
from it, and whatever stands in its `.git`. What is in that directory: gitrepository-layout(5).
"""

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Self

from dispatchctl.errors import DispatchctlError
from dispatchctl.task import Run
from dispatchctl.verdict import Changes
from dispatchctl.worktrees.git import NUL
from dispatchctl.worktrees.repositories import Repositories

UNFINISHED = {
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "BISECT_LOG": "bisect",
}
"""What git leaves in a worktree's directory while something waits to be gone on with."""

NOTED_COMMITS = (
    *("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "MERGE_AUTOSTASH", "BISECT_START"),
    *("rebase-merge/orig-head", "rebase-merge/autostash", "rebase-apply/orig-head", "rebase-apply/autostash"),
)
"""Where git notes commits that nothing else may have: those a rebase began with, what it stashed, what is being merged."""

COMMIT_ID = re.compile(r"[0-9a-f]{40,64}")

TRUSTING_NOBODY = ("core.fsmonitor", "false"), ("core.untrackedCache", "false")
DURABLE = ("core.fsync", "all"), ("core.fsyncMethod", "batch")
"""git leaves new objects to the system's write-back; the files that they are to replace are deleted right after."""


@dataclass(frozen=True)
class Found:
    """What there is of a run's place.

    `own` is git's directory of the worktree, `files` where its files are, `tip` what the run's branch points to, `elsewhere`
    the other worktrees that have it checked out. `stray` is what stands at the path and is not this worktree; `given_up`
    says that its files were judged and wait to be deleted.
    """

    own: str | None = None
    files: str | None = None
    tip: str | None = None
    elsewhere: tuple[str, ...] = ()
    stray: str | None = None
    given_up: bool = False

    def __bool__(self) -> bool:
        return self != Found()


@dataclass(frozen=True)
class Losses:
    """What would be lost: what a rescue can keep, and what is `beyond` it."""

    files: int = 0
    unfinished: str | None = None
    commits: int = 0
    beyond: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    missing: str | None = None

    @property
    def is_work(self) -> bool:
        """Whether there is anything that a ref has to keep."""
        return bool(self.files or self.unfinished or self.commits or self.missing)

    def named(self, branch: str) -> list[str]:
        """Each of them in words."""
        found = []
        if self.files:
            found.append(_counted(self.files, "uncommitted file"))
        if self.unfinished:
            found.append(f"a {self.unfinished} that is not finished")
        found += self.beyond
        if self.commits:
            found.append(f"{_counted(self.commits, 'commit')} that no other branch has")
        if self.elsewhere:
            found.append(f"the branch {branch}, which is checked out elsewhere")
        if self.missing:
            found.append("a worktree that was moved or deleted by hand")
        return found


class Keeping(Repositories):
    """The worktree of a run whose agent has ended."""

    def changes(self, worktree: str, base_commit: str) -> Changes | None:
        """What the worktree holds beyond the commit; None when git does not say."""
        try:
            commits = self._line(worktree, "rev-list", "--count", f"{base_commit}..HEAD")
            listing = self._answer(
                worktree, "--no-optional-locks", "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames"
            )
        except DispatchctlError:
            return None
        return Changes(int(commits), listing.count(b"\0"))

    def commit_everything(self, worktree: str, message: str) -> None:
        """Commit all that is not ignored, as the user, without the repository's commit hooks; if git refuses, it stays.

        In the middle of a merge or rebase nothing is done: that would commit the conflicts as solved.
        """
        if _unfinished(self.git_dirs(worktree)[0]):
            return
        added = self._git(worktree, "add", "--all")
        if added.code == 0:
            self._git(worktree, "commit", "--quiet", "--no-verify", "--file=-", given=message.encode())

    # -- what is there ---------------------------------------------------------------------------------------------
    def find(self, run: Run) -> Found:
        """What there is of the worktree and the branch that the run, by its row, made."""
        places = (run.worktree, aside(run), given_up(run))
        own = self._own_dir(run) if run.owns_tree else None
        there = [path for path in places[:2] if run.owns_tree and os.path.lexists(path)]
        judged = run.owns_tree and not there and os.path.lexists(given_up(run))
        stray = _stray(own, there[0]) if there else None
        files = there[0] if there and not stray else None
        tip = self.branch_tip(run.repo, run.branch) if run.owns_branch else None
        registered = self.registered(run.repo) if tip else {}
        elsewhere = (path for path, branch in registered.items() if branch == run.branch and path not in places)
        return Found(own, files, tip, tuple(elsewhere), stray, judged)

    def _own_dir(self, run: Run) -> str | None:
        """git's own directory of the run's worktree, also if its files are gone."""
        _, common = self.git_dirs(run.repo)
        wanted = [os.path.join(path, ".git") for path in (run.worktree, aside(run), given_up(run))]
        try:
            entries = sorted(os.listdir(os.path.join(common, "worktrees")))
        except FileNotFoundError:
            return None
        for name in entries:
            own = os.path.join(common, "worktrees", name)
            for line in _lines(os.path.join(own, "gitdir")):
                if os.path.normpath(os.path.join(own, line)) in wanted:
                    return own
        return None

    # -- what would be lost ----------------------------------------------------------------------------------------
    def losses(self, run: Run, going: Collection[str] = ()) -> list[str]:
        """What would be lost, in words, if the place of a closed run went together with the branches `going`."""
        return self.weigh(run, self.find(run), going).named(run.branch)

    def weigh(self, run: Run, found: Found, going: Collection[str] = ()) -> Losses:
        """What would be lost if what was found of a closed run's place went together with the branches `going`.

        Files that git ignores are not work. A commit under a rescue ref is kept, and one that a stash stands on is not.
        """
        if found.stray:
            return Losses(beyond=(found.stray,))
        files, beyond = 0, []
        if found.own and found.files:
            there = self._within(found)
            asked = ("status", "--porcelain", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=none")
            files = there._answer(found.files, *asked).count(NUL)
            beyond = self._beyond(found)
        return Losses(
            files,
            _unfinished(found.own) if found.own and not found.given_up else None,
            self._unreachable(run, found, going),
            tuple(beyond),
            found.elsewhere,
            run.worktree if found.own and not (found.files or found.given_up) else None,
        )

    def _within(self, found: Found, *, index: str | None = None) -> Self:
        """git in the worktree, whatever its `.git` says; with an index of its own if one is named."""
        apart = type(self)(self.program, self.environment, self.limits)
        assert found.own is not None, "only of a worktree that git knows"
        apart.environment |= {"GIT_DIR": found.own, "GIT_OPTIONAL_LOCKS": "0"}
        if found.files:
            apart.environment["GIT_WORK_TREE"] = found.files
        if index:
            apart.environment["GIT_INDEX_FILE"] = index
        settings = (*TRUSTING_NOBODY, *DURABLE)
        apart.environment["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, (key, value) in enumerate(settings):
            apart.environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return apart

    def _unreachable(self, run: Run, found: Found, going: Collection[str]) -> int:
        """How many commits of the place no branch that stays, remote, tag or rescue ref has."""
        tips = self._tips(found)
        if not tips:
            return 0
        excluded = [f"--exclude={branch}" for branch in dict.fromkeys((run.branch, *going))]
        others = ("--not", *excluded, "--branches", "--remotes", "--tags", "--glob=refs/dispatchctl/rescue")
        return int(self._line(run.repo, "rev-list", "--count", *tips, *others))

    def _tips(self, found: Found) -> list[str]:
        """The commits that the place alone may have: its HEAD first, if it has one."""
        branch = [found.tip] if found.tip else []
        if found.own is None:
            return branch
        asked = ("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        head = self._within(found)._git(found.files or found.own, *asked)
        noted = (line for name in NOTED_COMMITS for line in _lines(os.path.join(str(found.own), name)))
        known = [line for line in noted if COMMIT_ID.fullmatch(line)]
        return list(dict.fromkeys([*os.fsdecode(head.out).split(), *branch, *known]))

    def _beyond(self, found: Found) -> list[str]:
        """What no commit of this repository can keep: repositories within it, of which it is not a part."""
        assert found.own is not None, "only of a worktree that git knows"
        assert found.files is not None, "and that is there"
        there = self._within(found)
        tracked = os.fsdecode(there._answer(found.files, "ls-files", "-z", "--stage")).split("\0")[:-1]
        links = {line.partition("\t")[2] for line in tracked if line.startswith("160000 ")}
        paths = [line.partition("\t")[2] for line in tracked]
        paths += os.fsdecode(there._answer(found.files, "ls-files", "-z", "--others", "--exclude-standard")).split("\0")
        inside = {above for path in paths for above in _directories(path)} | links
        nested = [path for path in sorted(inside) if _is_repository(os.path.join(found.files, path), path in links)]
        modules = any(self._has_own_commits(each) for each in _modules(found.own))
        return [f"the repository {path}/" for path in nested] + (["the commits of its submodules"] if modules else [])

    def _has_own_commits(self, module: str) -> bool:
        """Whether a submodule has commits that its remotes, as last seen, do not have."""
        counted = self._line(
            module, f"--git-dir={module}", "rev-list", "--count", "--all", "HEAD", "--not", "--remotes"
        )
        return counted != "0"


def aside(run: Run) -> str:
    """Where the worktree is put to be looked at for the last time: beside its path, so that going there is one step."""
    return _beside(run, "going")


def given_up(run: Run) -> str:
    """Where it waits to be deleted, when nothing in it could be lost any more."""
    return _beside(run, "gone")


def _beside(run: Run, how: str) -> str:
    directory, leaf = os.path.split(run.worktree)
    return os.path.join(directory, f".{how}-{leaf}")


def _stray(own: str | None, files: str) -> str | None:
    """What stands where the worktree should be, if it is something else."""
    if os.path.islink(files) or not os.path.isdir(files):
        return f"{files}, which is not the directory that was made there"
    link = os.path.join(files, ".git")
    if own is None:
        return f"{files}, which git does not know as a worktree"
    if not os.path.lexists(link):
        return None
    there = _lines(link) if os.path.isfile(link) else []
    target = there[0].removeprefix("gitdir: ") if there else ""
    if os.path.realpath(os.path.join(files, target)) != os.path.realpath(own) or not target:
        return f"{files}, which is another repository now"
    return None


def _unfinished(own: str) -> str | None:
    """What waits in the worktree to be gone on with."""
    return next((what for sign, what in UNFINISHED.items() if os.path.exists(os.path.join(own, sign))), None)


def _lines(path: str) -> list[str]:
    """The lines of a file of git's; none if there is no such file."""
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read()).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _directories(path: str) -> Iterator[str]:
    """Every directory above the path; one that ends in `/` is one itself."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _is_repository(path: str, is_link: bool) -> bool:
    """Whether the directory is a repository of its own; a submodule, whose `.git` is a file, is looked at elsewhere."""
    inner = os.path.join(path, ".git")
    return os.path.lexists(inner) and not (is_link and os.path.isfile(inner))


def _modules(own: str) -> Iterator[str]:
    """The repositories of the worktree's submodules, and of theirs."""
    for directory, below, files in os.walk(os.path.join(own, "modules")):
        if "HEAD" in files:
            yield directory
            below[:] = [each for each in below if each == "modules"]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
