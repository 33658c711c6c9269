"""What a program wrote to its terminal, as text: the words without the instructions."""

import codecs
import re

from dispatchctl.plain import words
from dispatchctl.render.text import shown

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
        text = self._decoder.decode(words(data), final)
        return text if text.isascii() else "".join(each if each in "\n\t" else shown(each) for each in text)
