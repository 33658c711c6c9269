"""What the tests of the command line share: a user at a terminal in a repository, and what he may look at."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from world import Said, World, eventually

from dispatchctl.runtime import Runtime
from dispatchctl.task import Run, Task

RUN_KEYS = {
    *("token", "number", "phase", "outcome", "exit_code", "signal", "branch", "worktree", "base_commit", "host"),
    *("socket", "session", "window_id", "pane_id", "agent_pid", "started_at", "ended_at", "life", "life_at"),
    *("merged", "pull_request"),
}
TASK_KEYS = {
    *("id", "title", "prompt", "status", "activity", "held", "priority", "labels", "agent", "repo", "base", "after"),
    *("review", "retries_left", "recoveries_left", "timeout_s", "not_before", "error", "result", "created_at"),
    *("updated_at", "run"),
}
EVENT_KEYS = {"id", "task", "run", "at", "actor", "kind", "from", "to", "reason", "detail"}
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

    def agents_left(self, run: Run) -> list[str]:
        """Processes of the run but its launcher, which records the end and then goes."""
        left = self.world.leftovers(run, self.repo)
        return [each for each in left if each.startswith("process") and each != f"process {run.launcher_pid}"]

    def is_gone(self, run: Run) -> None:
        """Check that nothing of the run is left, once its launcher has gone too."""
        eventually(
            lambda: self.world.leftovers(run, self.repo) == [], what=f"{self.world.leftovers(run, self.repo)} goes"
        )

    # -- nothing may have changed ----------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Tasks, runs and events, worktrees, branches, run directories, locks and panes, as they are now."""
        git = self.repo / ".git"
        state: dict[str, Any] = {
            "refs": {str(path): path.read_bytes() for path in (git / "refs").rglob("*") if path.is_file()},
            "worktrees": sorted(path.name for path in git.glob("worktrees/*")),
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
