"""What the process was given: the only reader of `os.environ` in the program."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dispatchctl.errors import UsageError


@dataclass(frozen=True)
class Environment:
    """The environment, read once. `None`: not set; an empty variable counts as not set, as XDG and NO_COLOR have it."""

    home: Path
    config_home: Path
    data_home: Path
    runtime_dir: Path | None
    uid: int
    path: str
    tmux: str | None
    tmux_tmpdir: str | None
    tmux_pane: str | None
    editor: str | None
    term: str | None
    no_color: bool
    task: int | None
    token: str | None
    database: str | None
    config: str | None
    notify_socket: str | None
    watchdog_usec: int | None
    in_service: bool
    """Whether systemd runs this process as a service's."""

    to_journal: bool
    """Whether stderr goes to systemd's journal, which adds the time and knows levels."""

    inherited: Mapping[str, str] = field(repr=False)
    """Every variable as it was given, secrets among them."""

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None, *, uid: int | None = None) -> "Environment":
        """The environment of this process, or the one that a test gives."""
        given = dict(os.environ if variables is None else variables)
        owner = os.getuid() if uid is None else uid
        home = _absolute(given, "HOME") or _home_of(owner)
        return cls(
            home=home,
            config_home=_absolute(given, "XDG_CONFIG_HOME") or home / ".config",
            data_home=_absolute(given, "XDG_DATA_HOME") or home / ".local" / "share",
            runtime_dir=_absolute(given, "XDG_RUNTIME_DIR"),
            uid=owner,
            path=given.get("PATH") or os.defpath,
            tmux=given.get("TMUX") or None,
            tmux_tmpdir=given.get("TMUX_TMPDIR") or None,
            tmux_pane=given.get("TMUX_PANE") or None,
            editor=given.get("VISUAL") or given.get("EDITOR") or None,
            term=given.get("TERM") or None,
            no_color=bool(given.get("NO_COLOR")),
            task=_task(given.get("DISPATCHCTL_TASK") or None),
            token=given.get("DISPATCHCTL_TOKEN") or None,
            database=given.get("DISPATCHCTL_DB") or None,
            config=given.get("DISPATCHCTL_CONFIG") or None,
            notify_socket=given.get("NOTIFY_SOCKET") or None,
            watchdog_usec=_whole(given.get("WATCHDOG_USEC")),
            in_service=bool(given.get("INVOCATION_ID")),
            to_journal=bool(given.get("JOURNAL_STREAM")),
            inherited=given,
        )

    def expand(self, path: str) -> Path:
        """`path` with a leading `~/` replaced by the home; a shell does that for words, not for files or variables."""
        return self.home / path[2:] if path.startswith("~/") else Path(path)


def _absolute(variables: Mapping[str, str], name: str) -> Path | None:
    """A directory from a variable; XDG says to ignore one that is relative."""
    value = variables.get(name, "")
    return Path(value) if os.path.isabs(value) else None


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() else None


def _home_of(uid: int) -> Path:
    import pwd  # only cron jobs and services come without HOME

    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        raise UsageError(f"HOME is not set and user {uid} has no home directory", "export HOME=DIRECTORY") from None


def _task(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise UsageError(f"DISPATCHCTL_TASK is {text[:60]!r}, not the number of a task", "unset DISPATCHCTL_TASK")
    return int(text)
