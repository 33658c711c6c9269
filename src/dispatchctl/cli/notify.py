"""notify: whether the user can be told of anything."""

from dispatchctl.cli.context import Cli
from dispatchctl.errors import ExitCode, UsageError
from dispatchctl.render.text import Cell, Heads


def notify(cli: Cli) -> int:
    """Try your notifiers: send a test notice each way that the settings name, and say what came of it.

    `dispatchctl watch` sends the real ones. Exit code 1 if one of them failed. A tmux server that nobody looks at is none.
    """
    from dispatchctl.notices.sending import try_out

    found = list(try_out(cli.runtime))
    if not found:
        raise UsageError("the settings name no way to tell you anything", "dispatchctl config notify")
    if cli.as_json:
        shapes = [{"way": way, "ok": error is None, "error": error, "hint": hint} for way, error, hint in found]
        cli.output.json({"notified": shapes})
    else:
        rows = [
            (Cell(f"notify.{way}"), Cell(error or "ok", "bold red" if error else ""), Cell(hint or ""))
            for way, error, hint in found
        ]
        cli.output.table(Heads(("SETTING", "RESULT", "HINT")), rows)
    return ExitCode.FAILED if any(error for _, error, _ in found) else ExitCode.OK
