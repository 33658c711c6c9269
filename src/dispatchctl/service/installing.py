"""Writing and removing the units, and telling the user's systemd.

Whatever was killed on the way, the same command again does what is left. What is somebody's own is neither overwritten nor
removed unless that is asked for, and nothing is changed where systemd cannot be asked.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from shlex import quote

from dispatchctl import machine, processes
from dispatchctl.config import Environment
from dispatchctl.errors import DispatchctlError, Refused, Unavailable
from dispatchctl.service.units import ENABLED, UNITS, WATCH, directory, is_marked, is_ours

ANSWER_S = 30.0
"""Seconds that systemd may take to answer."""
START_S = 180.0
"""Seconds that it may take to start or stop a service: by the units' own limits it is less."""
CRON_HINT = "dispatchctl service print --cron"


class State(StrEnum):
    """What became of a unit's file."""

    PRINTED = "printed"
    WRITTEN = "written"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    KEPT = "kept"


@dataclass(frozen=True)
class Unit:
    """A unit's file; `text` is what stands in it now, None if it was removed."""

    path: str
    state: State
    text: str | None


@dataclass(frozen=True)
class Installed:
    """What was done; `lingers` says whether the user's services outlive a logout, None if that cannot be told."""

    units: tuple[Unit, ...]
    told: tuple[str, ...] = ()
    """What systemd was told to do."""
    lingers: bool | None = None

    def of(self, state: State) -> list[str]:
        """The files of which this became."""
        return [each.path for each in self.units if each.state is state]


def installed(environment: Environment) -> dict[Path, str]:
    """The units of our names that are there, whoever wrote them."""
    found = {}
    for name in UNITS:
        path = directory(environment) / name
        try:
            found[path] = path.read_text("utf-8", "surrogateescape")
        except FileNotFoundError:
            if path.is_symlink():
                found[path] = ""
        except OSError as error:
            raise DispatchctlError(f"{path} cannot be read: {error.strerror}", f"ls -ld {quote(str(path))}") from error
    return found


def install(
    environment: Environment, texts: Mapping[str, str], *, force: bool = False, start: bool = True
) -> Installed:
    """Write the units that differ, and have them started now and with every session; what is so already is left alone.

    Raises `Refused` for a file that is somebody's own, unless `force`, and `Unavailable` where systemd cannot be asked; then
    nothing was changed.
    """
    place = directory(environment)
    wanted = {place / name: text for name, text in texts.items()}
    there = installed(environment)
    for path, text in there.items():
        if not (force or is_ours(text) or text == wanted[path]):
            raise Refused(f"{path} {_whose(text)}", f"mv {quote(str(path))} {quote(f'{path}.mine')}")
    systemd = _Systemd(environment)
    before = systemd.states()
    new = [path for path, text in wanted.items() if there.get(path) != text]
    for path in new:
        _write(path, wanted[path])
    if new or any(state.get("NeedDaemonReload") == "yes" for state in before.values()):
        systemd.tell("daemon-reload")
    if start:
        idle = [name for name in ENABLED if not _is_up(before.get(name, {}))]
        if idle:
            systemd.tell("enable", "--now", *idle)
        changed = [path.name for path in new if path.name in ENABLED and path.name not in idle]
        if changed:
            systemd.tell("restart", *changed)
    done = (Unit(str(path), State.WRITTEN if path in new else State.UNCHANGED, text) for path, text in wanted.items())
    return Installed(tuple(done), tuple(systemd.told), machine.lingers(environment.uid))


def uninstall(environment: Environment, *, force: bool = False) -> Installed:
    """Stop, disable and remove the units that are ours, or all of our names with `force`; the others are kept."""
    there = installed(environment)
    ours = [path for path, text in there.items() if force or is_ours(text)]
    kept = (Unit(str(path), State.KEPT, text) for path, text in there.items() if path not in ours)
    if not ours:
        return Installed(tuple(kept))
    systemd = _Systemd(environment)
    systemd.states()
    enabled = [path.name for path in ours if path.name in ENABLED]
    if enabled:
        systemd.tell("disable", "--now", *enabled)
    for path in ours:
        path.unlink(missing_ok=True)
    systemd.tell("daemon-reload")
    return Installed((*(Unit(str(path), State.REMOVED, None) for path in ours), *kept), tuple(systemd.told))


def _whose(text: str) -> str:
    """Why a file is not ours to change."""
    if is_marked(text):
        return "was changed since dispatchctl wrote it, and is only overwritten with --force"
    return "was not written by dispatchctl, and is only overwritten with --force"


def _is_up(state: Mapping[str, str]) -> bool:
    return state.get("UnitFileState") == "enabled" and state.get("ActiveState") in ("active", "activating", "reloading")


def _write(path: Path, text: str) -> None:
    """Write the file at once or not at all, for everybody to read."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
                file.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    except OSError as error:
        raise DispatchctlError(
            f"{path} cannot be written: {error.strerror}", f"ls -ld {quote(str(path.parent))}"
        ) from error


class _Systemd:
    """The user's own systemd, by `systemctl --user`. Raises `Unavailable`, with what else there is, if there is none."""

    def __init__(self, environment: Environment) -> None:
        program = shutil.which("systemctl", path=environment.path)
        if program is None:
            raise Unavailable("there is no systemctl on PATH, so nothing can be installed for systemd", CRON_HINT)
        self._program = program
        self._variables = {**environment.inherited}
        place = f"/run/user/{environment.uid}"
        if environment.runtime_dir is None and os.path.isdir(place):
            self._variables["XDG_RUNTIME_DIR"] = place  # without it there is no way to the user's systemd
        self.told: list[str] = []

    def states(self) -> dict[str, dict[str, str]]:
        """What is known of each of our units."""
        finished = self._run(ANSWER_S, "show", "--property=Id,NeedDaemonReload,UnitFileState,ActiveState", *UNITS)
        if finished.code != 0:
            raise Unavailable(f"systemd's user manager cannot be asked: {_last(finished)}", CRON_HINT)
        found: dict[str, dict[str, str]] = {}
        for block in finished.out.decode("utf-8", "replace").split("\n\n"):
            pairs = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            found[pairs.get("Id", "")] = pairs
        return found

    def tell(self, *words: str) -> None:
        """Have it do something. Raises `Unavailable` if it does not."""
        finished = self._run(START_S, *words)
        said = f"systemctl --user {' '.join(words)}"
        if finished.code != 0:
            raise Unavailable(f"`{said}` failed: {_last(finished)}", f"journalctl --user -u {WATCH} -n 20")
        self.told.append(said)

    def _run(self, timeout: float, *words: str) -> processes.Finished:
        argv = (self._program, "--user", "--no-pager", *words)
        try:
            finished = processes.execute(argv, env=self._variables, timeout=timeout)
        except OSError as error:
            raise Unavailable(f"systemctl cannot be run: {error}", CRON_HINT) from error
        if finished.timed_out:
            raise Unavailable(f"systemctl did not answer within {timeout:g} s", CRON_HINT)
        return finished


def _last(finished: processes.Finished) -> str:
    return finished.last_words.replace("\n", "; ") or f"exit code {finished.code}"
