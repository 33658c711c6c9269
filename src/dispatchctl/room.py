"""How many runs may be open, as the settings say: what a claim is given, and what explains or foresees one."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from dispatchctl.errors import UsageError
from dispatchctl.runtime import Runtime
from dispatchctl.store.protocol import Room, UnknownLimit

if TYPE_CHECKING:
    from dispatchctl.store.room import Occupancy

Answer = TypeVar("Answer")


def room_for(runtime: Runtime, max_running: int | None = None, occupied: "Occupancy | None" = None) -> Room:
    """How many runs may be open, by the settings and by what the user said for once.

    It has the limit of every repository in which a run is open, or is in `occupied`. Raises `UsageError` for an agent's
    table that is not valid: its limit is not known.
    """
    in_all = max_running or runtime.settings.dispatch.max_running
    repos = (occupied or runtime.store.occupied()).repos
    agents = {name: profile.max_running for name, profile in runtime.profiles.items() if profile.max_running}
    return Room(in_all, {repo: _limit_in(runtime, repo) for repo in repos}, agents)


def _limit_in(runtime: Runtime, repo: str) -> int:
    """The repository's limit. An invalid file of it is reported by whoever starts something there."""
    try:
        return runtime.settings_for(repo).dispatch.max_per_repo
    except UsageError:
        return runtime.settings.dispatch.max_per_repo


def within_limits(runtime: Runtime, room: Room, ask: Callable[[Room], Answer]) -> Answer:
    """What is answered, once it has the limit of every repository in which a run was opened meanwhile."""
    while True:
        try:
            return ask(room)
        except UnknownLimit as unknown:
            known = {**(room.in_repository or {}), unknown.repo: _limit_in(runtime, unknown.repo)}
            room = replace(room, in_repository=known)
