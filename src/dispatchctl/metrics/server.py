"""Metrics over HTTP, on loopback: `GET /metrics`, and nothing else.

The main thread alone has the database, opened by itself and made unable to write; threads speak with clients and ask it.
Requests that wait at the same time get the same answer. A client that is slow is cut off, one too many is not let in.
"""

import os
import socket
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from typing import Any

from dispatchctl.errors import Busy, DispatchctlError, UsageError
from dispatchctl.runtime import Runtime

LOOPBACK = "127.0.0.1"
PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CLIENT_S = 10.0
"""Seconds that a client has, from connecting to having read its answer."""
ANSWER_S = 8.0
"""Seconds that a request waits for the database."""
CLIENTS = 16
"""Connections at one time."""
LOOK_EVERY_S = 0.25
"""How often it is looked whether the parent lives and which clients are slow."""


def listen(port: int) -> socket.socket:
    """A listening socket on loopback; port 0 picks one. Raises `Busy` if the port is taken, `UsageError` if it cannot be."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((LOOPBACK, port))
        listening.listen(CLIENTS)
    except PermissionError as error:
        listening.close()
        raise UsageError(f"metrics cannot be served on port {port}: {error.strerror}", "--metrics-port 9464") from error
    except OverflowError as error:
        listening.close()
        raise UsageError(f"there is no port {port}", "--metrics-port 9464") from error
    except OSError as error:
        listening.close()
        raise Busy(f"metrics cannot be served on port {port}: {error.strerror}", f"ss -ltnp sport = :{port}") from error
    return listening


def serve(runtime: Runtime, listening: socket.socket, *, parent: int | None = None) -> None:
    """Answer until the process `parent` is our parent no more; by default the one that is now.

    For a process of its own, which opens the database by itself; of the given runtime it uses the settings and options.
    """
    parent = os.getppid() if parent is None else parent
    server = _Server(listening)
    threading.Thread(target=server.serve_forever, args=(LOOK_EVERY_S,), daemon=True).start()
    reader = _Reader(runtime)
    while os.getppid() == parent:
        server.cut_off_the_slow()
        waiting = server.waiting(LOOK_EVERY_S)
        if not waiting:
            continue
        answer = reader.read()
        for each in waiting:
            each.set_result(answer)


class _Reader:
    """Reads the figures, with a database that is opened again when the file is another one or could not be read."""

    def __init__(self, runtime: Runtime) -> None:
        self._given = runtime
        self._runtime: Runtime | None = None
        self._file: tuple[int, int] | None = None

    def read(self) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        from dispatchctl.metrics import exposition  # prometheus_client, 60 ms and some memory, for this process alone

        try:
            return 200, exposition.text(self._opened())
        except (DispatchctlError, OSError) as error:
            self._close()
            return 503, f"{error}\n".encode(errors="backslashreplace")

    def _opened(self) -> Runtime:
        found = os.stat(self._given.database)
        file = (found.st_dev, found.st_ino)
        if self._runtime is None or file != self._file:
            self._close()
            self._runtime = self._given.anew()
            self._file = file
            self._runtime.store.only_read()
        return self._runtime

    def _close(self) -> None:
        if self._runtime is not None:
            with suppress(DispatchctlError, OSError):
                self._runtime.store.close()
        self._runtime = None


class _Server(ThreadingHTTPServer):
    """A thread for each client, as many as there may be."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(listening.getsockname(), _Client, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self._asked: Queue[Future[tuple[int, bytes]]] = Queue()
        self._since: dict[socket.socket, float] = {}
        self._lock = threading.Lock()

    def ask(self) -> tuple[int, bytes]:
        """What the main thread answers. Raises `TimeoutError`."""
        answer: Future[tuple[int, bytes]] = Future()
        self._asked.put(answer)
        return answer.result(ANSWER_S)

    def waiting(self, within: float) -> "list[Future[tuple[int, bytes]]]":
        """Every request that waits; if there is none, whatever comes within so many seconds."""
        found = []
        try:
            found.append(self._asked.get(timeout=within))
            while True:
                found.append(self._asked.get_nowait())
        except Empty:
            return found

    def cut_off_the_slow(self) -> None:
        """Close the connections that have lasted too long; their threads see that as an end."""
        late = time.monotonic() - CLIENT_S
        with self._lock:
            slow = [client for client, since in self._since.items() if since < late]
        for client in slow:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread, unless there are too many."""
        with self._lock:
            crowded = len(self._since) >= CLIENTS
            if not crowded:
                self._since[request] = time.monotonic()
        if crowded:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The client has its answer, or gets none."""
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is nothing to tell of."""


class _Client(BaseHTTPRequestHandler):
    """One request, one answer, and the connection is closed."""

    server: _Server
    server_version = "dispatchctl"
    sys_version = ""
    timeout = CLIENT_S

    def do_GET(self) -> None:
        """The metrics."""
        if self.path.partition("?")[0] != PATH:
            self._answer(404, f"there is only {PATH}\n".encode())
            return
        try:
            status, body = self.server.ask()
        except TimeoutError:
            status, body = 503, b"the database did not answer\n"
        self._answer(status, body)

    do_HEAD = do_GET  # noqa: N815 - http.server calls it so

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody asked for a log of scrapes."""
