"""Programs with a time limit: what they say, what they are given, and what becomes of those they leave behind."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from world import eventually

from dispatchctl.processes import Finished, execute, of_run, start_time

TOKEN = "0badbeef"
ENVIRONMENT = {"PATH": os.environ["PATH"], "DISPATCHCTL_TOKEN": TOKEN}


def run(
    script: str, *, timeout: float = 20.0, merged: bool = False, kept: int = 0, given: bytes | None = None
) -> Finished:
    return execute(["sh", "-c", script], env=ENVIRONMENT, timeout=timeout, merged=merged, kept=kept, given=given)


def test_a_program_says_two_things() -> None:
    ended = run("echo out; echo err >&2; exit 3")
    assert (ended.code, ended.out, ended.err, ended.timed_out) == (3, b"out\n", b"err\n", False)
    assert run("kill -9 $$").code == -9


def test_both_in_their_order() -> None:
    assert run("echo one; echo two >&2; echo three", merged=True).out == b"one\ntwo\nthree\n"


def test_much_goes_in_and_out_at_once() -> None:
    given = os.urandom(3_000_000)
    ended = execute(["cat"], env=ENVIRONMENT, timeout=20, given=given)
    assert (ended.code, ended.out == given) == (0, True)


def test_a_program_need_not_read_what_it_is_given() -> None:
    assert run("exit 0", given=b"x" * 3_000_000).code == 0
    assert run("cat", given=b"").out == b""


def test_without_anything_given_it_reads_nothing() -> None:
    assert run("cat").out == b""


def test_only_the_end_of_a_flood_is_kept() -> None:
    ended = run("yes | head -c 5000000; echo end", kept=1_000)
    assert len(ended.out) == 1_000
    assert ended.out.endswith(b"y\nend\n")


def test_the_last_words_are_the_last_lines() -> None:
    assert run("seq 9 >&2").last_words == "5\n6\n7\n8\n9"
    assert run("echo only out").last_words == "only out"


@pytest.mark.parametrize("script", ["sleep 600", "trap '' TERM; sleep 600 & sleep 600"], ids=["listens", "is deaf"])
def test_after_its_time_the_whole_group_is_ended(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dispatchctl import processes

    monkeypatch.setattr(processes._end_group, "__defaults__", (0.3,))
    began = time.monotonic()
    ended = run(f"echo before; {script}", timeout=0.3)
    assert (ended.timed_out, ended.out) == (True, b"before\n")
    assert 0.3 <= time.monotonic() - began < 5
    assert of_run(TOKEN) == set()


def test_a_program_may_tidy_up_when_its_time_is_over(tmp_path: Path) -> None:
    ended = run(f"trap 'touch {tmp_path}/tidy; exit 0' TERM; while :; do sleep 0.01; done", timeout=0.3)
    assert ended.timed_out
    assert (tmp_path / "tidy").exists()


def test_a_daemon_that_keeps_the_pipes_is_not_waited_for() -> None:
    began = time.monotonic()
    ended = run("setsid sleep 600 & echo $!")
    assert time.monotonic() - began < 5
    assert ended.code == 0
    os.kill(int(ended.out), signal.SIGKILL)
    eventually(lambda: of_run(TOKEN) == set())


def test_a_daemon_that_talks_without_end_is_not_listened_to() -> None:
    began = time.monotonic()
    ended = run("(while :; do echo more; done) & exit 0", kept=1_000)
    assert time.monotonic() - began < 5
    assert ended.code == 0
    eventually(lambda: of_run(TOKEN) == set(), what="it got SIGPIPE")


def test_an_interrupted_wait_ends_the_group() -> None:
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run("sleep 600 & sleep 600")
    timer.join()
    assert of_run(TOKEN) == set()


@pytest.mark.parametrize(
    ("name", "error"),
    [("/nowhere/program", FileNotFoundError), ("/etc/passwd", PermissionError), ("/", PermissionError)],
)
def test_what_is_no_program_cannot_be_run(name: str, error: type[OSError]) -> None:
    with pytest.raises(error):
        execute([name], env=ENVIRONMENT, timeout=1)


def test_no_descriptor_is_left_open() -> None:
    before = os.listdir("/proc/self/fd")
    run("echo hello", given=b"x")
    run("sleep 600", timeout=0.05)
    assert os.listdir("/proc/self/fd") == before
    assert start_time(os.getpid())
