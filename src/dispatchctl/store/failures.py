"""What went wrong with a database file, as a sentence with a hint. Imported only once something has."""

import errno
import os
import shlex
import sqlite3

from dispatchctl.errors import Busy, DispatchctlError, Unavailable

UNWRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def explained(error: sqlite3.Error | OSError, path: str) -> DispatchctlError:
    """What the user is told: decided by error numbers, since a text may hold anybody's file names."""
    return _of_system(error, path) if isinstance(error, OSError) else _of_sqlite(error, path)


def _of_system(error: OSError, path: str) -> DispatchctlError:
    if error.errno == errno.ENOENT:
        return missing(path)
    if error.errno in FULL:
        return _full(path)
    if error.errno in UNWRITABLE:
        return _unwritable(path, error.strerror or str(error))
    return Unavailable(f"the database {path} cannot be used: {error.strerror}", f"ls -ld {shlex.quote(path)}")


def _of_sqlite(error: sqlite3.Error, path: str) -> DispatchctlError:
    quoted = shlex.quote(path)
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Busy(f"the database {path} is locked by another program", f"fuser {quoted}")
        case sqlite3.SQLITE_CONSTRAINT:
            return DispatchctlError(
                f"the database {path} refused a change that breaks its rules: {error}", "dispatchctl history"
            )
        case sqlite3.SQLITE_FULL:
            return _full(path)
        case sqlite3.SQLITE_CANTOPEN if os.path.isdir(path):
            return _directory(path)
        case sqlite3.SQLITE_CANTOPEN if not os.path.lexists(path):
            return missing(path)
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return _full(path) if _is_full(path) else _unwritable(path, str(error))
        case sqlite3.SQLITE_IOERR if _is_full(path):
            return _full(path)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Unavailable(
                f"the database {path} cannot be read: {error}",
                f"sqlite3 {quoted} .recover | sqlite3 {shlex.quote(path + '.recovered')}",
            )
    return Unavailable(
        f"the database {path} cannot be used: {error}", f"sqlite3 {shlex.quote(path)} 'PRAGMA quick_check'"
    )


def missing(path: str) -> DispatchctlError:
    """There is no such file."""
    return DispatchctlError(f"there is no database at {path}", "dispatchctl init")


def _directory(path: str) -> DispatchctlError:
    return Unavailable(f"{path} is a directory, not a database", "dispatchctl config")


def _unwritable(path: str, why: str) -> DispatchctlError:
    paths = shlex.join([os.path.dirname(path) or ".", path])
    return Unavailable(f"the database {path} cannot be written: {why}", f"ls -ld {paths}")


def _full(path: str) -> DispatchctlError:
    directory = shlex.quote(os.path.dirname(path) or ".")
    return Unavailable(f"the disk that holds {path} is full; nothing was changed", f"df -h {directory}")


def _is_full(path: str) -> bool:
    """SQLite calls some writes that find no room, as those of its shared-memory file, an error of the disk."""
    try:
        return os.statvfs(os.path.dirname(path) or ".").f_bavail == 0
    except OSError:
        return False
