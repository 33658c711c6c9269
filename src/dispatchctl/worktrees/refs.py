"""Changing the refs of a run: past the lock that a killed git left, and never past one that somebody may hold."""

import os

from dispatchctl.processes import Finished
from dispatchctl.task import Run
from dispatchctl.worktrees import stale
from dispatchctl.worktrees.repositories import Repositories


class Refs(Repositories):
    """Making and deleting refs that are a run's own. The caller holds its owner lock, or has found it closed."""

    def set_ref(self, run: Run, ref: str, tip: str, *old: str, durably: tuple[str, ...] = ()) -> None:
        """Have the ref point to the commit, if it points to `old`, where that is given."""
        finished = self._past_its_lock(run, ref, *durably, "update-ref", ref, tip, *old)
        if finished.code != 0:
            raise self.failure(run, "git update-ref", finished)

    def delete_ref(self, run: Run, ref: str, tip: str) -> None:
        """Delete the ref if it points to the commit.

        git cannot do it while `packed-refs.lock` stands, and that lock is everybody's, so it is left alone. If nobody holds
        it, the ref goes by itself where `packed-refs` does not name it. What a git did that held it after all is seen by
        looking again.
        """
        asked = ("update-ref", "-d", ref, tip)
        finished = self._past_its_lock(run, ref, *asked)
        if finished.code == 0:
            return
        common = self._common_dir(run.repo)
        lock = os.path.join(common, "packed-refs.lock")
        if stale.remove_half_packed(common):
            finished = self._git(run.repo, *asked)
        elif os.path.lexists(lock) and self._is_in_files(run.repo):
            gone = stale.is_abandoned(lock, self._places(run.repo)) and stale.delete_loose(common, ref, tip)
            if gone and self._git(run.repo, "rev-parse", "--verify", "--quiet", ref).code == 1:
                return
            finished = self._git(run.repo, *asked)  # whoever held it has let go, and may have packed the ref
        if finished.code != 0:
            raise self.failure(run, "git update-ref", finished)

    def drop_ref_lock(self, run: Run, ref: str) -> bool:
        """Remove the lock that a killed git left on a ref of the run's own; whether there was one whose maker is gone."""
        lock = os.path.join(self._common_dir(run.repo), f"{ref}.lock")
        return os.path.lexists(lock) and stale.remove(lock, self._places(run.repo))

    def _past_its_lock(self, run: Run, ref: str, *arguments: str) -> Finished:
        """Ask git; once more if a lock on the ref was in the way that nobody holds."""
        finished = self._git(run.repo, *arguments)
        if finished.code != 0 and self.drop_ref_lock(run, ref):
            return self._git(run.repo, *arguments)
        return finished

    def _places(self, repo: str) -> list[str]:
        """Where a git of the repository works, as it may be told and as the kernel has it."""
        told = [self._common_dir(repo), repo, *(each.path for each in self.listed(repo))]
        return list(dict.fromkeys([*told, *map(os.path.realpath, told)]))

    def _is_in_files(self, repo: str) -> bool:
        """Whether git keeps the repository's refs in files, and not in another format."""
        format_ = self._git(repo, "config", "--get", "extensions.refStorage")
        return format_.code == 1 or format_.out.strip() == b"files"
