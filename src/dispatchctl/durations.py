"""Durations and points in time, as people write them and as JSON shows them.

Durations are whole seconds; times are milliseconds since the epoch, UTC. Both are bounded, so that neither overflows a
column of the database or a timer.
"""

import time

from dispatchctl.errors import UsageError

UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
LONGEST = 3_650 * UNITS["d"]
_DIGITS = "0123456789"


def parse_duration(text: str) -> int:
    """Seconds in `90`, `30s`, `20m`, `2h`, `1d`, or units in falling order such as `1h30m`; at most ten years."""
    seconds = _seconds(text.strip())
    if seconds is None:
        raise UsageError(
            f"{_quoted(text)} is not a duration", 'write it like "90" (seconds), "30s", "20m", "2h" or "1d"'
        )
    if seconds > LONGEST:
        raise UsageError(f"{_quoted(text)} is longer than ten years", 'write at most "3650d"')
    return seconds


def format_duration(seconds: int) -> str:
    """The shortest text that `parse_duration` reads as `seconds`: `2h`, `1m30s`, `0s`."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    parts = []
    for unit, length in UNITS.items():
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_when(text: str, now_ms: int) -> int:
    """Milliseconds since the epoch of an ISO 8601 or RFC 3339 time, or of a duration (`2h`, `+2h`) from now.

    A time that names no zone is local. A bare number needs its `+` or a unit: `20261120` might be a day or a wait.
    """
    wanted = text.strip()
    moment = None
    if not wanted.isdecimal():
        seconds = _seconds(wanted.removeprefix("+"))
        if seconds is None:
            moment = _moment(wanted)
        elif seconds <= LONGEST:
            moment = now_ms + seconds * 1_000
    if moment is None:
        raise UsageError(
            f"{_quoted(text)} is not a time", 'write it like "2026-11-20T16:20", "2026-11-20T16:20Z" or "+2h"'
        )
    return moment


def format_time(ms: int) -> str:
    """RFC 3339 in UTC, always with milliseconds: `2026-11-20T16:20:01.234Z`."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(ms // 1_000))}.{ms % 1_000:03d}Z"


def _seconds(text: str) -> int | None:
    """The length of a well-formed duration, `None` of anything else."""
    if not 0 < len(text) <= 40:
        return None
    if text.isascii() and text.isdecimal():
        return int(text)
    total, digits, last = 0, "", LONGEST
    for character in text:
        if character in _DIGITS:
            digits += character
        elif digits and UNITS.get(character, last) < last:
            last = UNITS[character]
            total += int(digits) * last
            digits = ""
        else:
            return None
    return None if digits else total


def _moment(text: str) -> int | None:
    from datetime import UTC, datetime, timedelta  # a millisecond, for --not-before alone

    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    except (ValueError, OverflowError, OSError):  # the last two: years that the system's calendar does not know
        return None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
