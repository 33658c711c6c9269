"""What git keeps of each linked worktree, in `worktrees/NAME` of the common git directory: gitrepository-layout(5).

A git that was killed while it wrote one leaves it half made, and then git may refuse to list, or to remove, any worktree of
the repository. So where git does not say, its files do. In a new entry `locked` is written first, then `gitdir`, then `HEAD`
and `commondir` (builtin/worktree.c, `add_worktree`).
"""

import os
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One linked worktree, as far as it was written; None is what was not. `locked` is the reason, which may be empty."""

    directory: str
    path: str | None
    branch: str | None
    locked: str | None

    def is_named_for(self, path: str) -> bool:
        """Whether git would give an entry for the worktree this name: its last part, and digits if that was taken."""
        name, leaf = os.path.basename(self.directory), os.path.basename(path)
        return re.fullmatch(rf"{re.escape(leaf)}\d*", name) is not None


def entries(common_dir: str) -> list[Entry]:
    """Every linked worktree of the repository, whole or half made."""
    top = os.path.join(common_dir, "worktrees")
    try:
        names = sorted(os.listdir(top))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [entry(os.path.join(top, name)) for name in names]


def entry(directory: str) -> Entry:
    """What the directory says; of a main git directory, only its branch means something."""
    gitdir = _line(directory, "gitdir") or None
    head = _line(directory, "HEAD") or ""
    branch = head.removeprefix("ref: refs/heads/") if head.startswith("ref: refs/heads/") else None
    path = None
    if gitdir is not None:
        path = os.path.dirname(os.path.normpath(os.path.join(directory, gitdir)))
    return Entry(directory, path, branch, _line(directory, "locked"))


def _line(directory: str, name: str) -> str | None:
    """The content of a file without the newline at its end; None if there is no such file."""
    try:
        with open(os.path.join(directory, name), "rb") as file:
            return os.fsdecode(file.read()).removesuffix("\n")
    except OSError:
        return None
