"""Removing the worktree and the branch of a closed run, in steps that each can be the last: what a kill leaves is gone on with.

A worktree first is set aside (`.going-…`), which is one rename: nobody writes into it by its path any more, and a look at it
is the last one. If nothing would be lost, or all is rescued, it is given up by another rename (`.gone-…`); then git forgets
it, its branch goes, and at last its files. What is aside was not judged yet, and is put back; what is given up only has to
be deleted.
"""

import os
import shutil
from shlex import quote

from dispatchctl.errors import Refused
from dispatchctl.task import Run
from dispatchctl.worktrees.keeping import Found, aside, given_up
from dispatchctl.worktrees.repositories import remove_if_empty
from dispatchctl.worktrees.rescuing import Rescuing


class Removing(Rescuing):
    """The end of a place. The caller holds the repository's lock, and has made sure that nothing is lost."""

    def set_aside(self, run: Run) -> None:
        """Take the worktree from its path."""
        os.rename(run.worktree, aside(run))

    def bring_back(self, run: Run) -> None:
        """Put a worktree that is aside back to its path; nothing happens if none is.

        Raises `Refused` if something else has taken its path meanwhile.
        """
        if not os.path.lexists(aside(run)):
            return
        if os.path.lexists(run.worktree):
            raise Refused(
                f"task {run.task}: its worktree is in {aside(run)}, and something else in {run.worktree}",
                f"ls -la {quote(os.path.dirname(run.worktree))}",
            )
        known = self._own_dir(run)
        os.rename(aside(run), run.worktree)
        if known and run.worktree not in self.registered(run.repo):  # git follows a worktree that it was used in
            self._must(run, "git worktree repair", run.repo, "worktree", "repair", run.worktree)

    def give_up(self, run: Run) -> None:
        """Note that the worktree that is aside holds nothing any more that could be lost."""
        self.delete_files(run)
        os.rename(aside(run), given_up(run))

    def forget(self, run: Run) -> None:
        """Have git forget a worktree that is given up, or that was deleted by hand."""
        ours = (run.worktree, aside(run), given_up(run))
        path = next((each for each in self.registered(run.repo) if each in ours), None)
        if path is not None:
            self._must(run, "git worktree remove", run.repo, "worktree", "remove", "-f", "-f", "--", path)

    def delete_branch(self, run: Run, found: Found) -> None:
        """Delete the branch if it still points to what was found, unless it is checked out elsewhere."""
        if found.tip is not None and not found.elsewhere:
            self.delete_ref(run, f"refs/heads/{run.branch}", found.tip)

    def delete_files(self, run: Run) -> None:
        """Delete the files of a worktree that is given up; nothing happens if there are none."""
        path = given_up(run)
        while os.path.lexists(path):
            try:
                shutil.rmtree(path)
            except FileNotFoundError:
                continue  # somebody else deletes it too
            except PermissionError:  # directories that may not be written, as some package caches make them
                _open_up(path)
                shutil.rmtree(path)

    def tidy(self, run: Run) -> None:
        """Remove the directory that held the worktrees of the repository, if this was the last."""
        remove_if_empty(os.path.dirname(run.worktree))


def _open_up(path: str) -> None:
    """Let this user write into the directory and all below it, going through no symbolic link."""
    os.chmod(path, 0o700)
    for directory, below, _ in os.walk(path):
        for each in (os.path.join(directory, name) for name in below):
            if not os.path.islink(each):
                os.chmod(each, 0o700)
