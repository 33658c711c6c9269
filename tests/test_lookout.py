"""Looking: why a task waits, whether a run lives, and reading a log that is written meanwhile."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from world import World, eventually

from dispatchctl import lookout
from dispatchctl.dispatch import dispatch
from dispatchctl.errors import Refused, TimedOut, Unanswered
from dispatchctl.lookout import held, held_for_ever, life_of
from dispatchctl.relay import Log
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Life, Phase, Run, Status, Task
from dispatchctl.windows import Windows


@pytest.fixture
def runtime(world: World) -> Runtime:
    world.repository()
    return world.runtime()


def add(world: World, runtime: Runtime, prompt: str = "exit 0", **changes: Any) -> Task:
    return world.add(runtime, prompt, repo=world.root / "repo", **changes)


def test_a_task_is_held_by_parents_time_or_nothing(world: World, runtime: Runtime) -> None:
    free, cancelled = add(world, runtime), add(world, runtime)
    runtime.store.cancel(cancelled.id, at=now())
    child = add(world, runtime, after=(free.id, cancelled.id))
    later = add(world, runtime, not_before=4_102_444_800_000)
    draft = add(world, runtime, backlog=True, after=(cancelled.id,))
    reasons = held(runtime, runtime.store.tasks())
    assert reasons == {
        child.id: f"after task {free.id}, which is ready; "
        f"task {cancelled.id} is cancelled: dispatchctl retry {cancelled.id}",
        later.id: "not before 2100-01-01T00:00:00.000Z",
    }
    assert held(runtime, [draft]) == {}


def test_held_for_ever_is_found_through_any_number_of_parents(world: World, runtime: Runtime) -> None:
    top, other = add(world, runtime), add(world, runtime)
    tasks = [add(world, runtime, after=(top.id, other.id))]
    for _ in range(5):
        tasks.append(add(world, runtime, after=(tasks[-1].id, other.id)))
    last = runtime.store.task(tasks[-1].id)
    assert held_for_ever(runtime, last) is None
    runtime.store.cancel(top.id, at=now())
    found = held_for_ever(runtime, last)
    assert found is not None
    assert found.id == top.id
    runtime.store.retry(top.id, note=None, fresh=False, recoveries=3, at=now())
    assert held_for_ever(runtime, last) is None


def test_waiting_looks_only_when_something_changed_and_names_what_is_idle(world: World, runtime: Runtime) -> None:
    ready, child = add(world, runtime), add(world, runtime)
    runtime.store.edit(child.id, {}, [ready.id], at=now())
    idle: list[int] = []
    with pytest.raises(TimedOut, match=f"tasks {ready.id}, {child.id} have not ended within 0.2 s"):
        list(
            lookout.wait(
                runtime,
                [ready.id, child.id],
                timeout=0.2,
                through_blocked=False,
                idle=lambda task: idle.append(task.id),
            )
        )
    assert idle == [ready.id]


@pytest.fixture
def run(world: World, runtime: Runtime) -> Run:
    task = add(world, runtime, "sleep 600")
    dispatch(runtime)
    found = runtime.store.task(task.id).run
    assert found is not None
    return found


def test_life_is_evidence(runtime: Runtime, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert life_of(runtime, run) is Life.ALIVE
    assert life_of(runtime, replace(run, host="another")) is Life.UNKNOWN
    assert life_of(runtime, replace(run, boot_id="an earlier one")) is Life.GONE
    stranger = replace(run, launcher_start=1, agent_start=1)
    assert life_of(runtime, stranger) is Life.ALIVE, "its processes carry the token"
    assert life_of(runtime, replace(stranger, token="00000000")) is Life.GONE

    def silent(self: Windows) -> None:
        raise Unanswered("tmux does not answer")

    monkeypatch.setattr(Windows, "_listing", silent)
    assert life_of(runtime, replace(stranger, token="00000000")) is Life.UNKNOWN


def test_a_look_is_remembered_when_it_changed(runtime: Runtime, run: Run) -> None:
    seen = lookout.look(runtime, runtime.store.task(run.task)).run
    assert seen is not None
    assert (seen.life, runtime.store.run(run.token).life) == (Life.ALIVE, Life.ALIVE)
    again = lookout.look(runtime, runtime.store.task(run.task)).run
    assert again is not None
    assert (again.life_at or 0) >= (seen.life_at or 0)
    assert runtime.store.run(run.token).life_at == seen.life_at
    os.kill(run.launcher_pid or 0, signal.SIGKILL)
    os.kill(run.agent_pid or 0, signal.SIGKILL)
    eventually(lambda: life_of(runtime, run) is Life.GONE)
    lookout.look(runtime, runtime.store.task(run.task))
    assert runtime.store.run(run.token).life is Life.GONE
    assert runtime.store.task(run.task).status is Status.IN_PROGRESS


# -- logs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A log that begins a new file after 1000 bytes."""
    return Log(str(tmp_path / "output.log"), 2_000)


def reader(tmp_path: Path, closed: list[bool], *, follow: bool) -> Iterator[bytes]:
    run = Run(**{**dict.fromkeys(Run.__dataclass_fields__), "run_dir": str(tmp_path), "phase": Phase.STARTED})  # type: ignore[arg-type]
    return lookout._Log(run).read(lambda: bool(closed), follow=follow)


def numbered(start: int, end: int) -> bytes:
    return b"".join(b"%09d\n" % number for number in range(start, end))


def test_a_log_is_read_through_every_change_of_file(tmp_path: Path, log: Log) -> None:
    log.write(numbered(0, 50))
    closed: list[bool] = []
    pieces = reader(tmp_path, closed, follow=True)
    seen = next(pieces)
    for start in range(50, 1000, 50):
        log.write(numbered(start, start + 50))
        while seen != numbered(0, start + 50):
            seen += next(pieces)
    closed.append(True)
    assert seen + b"".join(pieces) == numbered(0, 1000)


def test_a_log_is_followed_while_there_is_no_current_file(tmp_path: Path, log: Log) -> None:
    log.write(b"one\n")
    closed: list[bool] = []
    pieces = reader(tmp_path, closed, follow=True)
    assert next(pieces) == b"one\n"
    (tmp_path / "output.log").rename(tmp_path / "output.log.1")
    later = reader(tmp_path, [True], follow=False)
    assert b"".join(later) == b"one\n"
    (tmp_path / "output.log").write_bytes(b"two\n")
    assert next(pieces) == b"two\n"
    closed.append(True)
    assert list(pieces) == []


def test_a_log_that_was_changed_twice_since_is_read_on_with_what_is_left(tmp_path: Path, log: Log) -> None:
    log.write(numbered(0, 10))
    closed: list[bool] = []
    pieces = reader(tmp_path, closed, follow=True)
    assert next(pieces) == numbered(0, 10)
    log.write(numbered(10, 400))
    closed.append(True)
    rest = b"".join(pieces)
    assert rest.endswith(numbered(300, 400))
    assert rest.count(b"000000399\n") == 1


def test_a_removed_log_ends_its_reader(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir()
    log = Log(str(place / "output.log"), 2_000)
    log.write(b"x")
    pieces = reader(place, [], follow=True)
    assert next(pieces) == b"x"
    (place / "output.log").unlink()
    place.rmdir()
    assert list(pieces) == []


def test_output_of_a_run_that_never_was(world: World, runtime: Runtime) -> None:
    task = add(world, runtime)
    with pytest.raises(Refused, match=f"task {task.id} has not run yet"):
        next(lookout.output(runtime, task.id, follow=False))
