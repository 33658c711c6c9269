"""What the daemon's workers do: start one task, or reconcile; they tell what the events do not say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dispatchctl.dispatch import dispatch
from dispatchctl.errors import DispatchctlError, QueueFull, Refused
from dispatchctl.plan import Kind
from dispatchctl.reconcile import Done, reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.task import Actor
from dispatchctl.workers import Tell


@dataclass(frozen=True)
class Options:
    """What the command line says; None is what the settings say."""

    labels: Sequence[str] = ()
    max_running: int | None = None
    interval: int | None = None


def start_one(runtime: Runtime, options: Options, tell: Tell) -> None:
    """One task from the queue, as `dispatchctl dispatch --max 1` does it; what becomes of it is in the events."""
    try:
        done = dispatch(
            runtime,
            most=1,
            labels=options.labels,
            max_running=options.max_running,
            actor=Actor.WATCH,
            claimed=lambda task: tell({"claimed": task.id}),
        )
    except (QueueFull, Refused):
        return  # somebody else was quicker
    except DispatchctlError as error:
        tell({"message": str(error), "level": "error", "hint": error.hint, "rest": True})
        return
    tell({"held": sorted(done.held)})


def reconcile_once(runtime: Runtime, tell: Tell) -> None:
    """Make every status true, and tell what stands in the way."""
    try:
        result = reconcile(runtime, actor=Actor.WATCH)
    except DispatchctlError as error:
        tell({"message": str(error), "level": "error", "hint": error.hint})
        return
    for done in result.done:
        if done.error or done.action.kind is Kind.REPORT:
            tell(_told(done))
    for socket, said in result.silent.items():
        tell({"message": f"tmux on {socket} cannot be asked: {said}", "level": "error", "hint": f"tmux -S {socket} ls"})
    tell({"held": sorted(result.held), "quiet": not result.done})


def _told(done: Done) -> dict[str, Any]:
    action = done.action
    whose = f"task {action.task}" if action.task is not None else f"run {action.run}"
    failed = f": {action.kind} did not succeed: {done.error}" if done.error else ""
    hint = f"dispatchctl show {action.task}" if action.task is not None else "dispatchctl doctor"
    return {
        "message": f"{whose}: {action.reason}{failed}",
        "level": "warning",
        "hint": hint,
        "task": action.task,
        "run": action.run,
    }
