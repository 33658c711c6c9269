"""What the tests of the command line share: a user at a terminal in a repository, and what he may look at."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from world import Said, World, eventually

from dispatchctl.runtime import Runtime
from dispatchctl.task import Run, Task

RUN_KEYS = {
    *("token", "number", "phase", "outcome", "exit_code", "signal", "branch", "worktree", "base_commit", "host"),
    *("socket", "session", "window_id", "pane_id", "agent_pid", "started_at", "ended_at", "life", "life_at"),
}
TASK_KEYS = {
    *("id", "title", "prompt", "status", "activity", "held", "priority", "labels", "agent", "repo", "base", "after"),
    *("review", "retries_left", "recoveries_left", "timeout_s", "not_before", "error", "result", "created_at"),
    *("updated_at", "run"),
}
EVENT_KEYS = {"id", "task", "run", "at", "actor", "kind", "from", "to", "detail"}
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
STAYS = "sleep 600"
"""What is in the prompt of every agent that is to run until it is ended."""
COMMAND = (sys.executable, "-m", "dispatchctl")


@dataclass
class Desk:
    """A world with one repository, in which commands are typed."""

    world: World
    repo: Path

    @cached_property
    def runtime(self) -> Runtime:
        """To look into the store from outside, which is quicker than a command."""
        return self.world.runtime()

    def run(self, *words: str, **more: Any) -> Said:
        """Run a command in the repository; never a traceback, whatever its exit code."""
        said = self.world.cli(*words, **{"cwd": self.repo, **more})
        assert "Traceback" not in said.err, said.err
        return said

    def ok(self, *words: str, **more: Any) -> str:
        """The answer of a command that succeeds."""
        said = self.run(*words, **more)
        assert said.code == 0, (words, said)
        return said.out

    def json(self, *words: str, code: int = 0, **more: Any) -> Any:
        """The JSON that a command answers: one line, and the schema's version."""
        said = self.run(*words, "--json", **more)
        assert said.code == code, (words, said)
        assert said.out.count("\n") == 1
        answer = said.json
        assert answer.pop("schema_version") == 1
        return answer

    def add(self, title: str, prompt: str = "exit 0", *words: str, **more: Any) -> int:
        """A task; its id."""
        return int(self.ok("add", title, "-p", prompt, "-q", *words, **more))

    def dispatched(self, title: str, prompt: str = "exit 0", *words: str) -> int:
        """A task whose agent was started."""
        task = self.add(title, prompt, *words)
        self.ok("dispatch", str(task))
        return task

    def ended(self, title: str, prompt: str = "exit 0", *words: str) -> int:
        """A task whose run has ended."""
        task = self.dispatched(title, prompt, *words)
        self.world.ended(self.runtime, task)
        return task

    def task(self, task: int) -> Task:
        """The task's row."""
        return self.runtime.store.task(task)

    def newest(self, task: int) -> Run:
        """The task's newest run."""
        run = self.task(task).run
        assert run is not None
        return run

    def wait_for_file(self, path: Path, *, within: float = 30.0) -> str:
        """What a file holds once there is something in it."""
        eventually(lambda: path.exists() and path.read_text(), within=within, what=str(path))
        return path.read_text()

    # -- nothing may have changed ----------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Tasks, runs and events, worktrees, branches, run directories, locks and panes, as they are now."""
        state: dict[str, Any] = {
            "branches": self.world.git(self.repo, "for-each-ref"),
            "worktrees": self.world.git(self.repo, "worktree", "list", "--porcelain"),
            "panes": self.world.tmux("list-panes", "-a", "-F", "#{pane_id} #{@dispatchctl_token}"),
        }
        if not self.runtime.database.exists():
            return {**state, "database": None}
        store = self.runtime.store
        state["tasks"] = store.tasks()
        state["events"] = len(store.events())
        state["files"] = sorted(
            str(path) for name in ("runs", "locks") for path in self.runtime.state.glob(f"{name}/*")
        )
        return state

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Check that nothing is changed meanwhile, once every agent that does not stay has ended."""
        if self.runtime.database.exists():
            eventually(lambda: all(STAYS in self.task(run.task).prompt for run in self.runtime.store.open_runs()))
        before = self.state()
        yield
        assert self.state() == before

    def refused(
        self, *words: str, code: int = 2, says: str | Sequence[str] = (), hinted: bool = True, **more: Any
    ) -> Said:
        """Check that a command is refused, with a sentence and a hint on stderr, and that nothing changes."""
        with self.unchanged():
            said = self.run(*words, **more)
        assert said.code == code, (words, said)
        is_error(said, code, says, hinted=hinted)
        return said


def is_error(said: Said, code: int, says: str | Sequence[str] = (), *, hinted: bool = True) -> None:
    """Check the form of an error: a sentence, a hint; on stdout nothing, or with --json the same as an object.

    A sentence that names a file and what must stand there may do without a hint.
    """
    sentence, _, hint = said.err.removesuffix("\n").partition("\n  hint: ")
    assert sentence.startswith("dispatchctl: "), said.err
    assert hint or not hinted, said.err
    assert not has_controls(said.err), said.err
    for part in [says] if isinstance(says, str) else says:
        assert part in said.err, (part, said.err)
    if said.out.startswith("{"):
        error = json.loads(said.out)
        assert set(error) == {"schema_version", "error"}
        assert set(error["error"]) == {"message", "hint", "exit_code"}
        assert error["error"]["exit_code"] == code
        assert error["error"]["hint"] == (hint or None)
    else:
        assert said.out == ""


def has_controls(text: str) -> bool:
    """Whether there is anything in it that a terminal would obey, but for line ends, tabs and colours."""
    return any(each not in "\n\t" and (each < " " or "\x7f" <= each <= "\x9f") for each in text)


def options(flags: Mapping[str, str]) -> list[str]:
    """The words that give these options."""
    return [word for name, value in flags.items() for word in (f"--{name}", value)]


def program(path: Path, text: str) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def path_without(world: World, *missing: str) -> str:
    """A PATH on which every program is found but these."""
    directory = world.root / f"bin-without-{'-'.join(missing)}"
    if not directory.exists():
        directory.mkdir()
        for place in world.variables["PATH"].split(os.pathsep):
            for name in os.listdir(place) if os.path.isdir(place) else ():
                if name not in missing and not os.path.lexists(directory / name):
                    (directory / name).symlink_to(os.path.join(place, name))
    return str(directory)


def names(crowd: dict[str, int], found: list[int]) -> list[str]:
    by_id = {task: name for name, task in crowd.items()}
    return [by_id[task] for task in found]


@contextmanager
def running(desk: Desk, *words: str) -> "Iterator[subprocess.Popen[str]]":
    """A command that runs beside the test, and no longer than its block."""
    with subprocess.Popen(
        [*COMMAND, *words],
        env=desk.world.variables,
        cwd=desk.repo,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Terminal:
    """A command on a terminal of its own, as a person would have it."""

    running: ClassVar[list["Terminal"]] = []
    """Those that were not read to their end."""

    def __init__(
        self, world: World, *words: str, cwd: Path, columns: int = 80, command: Sequence[str] = COMMAND, **extra: str
    ) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        variables = {**world.variables, **extra}
        variables.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            [*command, *words],
            env=variables,
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no test has threads
        )
        os.close(theirs)
        self.descriptor = ours
        self.seen = b""
        self.running.append(self)

    def read_until(self, text: str, *, within: float = 30.0) -> str:
        """Read until the text was seen; everything seen so far."""
        self._read(lambda: text.encode() in self.seen, within, text)
        return self.text

    def read_to_end(self, *, within: float = 60.0) -> str:
        """Read until the command has ended; everything it showed."""
        self._read(lambda: False, within, "its end")
        self.process.wait(within)
        self.close()
        return self.text

    def close(self) -> None:
        """End the command if it still runs."""
        self.running.remove(self)
        os.close(self.descriptor)
        self.process.kill()
        self.process.wait()

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.descriptor, text.encode())

    @property
    def text(self) -> str:
        """What was shown, with the line ends of a file."""
        return self.seen.decode("utf-8", "replace").replace("\r\n", "\n")

    def _read(self, enough: Any, within: float, what: str) -> None:
        deadline = time.monotonic() + within
        while not enough():
            assert time.monotonic() < deadline, (f"not within {within} s: {what}", self.text)
            if select.select([self.descriptor], [], [], 0.1)[0]:
                try:
                    piece = os.read(self.descriptor, 65_536)
                except OSError:
                    piece = b""
                if not piece:
                    break
                self.seen += piece


def on_terminal(desk: Desk, *words: str, columns: int = 80, **extra: str) -> tuple[int, str]:
    """The exit code of a command on a terminal, and what it showed there."""
    terminal = Terminal(desk.world, *words, cwd=desk.repo, columns=columns, **extra)
    text = terminal.read_to_end()
    return terminal.process.returncode, text
