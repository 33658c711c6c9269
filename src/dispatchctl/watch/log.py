"""The daemon's log: what happened to tasks, by the events that say so, and what is in the way, once."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dispatchctl.config import SETTINGS, Settings
from dispatchctl.task import Event, Status

REPEAT_S = 600.0
"""Seconds after which the same trouble is said again."""


@dataclass(frozen=True)
class Entry:
    """A line of the daemon's log. `level` is one of `info`, `warning`, `error`; `at` (milliseconds) is now if it is None."""

    message: str
    level: str = "info"
    hint: str | None = None
    task: int | None = None
    run: str | None = None
    event: str | None = None
    at: int | None = None


Say = Callable[[Entry], None]


@dataclass
class Trouble:
    """What was said of late, so that what lasts is not said at every turn."""

    say: Say
    said: dict[str, float] = field(default_factory=dict)

    def __call__(self, entry: Entry) -> None:
        """Say it, unless that was said a while ago."""
        at = time.monotonic()
        if at - self.said.get(entry.message, -REPEAT_S) >= REPEAT_S:
            self.said = {message: when for message, when in self.said.items() if at - when < REPEAT_S}
            self.said[entry.message] = at
            self.say(entry)


def entry_of(event: Event) -> Entry | None:
    """The line of an event; None for those that say nothing to who follows the queue."""
    why = event.detail.get("task", {}).get("error") or event.detail.get("run", {}).get("error")
    because = f": {why}" if why else ""
    whose = f"task {event.task}"
    if event.to_status is Status.IN_PROGRESS and event.kind == "claimed":
        message = f"{whose} is being started"
    elif event.to_status is not None and event.from_status is not None:
        again = " again" if event.to_status is Status.READY and event.run is not None else ""
        message = f"{whose} is {event.to_status}{again}{because}"
    elif event.kind in SAID:
        message = f"{whose} {SAID[event.kind]}{because}"
    else:
        return None
    bad = event.to_status in (Status.FAILED, Status.BLOCKED) or (why is not None and event.run is not None)
    return Entry(message, "warning" if bad else "info", task=event.task, run=event.run, event=event.kind, at=event.at)


SAID = {
    "added": "is added",
    "started": "runs",
    "stalled": "is stalled",
    "asked": "is asked to end",
    "reported": "has reported",
    "reentered": "is entered again",
}
"""Events without a change of status that are said nevertheless."""


def changes(before: Settings, after: Settings) -> Iterator[str]:
    """What is another setting now, in words."""
    for key, entry in SETTINGS.items():
        old, new = before.value(key), after.value(key)
        if old != new:
            yield f"{key}: {entry.toml(old)} → {entry.toml(new)}"
    for name in sorted({*before.agent_tables, *after.agent_tables}):
        if before.agent_tables.get(name) != after.agent_tables.get(name):
            yield f"agents.{name} has changed"
