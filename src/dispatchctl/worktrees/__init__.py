"""The door to git: repositories, worktrees and branches of runs.

Every call runs without the `GIT_*` variables it would inherit (an inherited GIT_DIR beats `git -C`), in a process group of
its own, with a time limit. A base is resolved to a commit id before anything is made; names from tasks are made of
`[a-z0-9-]` or checked, and never stand where git would take them for an option. Git that does not answer raises
`Unanswered`: unknown, not absent.
"""

from dispatchctl.worktrees.diffs import Difference, Diffing, FileChange
from dispatchctl.worktrees.git import Limits
from dispatchctl.worktrees.keeping import Found, Losses, aside, given_up
from dispatchctl.worktrees.making import HOOK_OUTPUT, Making
from dispatchctl.worktrees.merging import Conflict, LocalBranch, Merging
from dispatchctl.worktrees.pushing import Pushing, Upstream
from dispatchctl.worktrees.removing import Removing
from dispatchctl.worktrees.repositories import Listed, NotARepository, Repository


class Worktrees(Making, Removing, Merging, Diffing, Pushing):
    """Everything that git is asked to do."""


__all__ = [
    "HOOK_OUTPUT",
    "Conflict",
    "Difference",
    "FileChange",
    "Found",
    "Limits",
    "Listed",
    "LocalBranch",
    "Losses",
    "NotARepository",
    "Repository",
    "Upstream",
    "Worktrees",
    "aside",
    "given_up",
]
