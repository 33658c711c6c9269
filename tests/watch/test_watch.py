"""The daemon on a good day: what wakes it, what it starts, how it ends, and what it says."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from watch.daemon import become, is_there, watching, workers_of
from world import World, eventually

from dispatchctl.runtime import now
from dispatchctl.task import Actor, Phase, Status


@pytest.fixture
def repo(world: World) -> Path:
    return world.repository()


def test_a_task_that_is_added_runs_to_its_end(world: World, repo: Path) -> None:
    with watching(world) as daemon:
        said = world.cli("add", "Say hello", "-p", "echo hello", "--repo", str(repo))
        assert said.out == "1\n"
        assert "no dispatcher is running" not in said.err
        assert world.cli("wait", "1").code == 0
        daemon.says("task 1 is done")
        runtime = world.runtime()
        moves = [(event.to_status, event.actor) for event in runtime.store.events(task=1) if event.to_status]
        assert moves == [("ready", Actor.USER), ("in_progress", Actor.WATCH), ("done", Actor.LAUNCHER)]
        assert daemon.stop()[0] == 0
    assert "no dispatcher is running" in world.cli("add", "Later", "--repo", str(repo)).err


def test_it_wakes_for_what_others_do_and_not_only_at_its_interval(world: World, repo: Path) -> None:
    """With an interval of ten minutes nothing but waking can start these in time."""
    runtime = world.runtime()
    with watching(world, "--interval", "600", "--max-running", "1"):
        first = world.add(runtime, "true", repo=repo)
        second = world.add(runtime, "true", repo=repo)  # an agent's exit wakes it
        child = world.add(runtime, "true", repo=repo, after=(second.id,))  # a parent's end
        late = world.add(runtime, "true", repo=repo, not_before=now() + 3_000)
        become(runtime, [first.id, second.id, child.id, late.id], Status.DONE)
        claimed = next(event for event in runtime.store.events(task=late.id) if event.kind == "claimed")
        assert late.not_before is not None
        assert claimed.at >= late.not_before


def test_at_most_one_daemon_watches_a_database(world: World, repo: Path) -> None:
    with watching(world) as daemon:
        second = world.cli("watch")
        assert second.code == 75
        assert f"process {daemon.process.pid} watches the database" in second.err
        assert "Traceback" not in second.err
        daemon.process.kill()
        daemon.ends()
        with watching(world) as third:  # the lock dies with its holder
            third.says("watching ")


def test_a_signal_ends_it_and_leaves_agents_running(world: World, repo: Path) -> None:
    runtime = world.runtime()
    for number in (signal.SIGTERM, signal.SIGINT):
        with watching(world) as daemon:
            task = world.add(runtime, "while [ ! -e go ]; do sleep 0.02; done", repo=repo)
            run = world.started(runtime, task.id)
            eventually(lambda: runtime.store.task(task.id).run.pane_id)  # type: ignore[union-attr]  # noqa: B023
            daemon.send(number)
            assert daemon.ends() == 0
            assert "Traceback" not in daemon.log
            assert runtime.store.task(task.id).status is Status.IN_PROGRESS
            assert run.launcher_pid is not None
            assert is_there(run.launcher_pid)
            (Path(run.worktree) / "go").touch()
            world.ended(runtime, task.id)


def test_what_is_half_launched_is_undone_when_it_ends(world: World, repo: Path) -> None:
    world.home.joinpath(".config/dispatchctl").mkdir(parents=True)
    hook = f"touch {world.root}/hooked; exec sleep 1000"
    world.home.joinpath(".config/dispatchctl/config.toml").write_text(
        f"hooks.post_create = [['sh', '-c', {json.dumps(hook)}]]\n"
    )
    runtime = world.runtime()
    with watching(world) as daemon:
        task = world.add(runtime, "true", repo=repo)
        eventually((world.root / "hooked").exists)
        code, took = daemon.stop()
        assert code == 0
        assert took < 10
        world.ended(runtime, task.id)  # an undo that takes long goes on alone
    after = runtime.store.task(task.id)
    assert (after.status, after.run and after.run.phase) == (Status.READY, Phase.CLOSED)
    assert after.run is not None
    eventually(lambda: not world.leftovers(after.run, repo), what="everything is taken back")  # type: ignore[arg-type]
    assert "ended by signal 15" in (after.error or "")


def test_a_hook_that_hangs_keeps_nothing_else_waiting(world: World, repo: Path) -> None:
    world.home.joinpath(".config/dispatchctl").mkdir(parents=True)
    other = world.repository("other")
    world.home.joinpath(".config/dispatchctl/config.toml").write_text(
        f"""[repositories."{repo}"]
hooks.post_create = [["sleep", "1000"]]
""",
    )
    runtime = world.runtime()
    with watching(world, DISPATCHCTL_WATCH__LAUNCHES="2") as daemon:
        stuck = world.add(runtime, "true", repo=repo)
        eventually(runtime.store.open_runs)
        quick = [world.add(runtime, "true", repo=other).id for _ in range(4)]
        become(runtime, quick, Status.DONE)
        assert runtime.store.task(stuck.id).status is Status.IN_PROGRESS
        assert daemon.stop()[0] == 0


def test_the_limit_and_labels_of_its_command_line_hold(world: World, repo: Path) -> None:
    runtime = world.runtime()
    with watching(world, "--max-running", "2", "--label", "mine"):
        mine = [world.add(runtime, "sleep 0.2", repo=repo, labels=("mine", "x")).id for _ in range(5)]
        other = world.add(runtime, "true", repo=repo, labels=("x",)).id
        most = 0
        while not all(runtime.store.task(task).status is Status.DONE for task in mine):
            most = max(most, len(runtime.store.open_runs()))
            time.sleep(0.005)
        assert most == 2
        assert runtime.store.task(other).status is Status.READY


def test_sighup_reads_the_settings_again_and_says_what_changed(world: World, repo: Path) -> None:
    file = world.home / ".config/dispatchctl/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("dispatch.max_running = 1\n")
    runtime = world.runtime()
    with watching(world) as daemon:
        tasks = [world.add(runtime, "while [ ! -e go ]; do sleep 0.02; done", repo=repo) for _ in range(2)]
        world.started(runtime, tasks[0].id)
        file.write_text("dispatch.max_running = = 2\n")
        daemon.send(signal.SIGHUP)
        assert "line 1" in daemon.says("the settings stay as they were")
        assert runtime.store.task(tasks[1].id).status is Status.READY
        file.write_text('dispatch.max_running = 2\nagents.mine = {argv = ["true", "{prompt}"]}\n')
        daemon.send(signal.SIGHUP)
        line = daemon.says("settings read again")
        assert "dispatch.max_running: 1 → 2" in line
        assert "agents.mine has changed" in line
        for task in tasks:
            run = world.started(runtime, task.id)
            (Path(run.worktree) / "go").touch()
        become(runtime, [task.id for task in tasks], Status.IN_REVIEW)


def test_its_log_can_be_read_by_programs(world: World, repo: Path) -> None:
    runtime = world.runtime()
    with watching(world, "--log-format", "json") as daemon:
        ok, bad = (world.add(runtime, prompt, repo=repo).id for prompt in ("true", "exit 3"))
        become(runtime, [ok, bad], Status.DONE, Status.FAILED)
        found = eventually(
            lambda: [each for each in daemon.entries if each["message"].startswith(f"task {bad} is failed")]
        )
        assert (found[0]["level"], found[0]["task"], found[0]["event"]) == ("warning", bad, "ended")
        assert found[0]["message"] == f"task {bad} is failed: exited with 3"
        assert {"at", "message", "level", "hint", "task", "run", "event"} == found[0].keys()
        daemon.stop()
        assert [each for each in daemon.entries if each["message"].startswith("SIGTERM: nothing more is started")]


def test_its_log_speaks_to_the_journal_of_systemd(world: World) -> None:
    with watching(world, JOURNAL_STREAM="8:1") as daemon:
        assert daemon.says("watching ").startswith("<6>watching ")


def test_an_answer_can_be_had_while_it_is_quiet(world: World) -> None:
    with watching(world, "--quiet", hello=False) as daemon:
        eventually(lambda: "is locked" if os.path.exists(world.runtime().state / "watch.lock") else "")
        eventually(lambda: world.cli("watch").code == 75)
        assert daemon.stop()[0] == 0
        assert daemon.log == ""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--interval", "0"), 2, "--interval has to be at least 1s"),
        (("--log-format", "xml"), 2, "there is no log format 'xml'"),
        (("--max-running", "0"), 2, ""),
    ],
)
def test_a_wrong_word_starts_nothing(world: World, arguments: tuple[str, ...], code: int, said: str) -> None:
    world.runtime().make_store().close()
    answer = world.cli("watch", *arguments)
    assert answer.code == code
    assert said in answer.err
    assert not (world.runtime().state / "watch.lock").exists()


def test_without_a_database_nothing_is_made(world: World) -> None:
    answer = world.cli("watch")
    assert answer.code != 0
    assert "Traceback" not in answer.err
    assert not world.runtime().database.exists()
    assert not world.runtime().state.exists()


def test_systemd_is_told_when_it_is_ready_and_when_it_ends(world: World) -> None:
    import socket

    path = str(world.root / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(20)
        with watching(world, NOTIFY_SOCKET=path, WATCHDOG_USEC="900000") as daemon:
            words = [listener.recv(4096) for _ in range(5)]
            assert any(b"READY=1" in word for word in words)
            assert any(b"WATCHDOG=1" in word for word in words)
            daemon.send(signal.SIGTERM)
            while b"STOPPING=1" not in listener.recv(4096):
                pass
            assert daemon.ends() == 0


def test_no_worker_outlives_it_idle(world: World) -> None:
    with watching(world, "--interval", "1") as daemon:
        eventually(lambda: workers_of(daemon.process.pid))
        assert daemon.stop()[0] == 0
    assert not [pid for pid in world.processes() if is_there(pid)]


def test_metrics_are_served_while_it_runs(world: World, repo: Path) -> None:
    import urllib.request

    runtime = world.runtime()
    with watching(world, "--metrics-port", "0") as daemon:
        url = daemon.says("metrics: http://").split()[-1]
        task = world.add(runtime, "true", repo=repo).id
        become(runtime, [task], Status.DONE)
        daemon.send(signal.SIGHUP)
        daemon.says("settings read again")

        def scraped() -> str:
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return str(answer.read().decode())
            except OSError:
                return ""  # it is just being started again

        text = eventually(scraped)
        assert 'dispatchctl_tasks{status="done"} 1.0' in text
        assert daemon.stop()[0] == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=5)


def test_a_metrics_port_that_is_taken_starts_nothing(world: World) -> None:
    import socket

    world.runtime().make_store().close()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = world.cli("watch", "--metrics-port", str(taken.getsockname()[1]))
    assert answer.code == 75
    assert "metrics cannot be served on port" in answer.err


def test_the_user_is_told_once_of_each_edge(world: World, repo: Path) -> None:
    """The daemon sends notices; over a restart none comes twice."""
    told = world.root / "told"
    world.home.joinpath(".config/dispatchctl").mkdir(parents=True)
    program = f"cat >> {told}"
    world.home.joinpath(".config/dispatchctl/config.toml").write_text(
        f"notify.tmux = false\nnotify.on = ['failed']\nnotify.command = ['sh', '-c', {json.dumps(program)}]\n"
    )
    runtime = world.runtime()
    for number in (1, 2):
        with watching(world) as daemon:
            task = world.add(runtime, "exit 3", repo=repo).id
            become(runtime, [task], Status.FAILED)
            eventually(lambda: told.exists() and len(told.read_text().splitlines()) >= number)  # noqa: B023
            assert daemon.stop()[0] == 0
    notices = [json.loads(line)["notice"] for line in told.read_text().splitlines()]
    assert [(each["event"], each["task"]["id"]) for each in notices] == [("failed", 1), ("failed", 2)]


def test_it_ends_with_its_terminal(world: World, repo: Path) -> None:
    """SIGHUP is also what is sent when a window is closed: a daemon that nobody sees is nobody's wish."""
    world.runtime().make_store().close()
    world.tmux("new-session", "-d", "-s", "mine", f"{sys.executable} -m dispatchctl watch 2> {world.root}/log")
    log = world.root / "log"
    eventually(lambda: log.exists() and "watching" in log.read_text())
    runtime = world.runtime()
    task = world.add(runtime, "while [ ! -e go ]; do sleep 0.02; done", repo=repo)
    run = world.started(runtime, task.id)
    pid = int((runtime.state / "watch.lock").read_text())
    os.kill(pid, signal.SIGHUP)  # its terminal lives: the settings are read again
    eventually(lambda: "settings read again" in log.read_text())
    world.tmux("kill-session", "-t", "mine")
    eventually(lambda: not is_there(pid), what="it ends")
    assert "SIGHUP: nothing more is started" in log.read_text()
    assert run.launcher_pid is not None
    assert is_there(run.launcher_pid)
    (Path(run.worktree) / "go").touch()
    world.ended(runtime, task.id)
