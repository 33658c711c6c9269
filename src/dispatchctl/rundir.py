"""A run's directory: what its launcher is told, and what it leaves. Private to the user (0700), named by the token.

spec          what to start and how: `key=value` pairs, each ended by a NUL, as the launcher reads it
prompt        the prompt, byte for byte
parents.json  what the tasks that came before have left, for DISPATCHCTL_PARENTS
environment   the agent's environment; the launcher removes it when the agent has it
control       a named pipe by which a running launcher is told to end its agent
output.log    what the agent wrote (before it, `output.log.1`)
last-message  what the agent said last, if it writes that into a file
setup.log     what git's and the user's hooks wrote
run.json      the run and its task as the database had them, for a database that is older than the run
started       made beforehand as `started.new`: the launcher renames it when the agent may begin, with both pids in it
exit.json     how the agent ended; made beforehand as `exit.json.new`, so that a full disk cannot prevent it
failed        why the launcher could not start the agent
"""

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dispatchctl import intent
from dispatchctl.intent import Intent
from dispatchctl.launcher import EXIT_FILE_SIZE, STARTED_SIZE


@dataclass(frozen=True)
class Contents:
    """What a new run directory holds."""

    spec: Mapping[str, str]
    argv: tuple[str, ...]
    prompt: str
    environment: Mapping[str, str]
    setup_log: bytes
    intent: Intent
    parents: str = "[]"


def write(path: str, contents: Contents) -> None:
    """Make the directory and everything in it, durably where it matters."""
    os.makedirs(path, mode=0o700)
    _write(path, "prompt", contents.prompt.encode())
    _write(path, "parents.json", contents.parents.encode())
    _write(path, "environment", _pairs(contents.environment.items()))
    words = [*contents.spec.items(), *(("argv", word) for word in contents.argv)]
    _write(path, "spec", _pairs(words), durable=True)
    intent.write(os.path.join(path, "run.json"), contents.intent)
    _write(path, "started.new", b" " * STARTED_SIZE)
    if contents.setup_log:
        _write(path, "setup.log", contents.setup_log)
    os.mkfifo(os.path.join(path, "control"), 0o600)
    _write(path, "exit.json.new", b" " * EXIT_FILE_SIZE, durable=True)
    for directory in (path, os.path.dirname(path)):
        _settle(directory)


def remove(path: str) -> None:
    """Remove the directory; nothing happens if it is gone."""
    while os.path.lexists(path):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            continue  # somebody else removes it too


@dataclass(frozen=True)
class Started:
    """What the launcher noted when its agent began; None is not known."""

    at: int
    awake: int | None = None
    launcher: tuple[int, int] | None = None
    agent: tuple[int, int] | None = None


def started(path: str) -> Started | None:
    """When and as what the agent of the run began; None if it never did, as far as its directory says."""
    try:
        with open(os.path.join(path, "started"), encoding="ascii") as file:
            words = [int(word) for word in file.read().split()]
            made = int(os.fstat(file.fileno()).st_mtime * 1000)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return Started(0)
    if len(words) != 6:
        return Started(made)  # the disk was full
    return Started(words[0], words[1], (words[2], words[3]), (words[4], words[5]))


def failure(path: str) -> tuple[str, str] | None:
    """Why the launcher could not start the agent: the kind of error and its sentence."""
    try:
        with open(os.path.join(path, "failed"), encoding="utf-8") as file:
            kind, _, message = file.read().partition("\n")
    except FileNotFoundError:
        return None
    return kind, message


def tell(path: str, line: str) -> bool:
    """Tell the run's launcher something; False if there is no launcher that listens."""
    try:
        descriptor = os.open(os.path.join(path, "control"), os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return False
        raise
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)
    return True


def _write(path: str, name: str, data: bytes, *, durable: bool = False) -> None:
    descriptor = os.open(os.path.join(path, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _settle(directory: str) -> None:
    """Make the directory's entries durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pairs(items: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(os.fsencode(f"{key}={value}") + b"\0" for key, value in items)
