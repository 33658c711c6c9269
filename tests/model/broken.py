"""Ways to break the program, each of which the random histories have to notice: that they pass says something only then.

That a removal does not look what would be lost is not among them: the model's git is too simple for that, and it went
unnoticed in 800 histories. `tests/test_clearing.py` and `proof.breakages` have it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import PropertyMock, patch

from dispatchctl import launch, launcher, mend, observation, reconcile, rundir, steps
from dispatchctl.processes import Lock
from dispatchctl.snapshot import Answer, Holder
from dispatchctl.store.ledger import Ledger
from dispatchctl.task import Run
from dispatchctl.worktrees.making import Making
from model.computer import Computer
from model.repository import ModelGit

Breakage = Callable[[], AbstractContextManager[object]]


def _wrapped(owner: Any, name: str, around: Callable[..., Any]) -> AbstractContextManager[object]:
    """The function with another around it, which gets it first."""
    real = getattr(owner, name)
    return patch.object(owner, name, lambda *args, **named: around(real, *args, **named))


def _silence_is_absence() -> AbstractContextManager[object]:
    def servers(real: Callable[..., Any], *args: Any) -> Any:
        found = real(*args)
        return {
            path: replace(each, answer=Answer.NO_SERVER) if each.answer is Answer.UNKNOWN else each
            for path, each in found.items()
        }

    return _wrapped(observation, "_servers", servers)


def _an_unread_table_is_empty() -> AbstractContextManager[object]:
    return _wrapped(observation, "_lives", lambda real, *args: real(*args) or False)


@contextmanager
def _began_is_not_looked_at() -> Iterator[None]:
    with ExitStack() as broken:
        broken.enter_context(_wrapped(observation, "_seen", lambda real, *args: replace(real(*args), began=False)))
        broken.enter_context(_wrapped(rundir, "started", lambda real, *args: None))
        yield


def _nothing_is_held() -> AbstractContextManager[object]:
    return patch.object(reconcile.Reconciled, "held", PropertyMock(return_value=frozenset()))


def _closed_without_a_sweep() -> AbstractContextManager[object]:
    return _wrapped(mend, "_sweep", lambda real, work: None)


@contextmanager
def _the_owner_lock_is_ignored() -> Iterator[None]:
    def holder(real: Callable[[str], Holder], path: str) -> Holder:
        return Holder.FREE if real(path) is Holder.HELD else real(path)

    with ExitStack() as broken:
        broken.enter_context(_wrapped(observation, "holder", holder))
        broken.enter_context(_wrapped(mend, "_locked", lambda real, run, path: Lock(path, -1)))
        yield


def _every_boot_is_the_same() -> AbstractContextManager[object]:
    return patch.object(Computer, "boot_id", PropertyMock(return_value="boot"))


def _start_times_are_not_compared() -> AbstractContextManager[object]:
    return _wrapped(Computer, "find", lambda real, self, process: self.processes.get(process[0]))


def _the_fence_lets_everybody_through() -> AbstractContextManager[object]:
    return _wrapped(launcher, "_pass_fence", lambda real, *args: real(*args) or True)


def _exit_files_are_not_read() -> AbstractContextManager[object]:
    return _wrapped(launcher, "read_exit_file", lambda real, *args: None)


def _undo_goes_by_the_path() -> AbstractContextManager[object]:
    def discard(real: Callable[..., None], self: Making, run: Run, reason: str) -> None:
        with patch.object(Making, "_locked_for", lambda *args: reason):
            real(self, replace(run, owns_tree=True), reason)

    return _wrapped(Making, "discard_tree", discard)


def _nothing_is_rescued() -> AbstractContextManager[object]:
    return patch.object(ModelGit, "rescue", lambda *args: "it is gone")


def _an_undo_leaves_processes() -> AbstractContextManager[object]:
    return _without_undo("window")


@contextmanager
def _without_undo(name: str) -> Iterator[None]:
    (step,) = [each for each in steps.STEPS if each.name == name]
    real = step.undo
    object.__setattr__(step, "undo", lambda launched: None)
    try:
        yield
    finally:
        object.__setattr__(step, "undo", real)


def _an_event_is_forgotten() -> AbstractContextManager[object]:
    def write(real: Callable[..., None], self: Ledger, task: int, token: str | None, act: Any, *rest: Any) -> None:
        if act.kind != "window":
            real(self, task, token, act, *rest)

    return _wrapped(Ledger, "_write_event", write)


def _the_start_is_not_marked() -> AbstractContextManager[object]:
    return patch.object(launcher, "_mark_start", lambda *args: None)


def _run_directories_stay() -> AbstractContextManager[object]:
    return patch.object(rundir, "remove", lambda path: None)


@contextmanager
def _locks_stay() -> Iterator[None]:
    with ExitStack() as broken:
        for module in (launch, mend):
            broken.enter_context(patch.object(module, "drop_locks", lambda owner, step: owner.release()))
        yield


BREAKAGES: Mapping[str, Breakage] = {
    "tmux that does not answer counts as no server": _silence_is_absence,
    "a process table that cannot be read counts as empty": _an_unread_table_is_empty,
    "an older database is believed more than an agent's mark": _began_is_not_looked_at,
    "a task is started while an agent of a lost run lives": _nothing_is_held,
    "a run is closed while its processes live": _closed_without_a_sweep,
    "a run is undone while its dispatcher starts it": _the_owner_lock_is_ignored,
    "processes are compared across reboots": _every_boot_is_the_same,
    "pids are compared without start times": _start_times_are_not_compared,
    "an agent starts though its run was given up": _the_fence_lets_everybody_through,
    "exit files are not read": _exit_files_are_not_read,
    "an undo removes whatever is at the path": _undo_goes_by_the_path,
    "forced removal rescues nothing": _nothing_is_rescued,
    "an undo leaves pane and processes": _an_undo_leaves_processes,
    "a change has no event": _an_event_is_forgotten,
    "an agent's beginning is not marked": _the_start_is_not_marked,
    "an undo leaves the run directory": _run_directories_stay,
    "lock files stay": _locks_stay,
}

SOON_FOUND = (
    "a run is undone while its dispatcher starts it",
    "an undo leaves pane and processes",
    "exit files are not read",
    "lock files stay",
    "a change has no event",
)
"""What a sample of a second or two finds; the rest takes the long run."""
