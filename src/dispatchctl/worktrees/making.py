"""Making a run's worktree and branch, and taking them back if its agent never started."""

import errno
import os
import shutil
from collections.abc import Sequence
from shlex import quote

from dispatchctl import processes
from dispatchctl.errors import LaunchError, Refused, Unanswered
from dispatchctl.processes import Finished, Lock
from dispatchctl.task import Run
from dispatchctl.worktrees.entries import Entry, entries
from dispatchctl.worktrees.refs import Refs
from dispatchctl.worktrees.repositories import remove_if_empty, rescue_ref

NO_COMMIT = "0" * 40
HOOK_OUTPUT = 65_536
"""Bytes that are kept of what a hook said last."""


class Making(Refs):
    """The worktree of a run that is being started."""

    def is_there(self, run: Run) -> bool:
        """Whether the run's path is a worktree of its repository."""
        return os.path.isdir(run.worktree) and run.worktree in self.registered(run.repo)

    def is_free(self, run: Run, *, owns_branch: bool = True) -> None:
        """Raise an incurable `LaunchError` if the run's path or branch exists already.

        Without `owns_branch` the branch is to be there, and so may be the registration of its worktree that was deleted.
        """
        registered = self.registered(run.repo)
        if os.path.lexists(run.worktree) or (owns_branch and run.worktree in registered):
            raise LaunchError(
                f"task {run.task} was not started: its worktree path {run.worktree} is taken",
                f"dispatchctl retry {run.task} --fresh",
                curable=False,
            )
        if registered.get(run.worktree, run.branch) != run.branch:  # its HEAD may be all that keeps its commits
            raise LaunchError(
                f"task {run.task} was not started: {run.worktree} is gone, and it did not have {run.branch} checked out",
                f"git -C {quote(run.repo)} worktree list",
                curable=False,
            )
        if owns_branch and self.branch_tip(run.repo, run.branch) is not None:
            raise LaunchError(
                f"task {run.task} was not started: the branch {run.branch} exists already",
                f"dispatchctl retry {run.task} --fresh",
                curable=False,
            )

    def register(self, run: Run, reason: str, held: Lock) -> None:
        """Make the run's branch and an empty, locked worktree for it; the caller holds the repository's lock."""
        os.makedirs(os.path.dirname(run.worktree), mode=0o700, exist_ok=True)
        options = ["--lock", "--reason", reason, "--no-checkout"]
        if run.owns_branch:
            target = ["--no-track", "-b", run.branch, "--", run.worktree, str(run.base_commit)]
        else:
            if run.worktree in self.registered(run.repo):  # its directory was deleted by hand
                self._must(run, "git worktree remove", run.repo, "worktree", "remove", "-f", "-f", "--", run.worktree)
            target = ["--", run.worktree, run.branch]
        self._must(run, "git worktree add", run.repo, "worktree", "add", *options, *target, held=held)

    def check_out(self, run: Run, held: Lock) -> bytes:
        """Fill the run's worktree, and run the repository's post-checkout hook as `git worktree add` would; what that said."""
        limit = self.limits.checkout
        options = ("--hard", "--quiet", "--no-recurse-submodules")
        self._must(run, "git reset", run.worktree, "reset", *options, held=held, limit=limit)
        asked = ("--git-path", "hooks/post-checkout", "HEAD")
        answer = self._answer(run.worktree, "rev-parse", "--path-format=absolute", *asked)
        hook, _, head = os.fsdecode(answer).removesuffix("\n").rpartition("\n")
        if not (os.path.isfile(hook) and os.access(hook, os.X_OK)):
            return b""
        finished = self._run_hook([hook, NO_COMMIT, head, "1"], run.worktree, held)
        if finished.timed_out or finished.code != 0:
            how = f"ran longer than {limit:g} s" if finished.timed_out else f"failed with {finished.code}"
            raise LaunchError(
                f"task {run.task}: the post-checkout hook {how}: {finished.last_words}",
                f"cd {quote(run.repo)} && git rev-parse --git-path hooks/post-checkout",
            )
        return finished.out

    def _run_hook(self, command: Sequence[str], worktree: str, held: Lock) -> Finished:
        """Run a hook as `git worktree add` does; `git hook run` would give it a GIT_DIR, which beats `git -C`."""
        limit = self.limits.checkout
        for argv in (command, ["/bin/sh", *command]):  # like git, a script without its first line by sh
            try:
                return processes.execute(
                    argv, env=self.environment, timeout=limit, cwd=worktree, held=held, merged=True, kept=HOOK_OUTPUT
                )
            except OSError as error:
                if error.errno != errno.ENOEXEC or argv is not command:
                    raise
        raise AssertionError("sh cannot be executed")

    def copy_included(self, run: Run) -> None:
        """Copy the ignored files that the repository's `.worktreeinclude` names into the run's new worktree.

        The convention that Claude Code, Codex and others share: patterns as in .gitignore, and only files that git
        ignores. Nothing is overwritten, and no symbolic link is followed.
        """
        patterns = os.path.join(run.repo, ".worktreeinclude")
        if not os.path.isfile(patterns):
            return
        named = self._answer(run.repo, "ls-files", "-z", "--others", "--ignored", f"--exclude-from={patterns}")
        if not named:
            return
        ignored = self._git(run.repo, "check-ignore", "-z", "--stdin", given=named)
        for path in os.fsdecode(ignored.out).split("\0"):
            source, target = os.path.join(run.repo, path), os.path.join(run.worktree, path)
            if not path or path.endswith("/"):  # nothing, or a repository of its own
                continue
            if not os.path.lexists(target) and _is_below(os.path.dirname(target), run.worktree):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)

    # -- undo ------------------------------------------------------------------------------------------------------
    def discard_tree(self, run: Run, reason: str) -> None:
        """Remove the worktree that this run made and that was never started; nothing happens if it is gone.

        It holds only what git, copies and hooks wrote, so it goes by the row and by force: a checkout that was killed looks
        like thousands of deletions. Commits that a hook made are kept first by a rescue ref. A worktree that is there
        without being locked for `reason` is somebody else's, who was quicker.
        """
        if not run.owns_tree:
            return
        if not os.path.isdir(run.repo):
            raise Unanswered(
                f"the repository {run.repo} is not there, so {run.worktree} was left", f"ls -ld {quote(run.repo)}"
            )
        found = self._entry(run, reason)
        if found is not None and found.path is not None and found.locked != reason:
            raise Refused(
                f"the worktree {run.worktree} is not the run's own", f"git -C {quote(run.repo)} worktree list -v"
            )
        self._rescue(run)
        if found is not None:
            self._git(run.repo, "worktree", "remove", "-f", "-f", "--", run.worktree)
        if os.path.lexists(run.worktree):
            shutil.rmtree(run.worktree)
        if found is not None and os.path.lexists(found.directory):
            self._remove_entry(run, reason)
        remove_if_empty(os.path.dirname(run.worktree))

    def discard_branch(self, run: Run) -> None:
        """Delete the branch that this run made, if it still points where the run left it."""
        if not run.owns_branch:
            return
        ref, tip = f"refs/heads/{run.branch}", self.branch_tip(run.repo, run.branch)
        if tip is None:
            self.drop_ref_lock(run, ref)  # of a git that was killed before it had made the branch
            return
        if run.branch in self.registered(run.repo).values():
            raise Refused(
                f"the branch {run.branch} is checked out elsewhere", f"git -C {quote(run.repo)} worktree list"
            )
        if tip != run.base_commit and self._line(run.repo, "rev-parse", "--verify", rescue_ref(run)) != tip:
            raise Unanswered(
                f"the branch {run.branch} moved while it was to be deleted",
                f"git -C {quote(run.repo)} log {run.branch}",
            )
        self.delete_ref(run, ref, tip)

    def is_locked_for(self, run: Run, reason: str) -> bool:
        """Whether there is a worktree at the run's path that is locked for this reason."""
        found = self._entry(run, reason) if os.path.isdir(run.repo) else None
        return found is not None and found.locked == reason

    def _entry(self, run: Run, reason: str) -> Entry | None:
        """What git keeps of the worktree at the run's path, or of the one that it was killed making for this run."""
        half = None
        for each in entries(self._common_dir(run.repo)):
            if each.path == run.worktree:
                return each
            if each.path is None and (each.locked == reason or (not each.locked and each.is_named_for(run.worktree))):
                half = each
        return half

    def _remove_entry(self, run: Run, reason: str) -> None:
        """Remove the entry that a killed git left and that git itself does not remove.

        Under the repository's lock: nobody of ours is just writing one then, which could look the same.
        """
        lock = self.lock(self.repository(run.repo))
        try:
            left = self._entry(run, reason)
            if left is not None and left.locked in (reason, None, ""):
                shutil.rmtree(left.directory)
        finally:
            lock.release()

    def _rescue(self, run: Run) -> None:
        tip = self.branch_tip(run.repo, run.branch) if run.owns_branch else None
        if tip is not None and tip != run.base_commit:
            self.set_ref(run, rescue_ref(run), tip)


def _is_below(path: str, directory: str) -> bool:
    """Whether the path, all links followed, is the directory or in it."""
    real, top = os.path.realpath(path), os.path.realpath(directory)
    return real == top or real.startswith(top + os.sep)
