"""The process in the pane: starts the agent, waits for it, and records how it ended.

    python -I -S -c 'import sys; …; launcher.main(sys.argv[2])' ROOT RUN_DIR

1. It forks the agent's process, which waits at a gate.
2. It marks the start in the run directory and commits `launching → started`. If that matches no row, the run was given up:
   the gate closes and no agent ever runs.
3. It opens the gate and relays the terminal until the agent has ended.
4. It writes `exit.json` (prepared beforehand, so that a full disk cannot prevent it), ends every process of the run that is
   left, and closes the run in the database, trying for as long as it takes. Whatever of this fails, the file waits.

Only what step 2 needs is imported at the top: the agent's first instruction waits for it.
"""

import os
import signal
import sys
import time

from dispatchctl import processes
from dispatchctl.faults import effect
from dispatchctl.relay import Log, Relay, copy_modes, copy_size
from dispatchctl.store import fence
from dispatchctl.store.connection import Database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

    from dispatchctl.task import Task
    from dispatchctl.verdict import Ending

BECOME_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)
EXIT_FILE_SIZE = 4_096
STARTED_SIZE = 128
LAST_MESSAGE = "last-message"
"""The file of the run directory into which some agents write what they said last."""
LONGEST_LAST_WORDS = 4_096
"""Bytes of an agent's output that are taken for what it said last."""

FENCE = effect("launcher passes the fence")
MARKING = effect("launcher marks the start")
GATE = effect("launcher opens the gate")
FORGETTING = effect("launcher forgets the environment")
RECORDING = effect("launcher writes the exit file")
SWEEPING = effect("launcher sweeps")
CLOSING = effect("launcher closes the run")
SECOND_GRACE = 2.0
"""Seconds between TERM and KILL for what an agent left behind that was itself asked to end, and had its own grace."""
RECORD_FOR = 3_600.0
"""Seconds for which the launcher tries to close its run in the database before it leaves that to reconcile."""


class Spec:
    """What the dispatcher wrote for this run: `key=value` pairs, each ended by a NUL; `argv` comes once for each word.

    Raises `OSError` if the file is gone. `values` stands in for it where reconcile closes a run without its directory.
    """

    def __init__(self, run_dir: str, values: "Mapping[str, str] | None" = None) -> None:
        self.run_dir = run_dir
        self.argv: list[str] = []
        self.values: dict[str, str] = dict(values or {})
        for key, value in pairs(os.path.join(run_dir, "spec")) if values is None else ():
            if key == "argv":
                self.argv.append(value)
            else:
                self.values[key] = value

    def __getitem__(self, key: str) -> str:
        return self.values[key]

    def path(self, name: str) -> str:
        """A file of the run directory."""
        return os.path.join(self.run_dir, name)


def pairs(path: str) -> list[tuple[str, str]]:
    """The `key=value` pairs of a file, in order."""
    with open(path, "rb") as file:
        words = os.fsdecode(file.read()).split("\0")
    return [(key, value) for key, _, value in (word.partition("=") for word in words if word)]


def main(run_dir: str) -> "NoReturn":
    """Run the agent of a run; never returns. The exit status is the agent's, or 125 if it never ran."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C between commit and relay would leave no record
    spec = Spec(run_dir)
    server = _server()
    try:
        held = _start(spec)
    except Exception as error:  # noqa: BLE001 - whatever it is, the dispatcher must learn of it
        _say_failed(spec, error)
        sys.exit(125)
    if held is None:
        _say(f"dispatchctl: run {spec['token']} was given up before its agent started")
        sys.exit(125)
    relay, agent, opener, failure = held
    try:
        _let_go(spec, relay, opener, failure)
        relay.run()
    except Exception as error:  # noqa: BLE001 - a fault of ours must not leave an agent without anybody to record its end
        _say(f"dispatchctl: the agent is ended, because its launcher failed: {error!r}")
        relay.give_up()
    try:
        code = _end(spec, relay, agent, server)
    except Exception as error:  # noqa: BLE001 - a fault of ours must not keep the agent's end from being recorded
        _say(f"dispatchctl: once more, because its launcher failed: {error!r}")
        code = _end(spec, relay, agent, server)
    sys.exit(code)


def _server() -> "processes.Process":
    """The tmux server, as it names itself in the environment of its panes (tmux(1), TMUX: socket, pid, session).

    Not our parent: the server may have been killed before we look, and then that is another process, which lives on.
    """
    words = os.environ.get("TMUX", "").rsplit(",", 2)
    pid = int(words[1]) if len(words) == 3 and words[1].isdecimal() else os.getppid()
    return pid, processes.start_time(pid) or 0


def _start(spec: Spec) -> "tuple[Relay, processes.Process, int, int] | None":
    """Fork the agent's process, which waits at the gate, and pass the fence; None if the run was given up.

    The mark comes first: a run whose agent may have begun has it, also if the row that says so is lost the next moment. The
    answer is the relay, the agent, and the pipes that open the gate and say why its program cannot be executed.
    """
    environment = dict(pairs(spec.path("environment")))
    for name in ("TERM", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "COLORTERM", "TMUX", "TMUX_PANE"):
        if name in os.environ:
            environment[name] = os.environ[name]
    os.chdir(spec["worktree"])
    environment["PWD"] = spec["worktree"]
    program = find_program(spec.argv[0], environment.get("PATH", os.defpath))
    control = os.open(spec.path("control"), os.O_RDWR | os.O_NONBLOCK)
    log = Log(spec.path("output.log"), int(spec["output_limit"]))
    _become_subreaper()
    terminal, agents_terminal = os.openpty()
    copy_modes(0, terminal)
    copy_size(0, terminal)
    gate, opener = os.pipe()
    failure, failing = os.pipe()
    pid = os.fork()  # agents_terminal stays open in both: to an agent that closes its own, it must not look hung up
    if pid == 0:
        _wait_and_execute(gate, opener, failing, agents_terminal, spec["stdin"], program, spec.argv, environment)
    os.close(gate)
    os.close(failing)
    agent = (pid, processes.start_time(pid) or 0)
    me = (os.getpid(), processes.start_time(os.getpid()) or 0)
    passed = False
    try:
        with MARKING:
            _mark_start(spec, me, agent)
        with FENCE:
            passed = _pass_fence(spec, me, agent)
    finally:
        if not passed:
            os.close(opener)
            os.waitpid(pid, 0)
            _take_mark_back(spec)
    if not passed:
        return None
    grace, limit = float(spec["kill_grace"]), float(spec["timeout_s"])
    return Relay(pid, terminal, control, log, kill_grace=grace, time_limit=limit), agent, opener, failure


def _let_go(spec: Spec, relay: Relay, opener: int, failure: int) -> None:
    """Open the gate to the agent."""
    with GATE:
        _open_gate(opener)
    relay.failure = _errno(failure)
    with FORGETTING:
        _forget(spec.path("environment"))


def _open_gate(opener: int) -> None:
    try:
        os.write(opener, b"!")
    except BrokenPipeError:
        pass  # the agent's process was ended while it waited; the relay records that
    os.close(opener)


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # the run has started: nothing may keep its end from being recorded


def _pass_fence(spec: Spec, me: "processes.Process", agent: "processes.Process") -> bool:
    database = Database(spec["database"], busy_timeout=float(spec["busy_timeout"]))
    try:
        return fence.start(database, spec["token"], at=_now(), launcher=me, agent=agent, awake=processes.awake())
    finally:
        database.close()


def _mark_start(spec: Spec, me: "processes.Process", agent: "processes.Process") -> None:
    """Leave beside the database that the agent may have begun: a copy of it that is restored would not know."""
    text = " ".join(map(str, (_now(), processes.awake(), *me, *agent)))
    prepared = spec.path("started.new")
    try:
        descriptor = os.open(prepared, os.O_WRONLY)
        os.pwrite(descriptor, text.encode().ljust(STARTED_SIZE), 0)
        os.close(descriptor)
        os.rename(prepared, spec.path("started"))
    except OSError as error:
        _say(f"dispatchctl: {spec.path('started')} could not be written: {error}")


def _take_mark_back(spec: Spec) -> None:
    """The agent will not begin."""
    try:
        os.unlink(spec.path("started"))
    except OSError:
        pass  # the run directory is gone: the dispatcher has given up already


def _wait_and_execute(
    gate: int,
    opener: int,
    failing: int,
    terminal: int,
    stdin: str,
    program: str,
    argv: list[str],
    environment: dict[str, str],
) -> "NoReturn":
    """In the agent's process: wait at the gate, then become the agent on its own terminal."""
    try:
        os.close(opener)
        if os.read(gate, 1) != b"!":
            os._exit(125)
        os.login_tty(terminal)
        if stdin:
            os.dup2(os.open(stdin, os.O_RDONLY), 0)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:  # Python ignores two, tmux two more
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(program, argv, environment)
    except OSError as error:
        os.write(failing, b"%d" % (error.errno or 0))
    finally:
        os._exit(127)


def _errno(failure: int) -> int | None:
    """Why the agent's program could not be executed; None once it is running."""
    with os.fdopen(failure, "rb") as pipe:
        answer = pipe.read()
    return int(answer) if answer else None


def find_program(name: str, path: str) -> str:
    """The executable that a shell would run for `name`. Raises `FileNotFoundError`."""
    candidates = [name] if "/" in name else [os.path.join(each or ".", name) for each in path.split(os.pathsep)]
    for candidate in candidates:
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise FileNotFoundError(f"there is no program called {name!r}")


def _become_subreaper() -> None:
    """Have processes whose parent ends fall to us, so that none of the run's can leave our sight. Linux only."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(BECOME_SUBREAPER, 1, 0, 0, 0)


def _say_failed(spec: Spec, error: Exception) -> None:
    """Leave the reason where the dispatcher looks for it, and on the screen."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}: {error.filename}"
    _say(f"dispatchctl: the agent was not started: {message}")
    try:
        with open(spec.path("failed.new"), "w", encoding="utf-8", errors="replace") as file:
            file.write(f"{type(error).__name__}\n{message}")
        os.rename(spec.path("failed.new"), spec.path("failed"))
    except OSError:
        pass  # the run directory is gone: the dispatcher has given up already


# -- after the agent has ended: nothing waits for these imports ----------------------------------------------------------


def _end(spec: Spec, relay: Relay, agent: "processes.Process", server: "processes.Process") -> int:
    """Record the end, end what is left of the run, close it. The record and the sweep import nothing: after hours the
    package may have been upgraded or removed."""
    assert relay.status is not None
    code = os.waitstatus_to_exitcode(relay.status)
    error = None
    if relay.failure is not None:
        error = f"the program {spec.argv[0]} cannot be executed: {os.strerror(relay.failure)}"
    ending: dict[str, int | str | bool | None] = {
        "cause": relay.cause,
        "ended_at": _now(),
        "exit_code": code if code >= 0 else None,
        "signal": -code if code < 0 else None,
        "asked": "timeout" if relay.asked == "timeout" else None,
        "server_lives": None,
        "error": error,
    }
    with RECORDING:
        write_exit_file(spec.run_dir, ending)
    with SWEEPING:
        _sweep(spec, agent, server, float(spec["kill_grace"]) if relay.cause == "by_itself" else SECOND_GRACE)
    if relay.cause == "hangup":
        ending["server_lives"] = _outlives(server, 2.0)
        write_exit_file(spec.run_dir, ending)
    relay.close()
    with CLOSING:
        _close(spec)
    return code if code >= 0 else 128 - code


def _sweep(spec: Spec, agent: "processes.Process", server: "processes.Process", grace: float) -> None:
    """End every process of the run but this one; a run is not closed while one of them lives."""
    me = os.getpid()
    roots = [agent, (me, processes.start_time(me) or 0)]
    while left := processes.sweep(lambda: processes.of_run(spec["token"], roots, spare=(me, server[0])), grace=grace):
        pids = ", ".join(str(pid) for pid, _ in left)
        _say(f"dispatchctl: processes that cannot be ended keep this run open: {pids}")
        time.sleep(1.0)
        while _reaped_one():
            pass


def _reaped_one() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _outlives(server: "processes.Process", seconds: float) -> bool:
    """Whether the tmux server is still there after the hang-up that it, or somebody in it, caused."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if processes.is_alive(server) is False:
            return False
        time.sleep(0.02)
    return True


def write_exit_file(run_dir: str, ending: "Mapping[str, int | str | bool | None]") -> None:
    """Record how the agent ended, durably, in space that was set aside before it started."""
    prepared, final = os.path.join(run_dir, "exit.json.new"), os.path.join(run_dir, "exit.json")
    if not os.path.exists(prepared):
        prepared = final
    text = "{" + ", ".join(f'"{key}": {_as_json(value)}' for key, value in ending.items()) + "}"
    try:
        descriptor = os.open(prepared, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(descriptor, text.encode().ljust(EXIT_FILE_SIZE), 0)
        os.fsync(descriptor)
        os.close(descriptor)
        os.rename(prepared, final)
        directory = os.open(run_dir, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
    except OSError as error:
        _say(f"dispatchctl: how the agent ended could not be written to {final}: {error}")


def _as_json(value: "int | str | bool | None") -> str:
    """A value as JSON without the json module; of a text, what is not plain ASCII becomes `?`."""
    if isinstance(value, str):
        return '"' + "".join(each if " " <= each <= "~" and each not in '"\\' else "?" for each in value) + '"'
    return "null" if value is None else str(value).lower()


def read_exit_file(run_dir: str) -> "Ending | None":
    """How the agent of the run ended, if that was recorded and can be read."""
    import json

    from dispatchctl.task import Ask, Cause
    from dispatchctl.verdict import Ending

    try:
        with open(os.path.join(run_dir, "exit.json"), encoding="utf-8") as file:
            values: dict[str, Any] = json.load(file)
        cause, asked = Cause(values.pop("cause")), values.pop("asked")
        return Ending(cause=cause, asked=asked and Ask(asked), **values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _close(spec: Spec) -> None:
    """Write the end into the database, however long it is locked or its disk full, and say so on the screen."""
    deadline = time.monotonic() + RECORD_FOR
    wait = 0.05
    while True:
        try:
            ending = read_exit_file(spec.run_dir)
            if ending is None:
                raise FileNotFoundError(spec.path("exit.json"))
            task = close_run(spec, ending)
        except Exception as error:  # noqa: BLE001 - the exit file is written; until the deadline everything is tried again
            if time.monotonic() > deadline or not os.path.isdir(spec.run_dir):
                _say(f"dispatchctl: not recorded, left to `dispatchctl reconcile`: {error}")
                return
            time.sleep(wait)
            wait = min(2 * wait, 5.0)
            continue
        how = f"signal {ending.signal}" if ending.signal else f"exit code {ending.exit_code}"
        why = f": {task.error}" if task.error else ""
        _say(f"dispatchctl: task {task.id} ended with {how}, now {task.status}{why}")
        return


def close_run(spec: Spec, ending: "Ending", *, by_launcher: bool = True) -> "Task":
    """Judge and close the run from what its ending and its worktree say; reconcile does so where the launcher could not."""
    import random

    from dispatchctl.store import open_store
    from dispatchctl.task import Actor, Phase, Report
    from dispatchctl.verdict import Policy, is_finished
    from dispatchctl.worktrees import Worktrees

    environment = {"PATH": spec["path"], "HOME": spec["home"], "DISPATCHCTL_TOKEN": spec["token"]}
    git = Worktrees(spec["git"], environment)
    status, result = read_result(spec["result_file"])
    actor = Actor.LAUNCHER if by_launcher else Actor.RECONCILE
    policy = Policy(
        spec["expects_changes"] == "1",
        spec["uncommitted"],
        int(spec["retry_wait_s"]),
        after_loss=spec.values.get("after_loss") == "1",
    )
    store = open_store(spec["database"], busy_timeout=float(spec["busy_timeout"]))
    try:
        run = store.run(spec["token"])
        if status is not None and run.report is None and run.phase == Phase.STARTED:
            run = store.report(run.token, Report(status), result, actor=Actor.AGENT, at=_now())
        changes = git.changes(spec["worktree"], spec["base_commit"])
        task = store.task(run.task)
        wanted = policy.uncommitted == "commit" and run.phase == Phase.STARTED and is_finished(task, run, ending)
        if wanted and changes and changes.files:
            git.commit_everything(spec["worktree"], f"{task.title}\n\nCommitted for run {run.token}.")
            changes = git.changes(spec["worktree"], spec["base_commit"])
        return store.close_ended(
            spec["token"],
            ending,
            changes,
            result,
            policy,
            actor=actor,
            at=_now(),
            jitter=random.random(),
            last_message=read_last_message(spec),
        )
    finally:
        store.close()


def read_result(path: str, longest: int = 65_536) -> tuple[str | None, str | None]:
    """What the agent left in its result file: `(report, text)`; a JSON object may hold `status` and `summary`.

    Whatever an agent may have put there instead of a text is no result, and never an error.
    """
    import json

    data = _read_regular(path, longest)
    if data is None:
        return None, None
    text = _clean(data.decode("utf-8", "replace"))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None, text or None
    if not isinstance(value, dict):
        return None, text or None
    status, summary = value.get("status"), value.get("summary")
    said = _clean(summary) if isinstance(summary, str) else text
    return status if status in ("done", "fail") else None, said


def read_last_message(spec: Spec) -> str | None:
    """What the agent said last, where its profile says how that can be had; None if it said nothing, and never an error.

    A launcher of an earlier version did not note how: then there is none.
    """
    from dispatchctl import plain

    how = spec.values.get("last_message")
    if how == "file":
        data = _read_regular(spec.path(LAST_MESSAGE), 65_536)
        return None if data is None else _clean(plain.words(data).decode("utf-8", "replace")) or None
    if how == "output":
        log, tail = spec.path("output.log"), 8 * LONGEST_LAST_WORDS
        newest = _read_regular(log, tail, end=True) or b""
        older = _read_regular(f"{log}.1", tail - len(newest), end=True) or b"" if len(newest) < tail else b""
        return _clean(plain.last_words(older + newest, LONGEST_LAST_WORDS)) or None
    return None


def _read_regular(path: str, longest: int, *, end: bool = False) -> bytes | None:
    """At most so many bytes of the beginning, or the end, of a file; None if it is none, or not one of bytes on a disk."""
    import stat

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        return os.pread(descriptor, longest, max(0, status.st_size - longest) if end else 0)
    finally:
        os.close(descriptor)


def _clean(text: str) -> str:
    """The text as the database takes it: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "").encode("utf-8", "replace").decode().strip()


def _say(line: str) -> None:
    """Show a line in the pane, if there still is one."""
    visible = "".join(each if each.isprintable() else " " for each in line)
    try:
        os.write(1, visible.encode() + b"\r\n")
    except OSError:
        pass


def _now() -> int:
    return time.time_ns() // 1_000_000
