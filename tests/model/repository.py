"""A git of a few commands on a repository in memory; worktrees are directories on disk, of files without content.

`ModelGit` is the project's own door to git with the program replaced: what decides is real. A command that changes
something is a process with one effect after the other, which goes on when whoever called it was killed.
"""

import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dispatchctl.errors import Unanswered
from dispatchctl.processes import Finished, Lock
from dispatchctl.task import Run
from dispatchctl.worktrees import Found, Limits, Losses, Worktrees, aside, given_up
from dispatchctl.worktrees.entries import entries
from model.computer import Computer, Kind
from model.players import stand

HIDDEN = (".git", ".dispatchctl")


@dataclass(frozen=True)
class Commit:
    """A commit: its parents and the names of all its files."""

    id: str
    parents: tuple[str, ...] = ()
    files: frozenset[str] = frozenset()


@dataclass
class Tree:
    """A registered worktree."""

    branch: str
    locked: str


@dataclass
class Repository:
    """Commits, refs and registered worktrees."""

    path: str
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    @property
    def common(self) -> str:
        """git's directory, whose files the project reads too."""
        return os.path.join(self.path, ".git")

    @property
    def trees(self) -> dict[str, Tree]:
        """What is registered, and whole."""
        found = entries(self.common)
        return {each.path: Tree(each.branch or "", each.locked or "") for each in found if each.path is not None}

    def entry(self, path: str) -> str:
        """git's directory of the worktree at the path."""
        return os.path.join(self.common, "worktrees", os.path.basename(path))

    def commit(self, *parents: str, files: frozenset[str] = frozenset()) -> str:
        """A new commit."""
        made = Commit(f"{len(self.commits) + 1:040x}", parents, files)
        self.commits[made.id] = made
        return made.id

    def ancestors(self, *tips: str) -> set[str]:
        """The commits and all that is behind them."""
        found: set[str] = set()
        waiting = list(tips)
        while waiting:
            commit = waiting.pop()
            if commit not in found:
                found.add(commit)
                waiting += self.commits[commit].parents
        return found

    def resolve(self, name: str, directory: str) -> str | None:
        """The commit that a name means in a directory."""
        name = name.removesuffix("^{commit}")
        if name == "HEAD":
            tree = self.trees.get(directory)
            return self.refs.get(f"refs/heads/{tree.branch}" if tree else "refs/heads/main")
        for each in (name, f"refs/heads/{name}"):
            if each in self.refs:
                return self.refs[each]
        return name if name in self.commits else None

    def keeps(self, file: str) -> bool:
        """Whether some ref keeps the file in a commit."""
        return any(file in self.commits[each].files for each in self.ancestors(*self.refs.values()))

    def uncommitted(self, directory: str, tree: str = "") -> list[str]:
        """The files of a worktree that its branch does not have; it may have been set aside from where it is registered."""
        head = self.resolve("HEAD", tree or directory)
        kept = self.commits[head].files if head is not None else frozenset()
        return sorted(name for name in os.listdir(directory) if name not in HIDDEN and name not in kept)


class ModelGit(Worktrees):
    """git in the model; what it works on is given by `placed`."""

    computer: Computer
    repositories: dict[str, Repository]

    @classmethod
    def placed(cls, computer: Computer, repositories: dict[str, Repository]) -> type["ModelGit"]:
        """git on that machine."""
        return type("PlacedGit", (cls,), {"computer": computer, "repositories": repositories})

    def __init__(self, program: str, environment: Mapping[str, str], limits: Limits | None = None) -> None:
        super().__init__(program, environment, limits)

    def _of(self, directory: str) -> Repository | None:
        for repository in self.repositories.values():
            if directory == repository.path or directory in repository.trees:
                return repository
        return None

    def _git(
        self,
        directory: str,
        *arguments: str,
        held: Lock | None = None,
        limit: float | None = None,
        given: bytes | None = None,
    ) -> Finished:
        repository = self._of(directory)
        if repository is None or not os.path.isdir(directory):
            return _said(128, f"fatal: cannot change to '{directory}'")
        words = [each for each in arguments if each != "--no-optional-locks"]
        answer = getattr(self, "_" + "_".join(words[:2]).replace("-", "_"), None)
        answer = answer or getattr(self, "_" + words[0].replace("-", "_"))
        effects_or_answer = answer(repository, directory, words)
        if isinstance(effects_or_answer, Finished):
            return effects_or_answer
        return self._change(" ".join(words[:2]), effects_or_answer, held)

    def _change(self, what: str, effects: "Sequence[Callable[[], None]]", held: Lock | None) -> Finished:
        """Do the effects one by one, as a process that outlives its caller and has inherited its lock."""
        token = self.environment.get("DISPATCHCTL_TOKEN", "")
        child = self.computer.spawn(Kind.GIT, token=token, database=self.environment.get("DISPATCHCTL_DB", ""))
        child.effects = list(effects)
        if held is not None:
            inherited = os.dup(held.descriptor)
            child.let_go = lambda: os.close(inherited)
        for _ in effects:
            stand(f"git {what}")
            if child.is_alive() and child.effects:
                child.effects.pop(0)()
        if not child.is_alive():
            raise Unanswered(f"git {what} was ended by signal 9")
        self.computer.end(child, code=0)
        return _said(0)

    # -- questions -----------------------------------------------------------------------------------------------
    def _rev_parse(self, repository: Repository, directory: str, words: list[str]) -> Finished:
        common = f"{repository.path}/.git"
        own = f"{common}/worktrees/{os.path.basename(directory)}" if directory in repository.trees else common
        facts = {
            "--is-bare-repository": "false",
            "--git-dir": own,
            "--git-common-dir": common,
            "--show-toplevel": directory,
            "hooks/post-checkout": f"{common}/hooks/post-checkout",
        }
        lines = []
        for word in words[1:]:
            if word in facts:
                lines.append(facts[word])
            elif not word.startswith("-"):
                commit = repository.resolve(word, directory)
                if commit is None:
                    return _said(1 if "--quiet" in words else 128, f"fatal: {word}")
                lines.append(commit)
        return _said(0, out="".join(f"{line}\n" for line in lines))

    def _check_ref_format(self, repository: Repository, directory: str, words: list[str]) -> Finished:
        return _said(0)

    def _merge_base(self, repository: Repository, directory: str, words: list[str]) -> Finished:
        return _said(0 if words[2] in repository.ancestors(words[3]) else 1)

    def _rev_list(self, repository: Repository, directory: str, words: list[str]) -> Finished:
        if ".." in words[2]:
            base, tip = words[2].split("..")
            tips, others = [tip], [base]
        else:
            end = words.index("--not")
            excluded = {word.partition("=")[2] for word in words[end:] if word.startswith("--exclude=")}
            tips = words[2:end]
            others = [ref for ref in repository.refs if ref[11:] not in excluded and ref.startswith("refs/heads/")]
        found = [[repository.resolve(each, directory) for each in names] for names in (tips, others)]
        behind = [repository.ancestors(*(each for each in names if each)) for names in found]
        return _said(0, out=f"{len(behind[0] - behind[1])}\n")

    def _status(self, repository: Repository, directory: str, words: list[str]) -> Finished:
        return _said(0, out="".join(f"?? {name}\0" for name in repository.uncommitted(directory)))

    def _ls_files(self, repository: Repository, directory: str, words: list[str]) -> Finished:
        return _said(0, out="".join(f"{name}\0" for name in repository.uncommitted(directory)))

    def _worktree_list(self, repository: Repository, directory: str, words: list[str]) -> Finished:
        entries = [f"worktree {repository.path}\0HEAD {'1':040}\0branch refs/heads/main\0"]
        for path, tree in repository.trees.items():
            locked = f"locked {tree.locked}\0" if tree.locked else ""
            entries.append(f"worktree {path}\0HEAD {'1':040}\0branch refs/heads/{tree.branch}\0{locked}")
        return _said(0, out="\0".join(entries) + "\0")

    # -- changes -------------------------------------------------------------------------------------------------
    def _worktree_add(
        self, repository: Repository, directory: str, words: list[str]
    ) -> "Finished | list[Callable[[], None]]":
        reason = words[words.index("--reason") + 1]
        path, start = words[-2:]
        effects: list[Callable[[], None]] = []
        branch = start
        if "-b" in words:
            branch = words[words.index("-b") + 1]
            if f"refs/heads/{branch}" in repository.refs:
                return _said(255, f"fatal: a branch named '{branch}' already exists")
            effects.append(lambda: repository.refs.__setitem__(f"refs/heads/{branch}", start))
        if os.path.lexists(path) or any(tree.branch == branch for tree in repository.trees.values()):
            return _said(128, f"fatal: '{path}' already exists")

        own = repository.entry(path)

        def begin() -> None:
            os.makedirs(own, exist_ok=True)
            _write(os.path.join(own, "locked"), reason)

        def register() -> None:
            os.makedirs(path, exist_ok=True)
            _write(os.path.join(own, "gitdir"), f"{path}/.git\n")
            _write(os.path.join(own, "HEAD"), f"ref: refs/heads/{branch}\n")

        return [*effects, begin, register]

    def _worktree_remove(
        self, repository: Repository, directory: str, words: list[str]
    ) -> "Finished | list[Callable[[], None]]":
        path = words[-1]
        if path not in repository.trees:
            return _said(128, f"fatal: '{path}' is not a working tree")
        return [
            lambda: shutil.rmtree(path, ignore_errors=True),
            lambda: shutil.rmtree(repository.entry(path), ignore_errors=True),
        ]

    def _reset(self, repository: Repository, directory: str, words: list[str]) -> "list[Callable[[], None]]":
        def fill() -> None:
            head = repository.resolve("HEAD", directory)
            if os.path.isdir(directory) and head is not None:
                for name in repository.commits[head].files:
                    open(os.path.join(directory, name), "w").close()

        return [fill]

    def _update_ref(
        self, repository: Repository, directory: str, words: list[str]
    ) -> "Finished | list[Callable[[], None]]":
        if words[1] == "-d":
            if repository.refs.get(words[2]) != words[3]:
                return _said(1, "error: cannot lock ref")
            return [lambda: _drop(repository.refs, words[2])]
        return [lambda: repository.refs.__setitem__(words[1], words[2])]

    # -- what there is of a run's place, and what would be lost ------------------------------------------------------
    def find(self, run: Run) -> Found:
        """As the real one, of a repository in memory."""
        repository = self.repositories[run.repo]
        own = self._own_dir(run) if run.owns_tree else None
        there = [path for path in (run.worktree, aside(run)) if own and os.path.lexists(path)]
        judged = run.owns_tree and not there and os.path.lexists(given_up(run))
        tip = self.branch_tip(run.repo, run.branch) if run.owns_branch else None
        used = [path for path, tree in repository.trees.items() if tree.branch == run.branch and path != run.worktree]
        return Found(own, there[0] if there else None, tip, tuple(used), given_up=judged)

    def weigh(self, run: Run, found: Found, going: Collection[str] = ()) -> Losses:
        """Files that are not committed, and commits that no other ref has."""
        repository = self.repositories[run.repo]
        head = repository.resolve("HEAD", run.worktree) if found.own else None
        tips = [each for each in (head, found.tip) if each]
        leaving = {f"refs/heads/{branch}" for branch in (run.branch, *going)}
        others = [commit for ref, commit in repository.refs.items() if ref not in leaving]
        commits = len(repository.ancestors(*tips) - repository.ancestors(*others))
        files = len(repository.uncommitted(found.files, run.worktree)) if found.files else 0
        return Losses(
            files, None, commits, missing=run.worktree if found.own and not (found.files or found.given_up) else None
        )

    def rescue(self, run: Run, found: Found) -> str:
        """One commit of everything, under a ref of its own."""
        repository = self.repositories[run.repo]
        head = repository.resolve("HEAD", run.worktree) if found.own else None
        parents = [each for each in dict.fromkeys((head, found.tip)) if each]
        files = frozenset[str]().union(*(repository.commits[each].files for each in parents))
        left = repository.uncommitted(found.files, run.worktree) if found.files else []
        made = repository.commit(*parents, files=files | frozenset(left))
        repository.refs[f"refs/dispatchctl/rescue/{run.task}/{run.token}-{made[-4:]}"] = made
        return "git branch …"

    def _own_dir(self, run: Run) -> str | None:
        repository = self.repositories[run.repo]
        return repository.entry(run.worktree) if run.worktree in repository.trees else None

    def stashes(self, run: Run) -> list[str]:
        """Nobody stashes."""
        return []


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _drop(entries: dict[str, Any], name: str) -> None:
    entries.pop(name, None)


def _said(code: int, err: str = "", out: str = "") -> Finished:
    return Finished(code, out.encode(), err.encode(), False)


def goes_on(computer: Computer) -> None:
    """Every git whose caller was killed does what it has left to do."""
    for child in computer.with_kind(Kind.GIT):
        for effect in child.effects:
            effect()
        child.effects = []
        computer.end(child, code=0)
