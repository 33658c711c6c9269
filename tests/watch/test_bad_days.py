"""The daemon on bad days: whatever dies, hangs, fills up or disappears, it goes on, and says once what is wrong."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from watch.daemon import become, children_of, watching, workers_of
from world import World, eventually

from dispatchctl.task import Outcome, Phase, Status


@pytest.fixture
def repo(world: World) -> Path:
    return world.repository()


@pytest.fixture
def settings(world: World) -> Path:
    """The user's settings file, which is not there yet."""
    file = world.home / ".config/dispatchctl/config.toml"
    file.parent.mkdir(parents=True)
    return file


def test_a_tmux_server_that_the_user_restarts_costs_a_recovery_and_no_task(world: World, repo: Path) -> None:
    runtime = world.runtime()
    mark = world.root / "again"
    prompt = f"[ -e {mark} ] && exit 0; touch {world.root}/seen-$DISPATCHCTL_TASK; while :; do sleep 0.05; done"
    with watching(world, "--interval", "1", DISPATCHCTL_DISPATCH__RETRY_WAIT="1") as daemon:
        tasks = [world.add(runtime, prompt, repo=repo).id for _ in range(3)]
        for task in tasks:
            eventually((world.root / f"seen-{task}").exists)
        mark.touch()
        world.tmux("kill-server")
        become(runtime, tasks, Status.DONE)
        assert [[run.outcome for run in runtime.store.runs(task)] for task in tasks] == [
            [Outcome.LOST, Outcome.EXITED]
        ] * 3
        assert daemon.stop()[0] == 0


def test_a_tmux_that_stands_still_is_said_once_and_goes_on_when_it_wakes(world: World, repo: Path) -> None:
    runtime = world.runtime()
    with watching(world, "--interval", "1", DISPATCHCTL_TMUX__TIMEOUT="1") as daemon:
        first = world.add(runtime, "while [ ! -e /nowhere ]; do sleep 0.05; done", repo=repo)
        world.started(runtime, first.id)
        server = int(world.tmux("display-message", "-p", "#{pid}"))
        os.kill(server, signal.SIGSTOP)
        try:
            second = world.add(runtime, "true", repo=repo)
            daemon.says("did not answer within 1 s")
            assert runtime.store.task(first.id).status is Status.IN_PROGRESS
        finally:
            os.kill(server, signal.SIGCONT)
        become(runtime, [second.id], Status.DONE)
        world.cli("cancel", str(first.id))
        assert daemon.stop()[0] == 0


def test_a_database_that_somebody_holds_is_waited_for(world: World, repo: Path) -> None:
    runtime = world.runtime()
    with watching(world, "--interval", "1", DISPATCHCTL_STORE__BUSY_TIMEOUT="1") as daemon:
        task = world.add(runtime, "true", repo=repo, backlog=True)
        gate = os.open(f"{runtime.database}-gate", os.O_RDWR)
        runtime.store.release([task.id], at=1)
        fcntl.flock(gate, fcntl.LOCK_EX)
        try:
            daemon.says("has been held by")
        finally:
            os.close(gate)
        become(runtime, [task.id], Status.DONE)
        assert daemon.log.count("has been held by") == 1
        assert daemon.stop()[0] == 0


def test_a_database_that_is_moved_away_and_put_back_is_opened_again(world: World, repo: Path) -> None:
    """Never does the daemon go on with a file that is not the database any more."""
    with watching(world, "--interval", "1") as daemon:
        runtime = world.runtime()
        done = world.add(runtime, "true", repo=repo).id
        become(runtime, [done], Status.DONE)
        path, copy = runtime.database, world.root / "copy.db"
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        runtime.store.close()
        for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            name.unlink(missing_ok=True)
        daemon.says("there is no database")
        shutil.copy(copy, world.root / "new.db")
        os.rename(world.root / "new.db", path)
        runtime = world.runtime()
        task = world.add(runtime, "true", repo=repo).id
        become(runtime, [task], Status.DONE)
        assert "Traceback" not in daemon.log
        assert daemon.stop()[0] == 0


def test_a_database_that_cannot_be_looked_at_for_a_while_does_not_end_it(world: World, repo: Path) -> None:
    runtime = world.runtime()
    place, away = runtime.database.parent, world.root / "away"
    with watching(world, "--interval", "1") as daemon:
        os.rename(place, away)
        place.write_text("in its place")
        daemon.says("Not a directory")
        place.unlink()
        os.rename(away, place)
        task = world.add(runtime, "true", repo=repo).id
        become(runtime, [task], Status.DONE)
        assert daemon.stop()[0] == 0


def test_a_repository_that_disappears_fails_its_own_tasks_alone(world: World, repo: Path) -> None:
    other = world.repository("other")
    runtime = world.runtime()
    gone = [world.add(runtime, "true", repo=other).id for _ in range(3)]
    shutil.rmtree(other)
    with watching(world) as daemon:
        fine = world.add(runtime, "true", repo=repo).id
        become(runtime, [fine], Status.DONE)
        become(runtime, gone, Status.FAILED)
        assert "there is no directory" in (runtime.store.task(gone[0]).error or "")
        assert daemon.stop()[0] == 0


def test_a_task_that_cannot_be_launched_never_keeps_others_waiting(world: World, repo: Path, settings: Path) -> None:
    other = world.repository("other")
    settings.write_text(f'[repositories."{other}"]\nhooks.post_create = [["false"]]\n')
    runtime = world.runtime()
    bad = [world.add(runtime, "true", repo=other, priority=0, recoveries=50).id for _ in range(3)]
    with watching(world, "--max-running", "1", DISPATCHCTL_DISPATCH__RETRY_WAIT="1") as daemon:
        fine = [world.add(runtime, "true", repo=repo, priority=4).id for _ in range(6)]
        become(runtime, fine, Status.DONE)
        assert all(runtime.store.task(task).status is Status.READY for task in bad) or all(
            run.phase is not Phase.STARTED for task in bad for run in runtime.store.runs(task)
        )
        assert daemon.stop()[0] == 0


def test_many_tasks_that_all_fail_at_once_leave_it_alive_and_others_done(
    world: World, repo: Path, settings: Path
) -> None:
    settings.write_text('[agents.gone]\nargv = ["no-such-program", "{prompt}"]\n')
    runtime = world.runtime()
    runtime.make_store()
    bad = [world.add(runtime, "true", repo=repo).id for _ in range(40)]
    for task in bad:
        runtime.store.edit(task, {"agent": "gone"}, None, at=1)
    with watching(world) as daemon:
        fine = world.add(runtime, "true", repo=repo, priority=4).id
        become(runtime, [*bad, fine], Status.FAILED, Status.DONE, within=120)
        assert runtime.store.task(fine).status is Status.DONE
        assert "no-such-program" in (runtime.store.task(bad[0]).error or "")
        assert world.git(repo, "worktree", "list").count("\n") == 1  # the repository itself and the task that ran
        assert daemon.stop()[0] == 0


def test_a_worker_that_is_killed_is_mended_by_the_next_reconcile(world: World, repo: Path, settings: Path) -> None:
    slow, mark = world.repository("slow"), world.root / "hooked"
    script = f"[ -e {mark} ] && exit 0; touch {mark}; exec sleep 1000"
    settings.write_text(f'[repositories."{slow}"]\nhooks.post_create = [["sh", "-c", {json.dumps(script)}]]\n')
    runtime = world.runtime()
    with watching(world, "--interval", "1", DISPATCHCTL_DISPATCH__RETRY_WAIT="1") as daemon:
        task = world.add(runtime, "true", repo=slow).id
        eventually(mark.exists)
        for pid in workers_of(daemon.process.pid):
            os.kill(pid, signal.SIGKILL)
        daemon.says("was killed or has failed")
        become(runtime, [task], Status.DONE)
        assert [each.outcome for each in runtime.store.runs(task)] == [Outcome.ROLLED_BACK, Outcome.EXITED]
        assert daemon.stop()[0] == 0


def test_the_server_of_workers_is_made_again_when_it_was_killed(world: World, repo: Path) -> None:
    runtime = world.runtime()
    with watching(world, "--interval", "1") as daemon:
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL):
            task = world.add(runtime, "true", repo=repo).id
            become(runtime, [task], Status.DONE)
            [server] = eventually(lambda: children_of(daemon.process.pid))
            os.kill(server, number)
        daemon.says("the process that starts workers is gone")
        task = world.add(runtime, "true", repo=repo).id
        become(runtime, [task], Status.DONE)
        assert daemon.stop()[0] == 0


def test_killed_itself_in_the_middle_of_launches_the_next_one_goes_on(world: World, repo: Path) -> None:
    runtime = world.runtime()
    tasks: list[int] = []
    for _ in range(3):
        with watching(world, "--interval", "1", DISPATCHCTL_DISPATCH__RETRY_WAIT="1") as daemon:
            tasks += [world.add(runtime, "sleep 0.3", repo=repo).id for _ in range(4)]
            eventually(runtime.store.open_runs)
            daemon.process.kill()
            daemon.ends()
    with watching(world, "--interval", "1", DISPATCHCTL_DISPATCH__RETRY_WAIT="1"):
        become(runtime, tasks, Status.DONE)
    started = [[run for run in runtime.store.runs(task) if run.started_at] for task in tasks]
    assert [len(runs) for runs in started] == [1] * len(tasks)


def test_asleep_for_a_while_it_goes_on_where_it_was(world: World, repo: Path) -> None:
    runtime = world.runtime()
    with watching(world, "--interval", "1") as daemon:
        first = world.add(runtime, "true", repo=repo).id
        become(runtime, [first], Status.DONE)
        eventually(lambda: not workers_of(daemon.process.pid))
        daemon.send(signal.SIGSTOP)
        tasks = [world.add(runtime, "true", repo=repo).id for _ in range(3)]
        assert (
            world.cli("add", "One more", "-p", "true", "--repo", str(repo)).code == 0
        )  # it holds no lock on the queue
        daemon.send(signal.SIGCONT)
        become(runtime, [*tasks, 5], Status.DONE)
        assert daemon.stop()[0] == 0


def test_a_settings_file_that_is_broken_while_it_runs_changes_nothing(world: World, repo: Path, settings: Path) -> None:
    """Neither what it starts, nor what its agents say of themselves."""
    settings.write_text("dispatch.max_running = 3\n")
    runtime = world.runtime()
    runtime.make_store()
    with watching(world) as daemon:
        settings.write_text("this is no TOML")
        task = world.add(runtime, "dispatchctl done -m 'all well' || exit 3", repo=repo).id
        become(runtime, [task], Status.DONE)
        assert runtime.store.task(task).result == "all well"
        assert daemon.stop()[0] == 0
    assert world.cli("watch").code == 2


@pytest.fixture
def small(world: World) -> Iterator[Path]:
    """A file system of four megabytes."""
    place = world.root / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("only root may mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full_for_a_while_is_waited_for(world: World, repo: Path, small: Path) -> None:
    world.extra["DISPATCHCTL_DB"] = str(small / "queue.db")
    world.extra["DISPATCHCTL_WORKTREES__ROOT"] = str(world.root / "trees")
    runtime = world.runtime()
    with watching(world, "--interval", "1", DISPATCHCTL_DISPATCH__RETRY_WAIT="1") as daemon:
        before = world.add(runtime, "true", repo=repo).id
        become(runtime, [before], Status.DONE)
        task = world.add(runtime, "true", repo=repo, backlog=True, recoveries=50).id
        runtime.store.release([task], at=1)
        with (small / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 4096):
                pass
        eventually(lambda: any(word in daemon.log for word in ("full", "No space left", "cannot be written")) or None)
        (small / "ballast").unlink()
        become(runtime, [task], Status.DONE)
        assert "Traceback" not in daemon.log
        assert daemon.stop()[0] == 0


def test_a_log_that_nobody_reads_any_more_does_not_end_it(world: World, repo: Path) -> None:
    world.runtime().make_store().close()
    process = subprocess.Popen(
        [sys.executable, "-m", "dispatchctl", "watch"],
        env=world.variables,
        cwd=world.home,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert b"watching" in process.stderr.readline()
        process.stderr.close()
        runtime = world.runtime()
        tasks = [world.add(runtime, "true", repo=repo).id for _ in range(2)]
        become(runtime, tasks, Status.DONE)
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
