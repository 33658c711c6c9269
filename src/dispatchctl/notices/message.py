"""The words of a notice, and its JSON: pure.

Two kinds of words are kept apart. `summary` and `hint` are ours, made of numbers and fixed words: they may go where text is
interpreted. `title` and `why` come from a task and are only ever data.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dispatchctl.config.table import Notice
from dispatchctl.durations import format_time
from dispatchctl.names import slug
from dispatchctl.notices.edges import Edge
from dispatchctl.render.shapes import SCHEMA_VERSION
from dispatchctl.render.text import visible

TEST = "test"
"""The event of a notice that only tries the ways."""

LONGEST = 300
"""Characters of a task's text in a notice."""

WORDS: Mapping[Notice, tuple[str, str]] = {
    Notice.BLOCKED: ("is blocked", "are blocked"),
    Notice.IN_REVIEW: ("is in review", "are in review"),
    Notice.FAILED: ("failed", "failed"),
    Notice.DONE: ("is done", "are done"),
    Notice.STALLED: ("is stalled", "are stalled"),
    Notice.EMPTY: ("", ""),
}
"""What is said of one task, and of several."""


@dataclass(frozen=True)
class Message:
    """A notice in words. `socket` is that of the task's tmux server; `shape` is the task in JSON."""

    event: str
    at: int
    summary: str
    hint: str
    task: int | None = None
    title: str = ""
    why: str = ""
    count: int = 1
    socket: str | None = None
    shape: Mapping[str, Any] | None = None

    @property
    def head(self) -> str:
        """What it is about, in words of ours."""
        return f"dispatchctl: {self.summary}"

    @property
    def body(self) -> str:
        """The rest: the task's own words, safe for a terminal, or what to type."""
        return ": ".join(cut(each) for each in (self.title, self.why) if each) or self.hint

    @property
    def line(self) -> str:
        """All in one line."""
        said = ": ".join(cut(each) for each in (self.title, self.why) if each)
        return f"{self.summary}: {said}" if said else self.summary

    @property
    def tame(self) -> str:
        """One line for tmux, where text is interpreted: ours, and of the title only letters and digits."""
        words = slug(self.title)
        return f"dispatchctl: {self.summary}{f' - {words}' if words else ''} - {self.hint}"

    @property
    def json(self) -> bytes:
        """What the user's command is given."""
        notice = {
            "event": self.event,
            "task": self.shape,
            "count": self.count,
            "message": self.line,
            "hint": self.hint,
            "at": format_time(self.at),
        }
        return json.dumps({"schema_version": SCHEMA_VERSION, "notice": notice}).encode() + b"\n"


def cut(text: str) -> str:
    """The text in one line that a terminal may have, and not too long."""
    text = visible(" ".join(text.split()))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def words_of(edge: Edge) -> tuple[str, str]:
    """What is said of the edge, and what to type then."""
    if edge.what is Notice.EMPTY:
        return "nothing runs, and nothing is ready to start", "dispatchctl list"
    if edge.count > 1:
        status = "in_progress" if edge.what is Notice.STALLED else edge.what
        return f"{edge.count:,} more tasks {WORDS[edge.what][1]}", f"dispatchctl list --status {status}"
    return f"task {edge.task} {WORDS[edge.what][0]}", f"dispatchctl show {edge.task}"
