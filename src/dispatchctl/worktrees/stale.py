"""Lock files of git's that nobody holds any more, and what can be done while one stands.

git makes `NAME.lock` to change `NAME`, and a git that is killed leaves it (api-lockfile, lockfile.h). It notes no owner there,
and closes the file while it goes on working under it, so neither age nor a file that nobody has open proves anything. What
does: whoever made a lock was there before it, and is there for as long as it holds it. If the same file stood all the while
between two looks at the process table, and no git at work in the repository is in both of them, then its maker is gone.
"""

import os
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from dispatchctl import machine, processes
from dispatchctl.processes import Process

BETWEEN_LOOKS_S = 1.5
"""Longer than a git waits for `packed-refs.lock` itself, so that those who do are not in both; and time for whoever is not
seen, as in another container, to be done."""

Identity = tuple[int, ...]


def is_abandoned(lock: str, places: Collection[str]) -> bool:
    """Whether the lock file stands and whoever made it is gone; False if that cannot be told.

    `places`: where a git of the repository works, as its directories are named.
    """
    if not os.path.isdir("/proc/self"):
        return False
    lock = os.path.join(os.path.realpath(os.path.dirname(lock)), os.path.basename(lock))
    identity = _identity(lock)
    if identity is None:
        return False
    before = _may_hold(places)
    deadline = time.monotonic() + BETWEEN_LOOKS_S
    while time.monotonic() < deadline:
        if _identity(lock) != identity:
            return False
        time.sleep(0.02)
    return not before & _may_hold(places) and _identity(lock) == identity and not machine.openers([lock])


def _identity(path: str) -> Identity | None:
    """What changes if the file is made anew or written; None if it is not there, or somebody's who cannot be seen."""
    try:
        at = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(at.st_mode) or os.geteuid() not in (0, at.st_uid):
        return None
    return at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns


def _may_hold(places: Collection[str]) -> set[Process]:
    """Every git at work in the repository, by where it is or by what it was told."""
    found = set()
    at_work = {pid for place in places for pid in processes.working_in(place)}
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        if machine.name(pid).startswith("git") and (pid in at_work or _was_told(pid, places)):
            found.add(pid)
    return {(pid, start) for pid in found if (start := processes.start_time(pid)) is not None}


def _was_told(pid: int, places: Collection[str]) -> bool:
    """Whether arguments or environment of the process name one of the places, as `--git-dir` and `GIT_DIR` do."""
    told = b""
    for name in ("cmdline", "environ"):
        with suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
            told += file.read()
    return any(os.fsencode(place) in told for place in places)


def remove(lock: str, places: Collection[str]) -> bool:
    """Remove the lock file if its maker is gone; whether it was."""
    if not is_abandoned(lock, places):
        return False
    with suppress(FileNotFoundError):
        os.unlink(lock)
    return True


def remove_half_packed(common_dir: str) -> bool:
    """Remove the `packed-refs.new` of a git that was killed, under `packed-refs.lock`: without it nobody may have one."""
    new = os.path.join(common_dir, "packed-refs.new")
    if not os.path.lexists(new):
        return False
    with _locked(os.path.join(common_dir, "packed-refs.lock")) as held:
        if held:
            with suppress(FileNotFoundError):
                os.unlink(new)
        return held


def delete_loose(common_dir: str, ref: str, expected: str) -> bool:
    """Delete a ref as git's files backend does, but without `packed-refs.lock`; False, and it stays, if that cannot be.

    Under the ref's own lock: it is a file of its own that holds exactly the `expected` id, and `packed-refs`, which would
    bring it back, does not name it. Reflog first, then the ref, then the directories that are empty (refs/files-backend.c,
    `files_transaction_finish`). A git that is packing refs now may bring it back: the caller made sure that there is none.
    """
    path = os.path.join(common_dir, ref)
    with _locked(f"{path}.lock") as held:
        if not held or _content(path) != f"{expected}\n".encode() or _is_packed(common_dir, ref):
            return False
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(os.path.join(common_dir, "logs", ref))
        os.unlink(path)
    for top in (common_dir, os.path.join(common_dir, "logs")):
        _remove_empty_parents(top, ref)
    return True


@contextmanager
def _locked(lock: str) -> Iterator[bool]:
    """git's own lock on the file beside it; False if somebody else holds it, or there is no directory for it."""
    try:
        os.close(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    except (FileExistsError, FileNotFoundError, NotADirectoryError):
        yield False
        return
    try:
        yield True
    finally:
        with suppress(FileNotFoundError):
            os.unlink(lock)


def _content(path: str) -> bytes | None:
    """What a loose ref holds; None if it is not a file of its own, as a link is not."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return file.read(1_000)
    except OSError:
        return None


def _is_packed(common_dir: str, ref: str) -> bool:
    """Whether `packed-refs` names the ref: each of its lines is an id, a blank and a name."""
    try:
        with open(os.path.join(common_dir, "packed-refs"), "rb") as file:
            return any(line.rstrip(b"\n").partition(b" ")[2] == os.fsencode(ref) for line in file)
    except FileNotFoundError:
        return False


def _remove_empty_parents(top: str, ref: str) -> None:
    """Remove the directories above the ref that are empty, but for those that git never removes, as `refs/heads`."""
    above = os.path.dirname(ref)
    while above.count("/") > 1:
        try:
            os.rmdir(os.path.join(top, above))
        except OSError:
            return
        above = os.path.dirname(above)
