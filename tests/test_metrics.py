"""Metrics: what is said, with which labels, and the server that says it to whoever asks on loopback."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from world import World, eventually

from dispatchctl.errors import Busy, UsageError
from dispatchctl.metrics import exposition, listen, server
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Actor, NewTask

ODD = '/re po/a"b\\c\nd{e}=\u00fc'
SERVER = """
import os, socket, sys
from dispatchctl.config import Environment
from dispatchctl.metrics import serve, server
from dispatchctl.runtime import Runtime
server.CLIENT_S = float(sys.argv[2])
listening = socket.socket(fileno=int(sys.argv[1]))
child = os.fork()
if child == 0:
    try:
        serve(Runtime(Environment.read()), listening)
    finally:
        os._exit(0)
print(child, flush=True)
os.waitpid(child, 0)
"""


def samples(text: bytes) -> dict[tuple[str, ...], float]:
    """Each sample's value by its name and its labels' values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.fixture
def runtime(world: World) -> Runtime:
    """A world with one task, whose repository has an odd name."""
    made = world.runtime()
    made.make_store().add([NewTask("Odd", "x", ODD, "main", "shell")], actor=Actor.USER, at=now())
    return made


def test_odd_words_in_labels_are_escaped(runtime: Runtime) -> None:
    runtime.store.pause(ODD, reason=None, at=1)
    text = exposition.text(runtime)
    assert samples(text)["dispatchctl_paused", ODD] == 1
    assert samples(text)["dispatchctl_paused", ""] == 0
    assert b'dispatchctl_paused{repo="/re po/a\\"b\\\\c\\nd{e}=\xc3\xbc"} 1.0\n' in text


def test_histograms_add_up(runtime: Runtime) -> None:
    with runtime.store._database as database:  # type: ignore[attr-defined]
        for bound, number in ((0.25, 3), (60, 2), (None, 1)):
            word = "null" if bound is None else bound
            database.execute("INSERT INTO tallies VALUES ('ran', ?, ?, 1500)", (f'["shell", {word}]', number))
    found = samples(exposition.text(runtime))
    name = "dispatchctl_task_running_seconds"
    assert [found[f"{name}_bucket", "shell", bound] for bound in ("0.25", "15.0", "60.0", "86400.0", "+Inf")] == [
        3,
        3,
        5,
        5,
        6,
    ]
    assert found[f"{name}_count", "shell"] == 6
    assert found[f"{name}_sum", "shell"] == 4.5


def test_a_scrape_changes_nothing_and_leaves_nothing_registered(runtime: Runtime) -> None:
    from prometheus_client import REGISTRY

    before = (runtime.store.last_event(), list(REGISTRY._collector_to_names))
    first, second = exposition.text(runtime), exposition.text(runtime)
    assert samples(first).keys() == samples(second).keys()
    assert (runtime.store.last_event(), list(REGISTRY._collector_to_names)) == before


# -- the server ------------------------------------------------------------------------------------------------------------


@contextmanager
def serving(world: World, *, client_s: float = 10.0) -> "Iterator[tuple[int, int, subprocess.Popen[str]]]":
    """A parent and the child that it has forked: the port, the child's pid, the parent."""
    listening = listen(0)
    port = listening.getsockname()[1]
    command = [sys.executable, "-c", SERVER, str(listening.fileno()), str(client_s)]
    with subprocess.Popen(
        command, env=world.variables, pass_fds=[listening.fileno()], stdout=subprocess.PIPE, text=True
    ) as parent:
        listening.close()
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            yield port, child, parent
        finally:
            parent.kill()
            eventually(lambda: not _lives(child), what="the child ends with its parent")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ask(port: int, method: str = "GET", path: str = "/metrics") -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.getheader("Content-Type")
    finally:
        connection.close()


def test_metrics_are_served_on_loopback_alone(world: World, runtime: Runtime) -> None:
    with serving(world) as (port, _, _):
        status, body, kind = ask(port)
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert samples(body)["dispatchctl_tasks", "ready"] == 1
        assert ask(port, "HEAD")[:2] == (200, b"")
        assert ask(port, path="/metrics?x=1")[0] == 200
        assert ask(port, path="/")[0] == 404
        assert ask(port, path="/metrics/../secret")[0] == 404
        for method in ("POST", "PUT", "DELETE"):
            assert ask(port, method)[0] == 501
        with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=5):
            pass
        runtime.store.add([NewTask("Two", "x", "/repo", "main", "shell")], actor=Actor.USER, at=now())
        assert samples(ask(port)[1])["dispatchctl_tasks", "ready"] == 2


def test_scrapes_at_the_same_time_are_all_answered(world: World, runtime: Runtime) -> None:
    with serving(world) as (port, _, _):
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(ask(port)[0])) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [200] * 10


def test_slow_clients_hold_up_nobody_and_are_cut_off(world: World, runtime: Runtime) -> None:
    with serving(world, client_s=1.0) as (port, _, _):
        slow = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(5)]
        for each in slow:
            each.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        assert ask(port)[0] == 200
        for each in slow:
            assert each.recv(1) == b""
            each.close()
        crowd = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(server.CLIENTS + 4)]
        eventually(lambda: _answers(port), what="the crowd is cut off")
        for each in crowd:
            each.close()


def _answers(port: int) -> bool:
    try:
        return ask(port)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_nonsense_is_answered_or_dropped(world: World, runtime: Runtime) -> None:
    with serving(world) as (port, _, _):
        for nonsense in (
            b"\x00\xff\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET " + b"x" * 100_000 + b"\r\n\r\n",
            b"\x16\x03\x01\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(nonsense)
                client.shutdown(socket.SHUT_WR)
                try:
                    assert b" 200 " not in client.recv(100)
                except ConnectionResetError:
                    pass
        assert ask(port)[0] == 200


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_with_its_parent(world: World, runtime: Runtime, how: signal.Signals) -> None:
    with serving(world) as (port, child, parent):
        assert ask(port)[0] == 200
        parent.send_signal(how)
        parent.wait(30)
        eventually(lambda: not _lives(child), what="the child ends")


def test_a_database_that_is_not_there_or_another_one_is_seen(world: World, runtime: Runtime) -> None:
    path = runtime.database
    with serving(world) as (port, _, _):
        assert ask(port)[0] == 200
        os.rename(path, f"{path}.gone")
        status, body, _ = ask(port)
        assert status == 503
        assert b"No such file" in body
        os.rename(f"{path}.gone", path)
        assert ask(port)[0] == 200


def test_a_port_that_is_taken_is_named() -> None:
    with listen(0) as listening:
        port = listening.getsockname()[1]
        assert listening.getsockname()[0] == "127.0.0.1"
        with pytest.raises(Busy, match=f"port {port}: Address already in use"):
            listen(port)
    with pytest.raises(UsageError, match="no port 70000"):
        listen(70_000)
