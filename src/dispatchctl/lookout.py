"""Looking: why a task waits, whether a run lives, what it wrote, and waiting for its end."""

import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from dispatchctl import processes
from dispatchctl.durations import format_time
from dispatchctl.errors import Refused, TimedOut, Unanswered, Unavailable
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import FINISHED, Life, Phase, Run, Status, Task

TERMINAL_SEQUENCE = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\)|[ -/]*[0-~])|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", re.DOTALL
)
SETTLED = FINISHED | {Status.IN_REVIEW}


def held(runtime: Runtime, tasks: Collection[Task]) -> dict[int, str]:
    """Why each of the ready tasks cannot be claimed now; those that can are left out."""
    waiting = [task for task in tasks if task.status is Status.READY]
    parents = runtime.store.parents([task.id for task in waiting if task.waits])
    reasons: dict[int, str] = {}
    for task in waiting:
        if task.id in parents:
            reasons[task.id] = "; ".join(_unfinished(parent) for parent in parents[task.id])
        elif task.not_before is not None and task.not_before > now():
            why = f" ({task.error})" if task.error else ""
            reasons[task.id] = f"not before {format_time(task.not_before)}{why}"
    return reasons


def _unfinished(parent: Task) -> str:
    if parent.status in (Status.FAILED, Status.CANCELLED):
        return f"task {parent.id} is {parent.status}: dispatchctl retry {parent.id}"
    return f"after task {parent.id}, which is {parent.status}"


def explain(runtime: Runtime, task: Task) -> str:
    """Why the task is not running, or that it is."""
    if task.status is not Status.READY:
        return f"{task.status}{f': {task.error}' if task.error else ''}"
    reason = held(runtime, [task]).get(task.id)
    if reason:
        return f"held: {reason}"
    limit, running = runtime.settings.dispatch.max_running, len(runtime.store.open_runs())
    if running >= limit:
        return f"ready; {running} runs are open and the limit is {limit}"
    return "ready: dispatchctl dispatch"


def look(runtime: Runtime, task: Task) -> Task:
    """The task with the life of its newest run as it is now; remembered if it changed."""
    run = task.run
    if run is None or run.phase is Phase.CLOSED:
        return task
    life, at = life_of(runtime, run), now()
    if life is not run.life or at - (run.life_at or 0) > 60_000:
        runtime.store.sighted(run.token, life, at=at)
    return replace(task, run=replace(run, life=life, life_at=at))


def life_of(runtime: Runtime, run: Run) -> Life:
    """Evidence, never age: the boot, the launcher and the agent by pid and start time, the pane that carries the token.

    Gone only if nothing of the run can be seen anywhere; whatever cannot be asked makes it unknown.
    """
    if run.host != runtime.host:
        return Life.UNKNOWN
    if run.boot_id != runtime.boot_id:
        return Life.GONE
    known = [
        processes.is_alive((pid, started))
        for pid, started in ((run.launcher_pid, run.launcher_start), (run.agent_pid, run.agent_start))
        if pid is not None and started is not None
    ]
    if True in known:
        return Life.ALIVE
    if None in known:
        return Life.UNKNOWN
    if processes.of_run(run.token):
        return Life.ALIVE
    try:
        pane = runtime.windows(run.socket).pane_of(run.token)
    except (Unanswered, Unavailable):
        return Life.UNKNOWN
    return Life.UNKNOWN if pane is not None and not pane.dead else Life.GONE


def wait(runtime: Runtime, ids: Sequence[int], *, timeout: float | None, through_blocked: bool) -> Iterator[Task]:
    """Each task as it settles: finished, in review, blocked (unless that is waited through), or held for ever.

    Raises `TimedOut` after `timeout` seconds, naming those that have not.
    """
    left = dict.fromkeys(ids)
    deadline = None if timeout is None else time.monotonic() + timeout
    version = None
    while left:
        seen = runtime.store.version()
        if seen != version:
            version = seen
            for task in [runtime.store.task(task) for task in left]:
                if _settled(runtime, task, through_blocked):
                    del left[task.id]
                    yield task
        if left and deadline is not None and time.monotonic() > deadline:
            listed = ", ".join(map(str, left))
            raise TimedOut(
                f"{timeout:g} s passed and task {listed} had not ended", f"dispatchctl show {next(iter(left))}"
            )
        if left:
            time.sleep(0.02)


def _settled(runtime: Runtime, task: Task, through_blocked: bool) -> bool:
    if task.run is not None and task.run.phase is not Phase.CLOSED and task.status is not Status.BLOCKED:
        return task.status is Status.FAILED
    if task.status is Status.BLOCKED:
        return not through_blocked
    if task.status is Status.READY and task.waits:
        parents = runtime.store.parents([task.id]).get(task.id, [])
        return any(parent.status in (Status.FAILED, Status.CANCELLED) for parent in parents)
    return task.status in SETTLED


def log_files(run: Run) -> list[str]:
    """The files that hold what the run's agent wrote, oldest first."""
    path = os.path.join(run.run_dir, "output.log")
    return [each for each in (path + ".1", path) if os.path.exists(each)]


def output(runtime: Runtime, task: int, *, follow: bool) -> Iterator[bytes]:
    """What the agent of the task's newest run wrote, in pieces; with `follow` until the run is closed."""
    run = runtime.store.task(task).run
    if run is None:
        raise Refused(f"task {task} has not run yet", f"dispatchctl dispatch {task}")
    if not log_files(run):
        raise Refused(
            f"the output of run {run.token} of task {task} is not kept any more", f"dispatchctl history {task}"
        )
    for path in log_files(run)[:-1]:
        with open(path, "rb") as file:
            yield file.read()
    path = os.path.join(run.run_dir, "output.log")
    file = open(path, "rb")  # noqa: SIM115 - replaced below when the launcher begins a new file
    try:
        while True:
            closed = runtime.store.run(run.token).phase is Phase.CLOSED
            piece = file.read(1 << 16)
            if piece:
                yield piece
            elif os.stat(path).st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                file = open(path, "rb")  # noqa: SIM115
            elif closed or not follow:
                return
            else:
                time.sleep(0.05)
    finally:
        file.close()


def plain(piece: bytes) -> str:
    """Output of a terminal program as text: no escape sequences, no control characters but line ends and tabs."""
    text = TERMINAL_SEQUENCE.sub(b"", piece).replace(b"\r\n", b"\n")
    decoded = text.decode("utf-8", "replace").replace("\r", "\n")
    return "".join(each if each in "\n\t" or each.isprintable() else "·" for each in decoded)
