"""What a run has changed since its base commit: committed, uncommitted and untracked files, as one difference.

Nothing of the repository is written: the worktree's files become a tree through a copy of its index, and objects of a
directory of their own. Whatever the repository's settings say, no diff driver and no text conversion of theirs is run.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from shlex import quote

from dispatchctl.errors import Unanswered
from dispatchctl.task import Run
from dispatchctl.worktrees.keeping import TRUSTING_NOBODY, Found, Keeping
from dispatchctl.worktrees.repositories import rescue_ref

COMPARING = ("--no-ext-diff", "--no-textconv", "--submodule=short", "--ignore-submodules=none", "--no-relative", "-M")
AS_EVERYWHERE = ("diff.noprefix", "false"), ("diff.mnemonicPrefix", "false"), ("core.quotePath", "true")
"""A patch that can be applied, with names in which nothing is left that a terminal would obey."""


@dataclass(frozen=True)
class FileChange:
    """A changed file; `before` is its name before a rename or copy. A binary file has no lines, and so no numbers."""

    path: str
    before: str | None
    status: str
    added: int | None
    deleted: int | None


class Source(StrEnum):
    """Where it was seen: with uncommitted and untracked files, or only what is committed, there or in its base."""

    WORKTREE = "worktree"
    BRANCH = "branch"
    MERGED = "merged"


@dataclass(frozen=True)
class Difference:
    """What a place holds beyond a commit, to be looked at while `Diffing.difference` goes on.

    `unread` has git's words about what could not be read.
    """

    git: "Diffing"
    at: str
    base: str
    tree: str
    source: Source = Source.BRANCH
    unread: str = ""

    def patch(self, *options: str) -> bytes:
        """What git says, without colours."""
        return self.git._answer(self.at, *self._command("--no-color", *options))

    def files(self) -> list[FileChange]:
        """The changed files, in git's order."""
        status = os.fsdecode(self.git._answer(self.at, *self._command("--name-status", "-z"))).split("\0")[:-1]
        lines = os.fsdecode(self.git._answer(self.at, *self._command("--numstat", "-z"))).split("\0")[:-1]
        words, counts, found = iter(status), iter(lines), []
        for letter in words:
            before = next(words) if letter[0] in "RC" else None
            path = next(words)
            added, deleted, _ = next(counts).split("\t", 2)
            if before is not None:  # numstat has both names after an empty one
                next(counts), next(counts)
            found.append(FileChange(path, before, letter[0], _number(added), _number(deleted)))
        return found

    def show(self, options: Sequence[str], *, color: bool) -> int:
        """Have git show it on our terminal, through its pager as the user has set it; git's exit code."""
        words = self._command("--color=auto" if color else "--no-color", *options)
        process = subprocess.Popen([self.git.program, "-C", self.at, *words], env=self.git.environment)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the pager's business, or git's, which is ended by it
                continue

    def _command(self, *options: str) -> tuple[str, ...]:
        return ("diff", *COMPARING, *options, self.base, self.tree, "--")


class Diffing(Keeping):
    """What the worktree or the branch of a run holds."""

    @contextmanager
    def difference(self, run: Run, found: Found, *, pager: str | None = None) -> Iterator[Difference]:
        """What is in the run's worktree, or on its branch if that is gone, beyond the run's base commit.

        The objects that it takes are there as long as the context.
        """
        assert run.base_commit is not None, "a run that has made something has a base"
        variables = _paging(pager)
        if not (found.own and found.files):
            assert found.tip is not None, "of a place that is there"
            yield replace(self.difference_of(run.repo, run.base_commit, found.tip, pager=pager), source=Source.BRANCH)
            return
        with tempfile.TemporaryDirectory(prefix="dispatchctl-diff-") as directory:
            index, objects = os.path.join(directory, "index"), os.path.join(directory, "objects")
            os.mkdir(objects)
            there = os.path.join(found.own, "index")
            if os.path.exists(there):
                shutil.copy2(there, index)  # by its time git knows whom not to believe
            lent = {"GIT_OBJECT_DIRECTORY": objects, "GIT_ALTERNATE_OBJECT_DIRECTORIES": self._objects(run.repo)}
            git = self._within(found, index=index)._set(AS_EVERYWHERE, **lent, **variables)
            added = git._git(found.files, "add", "--all", "--ignore-errors", limit=self.limits.checkout)
            tree = git._line(found.files, "write-tree")
            unread = added.last_words if added.code != 0 else ""
            yield Difference(git, found.files, run.base_commit, tree, Source.WORKTREE, unread)

    def difference_of(self, repo: str, base: str, commit: str, *, pager: str | None = None) -> Difference:
        """What a commit that was merged differs by from another one."""
        git = self._set((*AS_EVERYWHERE, *TRUSTING_NOBODY), **_paging(pager))
        return Difference(git, repo, base, commit, Source.MERGED)

    def rescued(self, run: Run) -> str | None:
        """The commit under the run's rescue ref."""
        noted = self._git(run.repo, "rev-parse", "--verify", "--quiet", f"{rescue_ref(run)}^{{commit}}")
        return os.fsdecode(noted.out).strip() if noted.code == 0 else None

    def _objects(self, repo: str) -> str:
        """The directory of the repository's objects, as a list of paths has it: git(1), GIT_ALTERNATE_OBJECT_DIRECTORIES."""
        path = self._line(repo, "rev-parse", "--path-format=absolute", "--git-path", "objects")
        if not os.path.isdir(path):
            raise Unanswered(f"the objects of {repo} are not in {path}", f"git -C {quote(repo)} fsck")
        return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _paging(pager: str | None) -> dict[str, str]:
    return {} if pager is None else {"GIT_PAGER": pager}


def _number(text: str) -> int | None:
    return None if text == "-" else int(text)
