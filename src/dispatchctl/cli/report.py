"""done, fail, block, heartbeat: called by the agent itself, which needs no id, or by a human, who does."""

from dispatchctl import sessions
from dispatchctl.cli.context import Cli
from dispatchctl.cli.values import Message, OptionalId
from dispatchctl.task import Report, Task


def _said(task: Task) -> str:
    if task.run is not None and task.run.closed_at is None and task.run.report is not None:
        return f"task {task.id} is reported as {task.run.report}; it ends with this session"
    return f"task {task.id} is {task.status}{f': {task.error}' if task.error else ''}"


def done(cli: Cli, id: OptionalId = None, message: Message = None) -> None:
    """Say that the task is done; the message is its result. By a human, the agent is ended."""
    task = sessions.report(cli.runtime, id, Report.DONE, message)
    cli.show_task(task, _said(task))


def fail(cli: Cli, id: OptionalId = None, message: Message = None) -> None:
    """Say that the task failed, and why. By a human, the agent is ended."""
    task = sessions.report(cli.runtime, id, Report.FAIL, message)
    cli.show_task(task, _said(task))


def block(cli: Cli, id: OptionalId = None, message: Message = None) -> None:
    """Ask for a human; the session goes on and may wait for the answer."""
    task = sessions.block(cli.runtime, id, message)
    cli.show_task(task, _said(task))


def heartbeat(cli: Cli, id: OptionalId = None) -> None:
    """Say that the agent is at work; prints nothing but JSON."""
    task = sessions.heartbeat(cli.runtime, id)
    cli.output.answer("task", cli.shape(task) if cli.as_json else None, [])
