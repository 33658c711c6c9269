"""Random kills: dispatchers and reconcilers at work on one queue, while they, launchers, agents, the git of a dispatcher and
the tmux server are killed at random times. In the end every task is done, exactly once, or is rightly failed; no two agents
of a task ever ran at one time (each holds an exclusive lock and would notice), and nothing is left behind.

What is killed and when comes from a seed: the same seed makes the same decisions, though not the same interleaving.
"""

import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from world import World, eventually

from dispatchctl import processes
from dispatchctl.dispatch import dispatch
from dispatchctl.errors import DispatchctlError
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Outcome, Status
from proof import inside, outside

TASKS = 16
DISPATCHERS = 3
RECONCILERS = 2
PAUSE_S = 0.12
"""Mean time between two kills."""
SETTLE_S = 60.0

AGENT = """
exec 9>>"{root}/agents/$DISPATCHCTL_TASK.lock"
flock -n 9 || echo "$DISPATCHCTL_TASK $DISPATCHCTL_TOKEN" >> "{root}/agents/second"
echo "$DISPATCHCTL_TASK $DISPATCHCTL_TOKEN $PWD" >> "{root}/agents/began"
echo "$DISPATCHCTL_TOKEN" > "work-$DISPATCHCTL_TOKEN"
sleep 0.$((DISPATCHCTL_TASK % 5))
git add -A && git commit -qm "work of $DISPATCHCTL_TOKEN"
exit 0
"""


@dataclass
class Result:
    """What came of one world."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


def run(seed: int, *, kills: int = 60) -> Result:
    """One world, with so many kills."""
    began = time.monotonic()
    result = Result(seed)
    root = Path(tempfile.mkdtemp(prefix="dctl-k", dir="/tmp"))
    world = World(
        root,
        {
            "DISPATCHCTL_DISPATCH__KILL_GRACE": "1",
            "DISPATCHCTL_DISPATCH__LAUNCH_TIMEOUT": "20",
            "DISPATCHCTL_DISPATCH__RETRY_WAIT": "1",
        },
    )
    try:
        _Crowd(world, random.Random(seed), result).play(kills)
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to this seed
        result.violations.append("harness: " + "".join(traceback.format_exception(error))[-1500:])
    finally:
        world.close()
        shutil.rmtree(root, ignore_errors=True)
    result.seconds = time.monotonic() - began
    return result


def _dispatch_two(runtime: Runtime) -> object:
    return dispatch(runtime, most=2)


class _Crowd:
    """The processes of one world, and whoever kills them."""

    def __init__(self, world: World, chance: random.Random, result: Result) -> None:
        self.world = world
        self.chance = chance
        self.result = result
        self.repo = world.repository(files={f"f{number}": "x\n" for number in range(50)})
        self.runtime = world.runtime()
        (world.root / "agents").mkdir()
        prompt = AGENT.replace("{root}", str(world.root))
        for _ in range(TASKS):
            world.add(self.runtime, prompt, repo=self.repo, recoveries=100)
        self.database = str(self.runtime.database)
        self.children: dict[int, str] = {}

    def play(self, kills: int) -> None:
        """Kill so often, then let everything settle and look."""
        try:
            for _ in range(DISPATCHERS):
                self._begin("dispatcher")
            for _ in range(RECONCILERS):
                self._begin("reconciler")
            for _ in range(kills):
                time.sleep(self.chance.expovariate(1 / PAUSE_S))
                self._kill()
                self._reap()
                self._let_time_pass()
                if self._all_done():
                    self._add_more()
        finally:
            for pid in list(self.children):
                inside.kill(pid)
            self._reap(begin=False)
        self._settle()
        self._look()

    def _begin(self, role: str) -> None:
        pid = os.fork()
        if pid == 0:
            self._be_the_child(_dispatch_two if role == "dispatcher" else reconcile)
        self.children[pid] = role

    def _be_the_child(self, does: Callable[[Runtime], object]) -> None:
        variables = self.world.variables
        os.environ.clear()
        os.environ.update(variables)
        os.setsid()
        while True:
            runtime = self.world.runtime()
            try:
                does(runtime)
            except DispatchctlError:
                pass  # whoever is killed beside us may be in our way
            except BaseException as error:  # noqa: BLE001 - a traceback is a bug, and is looked for
                trace = "".join(traceback.format_exception(error))
                (self.world.root / f"traceback-{os.getpid()}").write_text(trace)
            with contextlib.suppress(DispatchctlError):
                runtime.store.close()
            time.sleep(0.02)

    def _kill(self) -> None:
        """Kill one thing, chosen by the seed."""
        what = self.chance.choices(
            ("dispatcher", "launcher", "server", "reconciler", "git", "agent"), (6, 4, 1, 3, 2, 1)
        )[0]
        place = self.chance.random()
        victims = self._victims(what)
        if victims:
            self.result.kills[what] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(victims[int(place * len(victims))], signal.SIGKILL)

    def _victims(self, what: str) -> list[int]:
        if what in ("dispatcher", "reconciler"):
            return [pid for pid, each in self.children.items() if each == what]
        if what == "git":
            return self._gits()
        if what == "server":
            pid = self.runtime.windows().look().pid
            return [pid] if pid else []
        runs = self.runtime.store.open_runs()
        pids = [run.launcher_pid if what == "launcher" else run.agent_pid for run in runs]
        return [pid for pid in pids if pid]

    def _gits(self) -> list[int]:
        """The gits of dispatchers that are at work now."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"git") and str(self.repo).encode() in words:
                    found.append(int(process.name))
        return found

    def _reap(self, *, begin: bool = True) -> None:
        """Bury the dead and put others in their place."""
        for pid, role in list(self.children.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self.children[pid]
                if begin:
                    self._begin(role)

    def _let_time_pass(self) -> None:
        """Nobody waits here for the growing pauses between tries."""
        for task in self.runtime.store.tasks(status=[Status.READY]):
            if task.not_before is not None:
                with contextlib.suppress(DispatchctlError):
                    self.runtime.store.edit(task.id, {"not_before": None}, None, at=now())

    def _all_done(self) -> bool:
        ended = self.runtime.store.count().keys() <= {Status.DONE, Status.FAILED, Status.IN_REVIEW}
        return ended and not self.runtime.store.open_runs()

    def _add_more(self) -> None:
        prompt = AGENT.replace("{root}", str(self.world.root))
        for _ in range(TASKS):
            self.world.add(self.runtime, prompt, repo=self.repo, recoveries=100)

    def _settle(self) -> None:
        """Nothing is killed any more: whatever is left is done by ordinary dispatches."""
        deadline = time.monotonic() + SETTLE_S
        while not self._all_done() and time.monotonic() < deadline:
            self._let_time_pass()
            dispatch(self.runtime)
            with contextlib.suppress(AssertionError):
                eventually(lambda: not self.runtime.store.open_runs(), within=2)
        eventually(lambda: not self._living(), within=10, what="the last launchers leave")
        for _ in range(2):
            reconcile(self.runtime)

    def _living(self) -> bool:
        return any(self.database in each.databases for each in processes.by_token().values())

    def _look(self) -> None:
        wrong = self.result.violations
        store = self.runtime.store
        for task in store.tasks():
            finished = [event for event in store.events(task=task.id) if event.to_status is Status.DONE]
            rightly = task.error or ""
            if task.status is Status.FAILED and rightly.startswith("killed by signal 9"):
                self.result.failed += 1
            elif task.status is Status.IN_REVIEW and rightly.endswith("not committed"):
                self.result.failed += 1  # its git was killed, or left a lock
            elif task.status is not Status.DONE:
                wrong.append(f"P1 task {task.id} ended {task.status}: {rightly[-400:]}")
            elif len(finished) != 1:
                wrong.append(f"P2 task {task.id} was done {len(finished)} times")
            for run in store.runs(task.id):
                self.result.runs[str(run.outcome)] += 1
                if run.outcome is Outcome.HUNG_UP:
                    wrong.append(f"P1 run {run.token} counts as hung up, and nobody closed its window")
        wrong += outside.violations(self.world, self.database, self.repo)
        wrong += [f"a traceback: {path.read_text()[-800:]}" for path in self.world.root.glob("traceback-*")]
        again = reconcile(self.runtime).done
        if again:
            wrong.append(f"reconcile does something each time: {again}")


def main(arguments: list[str]) -> int:
    """SEED KILLS: one world, for a look at it."""
    result = run(int(arguments[0]), kills=int(arguments[1]))
    print(f"{result.seconds:.1f} s, kills {dict(result.kills)}, runs {dict(result.runs)}")
    for violation in result.violations:
        print(f"    {violation}")
    return int(bool(result.violations))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
