"""A healthy fleet gives no finding, however large it is."""

import os
import subprocess
import sys
import time

import pytest
from world import World, eventually

from dispatchctl.dispatch import dispatch
from dispatchctl.doctor.every import CHECKS, Finding, examine
from dispatchctl.examination import look
from dispatchctl.task import Status

MANY = 100


@pytest.fixture
def room(world: World) -> World:
    """A world that may run many agents at once."""
    world.extra |= {"DISPATCHCTL_DISPATCH__MAX_RUNNING": str(MANY + 1)}
    return world


def test_nothing_is_found_in_a_healthy_fleet_of_a_hundred(room: World) -> None:
    runtime = room.runtime()
    repos = [room.repository(f"repo{number}") for number in range(4)]
    ended = [room.add(runtime, prompt, repo=repos[0]) for prompt in ("echo done > work", "exit 3")]
    assert len(dispatch(runtime).started) == 2
    for task in ended:
        room.ended(runtime, task.id)
    running = [room.add(runtime, "sleep 600", repo=repos[number % 4]) for number in range(MANY)]
    assert len(dispatch(runtime).started) == MANY
    room.add(runtime, "true", repo=repos[1])
    room.add(runtime, "true", repo=repos[1], backlog=True)
    room.add(runtime, "true", repo=repos[1], after=(running[0].id,))
    eventually(lambda: len(runtime.store.open_runs()) == MANY)
    began = time.monotonic()
    said = room.cli("doctor")
    took = time.monotonic() - began
    assert (said.code, said.out, said.err) == (0, f"all is well: {len(CHECKS)} checks\n", "")
    assert room.cli("doctor", "--fix", "--json").json == {"schema_version": 1, "ok": True, "findings": [], "mended": []}
    statuses = [runtime.store.task(task.id).status for task in running]
    assert statuses == [Status.IN_PROGRESS] * MANY, "it only looked"
    print(f"doctor took {took:.2f} s")
    assert took < 10, f"{took:.1f} s on {os.cpu_count()} cores"


DISPATCHER = """
from dispatchctl.config import Environment
from dispatchctl.dispatch import dispatch
from dispatchctl.runtime import Runtime
runtime = Runtime(Environment.read(), private_tmux=True)
while runtime.store.claimable(at=2**60, limit=1):
    dispatch(runtime, most=1)
"""


def test_nothing_is_found_while_agents_come_and_go(room: World) -> None:
    repo, runtime = room.repository(), room.runtime()
    prompts = ["true", "echo 1 > work", "exit 3", "dispatchctl done -m ready; sleep 600", "sleep 0.3", "kill -9 $$"]
    for number in range(36):
        room.add(runtime, prompts[number % len(prompts)], repo=repo)
    dispatchers = [subprocess.Popen([sys.executable, "-c", DISPATCHER], env=room.variables) for _ in range(2)]
    looks, found = 0, list[Finding]()
    while runtime.store.open_runs() or any(each.poll() is None for each in dispatchers):
        found += examine(look(room.runtime()))
        looks += 1
    assert [each.wait() for each in dispatchers] == [0, 0]
    assert (found, looks > 10) == ([], True), f"{looks} looks"


def test_nothing_is_found_where_nothing_was_done_yet(world: World) -> None:
    world.runtime().make_store()
    assert world.cli("doctor").out == f"all is well: {len(CHECKS)} checks\n"
