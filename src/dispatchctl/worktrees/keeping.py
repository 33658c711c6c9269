"""What a run's worktree holds, and keeping it from being lost when the worktree goes."""

import os
from collections.abc import Collection, Mapping
from shlex import quote

from dispatchctl.errors import DispatchctlError
from dispatchctl.task import Run
from dispatchctl.verdict import Changes
from dispatchctl.worktrees.git import NUL
from dispatchctl.worktrees.repositories import Repositories, remove_if_empty, rescue_ref


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
        if self._is_unfinished(worktree):
            return
        added = self._git(worktree, "add", "--all")
        if added.code == 0:
            self._git(worktree, "commit", "--quiet", "--no-verify", "--file=-", given=message.encode())

    def _is_unfinished(self, worktree: str) -> bool:
        """Whether a merge, rebase or cherry-pick waits to be gone on with."""
        own, _ = self.git_dirs(worktree)
        signs = ("rebase-merge", "rebase-apply", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD")
        return any(os.path.exists(os.path.join(own, sign)) for sign in signs)

    def losses(self, run: Run, going: Collection[str] = ()) -> list[str]:
        """What would be lost if the worktree and the branch of a closed run went, together with the branches `going`."""
        found = []
        registered = self.registered(run.repo)
        if run.worktree in registered and os.path.isdir(run.worktree):
            dirty = self._answer(run.worktree, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames")
            if dirty:
                found.append(_counted(dirty.count(NUL), "uncommitted file"))
            if self._is_unfinished(run.worktree):
                found.append("a merge or rebase that is not finished")
            found += self.beyond_rescue(run)
        commits = self._unreachable(run, registered, going)
        if commits:
            found.append(f"{_counted(commits, 'commit')} that no other branch has")
        if any(branch == run.branch and path != run.worktree for path, branch in registered.items()):
            found.append(f"the branch {run.branch}, which is checked out elsewhere")
        return found

    def beyond_rescue(self, run: Run) -> list[str]:
        """What of the worktree no commit of this repository can keep: repositories within it, of which it is not a part."""
        if not os.path.isdir(run.worktree):
            return []
        own, _ = self.git_dirs(run.worktree)
        found = ["the commits of its submodules"] if os.path.isdir(os.path.join(own, "modules")) else []
        untracked = self._answer(run.worktree, "ls-files", "-z", "--others", "--exclude-standard", "--directory")
        directories = [path for path in os.fsdecode(untracked).split("\0") if path.endswith("/")]
        nested = [path for path in directories if os.path.lexists(os.path.join(run.worktree, path, ".git"))]
        return found + [f"the repository {path}" for path in nested]

    def _unreachable(self, run: Run, registered: Mapping[str, str | None], going: Collection[str]) -> int:
        """How many commits of the run's branch, or of its worktree's HEAD, no branch that stays, remote or tag has."""
        tips = [] if self.branch_tip(run.repo, run.branch) is None else [f"refs/heads/{run.branch}"]
        if run.worktree in registered and os.path.isdir(run.worktree):
            tips.append(self._line(run.worktree, "rev-parse", "HEAD"))
        if not tips:
            return 0
        excluded = [f"--exclude={branch}" for branch in dict.fromkeys((run.branch, *going))]
        others = ("--not", *excluded, "--branches", "--remotes", "--tags")
        return int(self._line(run.repo, "rev-list", "--count", *tips, *others))

    def rescue(self, run: Run) -> str:
        """Keep the branch, the worktree's HEAD and a commit of its uncommitted files under one ref; how to get them back."""
        ref, tip = rescue_ref(run), self.branch_tip(run.repo, run.branch)
        if os.path.isdir(run.worktree):
            tip = self._commit_of_everything(run, tip)
        if tip is not None:
            self._must(run, "git update-ref", run.repo, "update-ref", ref, tip)
        back = f"git -C {quote(run.repo)} branch rescued-{run.task}-{run.token} {ref}"
        return f"task {run.task}: its work is kept; to get it back: {back}"

    def _commit_of_everything(self, run: Run, tip: str | None) -> str:
        """A commit of all that is not ignored, made without touching the index, on top of HEAD and of the branch's tip."""
        head = self._line(run.worktree, "rev-parse", "HEAD")
        own, _ = self.git_dirs(run.worktree)
        index = os.path.join(own, f"rescue-{run.token}")
        name, mail = "dispatchctl", "dispatchctl@localhost"
        apart = type(self)(self.program, self.environment, self.limits)
        apart.environment |= {"GIT_INDEX_FILE": index, "GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": mail}
        apart.environment |= {"GIT_COMMITTER_NAME": name, "GIT_COMMITTER_EMAIL": mail}
        behind = tip is None or self._git(run.worktree, "merge-base", "--is-ancestor", tip, head).code == 0
        parents = ["-p", head] if behind else ["-p", head, "-p", str(tip)]
        try:
            apart._must(run, "git read-tree", run.worktree, "read-tree", head)
            apart._must(run, "git add", run.worktree, "add", "--all")
            tree = apart._line(run.worktree, "write-tree")
            if behind and tree == self._line(run.worktree, "rev-parse", f"{head}^{{tree}}"):
                return head
            said = f"rescued from task {run.task}, run {run.token}"
            return apart._line(run.worktree, "commit-tree", *parents, "-m", said, tree)
        finally:
            if os.path.exists(index):
                os.unlink(index)

    def remove_place(self, run: Run) -> None:
        """Remove the worktree and the branch of a closed run; the caller has made sure that nothing is lost."""
        if run.worktree in self.registered(run.repo):
            self._must(run, "git worktree remove", run.repo, "worktree", "remove", "-f", "-f", "--", run.worktree)
        remove_if_empty(os.path.dirname(run.worktree))
        tip = self.branch_tip(run.repo, run.branch)
        if tip is not None and run.branch not in self.registered(run.repo).values():
            self._must(run, "git update-ref", run.repo, "update-ref", "-d", f"refs/heads/{run.branch}", tip)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
