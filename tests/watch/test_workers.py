"""The helpers of the daemon: whatever they tell, and whenever they are ended, the daemon goes on."""

import errno
import os
import signal
import time

import pytest
from world import eventually

from dispatchctl.workers import LONGEST_WORD, ForkServer, Tell, Worker


def until_ended(worker: Worker) -> None:
    def ended() -> bool:
        worker.heard()
        return worker.has_ended

    eventually(ended, within=20)


def test_a_telling_that_is_too_long_is_dropped_whole_and_the_next_one_is_heard() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    worker = Worker("x", (os.getpid(), 0), reading)
    os.write(writing, b'{"held": [1]}\n')
    piece = b"x" * 50_000  # less than a pipe holds
    for _ in range(2 * LONGEST_WORD // len(piece)):
        os.write(writing, piece)
        assert worker.heard() in ([], [{"held": [1]}])
    os.write(writing, b'x"}\n{"held": [2]}\n')
    assert worker.heard() == [{"held": [2]}]
    os.close(writing)
    worker.close()


def test_a_worker_that_is_ended_as_soon_as_it_is_there_ends_well(capfd: pytest.CaptureFixture[str]) -> None:
    def waits(_: Tell) -> None:
        while True:  # not signal.pause(): a signal that comes just before it would not end it
            time.sleep(0.01)

    server = ForkServer({"waits": waits})
    try:
        for _ in range(30):
            worker = server.fork("waits")
            worker.signal(signal.SIGTERM)
            until_ended(worker)
            assert worker.ended_well
            worker.close()
    finally:
        server.close()
    assert capfd.readouterr().err == ""


def test_a_server_of_workers_may_be_closed_again() -> None:
    """As the daemon does after the next one could not be forked, before it tries once more."""
    server = ForkServer({})
    server.close()
    server.close()


def test_a_server_that_gets_no_process_says_so_and_serves_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fork, forks = os.fork, [0]

    def now_and_then() -> int:
        forks[0] += 1
        if forks[0] == 2:  # the first is the server's own
            raise BlockingIOError(errno.EAGAIN, "no process left")
        return fork()

    monkeypatch.setattr(os, "fork", now_and_then)
    server = ForkServer({"nothing": lambda _: None})
    try:
        with pytest.raises(OSError, match="no worker can be started"):
            server.fork("nothing")
        worker = server.fork("nothing")
        until_ended(worker)
        assert worker.ended_well
        worker.close()
    finally:
        server.close()
    assert capfd.readouterr().err == ""
