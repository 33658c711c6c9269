"""Repositories, their branches and commits."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from shlex import quote

from dispatchctl import processes
from dispatchctl.errors import Busy, LaunchError, Unanswered
from dispatchctl.processes import Lock
from dispatchctl.task import Run
from dispatchctl.worktrees.entries import entries, entry
from dispatchctl.worktrees.git import Git


@dataclass(frozen=True)
class Repository:
    """A repository by its main work tree (or its own directory, if bare) and its common git directory."""

    root: str
    common_dir: str


@dataclass(frozen=True)
class Listed:
    """A worktree as git lists it; `reason`: why it is locked, None if it is not."""

    path: str
    branch: str | None
    reason: str | None


class NotARepository(LaunchError):
    """There is no repository at the path."""


class Repositories(Git):
    """What is asked of a repository, and the lock under which worktrees are registered in it."""

    def repository(self, path: str) -> Repository:
        """The repository that `path` is in. Raises `NotARepository`, which trying again cannot cure."""
        if not os.path.isdir(path):
            raise NotARepository(
                f"there is no directory {path}", f"ls -ld {quote(os.path.dirname(path))}", curable=False
            )
        asked = ("--is-bare-repository", "--git-dir", "--git-common-dir")
        answer = self._git(path, "rev-parse", "--path-format=absolute", *asked)
        if answer.code != 0:
            raise NotARepository(
                f"{path} is not in a git repository ({answer.last_words})", f"git -C {quote(path)} init", curable=False
            )
        bare, git_dir, common = self._each(path, asked, answer.out)
        if bare == "true" and common == git_dir:
            return Repository(common, common)
        if common == git_dir:
            return Repository(self._line(path, "rev-parse", "--path-format=absolute", "--show-toplevel"), common)
        first = os.fsdecode(self._answer(path, "worktree", "list", "--porcelain", "-z")).split("\0")[0]
        return Repository(first.removeprefix("worktree "), common)

    def current_base(self, repo: str) -> str:
        """The branch that is checked out in the repository, or its commit id if none is."""
        branch = self._git(repo, "symbolic-ref", "--quiet", "--short", "HEAD")
        if branch.code == 0:
            return os.fsdecode(branch.out).strip()
        return self._line(repo, "rev-parse", "HEAD")

    def commit(self, repo: str, base: str) -> str:
        """The commit id that `base` names now. Raises an incurable `LaunchError` if it names none."""
        if not base.startswith("-"):
            answer = self._git(repo, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{base}^{{commit}}")
            if answer.code == 0:
                return os.fsdecode(answer.out).strip()
        if self._git(repo, "rev-parse", "--verify", "--quiet", "HEAD").code != 0:
            raise LaunchError(
                f"the repository {repo} has no commit yet, so there is nothing to start from",
                f"git -C {quote(repo)} commit --allow-empty -m 'first commit'",
                curable=False,
            )
        raise LaunchError(
            f"there is no branch or commit {base!r} in {repo}", f"git -C {quote(repo)} branch --all", curable=False
        )

    def message(self, repo: str, commit: str) -> str:
        """What the commit says."""
        _, _, said = self._answer(repo, "cat-file", "commit", commit).partition(b"\n\n")
        return said.decode("utf-8", "replace")

    def parents(self, repo: str, commit: str) -> list[str]:
        """The commits on which the commit stands."""
        return self._line(repo, "rev-list", "--max-count=1", "--parents", commit).split()[1:]

    def branch_tip(self, repo: str, branch: str) -> str | None:
        """The commit that the branch points to, or None if there is no such branch. Raises `Unanswered` otherwise."""
        answer = self._git(repo, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}")
        if answer.code not in (0, 1):
            raise Unanswered(f"git rev-parse in {repo} failed: {answer.last_words}", f"git -C {quote(repo)} status")
        return os.fsdecode(answer.out).strip() if answer.code == 0 else None

    def checked_name(self, repo: str, branch: str) -> str:
        """The branch's name, if git accepts it for a new branch. Raises an incurable `LaunchError`."""
        if branch.startswith("-") or self._git(repo, "check-ref-format", "--branch", branch).code != 0:
            raise LaunchError(
                f"git does not accept the branch name {branch!r}", "dispatchctl config worktrees.branch", curable=False
            )
        return branch

    def lock(self, repository: Repository) -> Lock:
        """The lock that serialises registrations in one repository, whoever's database asks. Raises `Busy`."""
        held = processes.lock(os.path.join(repository.common_dir, "dispatchctl.lock"), wait=self.limits.answer)
        if held is None:
            raise Busy(
                f"another dispatcher has been registering a worktree in {repository.root} for {self.limits.answer:g} s",
                "dispatchctl dispatch",
            )
        return held

    def registered(self, repo: str) -> dict[str, str | None]:
        """The paths of all worktrees of the repository, and the branch that each has checked out."""
        return {each.path: each.branch for each in self.listed(repo)}

    def listed(self, repo: str) -> list[Listed]:
        """All worktrees of the repository, its main one first.

        Where git refuses to list them, because a git that was killed left one half made, its files say which there are.
        """
        found = []
        listing = self._git(repo, "worktree", "list", "--porcelain", "-z")
        if listing.code != 0:
            return self._listed_by_files(repo)
        for each in os.fsdecode(listing.out).split("\0\0"):
            lines = dict(line.partition(" ")[::2] for line in each.split("\0"))
            if "worktree" in lines:
                branch = lines.get("branch", "")
                is_branch = branch.startswith("refs/heads/")
                found.append(
                    Listed(
                        lines["worktree"],
                        branch.removeprefix("refs/heads/") if is_branch else None,
                        lines.get("locked"),
                    )
                )
        return found

    def _listed_by_files(self, repo: str) -> list[Listed]:
        common = self._common_dir(repo)
        linked = [Listed(each.path, each.branch, each.locked) for each in entries(common) if each.path is not None]
        if os.path.basename(common) != ".git":
            return [Listed(common, None, None), *linked]
        return [Listed(os.path.dirname(common), entry(common).branch, None), *linked]

    def _common_dir(self, repo: str) -> str:
        """The git directory that all worktrees of the repository share."""
        return self._line(repo, "rev-parse", "--path-format=absolute", "--git-common-dir")

    def version(self) -> str:
        """What git says of its version."""
        return self._line("/", "version").removeprefix("git version ")

    def without_commit(self, repo: str, bases: Collection[str]) -> set[str]:
        """Those of the bases that name no commit; one request for all."""
        asked = "".join(f"{base}^{{commit}}\n" for base in bases).encode("utf-8", "surrogateescape")
        answer = self._git(repo, "cat-file", "--batch-check=found", given=asked)
        if answer.code != 0:
            raise Unanswered(f"git cat-file in {repo} failed: {answer.last_words}", f"git -C {quote(repo)} status")
        said = answer.out.split(b"\n")
        return {base for base, line in zip(bases, said, strict=False) if line != b"found"}

    def branches(self, repo: str, prefix: str) -> list[str]:
        """The branches whose names begin with the prefix, which ends at a slash or is a whole name's beginning."""
        names = os.fsdecode(
            self._answer(repo, "for-each-ref", "--format=%(refname)", f"refs/heads/{prefix}*", *_below(prefix))
        )
        return [line.removeprefix("refs/heads/") for line in names.splitlines()]

    def lock_files(self, common_dir: str, mark: str) -> list[str]:
        """git's lock files in the repository, on its branches and rescue refs, and in its worktrees that are locked for a
        reason that begins with `mark`."""
        found = [os.path.join(common_dir, name) for name in _names(common_dir) if _is_lock(name)]
        for refs in ("refs/heads", "refs/dispatchctl"):
            for directory, _, names in os.walk(os.path.join(common_dir, refs)):
                found += [os.path.join(directory, name) for name in names if _is_lock(name)]
        top = os.path.join(common_dir, "worktrees")
        for own in (os.path.join(top, name) for name in _names(top)):
            if _beginning(os.path.join(own, "locked"), len(mark)) == mark:
                found += [os.path.join(own, name) for name in _names(own) if _is_lock(name)]
        return found

    def git_dirs(self, worktree: str) -> tuple[str, str]:
        """The worktree's own git directory, and the one that all worktrees share."""
        asked = ("--git-dir", "--git-common-dir")
        answer = self._answer(worktree, "rev-parse", "--path-format=absolute", *asked)
        own, common = self._each(worktree, asked, answer)
        return own, common

    # -- through GitPython, where its 74 ms of import do not matter ------------------------------------------------
    def make_repository(self, path: str, files: Mapping[str, str]) -> None:
        """A new repository with one commit that holds the files."""
        import git

        repo = git.Repo.init(path, initial_branch="main")
        try:
            author = git.Actor("Demo", "demo@example.invalid")
            with repo.config_writer() as config:
                config.set_value("user", "name", author.name or "").set_value("user", "email", author.email or "")
            for name, text in files.items():
                with open(os.path.join(path, name), "w", encoding="utf-8") as file:
                    file.write(text)
            repo.index.add(list(files))
            repo.index.commit("Begin", author=author, committer=author)
        finally:
            repo.close()

    def commits(self, repo: str, base: str, branch: str) -> list[tuple[str, str]]:
        """The commits of the branch that the base has not, newest first: id and subject."""
        import git

        opened = git.Repo(repo)
        try:
            found = opened.iter_commits(f"{base}..{branch}")
            return [(commit.hexsha, str(commit.summary)) for commit in found]
        finally:
            opened.close()


def _below(prefix: str) -> list[str]:
    """`for-each-ref` takes a directory for everything below it, and a star for no slash."""
    return [f"refs/heads/{prefix}"] if prefix.endswith("/") else []


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_lock(name: str) -> bool:
    """git's own locks, and what it has only under one; `dispatchctl.lock` is ours and stays."""
    return (name.endswith(".lock") and name != "dispatchctl.lock") or name == "packed-refs.new"


def _beginning(path: str, length: int) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(length)
    except OSError:
        return ""


def rescue_ref(run: Run) -> str:
    return f"refs/dispatchctl/rescue/{run.task}/{run.token}"


def remove_if_empty(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError:
        pass
