"""What an agent's output ends with: words, without what it told its terminal."""

import pytest

from dispatchctl.plain import last_words


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        pytest.param(b"", "", id="nothing"),
        pytest.param(b"\x1b[31mred\x1b[0m \x1b]0;title\x07text\r\n", "red text", id="colours and titles"),
        pytest.param(b"10 %\r50 %\r\r\nall\r\n", "10 %\n50 %\nall", id="lines written over"),
        pytest.param(b"one  \r\n\r\ntwo\r\n\r\n\r\n", "one\n\ntwo", id="everything, if it fits"),
        pytest.param(b"a\x00b\x07c", "abc", id="control characters"),
        pytest.param("größer \N{ROCKET}".encode(), "größer \N{ROCKET}", id="UTF-8"),
        pytest.param(b"\xff\xfe", "\ufffd\ufffd", id="no UTF-8"),
    ],
)
def test_the_words_of_an_output(output: bytes, expected: str) -> None:
    assert last_words(output, 100) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        pytest.param(b"x" * 99 + b"\n\nlast\nparagraph", "last\nparagraph", id="whole paragraphs"),
        pytest.param(b"x" * 99 + b"\n\none\n\ntwo", "one\n\ntwo", id="as many as fit"),
        pytest.param(b"x" * 99 + b"\nfour\nfive\n\nsix\n\nseven", "six\n\nseven", id="no half of one"),
        pytest.param(
            b"x" * 99 + b"\n\nfour\nfives\n\nsix\nseve", "four\nfives\n\nsix\nseve", id="paragraphs that just fit"
        ),
        pytest.param(b"x" * 99 + b"\nfour\nfive", "four\nfive", id="whole lines"),
        pytest.param(b"x" * 99, "x" * 20, id="characters"),
        pytest.param(b"x" * 99 + b"\n" + b"y" * 20, "y" * 20, id="a line that just fits"),
        pytest.param("ä".encode() * 50 + b"x", "ä" * 9 + "x", id="never half a character"),
    ],
)
def test_the_end_of_a_longer_output(output: bytes, expected: str) -> None:
    assert last_words(output, 20) == expected
