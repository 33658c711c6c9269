"""Taking a branch to a remote."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from dispatchctl.processes import Finished
from dispatchctl.worktrees.git import Git

CONNECTING = ("GIT_SSH", "GIT_ASKPASS", "GIT_SSL_", "GIT_HTTP_", "GIT_PROXY_")
"""How the variables of git's begin that say how the user reaches a remote."""


@dataclass(frozen=True)
class Upstream:
    """A remote, and the name that a branch has there."""

    remote: str
    branch: str


class Pushing(Git):
    """The only thing that leaves this machine."""

    def upstream(self, repo: str, base: str) -> Upstream | None:
        """Where the base comes from: its own remote, else origin, else the only one there is."""
        remotes = os.fsdecode(self._answer(repo, "remote")).splitlines()
        own = self._setting(repo, f"branch.{base}.remote")
        if own in remotes:
            merged = self._setting(repo, f"branch.{base}.merge")
            return Upstream(own, merged.removeprefix("refs/heads/") or base)
        if "origin" in remotes or len(remotes) == 1:
            return Upstream("origin" if "origin" in remotes else remotes[0], base)
        return None

    def push(self, repo: str, branch: str, remote: str, given: Mapping[str, str]) -> Finished:
        """Have the remote's branch of the same name follow, never by force; git cannot ask for a password."""
        kept = {name: value for name, value in given.items() if name.startswith(CONNECTING)}
        ref = f"refs/heads/{branch}:refs/heads/{branch}"
        there = self._set((), **kept)
        return there._git(repo, "push", "--no-follow-tags", "--", remote, ref, limit=self.limits.checkout)

    def _setting(self, repo: str, key: str) -> str:
        """The setting's value; empty if it is not set."""
        found = self._git(repo, "config", "--get", key)
        return os.fsdecode(found.out).strip() if found.code == 0 else ""
