"""The ways to tell the user something: each starts one program aside, or does not exist where the settings say so.

What a task says is data everywhere: for tmux it is not used but for a slug; notify-send gets it after `--` and without markup,
osascript as an argument of its script, the user's command and apprise as JSON or text that no shell sees.
"""

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.util import find_spec

from dispatchctl import programs
from dispatchctl.errors import DispatchctlError, Unavailable
from dispatchctl.notices.message import Message
from dispatchctl.programs import Aside
from dispatchctl.runtime import Runtime

Way = Callable[[Runtime, Message], Aside]
"""Starts the program that tells the message. Raises `DispatchctlError` or `OSError` if it cannot even be started."""

NOT_FOR_OTHERS = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "MAINPID"),
    *("DISPATCHCTL_TASK", "DISPATCHCTL_TOKEN"),
)
"""Variables that mean the daemon, or the run from which it was started."""

SCRIPT = ("on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run")
"""AppleScript with the words as its arguments; put into its text, they would be program."""


def enabled(runtime: Runtime) -> Mapping[str, Way]:
    """The ways that the settings name, by the names that they have there."""
    notify = runtime.settings.notify
    wanted = {"tmux": notify.tmux, "desktop": notify.desktop, "command": notify.command, "urls": notify.urls}
    return {name: WAYS[name] for name, value in wanted.items() if value}


def tmux(runtime: Runtime, message: Message) -> Aside:
    """A message and a bell in every client of the server in which the task runs; nothing where nobody looks at it."""
    windows = runtime.windows(message.socket)
    text = message.tame

    def show() -> None:
        windows.announce(text)

    return programs.fork(show, timeout=runtime.settings.notify.timeout)


def desktop(runtime: Runtime, message: Message) -> Aside:
    """A notification of the desktop, by the program that is there."""
    path = runtime.environment.path
    program = shutil.which("notify-send", path=path)
    if program:  # freedesktop's notifications take markup, where the desktop can show it
        argv = [
            program,
            "--app-name=dispatchctl",
            "--",
            escape(message.head, quote=False),
            escape(message.body, quote=False),
        ]
    else:
        program = shutil.which("osascript", path=path)
        if program is None:
            raise Unavailable("there is neither notify-send nor osascript on PATH", "dispatchctl config notify.desktop")
        argv = [program, *(word for line in SCRIPT for word in ("-e", line)), message.head, message.body]
    return _start(runtime, argv, message)


def command(runtime: Runtime, message: Message) -> Aside:
    """The user's own command, with the notice as JSON on its standard input."""
    return _start(runtime, runtime.settings.notify.command, message)


def urls(runtime: Runtime, message: Message) -> Aside:
    """Every service that apprise knows, in a process of its own: apprise takes long to import, and its network longer."""
    if find_spec("apprise") is None:
        raise Unavailable("apprise is not installed", "pip install 'dispatchctl[apprise]'")
    addresses, head, body = runtime.settings.notify.urls, message.head, message.body

    def send() -> None:
        failed = [_scheme(address) for address in addresses if not _sent(address, head, body)]
        if failed:
            raise DispatchctlError(f"{', '.join(failed)} did not take the notice")

    return programs.fork(send, timeout=runtime.settings.notify.timeout)


def _sent(address: str, head: str, body: str) -> bool:
    """Whether apprise has sent it. What it says of it is kept to itself: addresses hold passwords, and so may its words."""
    warnings.simplefilter("ignore")
    logging.disable()
    import apprise  # 0.3 s, and optional

    service = apprise.Apprise()
    try:
        return service.add(address) and bool(
            service.notify(title=head, body=body, body_format=apprise.NotifyFormat.TEXT, interpret_escapes=False)
        )
    except Exception:  # noqa: BLE001 - a hundred services' code, and the error may hold the address
        return False


def _scheme(address: str) -> str:
    return f"{address.partition('://')[0]}://…"


def _start(runtime: Runtime, argv: Sequence[str], message: Message) -> Aside:
    inherited = runtime.environment.inherited
    env = {name: value for name, value in inherited.items() if name not in NOT_FOR_OTHERS}
    env["DISPATCHCTL_DB"] = str(runtime.database)
    if runtime.config_option:
        env["DISPATCHCTL_CONFIG"] = os.path.abspath(runtime.config_option)
    if message.task is not None:
        env["DISPATCHCTL_TASK"] = str(message.task)
    return programs.start(argv, env=env, given=message.json, timeout=runtime.settings.notify.timeout)


WAYS: Mapping[str, Way] = {"tmux": tmux, "desktop": desktop, "command": command, "urls": urls}
