"""watch: the daemon in the foreground, with its log on stderr."""

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from dispatchctl.cli.context import Cli
from dispatchctl.cli.values import Whole, seconds, split
from dispatchctl.durations import format_time
from dispatchctl.errors import ExitCode, UsageError
from dispatchctl.render.text import visible

if TYPE_CHECKING:
    from dispatchctl.watch import Entry

FORMATS = ("text", "json")
PRIORITIES = {"info": "<6>", "warning": "<4>", "error": "<3>"}
"""How systemd's journal is told of a level: sd-daemon(3)."""


def watch(
    cli: Cli,
    max_running: Annotated[
        int | None,
        typer.Option("--max-running", metavar="N", click_type=Whole(1), help="The limit on open runs."),
    ] = None,
    interval: Annotated[
        str | None, typer.Option("--interval", metavar="TIME", help="Sleep at most so long: 5s, 1m.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME", help="Start only tasks with all of these.")
    ] = None,
    log_format: Annotated[
        str, typer.Option("--log-format", metavar="text|json", help="How the log on stderr is written.")
    ] = "text",
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", metavar="PORT", click_type=Whole(0), help="Serve metrics on loopback; 0: any."),
    ] = None,
) -> int:
    """Start tasks as they become ready, and keep every status true, until it is told to end.

    SIGTERM, Ctrl-C or closing its terminal: nothing more is started, what is half started is undone, agents go on; exit code
    0. SIGHUP: read the settings again. One for each database; a second one exits with 75.
    """
    from dispatchctl import watch as watching
    from dispatchctl.config import load
    from dispatchctl.notices import Notices
    from dispatchctl.runtime import Runtime, now

    if log_format not in FORMATS:
        raise UsageError(f"there is no log format {log_format!r}", "dispatchctl watch --log-format text|json")
    pause = seconds(interval)
    if pause == 0:
        raise UsageError("--interval has to be at least 1s", "dispatchctl watch --interval 5s")
    runtime = cli.runtime
    write = _writer(log_format, to_journal=cli.environment.to_journal, quiet=cli.given.quiet, now=now)
    options = watching.Options(split(label), max_running, pause)
    watching.refuse_another(runtime)
    _ = runtime.settings  # before a port is taken
    servants: dict[str, watching.Servant] = {}
    if metrics_port is not None:
        from dispatchctl.metrics import listen, serve  # for whoever wants metrics

        listening = listen(metrics_port)

        def serve_metrics(own: Runtime) -> None:
            serve(own, listening)

        servants["metrics"] = serve_metrics
        write(watching.Entry(f"metrics: http://127.0.0.1:{listening.getsockname()[1]}/metrics"))
    watching.watch(
        runtime,
        options,
        say=write,
        attendants=[Notices(runtime, lambda text, hint: write(watching.Entry(text, "warning", hint)))],
        servants=servants,
        load=lambda: load(cli.environment, config_option=cli.given.config),
    )
    return ExitCode.OK


def _writer(form: str, *, to_journal: bool, quiet: bool, now: Callable[[], int]) -> "Callable[[Entry], None]":
    """What writes a line of the log; with --quiet only what is no mere information."""

    def write(entry: "Entry") -> None:
        if quiet and entry.level == "info":
            return
        at = format_time(now() if entry.at is None else entry.at)
        if form == "json":
            line = json.dumps({**vars(entry), "at": at}, ensure_ascii=True)
        else:
            begin = PRIORITIES[entry.level] if to_journal else f"{at} "
            level = "" if entry.level == "info" else f"{entry.level}: "
            hint = f" ({entry.hint})" if entry.hint else ""
            line = f"{begin}{level}{visible(entry.message + hint)}"
        try:
            sys.stderr.buffer.write(f"{line}\n".encode(errors="backslashreplace"))
            sys.stderr.buffer.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # whoever read the log is gone
        except OSError:
            pass  # its disk is full; the work goes on

    return write
