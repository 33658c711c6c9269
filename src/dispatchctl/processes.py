"""The door to processes: who is alive, who belongs to a run, ending them, file locks, and programs with a time limit.

A process is named by its pid *and* start time (clock ticks since boot): pids are reused. Where the process table cannot be
read (not Linux), the answer is None, "I cannot tell", and never "gone". Source: proc(5).

Imported by the launcher before the agent starts: `subprocess` is imported where it is used.
"""

import fcntl
import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import IO

Process = tuple[int, int]
"""A pid and the start time of the process that had it."""

LARGEST_PIPE = 1 << 20
"""Bytes that a pipe may hold: /proc/sys/fs/pipe-max-size unless root raised it."""


def awake() -> int:
    """Milliseconds that the machine has been awake since it was booted; no setting of the clock changes them."""
    return time.monotonic_ns() // 1_000_000


def boot_id() -> str:
    """The random id of this boot of the machine; the empty string where there is none."""
    return _first_line("/proc/sys/kernel/random/boot_id")


def machine_id() -> str:
    """The id of this machine, or its host name where it has none."""
    return _first_line("/etc/machine-id") or os.uname().nodename


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is none with this pid, or only its zombie."""
    stat = _stat(pid)
    return None if stat is None or stat[0] in "ZX" else stat[2]


def is_alive(process: Process) -> bool | None:
    """Whether exactly this process lives; None where that cannot be told."""
    pid, started = process
    if os.path.exists("/proc/self/stat"):
        return start_time(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return None


def _first_line(path: str) -> str:
    try:
        with open(path) as file:
            return file.readline().strip()
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, int, int, int] | None:
    """State, parent, start time and group of a process; the fields after its name, which may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return fields[0].decode(), int(fields[1]), int(fields[19]), int(fields[2])


def of_run(token: str, roots: "Iterable[Process]" = (), spare: "Collection[int]" = ()) -> "set[Process]":
    """Every live process that carries the run's token in its environment or descends from `roots`, less `spare`."""
    mark = f"DISPATCHCTL_TOKEN={token}".encode()
    living: dict[int, tuple[int, int]] = {}
    found: set[int] = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        pid = int(entry)
        stat = _stat(pid)
        if stat is None or stat[0] in "ZX":
            continue
        living[pid] = stat[1:3]
        if mark in _environment(pid):
            found.add(pid)
    found |= {pid for pid, started in roots if pid in living and living[pid][1] == started}
    kin = set(found)
    grown = True
    while grown:
        children = {pid for pid, (parent, _) in living.items() if parent in kin} - kin
        kin |= children
        found |= children
        grown = bool(children)
    return {(pid, living[pid][1]) for pid in found - set(spare)}


class Carriers:
    """How many live processes carry a run's token, and the databases that they were told of."""

    def __init__(self) -> None:
        self.count = 0
        self.databases: set[str] = set()


def by_token() -> "dict[str, Carriers]":
    """The live processes that carry each run's token, from one look at the process table."""
    found: dict[str, Carriers] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not entry.isdigit():
            continue
        token, database = b"", b""
        for variable in _environment(int(entry)):
            if variable.startswith(b"DISPATCHCTL_TOKEN="):
                token = variable[18:]
            elif variable.startswith(b"DISPATCHCTL_DB="):
                database = variable[15:]
        if token:
            carriers = found.setdefault(token.decode("ascii", "replace"), Carriers())
            carriers.count += 1
            carriers.databases.add(os.fsdecode(database))
    return found


def working_in(directory: str) -> list[int]:
    """Processes whose working directory is the directory or below it, as far as this user may see."""
    inside = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                cwd = os.readlink(f"/proc/{entry}/cwd")
            except OSError:
                continue
            if cwd == directory or cwd.startswith(directory + "/"):
                inside.append(int(entry))
    return inside


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _own_line() -> set[int]:
    """This process and its ancestors."""
    line, pid = {os.getpid()}, os.getppid()
    while pid > 1 and pid not in line:
        line.add(pid)
        stat = _stat(pid)
        pid = 0 if stat is None else stat[1]
    return line


def send(process: Process, number: int) -> None:
    """Signal exactly this process; nothing happens if it is gone. Raises `PermissionError`."""
    pid, started = process
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):
        descriptor = -1
    try:
        if start_time(pid) != started:
            return
        if descriptor >= 0:
            signal.pidfd_send_signal(descriptor, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        pass
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def sweep(find: "Callable[[], set[Process]]", *, grace: float, patience: float = 5.0) -> "set[Process]":
    """End what `find` finds: TERM, after `grace` seconds KILL, until two looks in a row find nothing.

    Returns what is still there `patience` seconds after the first KILL: it cannot be ended, and is named, not hidden. Nor are
    this process and its ancestors ended: called from a session of what is to be swept, they are what is left.
    """
    asked: set[Process] = set()
    mine = _own_line()
    kill_at = time.monotonic() + grace
    empty = 0
    while empty < 2:
        found = find()
        empty = 0 if found else empty + 1
        now = time.monotonic()
        others = {process for process in found if process[0] not in mine}
        if found and (not others or now > kill_at + patience):
            return found
        for process in others:
            if now >= kill_at:
                send(process, signal.SIGKILL)
            elif process not in asked:
                send(process, signal.SIGTERM)
                send(process, signal.SIGCONT)
        asked |= found
        if found:
            time.sleep(0.02)
    return set()


class Lock:
    """An exclusive lock on a file, freed by the kernel when every process that has it open is gone."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def is_in_place(self) -> bool:
        """Whether the locked file is still the one at its path: whoever finds it free may remove it."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Unlock explicitly, so that a daemon that inherited the descriptor does not hold it."""
        if self.descriptor >= 0:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            os.close(self.descriptor)
            self.descriptor = -1


def is_locked(path: str) -> bool | None:
    """Whether somebody holds the lock on the file; None if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def make_private(directory: str) -> None:
    """Make the directory, and those above it that are missing, for this user alone; `os.makedirs` would open those above."""
    missing = []
    while directory and not os.path.isdir(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)
    for each in reversed(missing):
        try:
            os.mkdir(each, 0o700)
        except FileExistsError:
            pass  # somebody else was quicker


def lock(path: str, *, wait: float = 0.0) -> Lock | None:
    """Lock the file at `path`, which is made if need be; None if somebody else holds it for longer than `wait` seconds."""
    make_private(os.path.dirname(path))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Lock(path, descriptor)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.005)
        except BaseException:
            os.close(descriptor)
            raise


class Finished:
    """How a program ended: its code (negative: a signal), what it said, and whether it ran out of time."""

    def __init__(self, code: int, out: bytes, err: bytes, timed_out: bool) -> None:
        self.code = code
        self.out = out
        self.err = err
        self.timed_out = timed_out

    @property
    def last_words(self) -> str:
        """The last lines of what it said, for an error message."""
        said = (self.err.strip() or self.out.strip()).decode("utf-8", "replace")
        return "\n".join(said.splitlines()[-5:])


def execute(
    argv: "Sequence[str]",
    *,
    env: "Mapping[str, str]",
    timeout: float,
    cwd: str | None = None,
    given: bytes | None = None,
    held: Lock | None = None,
    merged: bool = False,
    kept: int = 0,
) -> Finished:
    """Run a program in a process group of its own and wait for it; `held` is a lock that it and its children inherit.

    What it says is kept, or only the last `kept` bytes of it. The wait ends with the program, whatever it leaves behind:
    a daemon that goes on writing to its output gets SIGPIPE. After `timeout` seconds, or when this process is
    interrupted, the whole group is ended: TERM first, so that git can tidy up, then KILL. Raises `OSError` if the
    program cannot be started.
    """
    import subprocess  # 11 ms, and the launcher's start does without

    process = subprocess.Popen(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        start_new_session=True,
        pass_fds=() if held is None else (held.descriptor,),
    )
    said = _Conversation(process.stdin, (process.stdout, process.stderr), given or b"", kept)
    timed_out = False
    try:
        deadline = time.monotonic() + timeout
        while said.goes_on and process.poll() is None and time.monotonic() < deadline:
            said.listen(min(0.05, max(0.0, deadline - time.monotonic())))
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            timed_out = True
            _end_group(process.pid, process.poll)
        said.listen(0.0)
        code = process.poll()
        return Finished(-signal.SIGKILL if code is None else code, said.of(0), said.of(1), timed_out)
    except BaseException:
        _end_group(process.pid, process.poll)
        raise
    finally:
        said.close()


class _Conversation:
    """The pipes of a program: what it is given, and what it says until it has ended or closed them."""

    def __init__(self, into: "IO[bytes] | None", outs: "Sequence[IO[bytes] | None]", given: bytes, kept: int) -> None:
        self.given = given
        self.kept = kept
        self.into = into
        self.outs = outs
        self.said = [bytearray() for _ in outs]
        self.open = {pipe.fileno(): place for place, pipe in enumerate(outs) if pipe is not None}
        for descriptor in (*self.open, *([into.fileno()] if into else [])):
            os.set_blocking(descriptor, False)

    @property
    def goes_on(self) -> bool:
        """Whether there is anybody to listen to."""
        return bool(self.open)

    def of(self, place: int) -> bytes:
        """What was said to one of the outputs."""
        return bytes(self.said[place][-self.kept :])

    def listen(self, wait: float) -> None:
        """Pass on what can be passed now, waiting at most `wait` seconds for it."""
        poll = select.poll()
        for descriptor in self.open:
            poll.register(descriptor, select.POLLIN)
        if self.into is not None:
            poll.register(self.into.fileno(), select.POLLOUT)
        for descriptor, _ in poll.poll(wait * 1_000):
            if descriptor in self.open:
                self._hear(descriptor)
            else:
                self._tell()

    def _hear(self, descriptor: int) -> None:
        data = os.read(descriptor, LARGEST_PIPE)
        said = self.said[self.open[descriptor]]
        said += data
        if self.kept and len(said) > 2 * self.kept:
            del said[: -self.kept]
        if not data:
            del self.open[descriptor]

    def _tell(self) -> None:
        assert self.into is not None
        try:
            self.given = self.given[os.write(self.into.fileno(), self.given[:LARGEST_PIPE]) :]
        except BrokenPipeError:
            self.given = b""
        if not self.given:
            self.into.close()
            self.into = None

    def close(self) -> None:
        """Close every pipe; whoever still writes to one gets SIGPIPE."""
        for pipe in (self.into, *self.outs):
            if pipe is not None:
                pipe.close()


def _end_group(group: int, reap: "Callable[[], int | None]", grace: float = 3.0) -> None:
    """TERM to the process group, and KILL to what is left of it after `grace` seconds; `reap` waits for its leader."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + grace
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        while time.monotonic() < deadline:
            if not group_lives(group):
                reap()
                return
            reap()
            time.sleep(0.01)


def group_lives(group: int) -> bool:
    """Whether the process group has a member that is more than a zombie, which an idle pid 1 may leave for long."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it may not be signalled, but it can be seen
    stats = [_stat(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()] if os.path.isdir("/proc") else []
    return not stats or any(stat is not None and stat[3] == group and stat[0] not in "ZX" for stat in stats)
