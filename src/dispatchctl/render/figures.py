"""`stats`, as JSON and for people."""

from collections.abc import Iterable, Iterator
from typing import Any

from dispatchctl.durations import format_time
from dispatchctl.figures import DAY_MS, HOUR_MS, Share, Spread, Stats
from dispatchctl.render.shapes import moment
from dispatchctl.render.text import STATUS_STYLE, Cell, Heads, span
from dispatchctl.task import Status

HEADS = Heads(
    ("OF", "OPEN", "READY", "DONE", "A DAY", "FAILED", "WAITED", "P95", "RAN", "P95", "NAME"),
    ("A DAY", "OPEN", "READY"),
)


def shape(value: Stats) -> dict[str, Any]:
    """The object of the contract."""
    return {
        "since": moment(value.since),
        "until": moment(value.until),
        "all": share(value.everything, value),
        "agents": [share(each, value) for each in value.agents],
        "repositories": [share(each, value) for each in value.repos],
    }


def share(value: Share, whole: Stats) -> dict[str, Any]:
    """The figures of one thing."""
    oldest = value.oldest
    return {
        "name": value.name,
        "tasks": {status: value.tasks[status] for status in Status},
        "open_runs": value.open_runs,
        "limit": value.limit or None,
        "done": value.done,
        "done_per_hour": _rate(value.done, whole, HOUR_MS),
        "done_per_day": _rate(value.done, whole, DAY_MS) if whole.length >= DAY_MS else None,
        "runs": value.runs,
        "waited": spread(value.waited),
        "ran": spread(value.ran),
        "failures": dict(value.failures.most_common()),
        "retries": value.retries,
        "recoveries": value.recoveries,
        "oldest_ready": None
        if oldest is None
        else {
            "task": oldest.task,
            "since": moment(oldest.ready_at),
            "waited_s": (whole.until - oldest.ready_at) / 1000,
        },
    }


def spread(value: Spread) -> dict[str, Any]:
    """A length of time, in seconds."""
    return {
        "count": value.count,
        "median_s": _seconds(value.median),
        "p95_s": _seconds(value.p95),
        "longest_s": _seconds(value.longest),
    }


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def _rate(count: int, whole: Stats, per_ms: int) -> float:
    return round(count * per_ms / whole.length, 3)


def _round(rate: float) -> str:
    """A rate as people want it: two digits, or whole."""
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def page(value: Stats) -> Iterator[str]:
    """The figures of everything, a line each."""
    all_, oldest = value.everything, value.everything.oldest
    yield f"since       {format_time(value.since)}, {_time(value.length)} ago"
    yield f"tasks       {_listed(all_.tasks.items()) or 'none'}"
    yield f"open runs   {all_.open_runs}{f' of at most {all_.limit}' if all_.limit else ''}"
    if oldest is not None:
        yield f"oldest      task {oldest.task} has been ready for {span(value.until - oldest.ready_at)}"
    a_day = f"{_round(_rate(all_.done, value, DAY_MS))} a day, " if value.length >= DAY_MS else ""
    dropped = f"; of {value.dropped} more the history was dropped" if value.dropped else ""
    yield f"done        {all_.done}: {a_day}{_round(_rate(all_.done, value, HOUR_MS))} an hour{dropped}"
    for name, found in (("waited", all_.waited), ("ran", all_.ran)):
        if found.count:
            median, p95, longest = _time(found.median), _time(found.p95), _time(found.longest)
            yield f"{name:<10}  median {median}, 95 % within {p95}, longest {longest}; {found.count} runs"
    yield f"failures    {_listed(all_.failures.most_common(), ' × ') or 'none'}; {all_.runs} runs ended"
    yield f"spent       retries {all_.retries}, recoveries {all_.recoveries}"


def _listed(counts: "Iterable[tuple[str, int]]", times: str = " ") -> str:
    return ", ".join(f"{count}{times}{name}" for name, count in counts if count)


def row(value: Share, whole: Stats) -> tuple[Cell, ...]:
    """The figures of one agent or repository."""
    return (
        Cell(value.kind),
        Cell(str(value.open_runs)),
        Cell(str(value.tasks[Status.READY])),
        Cell(str(value.done)),
        Cell(_round(_rate(value.done, whole, DAY_MS)) if whole.length >= DAY_MS else ""),
        Cell(str(value.failures.total()), STATUS_STYLE["failed"] if value.failures else ""),
        Cell(_time(value.waited.median)),
        Cell(_time(value.waited.p95)),
        Cell(_time(value.ran.median)),
        Cell(_time(value.ran.p95)),
        Cell(value.name or ""),
    )


def _time(ms: int | None) -> str:
    """A length of time in its largest unit, with more of it below ten seconds."""
    if ms is None:
        return ""
    if ms < 100:
        return f"{ms}ms"
    return f"{ms / 1000:.1f}s" if ms < 10_000 else span(ms)
