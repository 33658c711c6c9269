"""A desk for each test, or one for all tests of a file where they do not disturb each other."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.desk import Desk
from cli.terminal import Terminal
from world import World, eventually

from dispatchctl.task import Status


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


@pytest.fixture(scope="module")
def crowd(shared: Desk) -> dict[str, int]:
    """One task of each kind, by name."""
    tasks = {
        "cancelled": shared.add("Cancelled", "x", "--label", "a"),
        "done": shared.ended("Done", "exit 0", "--label", "a,b"),
        "failed": shared.ended("Failed", "exit 7"),
        "review": shared.ended("Review", "echo x > x"),
        "done2": shared.ended("Done too", "exit 0"),
        "late": shared.add("Late", "x", "--priority", "3"),
        "soon": shared.add("Soon", "x", "--priority", "1", "--label", "b"),
        "draft": shared.add("Draft", "x", "--backlog"),
        "blocked": shared.dispatched("Blocked", "dispatchctl block -m 'which one?'; sleep 600"),
        "runs": shared.dispatched("Runs", "sleep 600"),
    }
    shared.ok("cancel", str(tasks["cancelled"]))
    tasks["held"] = shared.add("Held", "x", "--after", str(tasks["failed"]))
    tasks["deferred"] = shared.add("Deferred", "x", "--not-before", "2099-01-01T00:00Z")
    eventually(lambda: shared.task(tasks["blocked"]).status is Status.BLOCKED)
    return tasks
