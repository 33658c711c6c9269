"""A private world for a test: its own HOME, database, repositories and tmux server, and nothing of the user's."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dispatchctl.config import Environment
from dispatchctl.processes import of_run
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Actor, NewTask, Run, Status, Task

Answer = TypeVar("Answer")

IDENTITY = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.invalid",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.invalid",
}


SOURCES = {"PYTHONPATH": os.environ["PROOF_SOURCES"]} if "PROOF_SOURCES" in os.environ else {}
"""Where the program's sources are, if they are not the installed ones: `proof.breakages` tests broken copies."""


def eventually(look: Callable[[], Answer], *, within: float = 30.0, what: str = "") -> Answer:
    """Look until the answer is true, and return it; a test never sleeps for a fixed time."""
    deadline = time.monotonic() + within
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or look}")
        time.sleep(0.01)


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The answer of a command with --json."""
        return json.loads(self.out)


@dataclass
class World:
    """Everything a test may touch."""

    root: Path
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True)
        (self.home / ".gitconfig").write_text(
            "[user]\n\tname = Ada\n\temail = ada@example.invalid\n[init]\n\tdefaultBranch = main\n"
        )

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def socket(self) -> Path:
        return self.root / "tmux.sock"

    @property
    def variables(self) -> dict[str, str]:
        """The environment of every program the test runs."""
        return {
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "TMPDIR": str(self.root),
            "DISPATCHCTL_TMUX__SOCKET": str(self.socket),
            "DISPATCHCTL_DISPATCH__KILL_GRACE": "2",
            "DISPATCHCTL_TASK__AGENT": "shell",
            "PYTHONDONTWRITEBYTECODE": "1",
            **SOURCES,
            **self.extra,
        }

    def runtime(self) -> Runtime:
        """A new runtime in this world, as a new process would have."""
        return Runtime(Environment.read(self.variables), private_tmux=True)

    # -- repositories and tasks ------------------------------------------------------------------------------------
    def repository(self, name: str = "repo", files: Mapping[str, str] | None = None) -> Path:
        """A repository with one commit on main."""
        path = self.root / name
        path.mkdir()
        self.git(path, "init", "-q", "-b", "main")
        for file, text in (files or {"README": "hello\n"}).items():
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            (path / file).write_text(text)
        self.git(path, "add", "-A")
        self.git(path, "commit", "-q", "-m", "first")
        return path

    def git(self, repo: Path, *arguments: str) -> str:
        """What git says, in that repository."""
        done = subprocess.run(
            ["git", "-C", str(repo), *arguments],
            env={**self.variables, **IDENTITY},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def add(self, runtime: Runtime, prompt: str, *, repo: Path, title: str = "Do it", **changes: Any) -> Task:
        """One task of the agent `shell`, straight into the store."""
        new = NewTask(title=title, prompt=prompt, repo=str(repo), base="main", agent="shell", **changes)
        return runtime.make_store().add([new], actor=Actor.USER, at=now())[0]

    # -- programs --------------------------------------------------------------------------------------------------
    def cli(
        self, *arguments: str, cwd: Path | None = None, given: str | None = None, within: float = 60.0, **extra: str
    ) -> Said:
        """Run the real command line in a process of its own."""
        done = subprocess.run(  # noqa: PLW1510 - the exit code is part of the answer
            [sys.executable, "-m", "dispatchctl", *arguments],
            env={**self.variables, **extra},
            cwd=cwd or self.home,
            input=given,
            capture_output=True,
            text=True,
            timeout=within,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def tmux(self, *arguments: str) -> str:
        """What the private tmux server says; empty if there is none."""
        done = subprocess.run(  # noqa: PLW1510 - no server is an answer
            ["tmux", "-S", str(self.socket), *arguments], env=self.variables, capture_output=True, text=True
        )
        return done.stdout.strip()

    # -- looking from outside --------------------------------------------------------------------------------------
    def ended(self, runtime: Runtime, task: int, *, within: float = 30.0) -> Task:
        """Wait until the task has no open run."""
        eventually(
            lambda: all(run.task != task for run in runtime.store.open_runs()),
            within=within,
            what=f"task {task} closes",
        )
        return runtime.store.task(task)

    def started(self, runtime: Runtime, task: int) -> Run:
        """Wait until the task's agent runs."""
        run = eventually(lambda: runtime.store.task(task).run, what=f"task {task} is claimed")
        assert run is not None
        eventually(lambda: runtime.store.run(run.token).started_at, what=f"task {task} starts")
        return runtime.store.run(run.token)

    def leftovers(self, run: Run, repo: Path) -> list[str]:
        """Everything of a run that still exists: for a run that was undone there must be nothing."""
        left = []
        if os.path.lexists(run.worktree) or run.worktree in self.git(repo, "worktree", "list", "--porcelain"):
            left.append(f"worktree {run.worktree}")
        if self.git(repo, "branch", "--list", run.branch):
            left.append(f"branch {run.branch}")
        if run.token in self.tmux("list-panes", "-a", "-F", "#{@dispatchctl_token}"):
            left.append("pane")
        if os.path.lexists(run.run_dir):
            left.append(f"run directory {run.run_dir}")
        left += [f"process {pid}" for pid, _ in of_run(run.token)]
        left += [path for path in (run.owner_lock, run.step_lock) if os.path.lexists(path)]
        return left

    def close(self) -> None:
        """End the private tmux server and every process of this world, by id."""
        self.tmux("kill-server")
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    def processes(self) -> Iterator[int]:
        """Every live process with this world's HOME."""
        mark = f"HOME={self.home}".encode()
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                    if mark in file.read().split(b"\0"):
                        yield int(entry)


__all__ = ["IDENTITY", "Said", "Status", "World", "eventually"]
