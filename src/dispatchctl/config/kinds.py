"""The kinds of values that a setting can have: what is allowed, how it is read and how it is shown.

`read` takes what TOML gave and raises ValueError for what is not allowed; `from_text` turns an environment variable
into what TOML would have given; `show` is the way back to TOML.
"""

import os.path
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from dispatchctl.durations import LONGEST, format_duration, parse_duration
from dispatchctl.errors import UsageError

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
Command = tuple[str, ...]
Commands = tuple[Command, ...]

_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Kind(NamedTuple, Generic[T]):
    """One kind of value; `allowed` completes the sentence "it must be …"."""

    name: str
    allowed: str
    read: Callable[[object], T]
    show: Callable[[T], object]
    from_text: Callable[[str], object] = str
    expands: bool = False
    """Whether a leading `~/` stands for the home."""


def whole(least: int, most: int) -> Kind[int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError
        return value

    return Kind("integer", f"a whole number from {least} to {most}", read, int, from_text=int)


def duration(least: int = 0) -> Kind[int]:
    """Whole seconds, at least `least`."""

    def read(value: object) -> int:
        if not isinstance(value, int | str):
            raise ValueError
        try:
            seconds = parse_duration(str(value))
        except UsageError:
            raise ValueError from None
        if not least <= seconds <= LONGEST:
            raise ValueError
        return seconds

    floor = f" of at least {format_duration(least)}" if least else ""
    return Kind(
        "duration", f'a duration{floor} such as 90 (seconds), "30s", "20m", "2h" or "1d"', read, format_duration
    )


def size(least: int) -> Kind[int]:
    """Bytes, at least `least`."""

    def read(value: object) -> int:
        if isinstance(value, str):
            unit = _SIZES.get(value[-3:], 1)
            value = int(value[:-3] if unit > 1 else value) * unit
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 60:
            raise ValueError
        return value

    def show(value: int) -> str:
        unit = max((name for name in _SIZES if value % _SIZES[name] == 0), key=_SIZES.__getitem__, default="")
        return f"{value // _SIZES.get(unit, 1)}{unit}"

    return Kind("size", f'a size of at least {show(least)} such as "64KiB", "8MiB" or "1GiB"', read, show)


def choice(options: type[E]) -> Kind[E]:
    names = [f'"{option.value}"' for option in options]
    return Kind(" or ".join(names), " or ".join(names), options, str)


def choices(options: type[E]) -> Kind[tuple[E, ...]]:
    names = ", ".join(f'"{option.value}"' for option in options)

    def read(value: object) -> tuple[E, ...]:
        if not isinstance(value, list):
            raise ValueError
        return tuple(dict.fromkeys(options(each) for each in value))

    def show(value: tuple[E, ...]) -> object:
        return [str(each) for each in value]

    return Kind("list of names", f"a list of some of {names}", read, show, from_text=_toml_value)


def _text(test: Callable[[str], bool]) -> Callable[[object], str]:
    """A reader of one line of text, without control characters, that passes `test`."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not value.isprintable() or not test(value):
            raise ValueError
        return value

    return read


def _is_word(text: str) -> bool:
    """Never an option to the program that it is given to."""
    return " " not in text and not text.startswith("-")


def _is_branch_pattern(text: str) -> bool:
    """Whether every id and slug makes a branch name that git takes, and the id can be told from the slug."""
    if "{id}" not in text or "}{" in text:
        return False
    name = text.replace("{id}", "1").replace("{slug}", "a")
    return (
        all(character.isalnum() or character in "/._+=#-" for character in name)
        and all(part and part[0] not in ".-" and not part.endswith((".", ".lock")) for part in name.split("/"))
        and ".." not in name
    )


def _commands(value: object) -> Commands:
    if not isinstance(value, list):
        raise ValueError
    for command in value:
        if not isinstance(command, list) or not command or not command[0]:
            raise ValueError
        if not all(isinstance(word, str) and "\0" not in word for word in command):
            raise ValueError
    return tuple(tuple(command) for command in value)


def _command(value: object) -> Command:
    return _commands([value])[0] if value != [] else ()


def _urls(value: object) -> Command:
    found = _command(value)
    if not all("://" in url and url.isprintable() and " " not in url for url in found):
        raise ValueError
    return found


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _toml_value(text: str) -> object:
    import tomllib  # only where a variable holds a list

    return tomllib.loads(f"value = {text}")["value"]


_COMMANDS_ALLOWED = 'a list of commands, each a list of words, such as [["npm", "ci"]]'

FLAG = Kind("boolean", "true or false", _flag, bool, from_text=lambda text: _FLAGS.get(text.lower(), text))
NAME = Kind("string", 'one word that does not begin with "-"', _text(lambda text: text != "" and _is_word(text)), str)
REVISION = Kind("string", 'empty, or one word that does not begin with "-"', _text(_is_word), str)
BRANCH = Kind(
    "string",
    "a branch name with {id} in it, and {slug} if you like, not next to each other",
    _text(_is_branch_pattern),
    str,
)
DIRECTORY = Kind(
    "path",
    'empty, an absolute path, or one that begins with "~/"',
    _text(lambda text: not text or os.path.isabs(text)),
    str,
    expands=True,
)
PROGRAM = Kind(
    "string",
    "the name of a program on PATH, or its absolute path",
    _text(lambda text: os.path.isabs(text) or (text != "" and "/" not in text and _is_word(text))),
    str,
    expands=True,
)
SOCKET = Kind(
    "string",
    "empty, a name, or an absolute path",
    _text(lambda text: os.path.isabs(text) or ("/" not in text and text not in (".", "..") and _is_word(text))),
    str,
    expands=True,
)
COMMAND = Kind(
    "command", 'a list of words, such as ["notify-me", "--loud"]; empty: none', _command, list, from_text=_toml_value
)
URLS = Kind("list of URLs", 'a list of URLs such as ["ntfy://my-topic"]', _urls, list, from_text=_toml_value)
COMMANDS = Kind("list of commands", _COMMANDS_ALLOWED, _commands, list, from_text=_toml_value)
