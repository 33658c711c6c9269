"""Bringing the commits of a branch into another one, computed aside and taken over in one step.

The result is made of objects alone (`git merge-tree --write-tree`). Then either the base still is what it was, and becomes
the result, or nothing has happened. Of a base that is checked out, branch, index and files go together, by `git merge
--ff-only` there, which refuses where it would overwrite anything. No hook of the repository runs.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dispatchctl.errors import LaunchError, Unanswered, Unavailable
from dispatchctl.processes import Finished
from dispatchctl.task import Run
from dispatchctl.worktrees.git import NUL
from dispatchctl.worktrees.keeping import DURABLE, TRUSTING_NOBODY, Found, Keeping, _directories, _lines, _unfinished
from dispatchctl.worktrees.refs import Refs

WITHOUT_HOOKS = (("core.hooksPath", os.devnull),)
OLDEST = (2, 38)
"""The first git that merges without a work tree."""
IDENTITY = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
"""The variables of git's that say who the user is."""
ONLY_FORWARD = (
    "--ff-only",
    "--no-squash",
    "--commit",
    "--no-autostash",
    "--no-overwrite-ignore",
    "--no-stat",
    "--quiet",
)
"""Whatever `branch.NAME.mergeOptions` and `merge.autoStash` say; an ignored file is not overwritten either."""
PINNED = ("rebase-merge/head-name", "rebase-apply/head-name", "rebase-merge/update-refs")
"""Where git notes the branches that a rebase is going to move when it ends: gitrepository-layout(5), builtin/rebase.c."""


@dataclass(frozen=True)
class Conflict:
    """The files that cannot be merged by themselves."""

    paths: tuple[str, ...]


@dataclass(frozen=True)
class LocalBranch:
    """A branch of the repository and the commit that it points to."""

    name: str
    tip: str


class Merging(Refs, Keeping):
    """What a merge asks, makes and moves. The caller holds the repository's lock."""

    # -- what is there ---------------------------------------------------------------------------------------------
    def local_branch(self, repo: str, name: str) -> LocalBranch | str:
        """The local branch of that name; or in words what the name is instead."""
        short = name.removeprefix("refs/heads/")
        tip = None if short.startswith("-") else self.branch_tip(repo, short)
        if tip is not None:
            return LocalBranch(short, tip)
        asked = ("--verify", "--quiet", "--symbolic-full-name", "--end-of-options", name)
        full = self._git(repo, "rev-parse", *asked) if not name.startswith("-") else None
        if full is None or full.code != 0:
            return "nothing that git knows"
        ref = os.fsdecode(full.out).strip().removeprefix("--end-of-options").strip()
        kinds = {"refs/tags/": "a tag", "refs/remotes/": "a remote branch", "refs/": "another name"}
        return next((kind for prefix, kind in kinds.items() if ref.startswith(prefix)), "a commit")

    def main_branch(self, repo: str, *, besides: str) -> str | None:
        """The branch that is checked out in the repository; else what its origin calls the main one, or a usual name."""
        asked = [("HEAD", "refs/heads/"), ("refs/remotes/origin/HEAD", "refs/remotes/origin/")]
        named = []
        for ref, prefix in asked:
            answer = self._git(repo, "symbolic-ref", "--quiet", ref)
            full = os.fsdecode(answer.out).strip()
            named += [full.removeprefix(prefix)] if answer.code == 0 and full.startswith(prefix) else []
        found = (name for name in (*named, "main", "master") if name != besides and self.branch_tip(repo, name))
        return next(found, None)

    def subjects(self, repo: str, base: str, tip: str) -> list[str]:
        """The first lines of the commits that `tip` has beyond `base`, the oldest first, but for merges."""
        asked = ("--reverse", "--no-merges", "--no-show-signature", "--encoding=UTF-8", "--format=tformat:%s", "-z")
        said = self._answer(repo, "log", *asked, f"{base}..{tip}", "--")
        return [each for each in said.decode("utf-8", "replace").split("\0") if each]

    def is_in(self, repo: str, commit: str, tip: str) -> bool:
        """Whether the commit is `tip` or comes before it."""
        answer = self._git(repo, "merge-base", "--is-ancestor", commit, tip)
        if answer.code not in (0, 1):
            raise Unanswered(f"git merge-base in {repo} failed: {answer.last_words}", "dispatchctl doctor")
        return answer.code == 0

    def is_merged(self, repo: str, branch: str, base: str, *, merged: str | None = None) -> bool:
        """Whether the base has the work of the branch: each commit, or what they change in the one that is noted as `merged`.

        A branch that is gone counts as merged.
        """
        tip = self.branch_tip(repo, branch)
        if tip is None:
            return True
        there = self.commit(repo, base)
        return self.is_in(repo, tip, there) or (merged is not None and self.is_held(repo, tip, merged, there))

    def unmerged_branches(self, repo: str, base: str) -> dict[str, str]:
        """Every branch with a commit that the base has not, and its tip; all of them if there is no such base."""
        try:
            limits = [f"--no-merged={self.commit(repo, base)}"]
        except LaunchError:
            limits = []
        lines = os.fsdecode(
            self._answer(repo, "for-each-ref", *limits, "--format=%(objectname) %(refname)", "refs/heads/")
        )
        named = (line.partition(" ")[::2] for line in lines.splitlines())
        return {ref.removeprefix("refs/heads/"): tip for tip, ref in named}

    def is_held(self, repo: str, tip: str, by: str, base: str) -> bool:
        """Whether the base has the commit `by`, and that one everything that `tip` changes, as a squash has."""
        if not self.is_commit(repo, by) or not self.is_in(repo, by, base):
            return False
        if self.is_in(repo, tip, by):
            return True
        parents = self.parents(repo, by)
        own = self.tree(repo, by)
        return any(self.merged_tree(repo, onto, tip) == own for onto in (*parents[:1], by))

    def is_commit(self, repo: str, commit: str) -> bool:
        """Whether the repository has the commit."""
        return self._git(repo, "cat-file", "-e", f"{commit}^{{commit}}").code == 0

    def tree(self, repo: str, commit: str) -> str:
        """The id of the commit's tree."""
        return self._line(repo, "rev-parse", "--verify", f"{commit}^{{tree}}")

    def head_beyond(self, run: Run, found: Found) -> bool:
        """Whether what the worktree has checked out is not in its branch: what is done there then is somewhere else."""
        if found.own is None or found.tip is None:
            return False
        head = self._within(found)._git(found.files or found.own, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        return head.code == 0 and not self.is_in(run.repo, os.fsdecode(head.out).strip(), found.tip)

    def checkouts(self, repo: str, branch: str) -> list[str]:
        """The worktrees that have the branch checked out; git lists a submodule's by the directory of its repository."""
        return [self._files_of(path) for path, there in self.registered(repo).items() if there == branch]

    def _files_of(self, path: str) -> str:
        top = self._git(path, "rev-parse", "--show-toplevel") if os.path.isdir(path) else None
        return os.fsdecode(top.out).removesuffix("\n") if top is not None and top.code == 0 else path

    def pinned_by(self, repo: str, branch: str) -> str | None:
        """The directory of git's in which a rebase or bisect waits that is going to move the branch, or to go back to it."""
        _, common = self.git_dirs(repo)
        top = os.path.join(common, "worktrees")
        linked = [os.path.join(top, name) for name in sorted(os.listdir(top))] if os.path.isdir(top) else []
        for own in (common, *linked):
            noted = [line for name in PINNED for line in _lines(os.path.join(own, name))]
            if f"refs/heads/{branch}" in noted or branch in _lines(os.path.join(own, "BISECT_START")):
                return own
        return None

    def in_the_way(self, path: str, old: str, new: str) -> str | None:
        """What in the checkout keeps it from being brought along, in words. git looks once more, at what comes meanwhile."""
        unfinished = _unfinished(self.git_dirs(path)[0])
        if unfinished:
            return f"a {unfinished} waits there to be gone on with"
        there = self._set(TRUSTING_NOBODY, GIT_OPTIONAL_LOCKS="0")
        asked = ("status", "--porcelain", "-z", "--untracked-files=no", "--no-renames", "--ignore-submodules=untracked")
        changed = there._answer(path, *asked).count(NUL)
        if changed:
            return f"{changed} changed file{'s' if changed > 1 else ''} there {'are' if changed > 1 else 'is'} not committed"
        changed_by_it = self._changed(path, old, new)
        hidden = self._hidden(path) & changed_by_it.keys()
        if hidden:
            return f"git was told not to look at {min(hidden)!r} there (update-index), which the merge changes"
        gone = {each for each, letter in changed_by_it.items() if letter == "D"}
        added = [each for each, letter in changed_by_it.items() if letter == "A"]
        untracked = next((found for each in added for found in _overwritten(path, each, gone)), None)
        return f"{untracked!r} there is not tracked and would be overwritten" if untracked else None

    def _hidden(self, path: str) -> set[str]:
        """Tracked files that are there and whose changes git was told not to look for."""
        listed = os.fsdecode(self._answer(path, "ls-files", "-z", "-v", "--full-name")).split("\0")[:-1]
        marked = (line[2:] for line in listed if line[0].islower() or line[0] == "S")
        return {each for each in marked if os.path.lexists(os.path.join(path, each))}

    def _changed(self, path: str, old: str, new: str) -> dict[str, str]:
        """The files that differ, each with git's letter for how."""
        answer = self._answer(path, "diff-tree", "-r", "-z", "--name-status", "--no-renames", old, new, "--")
        words = os.fsdecode(answer).split("\0")[:-1]
        return dict(zip(words[1::2], words[::2], strict=True))

    # -- what is made ----------------------------------------------------------------------------------------------
    def merged_tree(self, repo: str, ours: str, theirs: str) -> str | Conflict:
        """The tree that a merge of the two commits gives, or what is in conflict. Raises `Unavailable` for an old git."""
        answer = self._git(
            repo, "merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", ours, theirs,
            limit=self.limits.checkout,
        )  # fmt: skip
        words = os.fsdecode(answer.out).split("\0")[:-1]
        if answer.code == 0 and words:
            return words[0]
        if answer.code == 1 and len(words) > 1:
            return Conflict(tuple(dict.fromkeys(words[1:])))
        version = self.version()
        if _numbers(version) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise Unavailable(
                f"git {version} cannot merge without a work tree: that takes git {oldest} or newer",
                "dispatchctl config tools.git",
            )
        raise Unanswered(f"git merge-tree in {repo} failed: {answer.last_words}", "dispatchctl doctor")

    def identity(self, repo: str, given: Mapping[str, str]) -> str | None:
        """Why git does not know who the user is; None if it does."""
        who = self._set((), **_of(given, IDENTITY))
        asked = (who._git(repo, "var", each) for each in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT"))
        return next((each.last_words.splitlines()[-1] for each in asked if each.code != 0 and each.last_words), None)

    def make_commit(self, repo: str, tree: str, parents: Sequence[str], message: str, given: Mapping[str, str]) -> str:
        """A commit of the user's; `given` are the variables that may say who that is."""
        settings = (*DURABLE, ("i18n.commitEncoding", "UTF-8"), ("core.hooksPath", os.devnull))
        on = [word for parent in parents for word in ("-p", parent)]
        made = self._set(settings, **_of(given, IDENTITY))._git(
            repo, "commit-tree", *on, "-F", "-", tree, given=message.encode("utf-8", "replace")
        )
        if made.code != 0:
            raise Unanswered(f"git commit-tree in {repo} failed: {made.last_words}", "dispatchctl doctor")
        return os.fsdecode(made.out).strip()

    # -- what is moved ---------------------------------------------------------------------------------------------
    def move_branch(self, repo: str, branch: str, new: str, old: str, why: str) -> Finished:
        """Have a branch that is checked out nowhere point to `new`, if it still points to `old`."""
        there = self._set((*DURABLE, *WITHOUT_HOOKS))
        return there._git(repo, "update-ref", "-m", why, f"refs/heads/{branch}", new, old)

    def bring_along(self, path: str, new: str) -> Finished:
        """Take branch, index and files of a checkout forward to `new`; git refuses what would overwrite anything."""
        there = self._set((*DURABLE, *WITHOUT_HOOKS, *TRUSTING_NOBODY))
        return there._git(path, "merge", *ONLY_FORWARD, new, limit=self.limits.checkout)

    def stands_on(self, path: str, branch: str, tip: str) -> bool:
        """Whether the checkout still has the branch checked out, and that still points to `tip`."""
        head = self._git(path, "symbolic-ref", "--quiet", "HEAD")
        return os.fsdecode(head.out).strip() == f"refs/heads/{branch}" and self.branch_tip(path, branch) == tip

    def is_locked(self, path: str) -> bool:
        """Whether another git is at work on the checkout's index, or was killed there."""
        return os.path.lexists(os.path.join(self.git_dirs(path)[0], "index.lock"))

    # -- what a merge that is killed leaves for the next one -------------------------------------------------------
    def note_intended(self, run: Run, commit: str) -> None:
        """Keep a new commit by a ref: once the base has it, nothing else says whose work a squashed one holds."""
        quiet = self._set((*DURABLE, *WITHOUT_HOOKS))
        quiet._must(run, "git update-ref", run.repo, "update-ref", _intended(run), commit)

    def intended(self, run: Run) -> str | None:
        """The commit that an earlier merge of the run was about to have the base point to."""
        noted = self._git(run.repo, "rev-parse", "--verify", "--quiet", f"{_intended(run)}^{{commit}}")
        return os.fsdecode(noted.out).strip() if noted.code == 0 else None

    def forget_intended(self, run: Run) -> None:
        """Nothing of that is needed any more; said again, changes nothing."""
        commit = self.intended(run)
        if commit is not None:
            self._set(WITHOUT_HOOKS).delete_ref(run, _intended(run), commit)


def _overwritten(path: str, added: str, gone: Collection[str]) -> Iterator[str]:
    """What stands in the checkout where a new file is to be, ignored or not; what a directory holds is left to git."""
    for each in (added, *_directories(added)):
        there = os.path.join(path, each)
        if os.path.lexists(there) and (os.path.islink(there) or not os.path.isdir(there)) and each not in gone:
            yield each


def _intended(run: Run) -> str:
    return f"refs/dispatchctl/merging/{run.token}"


def _of(given: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: given[name] for name in names if given.get(name)}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", version)[:2])
