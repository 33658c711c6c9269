"""What wakes the daemon in time, and what must not keep it, or others, from the database."""

import time
from pathlib import Path

from watch.daemon import watching, workers_of
from world import World, eventually

from dispatchctl.store.turnstile import Turnstile
from dispatchctl.workers import ForkServer


def test_a_task_that_is_added_while_all_is_quiet_is_claimed_before_the_next_look_that_is_due_anyway(
    world: World,
) -> None:
    """What a commit writes is heard before it can be seen: whoever looks only then sees it a second later, each time."""
    repo, runtime = world.repository(), world.runtime()
    waits = []
    with watching(world) as daemon:
        for _ in range(4):
            quiet_since = time.monotonic()
            eventually(lambda: not workers_of(daemon.process.pid) and time.monotonic() - quiet_since > 1.5)  # noqa: B023
            task = int(world.cli("add", "Wake up", "-p", "true", "--repo", str(repo)).out)
            world.started(runtime, task)
            world.ended(runtime, task)
            times = {event.kind: event.at for event in runtime.store.events(task=task)}
            waits.append(times["claimed"] - times["added"])
    assert min(waits) < 900, waits  # the best of them: a slow machine is late, but not each time


def test_a_copy_of_the_daemon_does_not_keep_the_database_to_itself(tmp_path: Path) -> None:
    """As when it forked another server for its workers while it waited to write."""
    mine, anothers = Turnstile(str(tmp_path / "tasks.db")), Turnstile(str(tmp_path / "tasks.db"))
    mine.enter(1)
    server = ForkServer({})
    try:
        mine.leave()
        anothers.enter(1)
        anothers.leave()
    finally:
        server.close()
