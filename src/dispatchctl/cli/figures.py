"""stats, metrics: how much there is, how long it takes, and why it fails."""

from pathlib import Path
from typing import Annotated

import typer

from dispatchctl.cli.context import Cli
from dispatchctl.render.output import write
from dispatchctl.runtime import now


def stats(
    cli: Cli,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="What has happened since: 2h, 2026-12-24; 0 is all.")
    ] = "7d",
    repo: Annotated[str | None, typer.Option("--repo", metavar="PATH", help="Of this repository.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="NAME", help="Of this agent.")] = None,
) -> None:
    """How many tasks there are and get done, how long they wait and run, and why runs fail; also by agent and repository.

    What stands is counted now, what happened in the window. A percentile is a time that was measured: the smallest that so
    many percent do not exceed. Tasks that were removed are not counted, nor is what prune has dropped of their history.
    """
    from dispatchctl import figures
    from dispatchctl.cli.pausing import shape_of_pause
    from dispatchctl.cli.values import since_when
    from dispatchctl.lookout import in_words
    from dispatchctl.render import figures as shown
    from dispatchctl.store.room import paused

    if repo is not None:
        from dispatchctl import intake

        repo = intake.repository(cli.runtime, repo)
    at = now()
    found = figures.stats(cli.runtime, figures.Wanted(since_when(since, at), repo, agent), at=at)
    pauses = [each for each in cli.runtime.store.pauses() if repo is None or each.repo in ("", repo)]
    if cli.as_json:
        cli.output.json({"stats": shown.shape(found), "paused": [shape_of_pause(each) for each in pauses]})
        return
    for line in shown.page(found):
        cli.output.line(line)
    for each in pauses:
        cli.output.line(f"paused      {in_words(paused(each))}")
    if found.agents or found.repos:
        cli.output.line("")
        cli.output.table(shown.HEADS, (shown.row(each, found) for each in (*found.agents, *found.repos)))


def metrics(
    cli: Cli,
    textfile: Annotated[
        Path | None,
        typer.Option("--textfile", metavar="PATH", help="Into this file, for node_exporter, instead of stdout."),
    ] = None,
) -> None:
    """Figures for Prometheus, in its text format.

    Counters are kept by the database itself: neither rm nor prune makes one less. With --textfile the file is replaced whole,
    or, after any error, left as it was. From cron: dispatchctl metrics --textfile /var/lib/node_exporter/dispatchctl.prom
    """
    from dispatchctl.metrics import exposition  # prometheus_client, 60 ms

    text = exposition.text(cli.runtime)
    if textfile is None:
        write(text)
    else:
        exposition.replace(textfile, text)
        cli.output.story(f"{textfile} is written")
