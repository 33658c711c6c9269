"""The errors a user may see: one sentence, a hint that can be pasted, and an exit code.

A new class exists only where a caller decides differently, a new code only where a script does. Whatever is raised that
is not a `DispatchctlError` is a bug and is shown as one.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a script may rely on (section 7 of the design)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_SUCH_TASK = 3
    REFUSED = 4
    UNAVAILABLE = 69
    BUSY = 75
    TIMED_OUT = 124
    INTERRUPTED = 130


class DispatchctlError(Exception):
    """An expected failure: `message` names the task and the cause, `hint` is something to type."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DispatchctlError):
    """The command line, a file or a setting says something that cannot be."""

    exit_code = ExitCode.USAGE


class NoSuchTask(DispatchctlError):
    """The id names no task."""

    exit_code = ExitCode.NO_SUCH_TASK

    def __init__(self, task: int) -> None:
        super().__init__(f"there is no task {task}", "dispatchctl list")


class Refused(DispatchctlError):
    """The task's status, an open run, or unsaved work does not allow it. Nothing was changed."""

    exit_code = ExitCode.REFUSED


class Unavailable(DispatchctlError):
    """tmux, git, the database or the agent's program cannot be used at all."""

    exit_code = ExitCode.UNAVAILABLE


class Unanswered(Unavailable):
    """A program did not answer, or not in a way that can be read: what was asked is unknown, not absent."""


class Busy(DispatchctlError):
    """Somebody else holds a lock; trying again may succeed."""

    exit_code = ExitCode.BUSY


class TimedOut(DispatchctlError):
    """The time that the user gave ran out."""

    exit_code = ExitCode.TIMED_OUT


class LaunchError(DispatchctlError):
    """A run could not be started and was undone.

    `curable` says whether trying the same thing again can succeed: a task whose launch failed incurably is `failed`,
    any other goes back to `ready` while it has recoveries left.
    """

    def __init__(
        self, message: str, hint: str | None = None, *, curable: bool = True, exit_code: ExitCode = ExitCode.FAILED
    ) -> None:
        super().__init__(message, hint)
        self.curable = curable
        self.exit_code = exit_code


class NotYet(LaunchError):
    """A run cannot be started until something else has happened, as the merge of its parents: nothing has failed."""


class QueueFull(Busy):
    """As many runs are open as may be, or what could be started is `paused`."""

    def __init__(self, message: str, hint: str | None = None, *, paused: bool = False) -> None:
        super().__init__(message, hint)
        self.paused = paused


class Terminated(BaseException):
    """SIGTERM or SIGHUP reached a command that has something to undo first; not an `Exception`, like KeyboardInterrupt."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"ended by signal {signal}")
        self.signal = signal
