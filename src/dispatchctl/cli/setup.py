"""demo, init, agents, config: getting started, and what is set."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from dispatchctl.cli.context import Cli, undo_when_terminated
from dispatchctl.config import Setting
from dispatchctl.errors import UsageError
from dispatchctl.render.text import Cell, Heads


def demo(
    cli: Cli,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything there, and say where.")] = False,
) -> int:
    """Run three tasks in a throw-away repository and tmux server, show the result, and clean up."""
    from dispatchctl import demo as demonstration

    undo_when_terminated()
    return demonstration.run(cli.environment, cli.output, keep=keep)


def init(cli: Cli) -> None:
    """Make the database and a commented file of settings; what is there already stays as it is."""
    from dispatchctl.config import config_path

    path, database = config_path(cli.environment, cli.given.config), cli.runtime.database
    existed = os.path.exists(database)
    config_is_new = _write_starting_config(path)
    try:
        cli.runtime.make_store()
    except BaseException:
        if config_is_new:
            path.unlink()  # a command that fails changes nothing
        raise
    new = {str(path): config_is_new, str(database): not existed}
    for each in (each for each, is_new in new.items() if not is_new):
        cli.output.story(f"{each} is there already and was not changed")
    made = [each for each, is_new in new.items() if is_new]
    cli.output.answer("made", made, [f"made {each}" for each in made])


def _write_starting_config(path: Path) -> bool:
    """Write the commented file of settings; False if there is a file already. Raises `UsageError`."""
    from dispatchctl.config import starting_config

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(starting_config())
    except OSError as error:
        if isinstance(error, FileExistsError) and path.is_file():
            return False
        raise UsageError(
            f"the settings cannot be written to {path}: {error.strerror}", f"ls -ld {shlex.quote(str(path.parent))}"
        ) from error
    return True


def agents(cli: Cli) -> None:
    """The agents that are known, and whether their programs are found."""
    from dispatchctl.agents import find_program

    rows, shapes = [], []
    for profile in cli.runtime.profiles.values():
        program = find_program(profile, cli.environment.path)
        form = "interactive" if profile.interactive else "headless"
        found = program or f"not found: {profile.argv[0]}"
        style = "" if program else "dim"
        rows.append((Cell(profile.name), Cell(found, style), Cell(form), Cell(profile.source), Cell(profile.note)))
        shapes.append(
            {
                "name": profile.name,
                "program": program,
                "found": program is not None,
                "interactive": profile.interactive,
                "prompt": profile.prompt,
                "argv": list(profile.argv),
                "source": profile.source,
                "note": profile.note or None,
            }
        )
    if cli.as_json:
        cli.output.json({"agents": shapes})
    else:
        cli.output.table(Heads(("AGENT", "PROGRAM", "FORM", "FROM", "NOTE"), ("FORM", "FROM")), rows)


def config(
    cli: Cli,
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="One setting, or a section.", show_default=False)
    ] = None,
    repo: Annotated[str | None, typer.Option("--repo", metavar="PATH", help="As they are for this repository.")] = None,
) -> None:
    """Every setting, its value, and where it came from."""
    from dispatchctl.config import SETTINGS

    runtime = cli.runtime
    settings = runtime.settings
    if repo is not None:
        from dispatchctl import intake

        settings = runtime.settings_for(intake.repository(runtime, repo))
    chosen = [each for each in SETTINGS.values() if key is None or each.key == key or each.key.startswith(f"{key}.")]
    if not chosen:
        import difflib

        close = difflib.get_close_matches(key or "", SETTINGS, 1)
        raise UsageError(
            f"there is no setting {key!r}", f"dispatchctl config {close[0]}" if close else "dispatchctl config"
        )
    values = [(each, settings.value(each.key), settings.sources[each.key]) for each in chosen]
    if cli.as_json:
        cli.output.json({"settings": [_setting(*each) for each in values]})
        return
    rows = ((Cell(each.key), Cell(each.toml(value)), Cell(source), Cell(each.doc)) for each, value, source in values)
    cli.output.table(Heads(("SETTING", "VALUE", "FROM", "MEANING")), rows)


def _setting(setting: Setting, value: object, source: str) -> dict[str, object]:
    return {
        "key": setting.key,
        "value": setting.kind.show(value),
        "source": source,
        "doc": setting.doc,
        "variable": setting.variable,
    }
