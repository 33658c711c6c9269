"""Text for people: what is left out of it, and how a table is fitted to a terminal."""

import random
import time

import pytest
from rich.cells import cell_len

from dispatchctl.render import views
from dispatchctl.render.plain import Plain
from dispatchctl.render.tables import LAST, drawn, fit, wrapped
from dispatchctl.render.text import Cell, Heads, ago, span, visible

NOISE = (
    "plain \x1b[1;31mred\x1b[0m é 🎉 \x1b]8;;http://x\x1b\\link\x1b]8;;\x07 \x1bPq#0\x1b\\ \x1b(B\x1b=\x1b[?2004h"
    "a\rb\r\nc\r\r\nd\te\x08\x00\x7f\x9b\u202e\xa0 end\x1b"
).encode()
WORDS = "plain red é 🎉 link  a\nb\nc\nd\te··\xa0 end"


def test_a_stream_is_the_same_text_however_it_is_cut() -> None:
    whole = Plain()
    assert whole.feed(NOISE) + whole.end() == WORDS
    dice = random.Random(1)
    for _ in range(300):
        plain, said, rest = Plain(), "", NOISE
        while rest:
            size = dice.randint(1, 9)
            said, rest = said + plain.feed(rest[:size]), rest[size:]
        assert said + plain.end() == WORDS


def test_what_may_still_become_a_sequence_waits_and_no_longer() -> None:
    plain = Plain()
    assert plain.feed(b"one\x1b[3") == "one"
    assert plain.feed(b"1mtwo\xce") == "two"
    assert plain.feed(b"\xb1\r") == "α"
    assert plain.feed(b"\n") == "\n"
    assert plain.feed(b"x\x1b]" + b"y" * 10_000) == "x" + "y" * 10_000
    assert plain.end() == ""


@pytest.mark.parametrize("unit", [b"\x1b]", b"\x1b[", b"\x1b", b"\r", b"\x1b]0;", b"\x1b[1;"])
def test_no_output_takes_long_to_read(unit: bytes) -> None:
    plain, began = Plain(), time.process_time()
    for _ in range(8):
        plain.feed(unit * (65_536 // len(unit)))
    plain.end()
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 🎉 👩‍👧 ✔️", "plain é 🎉 👩‍👧 ✔️"),
        ("a\nb\rc\td", "a b c d"),
        ("\x1b[31m \x07 \x7f \x9b", "·[31m · · ·"),
        ("\u202e \u2066 \u200b \ufeff \u2028 \u2029 \ue000 \udcff \U000e0041", "· · · · · · · · ·"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
    ],
)
def test_visible_text_holds_nothing_that_a_terminal_obeys(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("ms", "text"),
    [(-5, "0s"), (999, "0s"), (59_999, "59s"), (60_000, "1m"), (3_600_000, "1h"), (172_800_000, "2d")],
)
def test_how_long_ago(ms: int, text: str) -> None:
    assert span(ms) == text
    assert ago(None, 5) == ""


HEADS = Heads(("ID", "STATUS", "BRANCH", "TITLE"), ("BRANCH",))


@pytest.mark.parametrize(
    ("widths", "terminal", "kept"),
    [
        pytest.param([2, 9, 20, 30], 100, {0: 2, 1: 9, 2: 20, 3: 30}, id="room-for-all"),
        pytest.param([2, 9, 20, 30], 63, {0: 2, 1: 9, 2: 20, 3: 26}, id="the-last-is-cut"),
        pytest.param([2, 9, 20, 30], 60, {0: 2, 1: 9, 3: 30}, id="the-branch-goes"),
        pytest.param([2, 9, 20, 10], 47, {0: 2, 1: 9, 2: 20, 3: 10}, id="a-short-last-needs-no-more"),
        pytest.param([2, 9, 20, 30], 38, {0: 2, 1: 8, 3: LAST}, id="the-middle-shrinks"),
        pytest.param([5, 9, 20, 30], 12, {0: 5, 1: 4, 3: 1}, id="the-first-never-does"),
    ],
)
def test_columns_give_way_in_their_order(widths: list[int], terminal: int, kept: dict[int, int]) -> None:
    assert fit(HEADS, widths, terminal) == kept


def test_a_column_that_wraps_leaves_nothing_out_and_no_command_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    why = "blocked: which one of them? (dispatchctl attach 6, or dispatchctl unblock 6 -m 'ANSWER')"
    lines = drawn(
        views.WHY_HEADS,
        [[Cell("6"), Cell("A long title " * 9), Cell(why)], [Cell("7"), Cell("B"), Cell("done")]],
        no_color=True,
    ).splitlines()
    assert all(cell_len(line) <= 80 for line in lines)
    start = lines[0].index("WHY")
    assert " ".join(line[start:].strip() for line in lines[1:-1]) == why
    assert any(line.strip().startswith("dispatchctl unblock 6 -m 'ANSWER')") for line in lines)
    assert all(line[:start].strip() == "" for line in lines[2:-1])
    assert lines[-1].split() == ["7", "B", "done"]


@pytest.mark.parametrize("width", [1, 5, 12, 30, 200])
def test_wrapped_text_fits_and_is_all_there(width: int) -> None:
    text = (
        "ready: 3rd in line; 🎉 ｗｉｄｅ /a/very/long/path/without/any/space: dispatchctl unpause --repo '/a b/c' now"
    )
    lines = wrapped(text, width)
    assert all(cell_len(line) <= max(width, 2) for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped("", width) == [""]


def test_every_column_that_gives_way_exists_and_the_outer_ones_never_do() -> None:
    for heads in (views.TASK_HEADS, views.RUN_HEADS, views.EVENT_HEADS, views.WHY_HEADS):
        assert set(heads.give_way) < set(heads.names)
        assert heads.names[-1] not in heads.give_way
    assert "ID" not in views.TASK_HEADS.give_way
    assert cell_len("ｗ") == 2
