"""Durations and points in time are read as people write them, and whatever else is refused."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatchctl.durations import LONGEST, format_duration, format_time, parse_duration, parse_when
from dispatchctl.errors import UsageError

NOW = 1_795_278_001_234  # 2026-11-21T16:20:01.234Z


@pytest.fixture
def india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local time that is not UTC, so that the two cannot be mistaken for each other."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "IST-5:30")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("90", 90),
        ("30s", 30),
        ("20m", 1_200),
        ("2h", 7_200),
        ("1d", 86_400),
        ("1h30m", 5_400),
        ("1d2h3m4s", 93_784),
        (" 2h ", 7_200),
        ("3650d", LONGEST),
    ],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "h",
        "2 h",
        "2H",
        "1.5h",
        "-1h",
        "+1h",
        "1w",
        "500ms",
        "30m1h",
        "1h1h",
        "1h30",
        "٣m",
        "1_0",
        "0x10",
        "9" * 5_000,
    ],
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration") as caught:
        parse_duration(text)
    assert '"2h"' in (caught.value.hint or "")
    assert len(caught.value.message) < 100


@pytest.mark.parametrize("text", ["3651d", str(LONGEST + 1), "9" * 30])
def test_a_duration_that_would_overflow_a_timer_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="longer than ten years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (30, "30s"),
        (60, "1m"),
        (90, "1m30s"),
        (7_200, "2h"),
        (43_200, "12h"),
        (90_000, "1d1h"),
        (-90, "-1m30s"),
    ],
)
def test_a_duration_is_shown_in_its_largest_units(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, LONGEST))
def test_a_shown_duration_reads_as_itself(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(("text", "wait"), [("2h", 7_200), ("+2h", 7_200), ("+90", 90), ("1h30m", 5_400), ("0s", 0)])
def test_a_wait_counts_from_now(text: str, wait: int) -> None:
    assert parse_when(text, NOW) == NOW + wait * 1_000


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21T16:20:01.234Z",
        "2026-11-21T16:20:01.234+00:00",
        "2026-11-21 18:20:01.234+02:00",
        "20261121T162001.234Z",
        " 2026-11-21T16:20:01.234Z ",
    ],
)
def test_a_time_with_a_zone_means_that_moment_everywhere(india: None, text: str) -> None:
    assert parse_when(text, 0) == NOW


@pytest.mark.parametrize(
    ("text", "moment"),
    [("2026-11-21T21:50:01.234", NOW), ("2026-11-21T21:50", NOW - 1_234), ("1970-01-02", 86_400_000 - 19_800_000)],
)
def test_a_time_without_a_zone_is_local(india: None, text: str, moment: int) -> None:
    assert parse_when(text, 0) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "++2h",
        "-2h",
        "tomorrow",
        "16:20",
        "90",
        "20261120",
        "2026",
        "2026-13-01",
        "3651d",
        "0001-01-01",
        "9999-12-31T23:59-05:00",
    ],
)
def test_what_is_no_time_is_refused_with_an_example(india: None, text: str) -> None:
    with pytest.raises(UsageError, match="is not a time") as caught:
        parse_when(text, NOW)
    assert "2026-11-20T16:20" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("ms", "text"),
    [(NOW, "2026-11-21T16:20:01.234Z"), (0, "1970-01-01T00:00:00.000Z"), (-1, "1969-12-31T23:59:59.999Z")],
)
def test_a_time_is_shown_in_utc_with_milliseconds(india: None, ms: int, text: str) -> None:
    assert format_time(ms) == text


@given(st.integers(0, 253_402_300_799_999))
def test_a_shown_time_reads_as_itself(ms: int) -> None:
    assert parse_when(format_time(ms), 0) == ms
