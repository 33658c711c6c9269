"""What is written: the units, word by word as systemd reads them, and the lines of a crontab. Nothing is changed here.

A unit of ours begins with a mark that holds a checksum of the rest. One without it, or that was changed since, is somebody's
own. Sources: systemd.syntax(7), systemd.service(5), systemd.exec(5), crontab(5).
"""

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dispatchctl.config import Environment, config_path, database_path
from dispatchctl.errors import UsageError

WATCH, RECONCILE, TIMER = "dispatchctl.service", "dispatchctl-reconcile.service", "dispatchctl-reconcile.timer"
UNITS = (WATCH, RECONCILE, TIMER)
ENABLED = (WATCH, TIMER)
"""What is enabled and started; the timer starts the third."""

MARK = "# Written by `dispatchctl service install`, sha256 "
ADVICE = "# Changes of your own are better kept apart: systemctl --user edit "
PLAIN = re.compile(r"[A-Za-z0-9@_+=:,./-]+")
EXECUTED = re.compile(r"^ExecStart=(.*)$", re.MULTILINE)
VARIABLES = re.compile(r"^Environment=(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Plan:
    """What the service runs: the program's own words, the words after them by which it finds its database and settings,
    the words for `watch` alone, and variables."""

    program: tuple[str, ...]
    places: tuple[str, ...] = ()
    choice: tuple[str, ...] = ()
    variables: Mapping[str, str] | None = None

    @property
    def watch(self) -> tuple[str, ...]:
        """The command of the daemon."""
        return (*self.program, "watch", *self.places, *self.choice)

    @property
    def reconcile(self) -> tuple[str, ...]:
        """The command of the timer."""
        return (*self.program, "reconcile", "--quiet", *self.places)


def plan(
    environment: Environment,
    *,
    db: str | None = None,
    config: str | None = None,
    labels: Sequence[str] = (),
    max_running: int | None = None,
) -> Plan:
    """What a service that is installed now runs: this program, with what this command would have for database and settings.

    They are named if they are not where a process finds them that knows only its HOME, as a service may.
    """
    bare = Environment.read({"HOME": str(environment.home)}, uid=environment.uid)
    places: list[str] = []
    database, settings = database_path(environment, db), config_path(environment, config)
    if db or database != database_path(bare):
        places += ["--db", str(database)]
    if config or settings != config_path(bare):
        places += ["--config", str(settings)]
    choice = [word for label in labels for word in ("--label", label)]
    if max_running is not None:
        choice += ["--max-running", str(max_running)]
    variables = {"PATH": _path(environment)}  # and nothing that may be secret: the file can be read by others
    if environment.tmux_tmpdir:
        variables["TMUX_TMPDIR"] = environment.tmux_tmpdir
    return Plan(own_program(), tuple(places), tuple(choice), variables)


def own_program() -> tuple[str, ...]:
    """The command that starts this dispatchctl: as it was called, else the script beside Python, else Python's own way.

    Links stay as they are: those of pipx and others lead to the next version after an upgrade.
    """
    for each in (sys.argv[0], os.path.join(os.path.dirname(sys.executable), "dispatchctl")):
        if os.path.basename(each) == "dispatchctl" and os.path.isfile(each) and os.access(each, os.X_OK):
            return (os.path.abspath(each),)
    return (sys.executable, "-P", "-m", "dispatchctl")


def unknown_to_a_service(environment: Environment) -> list[str]:
    """The variables that set something here and that a service does not have."""
    own = {"DISPATCHCTL_DB", "DISPATCHCTL_CONFIG", "DISPATCHCTL_TASK", "DISPATCHCTL_TOKEN"}
    return sorted(each for each in environment.inherited if each.startswith("DISPATCHCTL_") and each not in own)


def _path(environment: Environment) -> str:
    """PATH without what means another place in a service: relative directories, and an active virtual environment."""
    active = environment.inherited.get("VIRTUAL_ENV")
    inactive = os.path.join(active, "bin") if active else None
    found = [
        each for each in environment.path.split(os.pathsep) if os.path.isabs(each) and each.rstrip("/") != inactive
    ]
    return os.pathsep.join(dict.fromkeys(found)) or os.defpath


# -- units ---------------------------------------------------------------------------------------------------------------


def units(plan: Plan) -> dict[str, str]:
    """The text of each unit, by its name."""
    variables = "".join(f"Environment={word(f'{name}={value}')}\n" for name, value in (plan.variables or {}).items())
    return {
        name: marked(name, text)
        for name, text in (
            (WATCH, WATCH_UNIT.format(command=command(plan.watch), variables=variables)),
            (RECONCILE, RECONCILE_UNIT.format(command=command(plan.reconcile), variables=variables)),
            (TIMER, TIMER_UNIT),
        )
    }


WATCH_UNIT = """\
[Unit]
Description=dispatchctl watch: start tasks as they become ready

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
ExecReload=kill -HUP $MAINPID
{variables}WatchdogSec=120
Restart=on-failure
RestartSec=10
# 75: another one watches the database already.
SuccessExitStatus=75
RestartPreventExitStatus=75
TimeoutStopSec=60
# Agents, and the tmux server should it run here, outlive a restart.
KillMode=process
OOMPolicy=continue

[Install]
WantedBy=default.target
"""
RECONCILE_UNIT = """\
[Unit]
Description=dispatchctl reconcile: make every status true

[Service]
Type=oneshot
ExecStart={command}
{variables}TimeoutStartSec=600
KillMode=process
OOMPolicy=continue
"""
TIMER_UNIT = """\
[Unit]
Description=dispatchctl reconcile, every five minutes

[Timer]
OnCalendar=*:0/5
Persistent=true
RandomizedDelaySec=15

[Install]
WantedBy=timers.target
"""


def word(text: str) -> str:
    """A word as systemd reads it: in double quotes if need be, with quotes, backslashes and `%` taken for themselves."""
    if PLAIN.fullmatch(text):
        return text
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(each: str) -> str:
    if each in '"\\':
        return f"\\{each}"
    if each == "%":
        return "%%"
    if each < " " or each == "\x7f":
        return f"\\x{ord(each):02x}"
    if "\udc80" <= each <= "\udcff":  # a byte of a path that is not of UTF-8
        return f"\\x{ord(each) - 0xDC00:02x}"
    return each


SHELL = ("/bin/sh", "-c", 'exec "$0" "$@"')
"""Starts a program by a path with quotes, backslashes or control characters in it, which systemd itself refuses to start."""


def command(words: Sequence[str]) -> str:
    """A command for `ExecStart=`. Where a word holds `$`, a colon before the first has systemd leave variables alone."""
    if re.search(r"[\"'\\\x00-\x1f\x7f]", words[0]):
        words = (*SHELL, *words)
    literal = ":" if any("$" in each for each in words) else ""
    return literal + " ".join(map(word, words))


def words_of(line: str) -> list[str]:
    """The words that `command` and `word` have written; of a line by somebody else's hand, more or less."""
    return [WRITTEN.sub(_meant, each) for each in WORDS.findall(line.removeprefix(":"))]


WORDS = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')
WRITTEN = re.compile(r'"|%%|\\x([0-9a-f]{2})|\\(.)')


def _meant(found: re.Match[str]) -> str:
    if found[1]:
        byte = int(found[1], 16)
        return chr(byte if byte < 0x80 else byte + 0xDC00)
    return found[2] or ("%" if found[0] == "%%" else "")


def marked(name: str, text: str) -> str:
    """The unit with our mark above it."""
    body = f"{ADVICE}{name}\n{text}"
    return f"{MARK}{hashlib.sha256(body.encode('utf-8', 'surrogateescape')).hexdigest()}\n{body}"


def is_marked(text: str) -> bool:
    """Whether we have written it, changed since or not."""
    return text.startswith(MARK)


def is_ours(text: str) -> bool:
    """Whether it is as we have written it."""
    first, _, body = text.partition("\n")
    return first == f"{MARK}{hashlib.sha256(body.encode('utf-8', 'surrogateescape')).hexdigest()}"


def executed(text: str) -> list[str]:
    """The command of a unit; empty if it has none."""
    found = EXECUTED.findall(text)
    words = words_of(found[-1]) if found else []
    return words[len(SHELL) :] if tuple(words[: len(SHELL)]) == SHELL else words


def program_of(text: str) -> tuple[str, ...]:
    """The words of a unit's command before `watch` or `reconcile`."""
    words = executed(text)
    return tuple(words[: next((place for place, each in enumerate(words) if each in ("watch", "reconcile")), 0)])


def as_of_now(name: str, installed: str, program: Sequence[str]) -> str:
    """What we would write in the place of an installed unit: with the same options and variables, and this program."""
    options = tuple(executed(installed)[len(program_of(installed)) + 1 :])
    variables = dict(
        pair.split("=", 1) for each in VARIABLES.findall(installed) for pair in words_of(each) if "=" in pair
    )
    if name == RECONCILE and options[:1] == ("--quiet",):
        options = options[1:]
    return units(Plan(tuple(program), options, (), variables))[name]


# -- cron ----------------------------------------------------------------------------------------------------------------


def crontab(plan: Plan) -> str:
    """The lines for `crontab -e`. Raises `UsageError` for what a crontab cannot say."""
    return "\n".join(_crontab(plan)) + "\n"


def _crontab(plan: Plan) -> Iterator[str]:
    for name, value in (plan.variables or {}).items():
        yield f"{name}={_for_cron(value)}"
    yield "# Make every status true, every five minutes:"
    yield f"*/5 * * * * {_for_cron(shlex.join(plan.reconcile), escape=True)}"
    yield "# To start ready tasks as well, where no `dispatchctl watch` runs:"
    dispatch = (*plan.program, "dispatch", "--quiet", *plan.places, *plan.choice)
    yield f"# * * * * * {_for_cron(shlex.join(dispatch), escape=True)} >/dev/null"


def _for_cron(text: str, *, escape: bool = False) -> str:
    """A `%` in a command ends it for cron."""
    if "\n" in text:
        raise UsageError("a crontab cannot name a path or label with a line break in it", "dispatchctl service print")
    return text.replace("%", "\\%") if escape else text


def directory(environment: Environment) -> Path:
    """Where the user's own units are."""
    return environment.config_home / "systemd" / "user"
