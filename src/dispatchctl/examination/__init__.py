"""Looking at everything that doctor judges by: the snapshot that reconcile plans from, and what lies around it.

Nothing hangs: every program, lock and disk is given a few seconds. Nothing is changed, and nothing that is missing or broken
ends the look: what could not be had is `Unknown`, with the reason.
"""

from collections.abc import Callable, Collection
from shlex import quote

from dispatchctl.doctor.health import (
    Agents,
    Contents,
    DatabaseFile,
    Fleet,
    Ground,
    Health,
    Part,
    Queue,
    Repositories,
    Service,
    Setup,
    Tools,
    Unknown,
)
from dispatchctl.errors import DispatchctlError
from dispatchctl.examination import attendance, surroundings, traces, work
from dispatchctl.examination.looker import Looker, prepare
from dispatchctl.runtime import Runtime

PARTS: dict[type, tuple[bool, Callable[[Looker], Part]]] = {
    Tools: (False, surroundings.tools),
    Setup: (False, surroundings.setup),
    Agents: (True, surroundings.agents_of_tasks),
    DatabaseFile: (False, surroundings.database_file),
    Contents: (True, work.contents),
    Fleet: (True, work.fleet),
    Queue: (True, work.queue),
    Service: (False, attendance.service),
    Repositories: (True, traces.repositories),
    Ground: (True, traces.ground),
}
"""How each part is had, and whether the database is needed for it."""


def look(runtime: Runtime, parts: Collection[type] = frozenset(PARTS)) -> Health:
    """Look once, at everything or at what is asked for."""
    looker = prepare(runtime)
    try:
        return Health({kind: _part(looker, kind) for kind in parts})
    finally:
        if looker.store is not None:
            looker.store.close()


def _part(looker: Looker, kind: type) -> Part | Unknown:
    """The part, or why it could not be had."""
    needs_store, fill = PARTS[kind]
    if needs_store and looker.store is None:
        return Unknown(looker.database, "the database cannot be opened", "dispatchctl doctor --check database-opens")
    try:
        return fill(looker)
    except DispatchctlError as error:
        return Unknown(kind.__name__.lower(), error.message, error.hint or "dispatchctl doctor -v")
    except (OSError, ValueError) as error:  # ValueError: a row that hands have made, with a status that there is not
        return Unknown(kind.__name__.lower(), str(error), f"sqlite3 {quote(looker.database)} 'PRAGMA quick_check'")
