"""How far the history was read, and what of it somebody is to be told of."""

from collections.abc import Collection, Iterator

from dispatchctl.config.table import Notice
from dispatchctl.notices.edges import Edge, begins_work, edge_of
from dispatchctl.runtime import now
from dispatchctl.store.protocol import Store
from dispatchctl.task import Status

TOLD = "notices"
"""The cursor from which the next daemon reads: nothing up to it waits to be told."""

WORK, EMPTY = "notices.work", "notices.empty"
"""The cursors of the queue: the last event with which somebody began to work, and the last of those after which it was told, or
nobody was to be told, that nothing is left."""

AT_ONCE = 500
"""Events that are read in one turn: some 5 ms."""

KEEP_UP_S = 60.0
"""How often these cursors follow what was read: what is read again after a crash is not told again, and costs little."""


class Reader:
    """Reads the history for edges, and knows whether the queue had work then.

    The queue is empty when no task is in progress and none is ready that waits only for its time, a limit or a pause; tasks
    that wait for others cannot start then. That is an edge when somebody began to work since the last such one, and has the
    id of the event with which somebody began last.
    """

    def __init__(self) -> None:
        self.behind = False
        self._read: int | None = None
        self._began = self._emptied = 0
        self._unsure = True
        self._kept: dict[str, int] = {}
        self._kept_up_at = 0.0

    def begins(self, store: Store) -> bool:
        """Whether it has to start, and then does: where the last daemon stopped; for the first one, with what happens now."""
        last = store.last_event()
        if self._read is not None and self._read <= last:
            return False
        told = store.cursor(TOLD) if self._read is None else last  # or an older copy has taken the database's place
        if told is None:
            told = last
            if has_running(store):
                store.move_cursor(WORK, told)
            store.move_cursor(TOLD, told)
        self._began, self._emptied = (store.cursor(name) or 0 for name in (WORK, EMPTY))
        self._kept = {WORK: self._began, EMPTY: self._emptied, TOLD: told}
        self._read, self._unsure = told, True
        return True

    def edges(self, store: Store) -> Iterator[Edge]:
        """What is new, at most `AT_ONCE` events of it."""
        read = self._read or 0
        events = store.next_events(read, limit=AT_ONCE) if store.last_event() > read else []
        for event in events:
            if begins_work(event):
                self._began = max(self._began, event.id)
            self._read, self._unsure = event.id, True
            edge = edge_of(event)
            if edge is not None:
                yield edge
        self.behind = len(events) == AT_ONCE
        if self._unsure and not self.behind:
            if self._began > self._emptied and not (store.has_ready() or has_running(store)):
                self._emptied = self._began
                yield Edge(Notice.EMPTY, self._began, events[-1].at if events else now())
            self._unsure = False

    def keep_up(self, store: Store, waiting: Collection[Edge], at: float) -> None:
        """Have the cursors follow, now and then, but not past what waits to be told."""
        if self._read is None or at - self._kept_up_at < KEEP_UP_S:
            return
        told = min((edge.event - 1 for edge in waiting if edge.what is not Notice.EMPTY), default=self._read)
        waits = any(edge.what is Notice.EMPTY for edge in waiting)
        for name, event in ((WORK, self._began), (EMPTY, 0 if waits else self._emptied), (TOLD, told)):
            if event > self._kept.get(name, 0):
                store.move_cursor(name, event)
                self._kept[name] = event
                self._kept_up_at = at


def has_running(store: Store) -> bool:
    """Whether a task is in progress."""
    return any(task.status is Status.IN_PROGRESS for task in store.open_tasks())
