"""One look at everything: what it is made with, so that nothing can hang and nothing that is broken ends it."""

import os
from dataclasses import dataclass, replace
from functools import cached_property

from dispatchctl import agents, config
from dispatchctl.doctor.health import Fault
from dispatchctl.errors import DispatchctlError, UsageError
from dispatchctl.runtime import Runtime
from dispatchctl.store import open_store
from dispatchctl.store.protocol import Store
from dispatchctl.task import FINISHED, Status, Task
from dispatchctl.worktrees import Limits, Worktrees

PATIENCE_S = 5.0
"""Seconds that tmux, git, a disk or a lock is given to answer one question."""
UNFINISHED = frozenset(Status) - FINISHED


@dataclass
class Looker:
    """One look: a runtime that cannot hang, the settings as the user has them, and the database if it can be had."""

    runtime: Runtime
    settings: config.Settings
    setup: list[Fault]
    store: Store | None = None
    fault: Fault | None = None

    @property
    def database(self) -> str:
        """The database's path."""
        return str(self.runtime.database)

    @property
    def stored(self) -> Store:
        """The store, for a part that needs it."""
        assert self.store is not None, "asked for without one"
        return self.store

    @cached_property
    def unfinished(self) -> list[Task]:
        """The unfinished tasks."""
        return self.stored.tasks(status=UNFINISHED)


def prepare(runtime: Runtime) -> Looker:
    """The same runtime with short time limits, and with defaults in the place of what is not valid or not there."""
    faults: list[Fault] = []
    settings = _settings(runtime, faults)
    seconds = int(PATIENCE_S)
    tmux = replace(settings.tmux, timeout=min(settings.tmux.timeout, seconds))
    git = replace(settings.git, timeout=min(settings.git.timeout, seconds))
    hurried = Runtime(runtime.environment, runtime.db_option, runtime.config_option, runtime.private_tmux)
    hurried.settings = replace(settings, tmux=tmux, git=replace(git, checkout_timeout=git.timeout))
    looker = Looker(hurried, settings, faults)
    try:
        looker.store = hurried.store = open_store(looker.database, busy_timeout=PATIENCE_S)
    except DispatchctlError as error:
        looker.fault = Fault(looker.database, error.message, error.hint or "dispatchctl config")
    _equip(looker)
    return looker


def _equip(looker: Looker) -> None:
    """Give the runtime tools and agents; whoever asks a tool that is not there hears that it cannot be run."""
    runtime = looker.runtime
    try:
        _ = runtime.tmux
    except DispatchctlError:
        runtime.tmux = "/nonexistent/tmux"
    try:
        _ = runtime.git
    except DispatchctlError:
        runtime.git = Worktrees("/nonexistent/git", runtime.environment.inherited, Limits(PATIENCE_S, PATIENCE_S))
    try:
        _ = runtime.profiles
    except DispatchctlError as error:
        looker.setup.append(Fault("settings", error.message, error.hint or "dispatchctl agents"))
        runtime.profiles = agents.known()


def _settings(runtime: Runtime, faults: list[Fault]) -> config.Settings:
    """The user's settings; what is not valid is noted and left out: first the file, then the variables."""
    environment = runtime.environment
    without_file = replace(environment, config=None, config_home=runtime.environment.home / "nonexistent")
    plain = {name: value for name, value in environment.inherited.items() if not name.startswith("DISPATCHCTL_")}
    bare = replace(without_file, inherited=plain)
    for attempt, option in ((environment, runtime.config_option), (without_file, None), (bare, None)):
        try:
            return config.load(attempt, config_option=option)
        except UsageError as error:
            if not any(error.message == fault.text for fault in faults):
                faults.append(Fault("settings", error.message, error.hint or "dispatchctl config"))
    return config.Settings()


def modified(path: str) -> int | None:
    """When the file was changed, in milliseconds; None if there is none."""
    try:
        return int(os.stat(path).st_mtime * 1000)
    except OSError:
        return None


def names(directory: str) -> list[str]:
    """What is in the directory; nothing if there is none."""
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
