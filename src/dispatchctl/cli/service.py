"""service: dispatchctl as a service of systemd's, or in a crontab."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dispatchctl.cli.context import Cli
from dispatchctl.cli.values import Whole, split
from dispatchctl.errors import ExitCode, Unavailable, UsageError

if TYPE_CHECKING:
    from dispatchctl.service import Installed, Plan

ACTIONS = ("print", "install", "uninstall")


def service(
    cli: Cli,
    action: Annotated[str, typer.Argument(metavar="print|install|uninstall", help="What to do.", show_default=False)],
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME", help="Start only tasks with all of these.")
    ] = None,
    max_running: Annotated[
        int | None,
        typer.Option("--max-running", metavar="N", click_type=Whole(1), help="The limit on open runs."),
    ] = None,
    cron: Annotated[bool, typer.Option("--cron", help="Print lines for a crontab, where there is no systemd.")] = False,
    no_start: Annotated[bool, typer.Option("--no-start", help="Write the units and start nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also overwrite or remove units that are not ours.")] = False,
) -> int:
    """Run `watch` as a service of your own systemd, and `reconcile` from a timer.

    `print` shows what `install` would write. `install` writes it and starts it; what is there already stays as it is.
    `uninstall` stops and removes it. Agents go on through all of that. The service has this command's --db and --config,
    and its PATH.
    """
    from dispatchctl import service as units

    if action not in ACTIONS:
        raise UsageError(
            f"there is nothing called {action!r} to do with the service", f"dispatchctl service {ACTIONS[0]}"
        )
    for given, option, of in ((cron, "--cron", "print"), (no_start, "--no-start", "install")):
        if given and action != of:
            raise UsageError(f"{option} is for `service {of}`", f"dispatchctl service {of} {option}")
    if force and action == "print":
        raise UsageError(
            "--force is for `service install` and `service uninstall`", "dispatchctl service install --force"
        )
    if action == "uninstall":
        return _uninstall(cli, force=force)
    plan = units.plan(
        cli.environment, db=cli.given.db, config=cli.given.config, labels=split(label), max_running=max_running
    )
    if action == "print":
        return _print(cli, plan, cron=cron)
    return _install(cli, plan, force=force, start=not no_start)


def _print(cli: Cli, plan: "Plan", *, cron: bool) -> int:
    from dispatchctl import service as units

    if cron:
        lines = units.crontab(plan)
        if cli.as_json:
            _answer(cli, crontab=lines)
        else:
            _show(cli, lines)
        return ExitCode.OK
    place = units.directory(cli.environment)
    printed = [units.Unit(str(place / name), units.State.PRINTED, text) for name, text in units.units(plan).items()]
    if cli.as_json:
        _answer(cli, units.Installed(tuple(printed)))
        return ExitCode.OK
    for number, unit in enumerate(printed):
        if number:
            cli.output.line("")
        cli.output.line(f"# {unit.path}")
        _show(cli, unit.text or "")
    return ExitCode.OK


def _install(cli: Cli, plan: "Plan", *, force: bool, start: bool) -> int:
    from dispatchctl import service as units

    if start:
        _ = cli.runtime.store  # a daemon without a database would only fail again and again
    try:
        done = units.install(cli.environment, units.units(plan), force=force, start=start)
    except Unavailable as error:
        if error.hint == units.CRON_HINT and not cli.as_json:
            cli.output.story("nothing was changed; this would do for `crontab -e`:")
            _show(cli, units.crontab(plan))
        raise
    if cli.as_json:
        _answer(cli, done)
    for unit in () if cli.as_json else done.units:
        if unit.state is units.State.WRITTEN:
            cli.output.line(f"# wrote {unit.path}")
            _show(cli, unit.text or "")
    for told in done.told:
        cli.output.story(told)
    if not done.of(units.State.WRITTEN):
        cli.output.story("the units are there already" + ("" if done.told else " and nothing was changed"))
    if unknown := units.unknown_to_a_service(cli.environment):
        names = f"{', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'}"
        cli.output.story(
            f"{names} set here and not for the service: your settings file is for both", hint="dispatchctl config"
        )
    if done.lingers is False:
        cli.output.notice("it ends with your last session, and agents with it, until you type: loginctl enable-linger")
    if start:
        cli.output.story("its log: journalctl --user -u dispatchctl.service -f")
    return ExitCode.OK


def _uninstall(cli: Cli, *, force: bool) -> int:
    from dispatchctl import service as units

    done = units.uninstall(cli.environment, force=force)
    removed, kept = done.of(units.State.REMOVED), done.of(units.State.KEPT)
    if cli.as_json:
        _answer(cli, done)
    for path in () if cli.as_json else removed:
        cli.output.line(f"removed {path}")
    if removed:
        cli.output.story(
            "agents that run go on; nothing starts or looks after tasks by itself now: dispatchctl dispatch"
        )
    elif not kept:
        cli.output.story("there is no service to remove")
    for path in kept:
        cli.output.failure(
            f"{path} is not as dispatchctl wrote it, and was kept", "dispatchctl service uninstall --force"
        )
    return ExitCode.REFUSED if kept else ExitCode.OK


def _show(cli: Cli, text: str) -> None:
    for line in text.splitlines():
        cli.output.line(line)


def _answer(cli: Cli, done: "Installed | None" = None, crontab: str | None = None) -> None:
    """The JSON: each unit's path, state and text; what systemd was told; lines for a crontab."""
    units: list[dict[str, Any]] = [vars(each) for each in done.units] if done is not None else []
    told = list(done.told) if done is not None else []
    cli.output.json({"service": {"units": units, "told": told, "crontab": crontab}})
