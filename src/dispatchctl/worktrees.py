"""The door to git: repositories, worktrees and branches of runs.

Every call runs without the `GIT_*` variables it would inherit (an inherited GIT_DIR beats `git -C`), in a process group of
its own, with a time limit. A base is resolved to a commit id before anything is made; names from tasks are made of
`[a-z0-9-]` or checked, and never stand where git would take them for an option. Git that does not answer raises
`Unanswered`: unknown, not absent.
"""

import errno
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from dispatchctl import processes
from dispatchctl.errors import Busy, DispatchctlError, LaunchError, Refused, Unanswered, Unavailable
from dispatchctl.processes import Finished, Lock
from dispatchctl.task import Run
from dispatchctl.verdict import Changes

NO_COMMIT = "0" * 40
HOOK_OUTPUT = 65_536
"""Bytes that are kept of what a hook said last."""
NUL = b"\0"


@dataclass(frozen=True)
class Repository:
    """A repository by its main work tree (or its own directory, if bare) and its common git directory."""

    root: str
    common_dir: str


@dataclass(frozen=True)
class Limits:
    """Seconds that a read or registration, and a checkout, may take."""

    answer: float = 120.0
    checkout: float = 1_800.0


class NotARepository(LaunchError):
    """There is no repository at the path."""


class Worktrees:
    """Git, with the environment and limits it is run with. `environment` holds no `GIT_*` variable but what is set here."""

    def __init__(self, program: str, environment: Mapping[str, str], limits: Limits | None = None) -> None:
        self.program = program
        self.limits = limits or Limits()
        kept = {name: value for name, value in environment.items() if not name.startswith("GIT_")}
        self.environment = {**kept, "GIT_TERMINAL_PROMPT": "0"}

    def for_run(self, token: str) -> "Worktrees":
        """The same git, marked as one of the run's processes."""
        marked = Worktrees(self.program, self.environment, self.limits)
        marked.environment["DISPATCHCTL_TOKEN"] = token
        return marked

    # -- repositories ----------------------------------------------------------------------------------------------
    def repository(self, path: str) -> Repository:
        """The repository that `path` is in. Raises `NotARepository`, which trying again cannot cure."""
        if not os.path.isdir(path):
            raise NotARepository(f"there is no directory {path}", "dispatchctl add … --repo PATH", curable=False)
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

    def branch_tip(self, repo: str, branch: str) -> str | None:
        """The commit that the branch points to, or None if there is no such branch. Raises `Unanswered` otherwise."""
        answer = self._git(repo, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}")
        if answer.code not in (0, 1):
            raise Unanswered(f"git rev-parse in {repo} failed: {answer.last_words}", f"git -C {quote(repo)} status")
        return os.fsdecode(answer.out).strip() if answer.code == 0 else None

    def is_merged(self, repo: str, branch: str, base: str) -> bool:
        """Whether every commit of the branch is in the base; a branch that is gone counts as merged."""
        tip = self.branch_tip(repo, branch)
        return tip is None or self._git(repo, "merge-base", "--is-ancestor", tip, self.commit(repo, base)).code == 0

    def checked_name(self, repo: str, branch: str) -> str:
        """The branch's name, if git accepts it for a new branch. Raises an incurable `LaunchError`."""
        if branch.startswith("-") or self._git(repo, "check-ref-format", "--branch", branch).code != 0:
            raise LaunchError(
                f"git does not accept the branch name {branch!r}", "dispatchctl config worktrees.branch", curable=False
            )
        return branch

    # -- the worktree of a run -------------------------------------------------------------------------------------
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
        found: dict[str, str | None] = {}
        path = ""
        for line in os.fsdecode(self._answer(repo, "worktree", "list", "--porcelain", "-z")).split("\0"):
            if line.startswith("worktree "):
                path = line.removeprefix("worktree ")
                found[path] = None
            elif line.startswith("branch refs/heads/"):
                found[path] = line.removeprefix("branch refs/heads/")
        return found

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

    def git_dirs(self, worktree: str) -> tuple[str, str]:
        """The worktree's own git directory, and the one that all worktrees share."""
        asked = ("--git-dir", "--git-common-dir")
        answer = self._answer(worktree, "rev-parse", "--path-format=absolute", *asked)
        own, common = self._each(worktree, asked, answer)
        return own, common

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

    # -- the end of a finished run's worktree ----------------------------------------------------------------------
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
        ref, tip = _rescue_ref(run), self.branch_tip(run.repo, run.branch)
        if os.path.isdir(run.worktree):
            tip = self._commit_of_everything(run, tip)
        if tip is not None:
            self._must(run, "git update-ref", run.repo, "update-ref", ref, tip)
        back = f"git -C {quote(run.repo)} branch rescued-{run.task} {ref}"
        return f"task {run.task}: its work is kept; to get it back: {back}"

    def _commit_of_everything(self, run: Run, tip: str | None) -> str:
        """A commit of all that is not ignored, made without touching the index, on top of HEAD and of the branch's tip."""
        head = self._line(run.worktree, "rev-parse", "HEAD")
        own, _ = self.git_dirs(run.worktree)
        index = os.path.join(own, f"rescue-{run.token}")
        name, mail = "dispatchctl", "dispatchctl@localhost"
        apart = Worktrees(self.program, self.environment, self.limits)
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
        _remove_if_empty(os.path.dirname(run.worktree))
        tip = self.branch_tip(run.repo, run.branch)
        if tip is not None and run.branch not in self.registered(run.repo).values():
            self._must(run, "git update-ref", run.repo, "update-ref", "-d", f"refs/heads/{run.branch}", tip)

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
        registered = run.worktree in self.registered(run.repo)
        if registered and self._locked_for(run) != reason:
            raise Refused(
                f"the worktree {run.worktree} is not the run's own", f"git -C {quote(run.repo)} worktree list -v"
            )
        self._rescue(run)
        if registered:
            self._must(run, "git worktree remove", run.repo, "worktree", "remove", "-f", "-f", "--", run.worktree)
        if os.path.lexists(run.worktree):
            shutil.rmtree(run.worktree)
        _remove_if_empty(os.path.dirname(run.worktree))

    def discard_branch(self, run: Run) -> None:
        """Delete the branch that this run made, if it still points where the run left it."""
        if not run.owns_branch:
            return
        tip = self.branch_tip(run.repo, run.branch)
        if tip is None:
            return
        if run.branch in self.registered(run.repo).values():
            raise Refused(
                f"the branch {run.branch} is checked out elsewhere", f"git -C {quote(run.repo)} worktree list"
            )
        if tip != run.base_commit and self._line(run.repo, "rev-parse", "--verify", _rescue_ref(run)) != tip:
            raise Unanswered(
                f"the branch {run.branch} moved while it was to be deleted",
                f"git -C {quote(run.repo)} log {run.branch}",
            )
        self._must(run, "git update-ref", run.repo, "update-ref", "-d", f"refs/heads/{run.branch}", tip)

    def _locked_for(self, run: Run) -> str | None:
        """The reason for which the run's worktree is locked; None if it is not."""
        listed = os.fsdecode(self._answer(run.repo, "worktree", "list", "--porcelain", "-z")).split("\0\0")
        for entry in listed:
            lines = entry.split("\0")
            if f"worktree {run.worktree}" in lines:
                return next((line.removeprefix("locked ") for line in lines if line.startswith("locked ")), None)
        return None

    def _rescue(self, run: Run) -> None:
        tip = self.branch_tip(run.repo, run.branch) if run.owns_branch else None
        if tip is not None and tip != run.base_commit:
            self._must(run, "git update-ref", run.repo, "update-ref", _rescue_ref(run), tip)

    # -- asking git ------------------------------------------------------------------------------------------------
    def _git(
        self,
        directory: str,
        *arguments: str,
        held: Lock | None = None,
        limit: float | None = None,
        given: bytes | None = None,
    ) -> Finished:
        timeout = limit or self.limits.answer
        command = (self.program, "-C", directory, *arguments)
        try:
            finished = processes.execute(command, env=self.environment, timeout=timeout, held=held, given=given)
        except (FileNotFoundError, PermissionError) as error:
            raise Unavailable(f"git cannot be run: {error}", "dispatchctl config tools.git") from error
        if finished.timed_out:
            raise Unanswered(
                f"git {arguments[0]} in {directory} did not end within {timeout:g} s", f"ls {quote(directory)}"
            )
        return finished

    def _answer(self, directory: str, *arguments: str) -> bytes:
        finished = self._git(directory, *arguments)
        if finished.code != 0:
            raise Unanswered(
                f"git {arguments[0]} in {directory} failed: {finished.last_words}", f"git -C {quote(directory)} status"
            )
        return finished.out

    def _each(self, directory: str, asked: Sequence[str], answer: bytes) -> list[str]:
        """The lines that rev-parse answered, one for each question; asked one by one if a path holds a newline."""
        lines = os.fsdecode(answer).split("\n")[:-1]
        if len(lines) == len(asked):
            return lines
        return [self._line(directory, "rev-parse", "--path-format=absolute", each) for each in asked]

    def _line(self, directory: str, *arguments: str) -> str:
        return os.fsdecode(self._answer(directory, *arguments)).removesuffix("\n")

    def _must(
        self,
        run: Run,
        what: str,
        directory: str,
        *arguments: str,
        held: Lock | None = None,
        limit: float | None = None,
    ) -> Finished:
        finished = self._git(directory, *arguments, held=held, limit=limit)
        if finished.code != 0:
            raise LaunchError(
                f"task {run.task}: {what} failed with {finished.code}: {finished.last_words}",
                f"git -C {quote(run.repo)} worktree list",
            )
        return finished


def _rescue_ref(run: Run) -> str:
    return f"refs/dispatchctl/rescue/{run.task}/{run.token}"


def _is_below(path: str, directory: str) -> bool:
    """Whether the path, all links followed, is the directory or in it."""
    real, top = os.path.realpath(path), os.path.realpath(directory)
    return real == top or real.startswith(top + os.sep)


def _remove_if_empty(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError:
        pass


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
