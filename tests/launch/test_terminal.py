"""Between the pane and the agent: a real terminal, every byte both ways, the window's size, and a log within bounds."""

import os
import signal
from pathlib import Path

import pytest
from launch.stage import add, lived_in, program, step_named, with_step
from world import World, eventually

from dispatchctl import rundir
from dispatchctl import steps as launching
from dispatchctl.dispatch import dispatch
from dispatchctl.runtime import Runtime, now
from dispatchctl.steps import Launch
from dispatchctl.task import Actor, Ask, Run, Status


def running(world: World, prompt: str) -> tuple[Runtime, Run]:
    """A run whose agent has said that it is ready."""
    runtime = world.runtime()
    task = add(runtime, lived_in(world), prompt)
    assert dispatch(runtime).failed == []
    run = world.started(runtime, task.id)
    eventually((world.home / "ready").exists, what="the agent is ready")
    return runtime, run


def done(world: World, runtime: Runtime, run: Run) -> str:
    """Wait for the end, and return what the agent wrote into $HOME/out."""
    task = world.ended(runtime, run.task)
    assert task.status is Status.DONE, task.error
    return (world.home / "out").read_text()


def log_of(run: Run) -> bytes:
    """The log, the older half first."""
    parts = [Path(run.run_dir) / name for name in ("output.log.1", "output.log")]
    return b"".join(part.read_bytes() for part in parts if part.exists())


def test_the_agent_has_a_real_terminal_of_its_own(world: World) -> None:
    asked = "test -t 0 && test -t 1 && test -t 2 && tty; ps -o tty= -p $$; stty size"
    runtime, run = running(world, f"{{ {asked}; }} > $HOME/all; sh -c '{asked}'; touch $HOME/ready; : > $HOME/out")
    done(world, runtime, run)
    said = log_of(run).decode().split()
    assert said[0].startswith("/dev/pts/")
    assert said[1] == said[0].removeprefix("/dev/")
    assert said[2:] == ["50", "200"]


def test_the_agents_terminal_is_not_the_panes(world: World) -> None:
    runtime, run = running(world, "tty > $HOME/out; touch $HOME/ready; read wait")
    pane = world.tmux("display-message", "-p", "-t", str(run.pane_id), "#{pane_tty}")
    assert (world.home / "out").read_text().strip() != pane
    world.tmux("send-keys", "-t", str(run.pane_id), "Enter")
    done(world, runtime, run)


def test_the_agents_terminal_is_set_up_like_a_panes(world: World) -> None:
    runtime, run = running(world, "stty -g > $HOME/out; touch $HOME/ready; read wait")
    world.tmux("new-window", "-d", "stty -g > $HOME/plain; sleep 600")
    eventually(lambda: (world.home / "plain").exists() and (world.home / "plain").read_text())
    world.tmux("send-keys", "-t", str(run.pane_id), "Enter")
    assert done(world, runtime, run) == (world.home / "plain").read_text()


def test_ctrl_c_before_the_agent_runs_harms_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher must not die of it between its commit and its first look at the agent."""
    gate = world.root / "launcher-may-start-the-agent"
    wait = (
        "import sys, os, time; sys.path.append(sys.argv[1]); from dispatchctl import launcher\n"
        "passed = launcher._pass_fence\n"
        "def slowly(*arguments):\n"
        "    started = passed(*arguments)\n"
        f"    while not os.path.exists({str(gate)!r}): time.sleep(0.005)\n"
        "    return started\n"
        "launcher._pass_fence = slowly\n"
        "launcher.main(sys.argv[2])\n"
    )
    monkeypatch.setattr(launching, "LAUNCH", wait)

    def opened_then_interrupted(launch: Launch) -> None:
        window(launch)
        eventually(lambda: runtime.store.run(launch.run.token).started_at)
        runtime.windows(launch.run.socket)
        world.tmux("send-keys", "-t", f"={launch.run.session}:", "C-c")
        eventually(lambda: "^C" in world.tmux("capture-pane", "-p", "-S", "-", "-t", f"={launch.run.session}:"))
        gate.touch()

    window = step_named("window").do
    with_step(monkeypatch, "window", do=opened_then_interrupted)
    runtime = world.runtime()
    task = add(runtime, lived_in(world), "exit 0")
    assert dispatch(runtime).failed == []
    task = world.ended(runtime, task.id)
    assert task.run is not None
    assert task.run.ended_at is not None
    assert (task.run.exit_code, task.run.signal) in [(0, None), (127, None), (None, 2)]


def test_a_change_of_the_windows_size_reaches_the_agent(world: World) -> None:
    prompt = (
        "trap 'stty size > $HOME/size' WINCH; touch $HOME/ready; while ! read word; do :; done; cp $HOME/size $HOME/out"
    )
    runtime, run = running(world, prompt)
    world.tmux("resize-window", "-t", str(run.window_id), "-x", "91", "-y", "33")
    eventually(lambda: (world.home / "size").exists() and (world.home / "size").read_text())
    world.tmux("send-keys", "-t", str(run.pane_id), "go", "Enter")
    assert done(world, runtime, run) == "33 91\n"


def test_ctrl_c_in_the_pane_reaches_the_agent_and_not_the_launcher(world: World) -> None:
    prompt = "trap 'echo caught > $HOME/out; exit 0' INT; touch $HOME/ready; while :; do sleep 0.05; done"
    runtime, run = running(world, prompt)
    world.tmux("send-keys", "-t", str(run.pane_id), "C-c")
    assert done(world, runtime, run) == "caught\n"


@pytest.mark.parametrize(("keys", "number"), [("C-c", 2), ("C-\\", 3)])
def test_keys_that_signal_end_an_agent_that_does_not_catch_them(world: World, keys: str, number: int) -> None:
    runtime, run = running(world, "touch $HOME/ready; exec sleep 600")
    world.tmux("send-keys", "-t", str(run.pane_id), keys)
    task = world.ended(runtime, run.task)
    assert task.run is not None
    assert (task.run.signal, task.error) == (number, f"killed by signal {number}")


def test_ctrl_z_stops_nobody_for_good(world: World) -> None:
    runtime, run = running(world, 'touch $HOME/ready; read -r line; printf %s "$line" > $HOME/out')
    world.tmux("send-keys", "-t", str(run.pane_id), "C-z", "on", "Enter")
    assert done(world, runtime, run) == "on"


def test_what_is_typed_reaches_the_agent(world: World) -> None:
    runtime, run = running(world, 'touch $HOME/ready; read -r line; printf %s "$line" > $HOME/out')
    world.tmux("send-keys", "-t", str(run.pane_id), "-l", "héllo $(id) \\ #{pid} 🚀; ~x")
    world.tmux("send-keys", "-t", str(run.pane_id), "Enter")
    assert done(world, runtime, run) == "héllo $(id) \\ #{pid} 🚀; ~x"


def test_a_megabyte_that_is_pasted_reaches_the_agent_whole(world: World) -> None:
    size = 1_000_000
    pasted = bytes(33 + (number * 7919) % 90 for number in range(size))
    (world.root / "pasted").write_bytes(pasted)
    runtime, run = running(world, f"stty raw -echo; touch $HOME/ready; head -c {size} > $HOME/out")
    world.tmux("load-buffer", str(world.root / "pasted"))
    world.tmux("paste-buffer", "-r", "-t", str(run.pane_id))
    assert done(world, runtime, run).encode() == pasted


def test_output_is_kept_from_the_first_byte_and_can_be_read_at_once(world: World) -> None:
    runtime, run = running(world, "printf first; touch $HOME/ready; read wait; printf last; : > $HOME/out")
    eventually(lambda: log_of(run) == b"first")
    assert Path(run.run_dir, "output.log").stat().st_mode & 0o777 == 0o600
    eventually(lambda: "first" in world.tmux("capture-pane", "-p", "-t", str(run.pane_id)))
    world.tmux("send-keys", "-t", str(run.pane_id), "Enter")
    done(world, runtime, run)
    assert log_of(run) == b"first\r\nlast"


def lines(count: int) -> bytes:
    return b"".join(b"%d\r\n" % number for number in range(1, count + 1))


def test_a_flood_of_output_is_kept_whole_where_there_is_room(world: World) -> None:
    runtime, run = running(world, "touch $HOME/ready; seq 1 300000; : > $HOME/out")
    done(world, runtime, run)
    assert log_of(run) == lines(300_000)
    eventually(lambda: "300000" in world.tmux("capture-pane", "-p", "-S", "-", "-t", str(run.pane_id)))


@pytest.mark.parametrize("limit", [64 << 10, 200_000])
def test_a_flood_of_output_stays_within_its_limit_and_keeps_the_end(world: World, limit: int) -> None:
    world.extra["DISPATCHCTL_OUTPUT__LIMIT"] = str(limit)
    runtime, run = running(world, "touch $HOME/ready; seq 1 100000; printf end; : > $HOME/out")
    done(world, runtime, run)
    log = log_of(run)
    assert limit // 2 <= len(log) <= limit
    assert (lines(100_000) + b"end").endswith(log)


@pytest.mark.parametrize("ending", ["exit 0", "sleep 600"], ids=["by itself", "asked"])
def test_output_that_nobody_takes_does_not_hold_up_the_end(world: World, ending: str) -> None:
    """A tmux server that stands still takes nothing from its panes."""
    prompt = f"touch $HOME/ready; while ! test -e $HOME/go; do sleep 0.02; done; seq 1 20000; {ending}"
    runtime, run = running(world, prompt)
    assert run.server_pid is not None
    os.kill(run.server_pid, signal.SIGSTOP)
    try:
        (world.home / "go").touch()
        eventually(lambda: log_of(run).endswith(b"20000\r\n"))
        if ending != "exit 0":
            runtime.store.ask(run.token, Ask.CANCEL, actor=Actor.USER, at=now())
            rundir.tell(run.run_dir, "end cancel")
        task = world.ended(runtime, run.task)
    finally:
        os.kill(run.server_pid, signal.SIGCONT)
    assert task.status is (Status.DONE if ending == "exit 0" else Status.CANCELLED)


def test_the_agent_inherits_three_descriptors_and_no_ignored_signal(world: World) -> None:
    script = program(
        world.root / "look",
        "#!/bin/sh\nls /proc/self/fd > $HOME/out\ngrep -E '^Sig(Ign|Blk):' /proc/self/status >> $HOME/out\n"
        "touch $HOME/ready\n",
    )
    runtime, run = running(world, f"exec {script}")
    said = done(world, runtime, run).split()
    assert said[:4] == ["0", "1", "2", "3"], "the fourth is the directory that ls reads"
    assert said[4:] == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


def test_the_screen_says_how_it_ended(world: World) -> None:
    runtime, run = running(world, "touch $HOME/ready; : > $HOME/out")
    done(world, runtime, run)
    expected = f"dispatchctl: task {run.task} ended with exit code 0, now done"
    eventually(lambda: expected in world.tmux("capture-pane", "-p", "-S", "-", "-t", str(run.pane_id)))
    eventually(lambda: world.tmux("display-message", "-p", "-t", str(run.pane_id), "#{pane_dead}") == "1")
