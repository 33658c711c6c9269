"""What a program wrote to its terminal, without the instructions that it gave the terminal. Pure."""

import re

SEQUENCE = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)
"""A control sequence (ECMA-48) or control character. Linear: no part of it matches the ESC that begins another one."""

LINE_END = re.compile(rb"\r+\n?")
PARAGRAPH = re.compile(r"\n[ \t]*\n")


def words(output: bytes) -> bytes:
    """The output without control sequences, and with plain line ends."""
    return LINE_END.sub(b"\n", SEQUENCE.sub(b"", output))


def last_words(output: bytes, longest: int) -> str:
    """The end of the output, at most so many bytes: whole paragraphs if they fit, else whole lines, else characters."""
    text = "\n".join(line.rstrip() for line in words(output).decode("utf-8", "replace").splitlines()).strip()
    data = text.encode()
    if len(data) <= longest:
        return text
    tail = data[-longest:].decode("utf-8", "ignore")
    before = data[:-longest].decode("utf-8", "ignore")
    if before.endswith("\n\n"):
        return tail.strip()
    paragraph = PARAGRAPH.search(tail)
    if paragraph is not None:
        return tail[paragraph.end() :].strip()
    return (tail if before.endswith("\n") else tail.partition("\n")[2] or tail).strip()
