"""One look at everything: what it is made with, so that nothing can hang and nothing that is broken ends it."""

import os
from dataclasses import dataclass, replace
from functools import cached_property

from dispatchctl import agents, config
from dispatchctl.doctor.health import Fault
from dispatchctl.errors import DispatchctlError, UsageError
from dispatchctl.runtime import Runtime
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
    """The same runtime with short time limits, and with defaults in the place of settings that are not valid."""
    faults: list[Fault] = []
    settings = _settings(runtime, faults)
    tmux, git = settings.tmux, settings.git
    seconds = int(PATIENCE_S)
    limits = replace(git, timeout=min(git.timeout, seconds), checkout_timeout=min(git.checkout_timeout, seconds))
    hurried = Runtime(runtime.environment, runtime.db_option, runtime.config_option, runtime.private_tmux)
    hurried.settings = replace(settings, tmux=replace(tmux, timeout=min(tmux.timeout, seconds)), git=limits)
    for name in ("tmux", "git"):
        try:
            getattr(hurried, name)
        except DispatchctlError:  # whoever asks it gets "cannot be run", and says so
            missing = f"/nonexistent/{name}"
            if name == "tmux":
                hurried.tmux = missing
            else:
                hurried.git = Worktrees(missing, runtime.environment.inherited, Limits(PATIENCE_S, PATIENCE_S))
    try:
        _ = hurried.profiles
    except DispatchctlError as error:
        faults.append(Fault("settings", error.message, error.hint or "dispatchctl agents"))
        hurried.profiles = agents.known()
    return Looker(hurried, settings, faults)


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
