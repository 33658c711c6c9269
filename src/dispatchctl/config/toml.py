"""A TOML file with the place of each of its keys, which tomllib does not tell."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dispatchctl.errors import UsageError

FOREIGN_LIMIT = 16 << 10
"""Bytes that a repository's own file may have. A checkout can make it a link to a device, or a key of 30,000 parts,
over which tomllib sits for 20 seconds."""

_LONGEST_STATEMENT = 200
"""Lines after which the search for a key's place gives up: it reads an unfinished statement once for every line."""


class TomlFile(NamedTuple):
    path: Path
    text: str
    table: dict[str, Any]

    def place(self, keys: Sequence[str]) -> str:
        """`FILE, line N` of a key, or `FILE` where the line cannot be told."""
        line = line_of(self.text, tuple(keys))
        return str(self.path) if line is None else f"{self.path}, line {line}"


def read(path: Path, *, foreign: bool = False) -> TomlFile | None:
    """The file at `path`, `None` if there is none; a `foreign` one is not trusted to be a small ordinary file."""
    try:
        if foreign:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size > FOREIGN_LIMIT:
                raise UsageError(f"{path} is not an ordinary file of at most {FOREIGN_LIMIT >> 10} KiB")
        text = path.read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (at byte {error.start})") from None

    import tomllib  # three milliseconds, and most repositories and many users have no file

    try:
        return TomlFile(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} cannot be read: a number in it is too long, or it is nested too deeply") from None


def line_of(text: str, keys: tuple[str, ...]) -> int | None:
    """The line on which the statement begins that first names `keys`, in a text that is valid TOML.

    Every statement of valid TOML (a header, or a key with its value) is valid TOML by itself, and no beginning of one
    that spans lines is: so lines are collected until tomllib takes them, and what it read says which key they set.
    """
    import tomllib

    header: tuple[str, ...] = ()
    statement, begin = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            value: object = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            if number - begin >= _LONGEST_STATEMENT:
                return None
            continue
        if statement.lstrip().startswith("["):
            header = _only_path(value)
            value = {}
        if header[: len(keys)] == keys or (keys[: len(header)] == header and _names(value, keys[len(header) :])):
            return begin
        statement, begin = "", number + 1
    return None


def dotted(keys: Sequence[str]) -> str:
    """Keys as TOML writes them, with whatever a terminal might take for an instruction escaped."""
    return ".".join(key if _is_bare(key) else _quoted(key) for key in keys)


def _is_bare(key: str) -> bool:
    return key.isascii() and len(key) <= 80 and key.replace("-", "").replace("_", "").isalnum()


def _quoted(key: str) -> str:
    import json  # only in error messages

    return json.dumps(key if len(key) <= 80 else key[:80] + "…")


def _only_path(value: object) -> tuple[str, ...]:
    """The keys of a header, from the tables that it made: `[a.b]` made {a: {b: {}}}, `[[a.b]]` made {a: {b: [{}]}}."""
    path = []
    while isinstance(value, dict) and value:
        (key,) = value
        path.append(key)
        value = value[key]
    return tuple(path)


def _names(value: object, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True
