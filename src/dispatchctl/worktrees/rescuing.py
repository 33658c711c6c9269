"""Keeping by a ref what would be lost with a run's worktree and branch."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from shlex import quote

from dispatchctl.task import Run
from dispatchctl.worktrees.keeping import DURABLE, Found, Keeping
from dispatchctl.worktrees.refs import Refs
from dispatchctl.worktrees.repositories import rescue_ref


class Rescuing(Refs, Keeping):
    """What `--force` does before anything goes, and what needs no rescue."""

    def rescue(self, run: Run, found: Found) -> str:
        """Keep every commit of the place and a commit of its uncommitted files under one ref; how to get them back.

        The same work is kept by the same ref again. A ref that has other work already is not touched: there is a next one.
        """
        tip = self._commit_of_everything(run, found) if found.own else found.tip
        if tip is None:
            return f"task {run.task}: there was no commit and no file to be kept"
        ref, number = rescue_ref(run), 1
        while not self._keep_by(run, ref, tip):
            number += 1
            ref = f"{rescue_ref(run)}-{number}"
        branch = f"rescued-{run.task}-{ref.rpartition('/')[2]}"
        while self.branch_tip(run.repo, branch) is not None:
            branch += "-again"
        back = f"git -C {quote(run.repo)} branch {branch} {ref}"
        return f"task {run.task}: its work is kept; to get it back: {back}"

    def _keep_by(self, run: Run, ref: str, tip: str) -> bool:
        """Have the ref keep the commit; False, and nothing is done, if that would let go of what it keeps."""
        before = self._git(run.repo, "rev-parse", "--verify", "--quiet", ref)
        old = os.fsdecode(before.out).strip() if before.code == 0 else ""
        if old == tip:
            return True
        if old and not self._is_in(run.repo, old, tip):
            return False
        durably = tuple(word for key, value in DURABLE for word in ("-c", f"{key}={value}"))
        self.set_ref(run, ref, tip, old or "0" * len(tip), durably=durably)
        return True

    def _is_in(self, repo: str, commit: str, tip: str) -> bool:
        return self._git(repo, "merge-base", "--is-ancestor", commit, tip).code == 0

    def _commit_of_everything(self, run: Run, found: Found) -> str | None:
        """A commit of all that is not ignored, made without touching the index, on top of every commit of the place.

        What was staged and then changed again is kept by a parent of its own. Done again for the same files, it is the same
        commit: it is dated by the end of the run.
        """
        assert found.own is not None, "only of a worktree that git knows"
        parents: list[str] = []
        for tip in self._tips(found):
            if not any(self._is_in(run.repo, tip, each) for each in parents):
                parents.append(tip)
        at = found.files or found.own
        with tempfile.TemporaryDirectory(
            prefix="rescue-", dir=found.own
        ) as directory:  # one that was killed left its own
            index = os.path.join(directory, "index")
            apart = self._within(found, index=index)
            apart.environment |= _author(run)
            if os.path.exists(os.path.join(found.own, "index")):
                shutil.copy2(os.path.join(found.own, "index"), index)  # by its time git knows whom not to believe
            staged = apart._git(at, "write-tree")  # it fails in the middle of a conflict, whose sides are commits
            if found.files:
                apart._must(run, "git add", at, "add", "--all")
            tree = apart._line(at, "write-tree") if found.files or staged.code == 0 else None
            if staged.code == 0:
                parents = apart._with_staged(at, run, os.fsdecode(staged.out).strip(), tree, parents)
            return apart._commit(at, run, tree, parents)

    def _with_staged(self, at: str, run: Run, staged: str, tree: str | None, parents: Sequence[str]) -> list[str]:
        """The parents, and one for what is staged if neither the first of them nor the files have it."""
        if staged in (tree, self._tree_of(at, parents[:1])):
            return [*parents]
        commit = self._commit(at, run, staged, parents[:1], "staged")
        return [*parents, commit] if commit else [*parents]

    def _tree_of(self, at: str, commits: Sequence[str]) -> str | None:
        return self._line(at, "rev-parse", f"{commits[0]}^{{tree}}") if commits else None

    def _commit(self, at: str, run: Run, tree: str | None, parents: Sequence[str], what: str = "rescued") -> str | None:
        """The commit of the tree on the parents; the parent itself if it is the only one and has that very tree."""
        before = self._tree_of(at, parents)
        tree = tree or before
        if tree is None or (len(parents) == 1 and tree == before):
            return parents[0] if parents else None
        on = [word for parent in parents for word in ("-p", parent)]
        return self._line(at, "commit-tree", *on, "-m", f"{what} from task {run.task}, run {run.token}", tree)

    # -- what stays ------------------------------------------------------------------------------------------------
    def stashes(self, run: Run) -> list[str]:
        """The entries of the repository's stash that were made on the run's branch: they stay when its worktree goes."""
        listed = self._git(run.repo, "stash", "list", "-z", "--format=%gd %gs")
        marks = (f" WIP on {run.branch}: ", f" On {run.branch}: ")
        entries = os.fsdecode(listed.out).split("\0") if listed.code == 0 else []
        return [entry.partition(" ")[0] for entry in entries if any(mark in entry for mark in marks)]


def _author(run: Run) -> dict[str, str]:
    """Who commits what is rescued, and when."""
    at = f"{(run.closed_at or run.claimed_at) // 1000} +0000"
    name, mail = "dispatchctl", "dispatchctl@localhost"
    found: dict[str, str] = {}
    for role in ("AUTHOR", "COMMITTER"):
        found |= {f"GIT_{role}_NAME": name, f"GIT_{role}_EMAIL": mail, f"GIT_{role}_DATE": at}
    return found
