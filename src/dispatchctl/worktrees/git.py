"""Asking git: without inherited `GIT_*` variables, in a process group of its own, with a time limit."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Self

from dispatchctl import processes
from dispatchctl.errors import LaunchError, Unanswered, Unavailable
from dispatchctl.processes import Finished, Lock
from dispatchctl.task import Run

NUL = b"\0"


@dataclass(frozen=True)
class Limits:
    """Seconds that a read or registration, and a checkout, may take."""

    answer: float = 120.0
    checkout: float = 1_800.0


class Git:
    """git, with the environment and limits it is run with. `environment` holds no `GIT_*` variable but what is set here."""

    def __init__(self, program: str, environment: Mapping[str, str], limits: Limits | None = None) -> None:
        self.program = program
        self.limits = limits or Limits()
        kept = {name: value for name, value in environment.items() if not name.startswith("GIT_")}
        self.environment = {**kept, "GIT_TERMINAL_PROMPT": "0"}

    def for_run(self, token: str) -> Self:
        """The same git, marked as one of the run's processes."""
        marked = type(self)(self.program, self.environment, self.limits)
        marked.environment["DISPATCHCTL_TOKEN"] = token
        return marked

    def _set(self, settings: Sequence[tuple[str, str]] = (), **variables: str) -> Self:
        """The same git with further settings, which outrank every file, and further variables."""
        apart = type(self)(self.program, self.environment, self.limits)
        given = {name: value for name, value in self.environment.items() if name.startswith("GIT_")}
        number = int(given.get("GIT_CONFIG_COUNT", "0"))
        for key, value in settings:
            given |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
            number += 1
        apart.environment |= given | variables | {"GIT_CONFIG_COUNT": str(number)}
        return apart

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
        if finished.code < 0:
            raise Unanswered(
                f"git {arguments[0]} in {directory} was ended by signal {-finished.code}",
                f"git -C {quote(directory)} status",
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
            raise self.failure(run, what, finished)
        return finished

    def failure(self, run: Run, what: str, finished: Finished) -> LaunchError:
        """What git failed with, in words: a lock file in its way is named, which git does far above its last words."""
        lock = _lock_named(finished.err)
        if lock is None:
            why, hint = finished.last_words, f"git -C {quote(run.repo)} worktree list"
        else:
            why, hint = f"{lock} is held by another git, or was left by one that was killed", "dispatchctl doctor"
        return LaunchError(f"task {run.task}: {what} failed with {finished.code}: {why}", hint)


def _lock_named(said: bytes) -> str | None:
    """The lock file that git says it found, in whatever language; also `packed-refs.new`, which stands for one."""
    found = re.findall(rb"(?<![\w.)-])(/[^\n']*(?:\.lock|/packed-refs\.new))", said)
    return next((path for path in map(os.fsdecode, found) if os.path.lexists(path)), None)
