"""pause, unpause: keep new work from being started, and let it go on."""

import os
import shlex
from typing import Annotated, Any

import typer

from dispatchctl.cli.context import Cli
from dispatchctl.errors import DispatchctlError
from dispatchctl.render.shapes import moment
from dispatchctl.runtime import now
from dispatchctl.store.protocol import Pause
from dispatchctl.store.room import paused, repo_option

Repo = Annotated[
    str | None, typer.Option("--repo", metavar="PATH", help="Only in this repository, not the whole queue.")
]
Reason = Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="Why, for whoever asks later.")]


def pause(cli: Cli, repo: Repo = None, message: Reason = None) -> None:
    """Have nothing started until `unpause`, whoever dispatches: not from the whole queue, or not in one repository.

    Agents that run go on, and their ends are recorded; `cancel` ends one. Tasks can be added meanwhile. A pause stays after
    a restart of anything. Pausing what is paused changes nothing, its reason neither.
    """
    from dispatchctl.intake import repository  # `unpause` does not need git
    from dispatchctl.sessions import checked_message

    checked_message(message)
    store = cli.runtime.store
    where = "" if repo is None else repository(cli.runtime, repo)
    new = store.pause(where, reason=message or None, at=now())
    if new:
        _answer(cli, f"{_name(where)} is paused: nothing is started there, agents that run go on")
        return
    already = [paused(each).why for each in store.pauses() if each.repo == where]
    _answer(cli, f"{'; '.join(already) or _name(where)}; nothing was changed")
    if message:
        option = repo_option(where)
        again = f"dispatchctl unpause{option} && dispatchctl pause{option} -m {shlex.quote(message)}"
        cli.output.story("it stays as it was, and the new reason was not kept; to replace it", hint=again)


def unpause(cli: Cli, repo: Repo = None) -> None:
    """Have tasks started again, from the whole queue or in one repository; each is a pause of its own.

    Unpausing what is not paused changes nothing.
    """
    store = cli.runtime.store
    where = "" if repo is None else _paused_repository(cli, repo)
    if store.unpause(where):
        _answer(cli, f"{_name(where)} is not paused any more")
    else:
        _answer(cli, f"{_name(where)} is not paused; nothing was changed")
    for other in store.pauses():
        if not other.repo or not where:
            cli.output.story(paused(other).why, hint=paused(other).hint)


def _paused_repository(cli: Cli, path: str) -> str:
    """The repository that is meant, also one that has been deleted since it was paused."""
    from dispatchctl.intake import repository

    plain = os.path.realpath(os.path.expanduser(path))
    try:
        return repository(cli.runtime, path)
    except DispatchctlError:
        if path and plain in {pause.repo for pause in cli.runtime.store.pauses()}:
            return plain
        raise


def _name(repo: str) -> str:
    return repo or "the queue"


def _answer(cli: Cli, line: str) -> None:
    cli.output.answer("paused", [shape_of_pause(each) for each in cli.runtime.store.pauses()], [line])


def shape_of_pause(pause: Pause) -> dict[str, Any]:
    """A pause in JSON: `repo` is null for that of the whole queue."""
    return {"repo": pause.repo or None, "at": moment(pause.at), "reason": pause.reason}
