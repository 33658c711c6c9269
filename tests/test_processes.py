"""Processes by pid and start time, sweeps, file locks, and programs with a time limit."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import eventually

from dispatchctl import processes
from dispatchctl.processes import Process

TOKEN = "0badcafe"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Programs that are ended afterwards, with all that descends from them."""
    programs: list[subprocess.Popen[bytes]] = []
    yield programs
    for program in programs:
        for pid, _ in processes.of_run("none", [named(program.pid)]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        program.kill()
        program.wait()


def shell(started: list[subprocess.Popen[bytes]], script: str, **variables: str) -> Process:
    """A shell that runs the script after it was looked at."""
    program = subprocess.Popen(["sh", "-c", script], env={"PATH": os.environ["PATH"], **variables})
    started.append(program)
    return named(program.pid)


def named(pid: int) -> Process:
    return pid, processes.start_time(pid) or 0


def test_a_process_is_alive_by_pid_and_start_time(started: list[subprocess.Popen[bytes]]) -> None:
    pid, start = shell(started, "exec sleep 600")
    assert processes.is_alive((pid, start)) is True
    assert processes.is_alive((pid, start + 1)) is False, "another process that got the pid"
    started[0].kill()
    eventually(lambda: processes.is_alive((pid, start)) is False)
    assert started[0].poll() is not None or processes.start_time(pid) is None


def test_a_zombie_is_not_alive(started: list[subprocess.Popen[bytes]]) -> None:
    process = shell(started, "exit 0")
    eventually(lambda: Path(f"/proc/{process[0]}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert processes.start_time(process[0]) is None
    assert processes.is_alive(process) is False
    os.kill(process[0], 0)  # to the kernel it is still there


def test_a_program_may_have_any_name(started: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    link = tmp_path / "a) R 1 (b"
    link.symlink_to("/bin/sleep")
    started.append(subprocess.Popen([str(link), "600"]))
    eventually(lambda: Path(f"/proc/{started[0].pid}/comm").read_text().startswith("a) R"))
    assert processes.is_alive(named(started[0].pid)) is True


def test_a_run_is_what_carries_its_token_or_descends_from_it(started: list[subprocess.Popen[bytes]]) -> None:
    marked = shell(started, "env -i sh -c 'sleep 600 & sleep 600' & wait", DISPATCHCTL_TOKEN=TOKEN)
    eventually(lambda: len(processes.of_run(TOKEN)) == 4)
    shell(started, "exec sleep 600", DISPATCHCTL_TOKEN=TOKEN + "0", X=f"DISPATCHCTL_TOKEN={TOKEN}")
    other = shell(started, "exec sleep 600")
    found = processes.of_run(TOKEN)
    assert marked in found
    assert len(found) == 4
    assert processes.of_run(TOKEN, [other]) == found | {other}
    assert processes.of_run(TOKEN, [(other[0], other[1] + 1)]) == found, "a pid that somebody else has now"
    assert processes.of_run(TOKEN, spare=[marked[0]]) == found - {marked}


def test_who_sweeps_does_not_end_itself_nor_who_waits_for_it() -> None:
    script = (
        "from dispatchctl import processes; import os\n"
        f"left = processes.sweep(lambda: processes.of_run({TOKEN!r}), grace=0.1)\n"
        "assert {pid for pid, _ in left} == {os.getpid(), os.getppid()}, left\n"
    )
    ended = subprocess.run(
        ["sh", "-c", '(exec sleep 600) & "$0" -c "$1"; exit $?', sys.executable, script],
        env={**os.environ, "DISPATCHCTL_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert processes.of_run(TOKEN) == set(), "the sleeper was no exception"


def test_a_signal_reaches_exactly_the_process_that_was_meant(started: list[subprocess.Popen[bytes]]) -> None:
    pid, start = shell(started, "exec sleep 600")
    processes.send((pid, start + 1), signal.SIGKILL)
    assert processes.is_alive((pid, start)) is True
    processes.send((pid, start), signal.SIGKILL)
    assert started[0].wait(10) == -signal.SIGKILL
    processes.send((pid, start), signal.SIGKILL)  # gone: nothing happens


@pytest.mark.parametrize(
    ("script", "number"),
    [
        ("exec sleep 600", signal.SIGTERM),
        ("trap '' TERM; while :; do sleep 0.01; done", signal.SIGKILL),
        ("kill -STOP $$; exec sleep 600", signal.SIGTERM),
    ],
    ids=["listens", "is deaf", "is stopped"],
)
def test_a_sweep_asks_first_and_then_insists(
    started: list[subprocess.Popen[bytes]], script: str, number: signal.Signals
) -> None:
    process = shell(started, script, DISPATCHCTL_TOKEN=TOKEN)
    time.sleep(0.05)
    assert processes.sweep(lambda: processes.of_run(TOKEN), grace=0.3) == set()
    assert processes.is_alive(process) is False
    assert started[0].wait(10) == -number


def test_a_sweep_outruns_what_forks_all_the_time(started: list[subprocess.Popen[bytes]]) -> None:
    hydra = "trap 'setsid sh -c \"sleep 600\" & sleep 600' TERM; while :; do sleep 0.01; done"
    shell(started, hydra, DISPATCHCTL_TOKEN=TOKEN)
    assert processes.sweep(lambda: processes.of_run(TOKEN), grace=0.3) == set()
    assert processes.of_run(TOKEN) == set()


def test_a_sweep_names_what_cannot_be_ended() -> None:
    stuck = {(os.getpid(), 0)}  # nobody is signalled: the start time is another's
    assert processes.sweep(lambda: stuck, grace=0.0, patience=0.1) == stuck


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "lock")
    first = processes.lock(path)
    assert first is not None
    assert processes.lock(path) is None
    began = time.monotonic()
    assert processes.lock(path, wait=0.1) is None
    assert time.monotonic() - began >= 0.1
    first.release()
    first.release()  # the second time nothing happens
    second = processes.lock(path)
    assert second is not None
    second.release()


def test_a_lock_dies_with_its_holder_but_is_not_left_to_a_daemon(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    held = processes.lock(path)
    assert held is not None
    ended = processes.execute(
        ["sh", "-c", "sleep 600 & echo $!"], env={"PATH": os.environ["PATH"]}, timeout=10, held=held
    )
    daemon = int(ended.out)
    try:
        os.close(held.descriptor)  # as if its holder had died: the daemon has it still
        held.descriptor = -1
        assert processes.lock(path) is None
    finally:
        os.kill(daemon, signal.SIGKILL)
    again = processes.lock(path, wait=10)
    assert again is not None
    ended = processes.execute(
        ["sh", "-c", "sleep 600 & echo $!"], env={"PATH": os.environ["PATH"]}, timeout=10, held=again
    )
    again.release()
    free = processes.lock(path)
    os.kill(int(ended.out), signal.SIGKILL)
    assert free is not None
    free.release()
