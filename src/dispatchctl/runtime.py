"""The parts, put together once for a command: settings, store, git, tmux, agents, clock and chance."""

import hashlib
import os
import random
import secrets
import shutil
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dispatchctl import agents, machine, processes
from dispatchctl.agents import Profile
from dispatchctl.config import Environment, Settings, database_path, load, state_dir, tmux_socket, worktrees_root
from dispatchctl.errors import DispatchctlError, Unavailable, UsageError
from dispatchctl.store import open_store
from dispatchctl.store.protocol import Store
from dispatchctl.windows import Windows
from dispatchctl.worktrees import Limits, Worktrees


def now() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def jitter() -> float:
    """A random number in [0, 1) by which waits are spread."""
    return random.random()


def new_token() -> str:
    """A random run id."""
    return secrets.token_hex(4)


@dataclass
class Runtime:
    """What a command works with; each part is made when it is first asked for."""

    environment: Environment
    db_option: str | None = None
    config_option: str | None = None
    private_tmux: bool = False
    lenient: bool = False
    """Whether the defaults stand in for settings that are not valid: what an agent says of itself must not be lost."""

    _of_repository: dict[str, Settings] = field(default_factory=dict)

    @cached_property
    def settings(self) -> Settings:
        """The user's settings, without any repository's."""
        try:
            return load(self.environment, config_option=self.config_option)
        except UsageError:
            if self.lenient:
                return Settings()
            raise

    def anew(self, settings: Settings | None = None) -> "Runtime":
        """The same with nothing opened yet, for a forked process; with other settings, if they were read again."""
        runtime = Runtime(self.environment, self.db_option, self.config_option, self.private_tmux)
        runtime.settings = self.settings if settings is None else settings
        return runtime

    def settings_for(self, repo: str) -> Settings:
        """The settings in that repository. Raises `UsageError` for a file that is not valid."""
        if repo not in self._of_repository:
            self._of_repository[repo] = self.settings.for_repository(Path(repo))
        return self._of_repository[repo]

    def forget_repositories(self) -> None:
        """Read the repositories' own files again when they are asked for."""
        self._of_repository.clear()

    @cached_property
    def database(self) -> Path:
        """The absolute path of the database."""
        return database_path(self.environment, self.db_option)

    @cached_property
    def state(self) -> Path:
        """The directory of everything that belongs to the database: runs, locks, worktrees."""
        return state_dir(self.database)

    @cached_property
    def worktrees_root(self) -> Path:
        """The directory that holds the worktrees."""
        return Path(os.path.realpath(worktrees_root(self.settings, self.database)))

    @cached_property
    def store(self) -> Store:
        """The database, which has to exist."""
        return open_store(str(self.database), busy_timeout=self.settings.store.busy_timeout)

    def make_store(self) -> Store:
        """The database, made if there is none: for `init`, `add` and `demo` alone."""
        if "store" not in self.__dict__:
            self.store = open_store(str(self.database), create=True, busy_timeout=self.settings.store.busy_timeout)
        return self.store

    @cached_property
    def socket(self) -> str:
        """The socket of the tmux server that new runs get."""
        return tmux_socket(self.environment, self.settings)

    @cached_property
    def git(self) -> Worktrees:
        """git, with the environment and limits of this command."""
        limits = Limits(self.settings.git.timeout, self.settings.git.checkout_timeout)
        return Worktrees(self.program(self.settings.tools.git, "git"), self.environment.inherited, limits)

    @cached_property
    def tmux(self) -> str:
        """The absolute path of tmux."""
        return self.program(self.settings.tools.tmux, "tmux")

    def windows(self, socket: str | None = None) -> Windows:
        """tmux on the socket of new runs, or on a recorded one."""
        return Windows(
            self.tmux,
            socket or self.socket,
            self.environment.inherited,
            timeout=self.settings.tmux.timeout,
            private=self.private_tmux,
            starter=self.starter,
        )

    @cached_property
    def starter(self) -> tuple[str, ...]:
        """What a tmux server has to be started through so that it outlives this process's service; empty outside of one.

        The control group decides: a terminal that was started by some service inherits INVOCATION_ID and is in a scope of its
        own. Where groups are not known, that variable does.
        """
        unit = machine.unit(os.getpid())
        if not (self.environment.in_service if unit is None else machine.is_service(unit)):
            return ()
        program = shutil.which("systemd-run", path=self.environment.path) or "systemd-run"
        return (program, "--user", "--scope", "--quiet", "--collect")

    @cached_property
    def profiles(self) -> dict[str, Profile]:
        """Every agent that is known, by name."""
        tables = self.settings.agent_tables
        source = str(self.settings.layers.user_file)
        return agents.known(agents.profile_from_settings(name, tables[name], source) for name in tables)

    def profile(self, name: str) -> Profile:
        """The agent's profile. Raises `UsageError` with what is known."""
        if name not in self.profiles:
            raise agents.unknown_agent(name, self.profiles)
        return self.profiles[name]

    def program(self, name: str, kind: str = "") -> str:
        """The absolute path of a tool. Raises `Unavailable`, saying how to get it.

        A path is taken as it is. A name is looked for on PATH, then among the programs that runs have recorded for places of
        the kind: cron has next to no PATH.
        """
        found = shutil.which(name, path=self.environment.path)
        if found is None and "/" not in name:
            found = self._recorded(kind)
        if found is None:
            leaf = os.path.basename(name)
            raise Unavailable(f"{leaf} is not installed: there is no program {name!r} on PATH", f"install {leaf}")
        return os.path.abspath(found)

    def _recorded(self, kind: str) -> str | None:
        """A program that runs have used for such a place and that can still be executed."""
        try:
            programs = [place.program for place in self.store.places() if place.kind == kind]
        except DispatchctlError:
            return None  # there is no database that could say it
        return next((program for program in programs if os.access(program, os.X_OK)), None)

    @cached_property
    def host(self) -> str:
        """The id of this machine."""
        return processes.machine_id()

    @cached_property
    def boot_id(self) -> str:
        """The id of this boot of it."""
        return processes.boot_id()


def watch_lock(runtime: Runtime) -> str:
    """The file that the one daemon of a database holds locked, with its pid in it."""
    return str(runtime.state / "watch.lock")


def session_id(database: str, token: str) -> str:
    """A UUID for the agent's own session, the same each time it is asked for."""
    digits = hashlib.sha256(f"{database}:{token}".encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"
