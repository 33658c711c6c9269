"""Hearing of changes of files in a directory, from Linux' inotify(7). Nowhere else, and not on file systems of other hosts."""

import ctypes
import os
import sys

MODIFIED, CREATED, MOVED_HERE, DELETED_ITSELF = 0x2, 0x100, 0x80, 0x400
NONBLOCKING, CLOSED_ON_EXEC = os.O_NONBLOCK, os.O_CLOEXEC


class Changes:
    """A descriptor that becomes readable when a file of the directory is made, written to or moved there."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def forget(self) -> None:
        """Have it be readable only for what changes from now on."""
        try:
            while os.read(self.descriptor, 1 << 16):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Stop listening."""
        os.close(self.descriptor)


def listen(directory: str) -> Changes | None:
    """Listen to the directory; None where that is not possible, as where every watch of the user is taken."""
    if not sys.platform.startswith("linux"):
        return None
    system = ctypes.CDLL(None, use_errno=True)
    descriptor = system.inotify_init1(NONBLOCKING | CLOSED_ON_EXEC)
    if descriptor < 0:
        return None
    events = MODIFIED | CREATED | MOVED_HERE | DELETED_ITSELF
    if system.inotify_add_watch(descriptor, os.fsencode(directory), events) < 0:
        os.close(descriptor)
        return None
    return Changes(descriptor)
