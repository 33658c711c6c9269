"""What a program wrote to its terminal, as text: the words without the instructions."""

import codecs
import re

from dispatchctl.render.text import shown

SEQUENCE = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
"""A control sequence (ECMA-48) or control character. Linear: no part of it matches the ESC that begins another one."""

UNFINISHED = re.compile(rb"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?|\r+)\Z")
LONGEST = 4_096
"""Bytes of a sequence whose end may still come; a longer one is taken for text."""


class Plain:
    """A filter that is fed with the output in pieces, wherever they are cut."""

    def __init__(self) -> None:
        self._kept = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, piece: bytes) -> str:
        """The text of this piece, but for what only the next one can tell."""
        data = self._kept + piece
        unfinished = UNFINISHED.search(data, max(0, len(data) - LONGEST))
        end = unfinished.start() if unfinished else len(data)
        self._kept = data[end:]
        return self._text(data[:end], final=False)

    def end(self) -> str:
        """What was kept, now that nothing more comes."""
        kept, self._kept = self._kept, b""
        return self._text(kept, final=True)

    def _text(self, data: bytes, *, final: bool) -> str:
        data = re.sub(rb"\r+\n?", b"\n", SEQUENCE.sub(b"", data))
        text = self._decoder.decode(data, final)
        return text if text.isascii() else "".join(each if each in "\n\t" else shown(each) for each in text)
