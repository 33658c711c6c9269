"""Asking git: without inherited `GIT_*` variables, in a process group of its own, with a time limit."""

import os
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
            locked = ".lock': File exists" in finished.last_words  # by a git that was killed, or is still at work
            raise LaunchError(
                f"task {run.task}: {what} failed with {finished.code}: {finished.last_words}",
                "dispatchctl doctor" if locked else f"git -C {quote(run.repo)} worktree list",
            )
        return finished
