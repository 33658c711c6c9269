"""A desk for each test, or one for all tests of a file where they do not disturb each other."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.desk import Desk, Terminal
from world import World


@pytest.fixture(autouse=True)
def no_terminal_stays() -> Iterator[None]:
    """A test that fails leaves no command on its terminal."""
    yield
    for terminal in [*Terminal.running]:
        terminal.close()


@pytest.fixture
def desk(world: World) -> Desk:
    """A private world with a repository."""
    return Desk(world, world.repository())


@pytest.fixture(scope="module")
def shared() -> Iterator[Desk]:
    """The same for every test of a file: a world costs more than a command."""
    root = Path(tempfile.mkdtemp(prefix="dctl-", dir="/tmp"))
    made = World(root)
    try:
        yield Desk(made, made.repository())
    finally:
        made.close()
        shutil.rmtree(root)
