"""Fixtures. The real home, tmux server and database are out of reach of every test."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import World

for _variable in [name for name in os.environ if name.startswith(("DISPATCHCTL_", "TMUX", "GIT_", "XDG_"))]:
    del os.environ[_variable]
os.environ["HOME"] = "/nonexistent/tests-have-no-home"
# A job in a shell's background is started with Ctrl-C ignored, and what it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def world() -> Iterator[World]:
    """A private world, short of path because tmux's sockets allow no long one, and emptied afterwards."""
    root = Path(tempfile.mkdtemp(prefix="dctl-", dir="/tmp"))
    made = World(root)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(root)
