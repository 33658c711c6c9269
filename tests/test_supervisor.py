"""What systemd hears from the daemon, on a real datagram socket."""

import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatchctl.supervisor import LONGEST_STATUS, Supervisor

MINUTE_USEC = 60_000_000


class Clock:
    """Seconds that the test lets pass."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Listener:
    """systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """Every message that has come."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(1 << 16).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What NOTIFY_SOCKET says."""
    return str(tmp_path / "notify") if request.param == "path" else f"@dispatchctl-test-{secrets.token_hex(8)}"


@pytest.fixture
def listener(name: str) -> Iterator[Listener]:
    made = Listener(name.replace("@", "\0", 1))
    yield made
    made.socket.close()


def test_a_daemons_life_is_told_in_order(name: str, listener: Listener) -> None:
    clock = Clock()
    supervisor = Supervisor(name, None, clock=clock)
    supervisor.ready()
    supervisor.status("2 of 8 running")
    clock.now = 1234.5
    supervisor.reloading()
    supervisor.ready()
    supervisor.stopping()
    assert listener.heard() == [
        "READY=1",
        "STATUS=2 of 8 running",
        "RELOADING=1\nMONOTONIC_USEC=1234500000",
        "READY=1",
        "STOPPING=1",
    ]


def test_a_reload_is_timed_by_systemds_own_clock(name: str, listener: Listener) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Supervisor(name, None).reloading()
    [message] = listener.heard()
    said = int(message.partition("MONOTONIC_USEC=")[2])
    assert before - 1 <= said <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000 + 1


def test_a_status_is_sent_when_it_changes_and_is_one_line(name: str, listener: Listener) -> None:
    supervisor = Supervisor(name, None)
    for text in ("a", "a", "b", "a", "x\nREADY=1\r\n y", "é\udc80", "z" * 2_000):
        supervisor.status(text)
    expected = ["a", "b", "a", "x READY=1 y", "é?", "z" * LONGEST_STATUS]
    assert listener.heard() == [f"STATUS={each}" for each in expected]


def test_the_watchdog_hears_at_most_every_third_of_its_interval(name: str, listener: Listener) -> None:
    clock = Clock()
    supervisor = Supervisor(name, MINUTE_USEC, clock=clock)
    pings = []
    for _ in range(601):
        supervisor.ping()
        pings += [round(clock.now - 1_000, 1)] * len(listener.heard())
        clock.now += 0.1
    assert len(pings) == 3
    assert pings == pytest.approx([0, 20, 40], abs=0.2)


@pytest.mark.parametrize("interval", [None, 0])
def test_without_a_watchdog_there_is_no_ping(name: str, listener: Listener, interval: int | None) -> None:
    Supervisor(name, interval).ping()
    assert listener.heard() == []


@pytest.mark.parametrize(
    "where", [None, "", "relative", "vsock:2:1234", "/nonexistent/notify", "/" + "x" * 300, "/a\0b"]
)
def test_where_nobody_listens_nothing_happens(where: str | None) -> None:
    supervisor = Supervisor(where, MINUTE_USEC)
    supervisor.ready()
    supervisor.status("x")
    supervisor.ping()
    supervisor.stopping()


def test_a_listener_that_has_gone_and_come_back_is_told_what_is_new(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    listener = Listener(path)
    supervisor = Supervisor(path, None)
    supervisor.ready()
    assert listener.heard() == ["READY=1"]
    listener.socket.close()
    supervisor.status("nobody hears this")
    os.unlink(path)
    supervisor.status("nor this")
    again = Listener(path)
    supervisor.status("but this")
    assert again.heard() == ["STATUS=but this"]
    again.socket.close()


def test_a_full_socket_neither_blocks_nor_loses_what_counts(name: str, listener: Listener) -> None:
    clock = Clock()
    supervisor = Supervisor(name, MINUTE_USEC, clock=clock)
    began, filled = time.monotonic(), 0
    while not supervisor._unsent:
        supervisor.status(f"filler {filled}")
        filled += 1
    for text in ("old", "new"):
        supervisor.status(text)
    supervisor.ready()
    supervisor.ping()
    supervisor.ping()
    assert time.monotonic() - began < 5
    assert len(listener.heard()) == filled - 1
    clock.now += 1.0
    supervisor.ping()
    assert listener.heard() == ["STATUS=new", "READY=1", "WATCHDOG=1"]
    supervisor.ping()
    assert listener.heard() == []
