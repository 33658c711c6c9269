"""Every fault at every point: a world is made, the fault happens in the process that reaches the point, one reconcile follows,
and the promises are looked at from outside. A second reconcile is allowed where the first had to wait for something to die.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from world import World, eventually

from dispatchctl import clearing, faults, processes, prune, reconcile, steps
from dispatchctl.dispatch import Dispatched, dispatch
from dispatchctl.errors import DispatchctlError
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Actor, Ask, Run
from proof import inside, outside
from proof.inside import Fault

PATIENCE_S = 40.0
"""Seconds that a process may take to end after a fault."""
DISK = "size=24m"


@dataclass(frozen=True)
class Case:
    """One fault at one point."""

    point: str
    fault: Fault

    @property
    def effect(self) -> str:
        """What the point is before or after."""
        return self.point.partition(" ")[2]


@dataclass
class Outcome:
    """What came of a case: whether the point was reached, whether anything went otherwise than without the fault, how many
    reconciles it took, and what does not hold."""

    case: Case
    reached: bool = False
    felt: bool = False
    passes: int = 1
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0


def cases() -> list[Case]:
    """Every point that the code names, with every fault."""
    return [Case(point, fault) for point in faults.points() for fault in Fault]


def run(case: Case) -> Outcome:
    """Make a world, let it happen, reconcile, look."""
    began = time.monotonic()
    outcome = Outcome(case)
    with _world(case) as world:
        try:
            _play(world, case, outcome)
        except AssertionError as error:
            outcome.violations.append(f"harness: {error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the case, and the others go on
            outcome.violations.append(f"harness: {''.join(traceback.format_exception(error))[-1500:]}")
    outcome.seconds = time.monotonic() - began
    return outcome


@contextlib.contextmanager
def _world(case: Case) -> Iterator[World]:
    """A world for the case; on a small disk of its own where the disk is to be full."""
    root = Path(tempfile.mkdtemp(prefix="dctl-f", dir="/tmp"))
    own_disk = case.fault is Fault.DISK_FULL and _mounted(root)
    world = World(
        root,
        {
            "DISPATCHCTL_DISPATCH__KILL_GRACE": "1",
            "DISPATCHCTL_DISPATCH__LAUNCH_TIMEOUT": "4",
            "DISPATCHCTL_DISPATCH__RETRY_WAIT": "1",
            "DISPATCHCTL_STORE__BUSY_TIMEOUT": "2",
            "DISPATCHCTL_TMUX__TIMEOUT": "5",
            "DISPATCHCTL_GIT__TIMEOUT": "10",
            "DISPATCHCTL_HOOKS__POST_CREATE": '[["true"]]',
        },
    )
    try:
        yield world
    finally:
        world.close()
        if own_disk:
            subprocess.run(["umount", "-l", str(root)], check=True)
        shutil.rmtree(root, ignore_errors=True)


def _mounted(root: Path) -> bool:
    """Whether a small disk could be mounted there; without, the case is not run."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(root)], capture_output=True)  # noqa: PLW1510
    return done.returncode == 0


def can_run(case: Case) -> bool:
    """Whether this machine can let it happen."""
    return case.fault is not Fault.DISK_FULL or os.getuid() == 0


# -- the play ------------------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """A world with a repository and one task, in which something is about to happen."""

    world: World
    case: Case
    repo: Path
    runtime: Runtime
    strikes: dict[str, Fault]
    launch: str = ""
    codes: list[int] = field(default_factory=list)
    repairs: list[Callable[[Runtime], object]] = field(default_factory=lambda: [reconcile.reconcile])

    @property
    def database(self) -> str:
        return str(self.runtime.database)

    def tell(self) -> None:
        """Tell every process of this world what is to happen in it."""
        text = json.dumps({"strikes": self.strikes, "database": self.database})
        (self.world.root / inside.SPEC).write_text(text)

    def act(self, what: Callable[[Runtime], object]) -> None:
        """Do it in a process of its own, in which the fault may happen, until that has ended."""
        self.tell()
        child = os.fork()
        if child == 0:
            self._be_the_child(what)
        deadline = time.monotonic() + PATIENCE_S
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise AssertionError(f"the process did not end within {PATIENCE_S:g} s")
            time.sleep(0.005)
        self.codes.append(ended[1])

    def _be_the_child(self, what: Callable[[Runtime], object]) -> None:
        root = self.world.root
        code = 70
        try:
            os.setsid()
            variables = self.world.variables
            os.environ.clear()
            os.environ.update(variables)
            steps.LAUNCH = self.launch or inside.LAUNCH.format(tests=inside.TESTS, root=str(root))
            (root / "dispatcher").write_text(str(os.getpid()))
            inside.arm(str(root))
            code = int(_went_wrong(what(self.world.runtime())))
        except DispatchctlError as error:
            (root / "said").write_text(error.message)
            code = 1
        except BaseException as error:  # noqa: BLE001 - a traceback is a bug, and is looked for
            (root / "traceback").write_text("".join(traceback.format_exception(error)))
        finally:
            os._exit(code)

    def living(self) -> list[str]:
        """The runs of this world that have live processes."""
        return [token for token, each in processes.by_token().items() if self.database in each.databases]

    def open_run(self) -> Run:
        [run] = self.runtime.store.open_runs()
        return run

    def sql(self, statement: str, *values: object) -> None:
        """Change a row by hand."""
        (self.world.root / outside.BY_HAND).touch()
        with closing(sqlite3.connect(self.database, timeout=10, isolation_level=None)) as connection:
            connection.execute(statement, values)

    def restore(self) -> None:
        """Put the database back as it was before its last commit, when nobody has it open."""
        eventually(lambda: not _open_by_others(self.database), within=10, what="the database is closed")
        inside.restore(self.world.root)


def _open_by_others(database: str) -> bool:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) == database and int(process.name) != os.getpid():
                    return True
    return False


def _play(world: World, case: Case, outcome: Outcome) -> None:
    repo = world.repository(files={f"f{number}": "x\n" for number in range(20)})
    if case.fault is Fault.GIT_KILLED:
        _wrap_git(world)
    runtime = world.runtime()
    world.add(runtime, outside.agent(world.root), repo=repo, recoveries=9)
    runtime.store.close()
    stage = Stage(world, case, repo, world.runtime(), {case.point: case.fault})
    SCENARIOS[_scenario(case.effect)](stage)
    outcome.reached = (world.root / f"struck {case.point}").exists()
    _repair(stage)
    outcome.felt = any(stage.codes) or bool(reconcile.reconcile(world.runtime(), dry_run=True).done)
    trace = world.root / "traceback"
    if trace.exists():
        outcome.violations.append(f"a traceback: {trace.read_text()[-600:]}")
    _judge(stage, outcome)
    _finish(stage, outcome)


def _went_wrong(result: object) -> bool:
    """Whether a dispatch or a reconcile says that something did not go as it should."""
    failed = isinstance(result, Dispatched) and bool(result.failed)
    return failed or (isinstance(result, reconcile.Reconciled) and not all(done.ok for done in result.done))


def _repair(stage: Stage) -> None:
    """Take away what was broken, as a human would; what was killed has had its time to die."""
    root, case = stage.world.root, stage.case
    for name in ("filler", "kill git"):
        with contextlib.suppress(FileNotFoundError):
            (root / name).unlink()
    with contextlib.suppress(FileNotFoundError):
        (stage.repo / ".git" / "hooks" / "post-checkout").unlink()
    if case.fault is Fault.LOCKED:
        eventually(lambda: not _locked(stage.database), within=15, what="the database is let go")
    if case.fault is Fault.EARLIER and (root / f"struck {case.point}").exists():
        stage.restore()
    stage.runtime = stage.world.runtime()


def _locked(database: str) -> bool:
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
    return False


def _judge(stage: Stage, outcome: Outcome) -> None:
    """One reconcile, or two where something had to die first; what the promises then say."""
    found: list[str] = []
    for outcome.passes in (1, 2):
        for repair in stage.repairs:
            repair(stage.runtime)
        found = _settled(stage)
        if not found:
            return
    outcome.violations += found


def _settled(stage: Stage) -> list[str]:
    """What does not hold once whoever is at it, as a launcher that closes its run, has had a moment."""
    deadline = time.monotonic() + 4.0
    while True:
        found = outside.violations(stage.world, stage.database, stage.repo)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _finish(stage: Stage, outcome: Outcome) -> None:
    """Let the agent that is left end; its end has to be on its row, and everything true again."""
    (stage.world.root / "agents" / "release").touch()
    spared = stage.case.fault not in (Fault.KILL_LAUNCHER, Fault.KILL_SERVER) and stage.case.effect not in KILLING
    try:
        eventually(lambda: not stage.runtime.store.open_runs(), within=10, what="the agent's end is recorded")
    except AssertionError:
        reconcile.reconcile(stage.runtime)
    if stage.runtime.store.open_runs():
        outcome.violations.append("P1 a run stays open after its agent has ended")
    reconcile.reconcile(stage.runtime)
    outcome.violations += _settled(stage)
    if spared:
        outcome.violations += outside.unrecorded(stage.world, stage.database)
    again = reconcile.reconcile(stage.runtime).done
    if again:
        outcome.violations.append(f"reconcile does something each time: {again}")


def _wrap_git(world: World) -> None:
    """A git that is killed in the middle when a file says so."""
    wrapper, git, flag = world.root / "git", shutil.which("git"), world.root / "kill git"
    wrapper.write_text(
        f'#!/bin/sh\nif rm "{flag}" 2>/dev/null; then\n  {git} "$@" &\n  sleep 0.004\n'
        f'  kill -9 $! 2>/dev/null\n  wait $!\n  kill -9 $$\nfi\nexec {git} "$@"\n'
    )
    wrapper.chmod(0o755)
    world.extra["DISPATCHCTL_TOOLS__GIT"] = str(wrapper)


# -- what happens, by the effect before or after which the fault is --------------------------------------------------------


def _dispatch(stage: Stage) -> None:
    stage.act(dispatch)


def _launch(stage: Stage) -> None:
    """The fault happens in the launcher, whose agent ends at once."""
    (stage.world.root / "agents" / "release").touch()
    stage.act(dispatch)
    with contextlib.suppress(AssertionError):  # a launcher that cannot close its run tries for an hour
        eventually(lambda: not stage.living(), within=2)
    (stage.world.root / "agents" / "release").unlink()


def _undo(stage: Stage) -> None:
    """A launcher that never begins, and a dispatcher that gives up."""
    stage.launch = inside.ASLEEP
    stage.strikes = {"before step start": Fault.EXCEPTION, **stage.strikes}
    stage.act(dispatch)


def _running(stage: Stage, strikes: dict[str, Fault] | None = None) -> Run:
    """An agent at work, started with other faults than the one in question."""
    wanted, stage.strikes = stage.strikes, strikes or {}
    stage.act(dispatch)
    eventually((stage.world.root / "agents" / "began").exists, what="the agent begins")
    stage.strikes = wanted
    stage.runtime = stage.world.runtime()
    return stage.open_run()


def _reconcile(stage: Stage) -> None:
    stage.runtime.store.close()
    stage.act(reconcile.reconcile)


def _close(stage: Stage) -> None:
    run = _running(stage)
    inside.kill(run.launcher_pid)
    inside.kill(run.agent_pid)
    ending = {"cause": "by_itself", "ended_at": 5, "exit_code": 3, "signal": None, "asked": None}
    Path(run.run_dir, "exit.json").write_text(json.dumps({**ending, "server_lives": None, "error": None}))
    _reconcile(stage)


def _undo_of_the_dead(stage: Stage) -> None:
    wanted, stage.strikes, stage.launch = stage.strikes, {"after step window": Fault.KILL_DISPATCHER}, inside.ASLEEP
    stage.act(dispatch)
    stage.strikes, stage.launch = wanted, ""
    _reconcile(stage)


def _reenter(stage: Stage) -> None:
    """The database is put back to a moment before the agent began."""
    _running(stage, {"after note the window": Fault.KILL_DISPATCHER})
    unknown = ("started_at", "started_awake", "agent_pid", "agent_start", "launcher_pid", "launcher_start")
    names = (*unknown, "window_id", "pane_id")
    stage.sql(f"UPDATE runs SET phase = 'launching', {', '.join(f'{name} = NULL' for name in names)}")
    _reconcile(stage)


def _adopt(stage: Stage) -> None:
    _running(stage, {"before note the window": Fault.KILL_DISPATCHER})
    _reconcile(stage)


def _hang_up(stage: Stage) -> None:
    run = _running(stage)
    stage.world.tmux("new-window", "-d", "-t", f"={run.session}:", "sleep", "600")
    inside.kill(run.launcher_pid)
    stage.world.tmux("kill-window", "-t", str(run.window_id))
    _reconcile(stage)


def _lose(stage: Stage) -> None:
    inside.kill(_running(stage).launcher_pid)
    _reconcile(stage)


def _stop(stage: Stage) -> Run:
    """A launcher that does nothing any more."""
    run = _running(stage)
    os.kill(run.launcher_pid or 0, signal.SIGSTOP)
    return run


def _time_out(stage: Stage) -> None:
    run = _stop(stage)
    stage.sql("UPDATE runs SET started_awake = started_awake - 99999999 WHERE token = ?", run.token)
    _reconcile(stage)
    with contextlib.suppress(ProcessLookupError):
        os.kill(run.launcher_pid or 0, signal.SIGCONT)


def _end(stage: Stage) -> None:
    run = _running(stage)
    stage.runtime.store.ask(run.token, Ask.CANCEL, actor=Actor.USER, at=1, awake=1)
    stage.sql("UPDATE runs SET asked_awake = started_awake WHERE token = ?", run.token)
    awake = processes.awake() - 6_500
    stage.sql("UPDATE runs SET asked_awake = ? WHERE token = ?", awake, run.token)
    _reconcile(stage)


def _kill(stage: Stage) -> None:
    run = _stop(stage)
    stage.runtime.store.ask(run.token, Ask.CANCEL, actor=Actor.USER, at=1, awake=1)
    _reconcile(stage)


def _stall(stage: Stage) -> None:
    run = _running(stage)
    stage.sql("INSERT INTO sightings VALUES (?, 0, NULL, 1)", run.token)
    _reconcile(stage)


def _stir(stage: Stage) -> None:
    run = _running(stage)
    stage.sql("UPDATE runs SET activity = 'stalled' WHERE token = ?", run.token)
    _reconcile(stage)


def _close_pane(stage: Stage) -> None:
    run = _running(stage)
    (stage.world.root / "agents" / "release").touch()
    eventually(lambda: not stage.runtime.store.open_runs(), what="the run closes")
    stage.sql("UPDATE runs SET closed_at = 1 WHERE token = ?", run.token)
    _reconcile(stage)


def _clear(stage: Stage) -> None:
    """A claim that the database has lost, with its worktree, branch and lock files."""
    wanted, stage.strikes = stage.strikes, {"after check out": Fault.KILL_DISPATCHER}
    stage.act(dispatch)
    stage.strikes = wanted
    (stage.world.root / "restored").unlink(missing_ok=True)
    oldest = min((stage.world.root / "copies").glob("0*.db"))
    for copy in (stage.world.root / "copies").glob("0*.db"):
        if copy != oldest:
            copy.unlink()
    stage.restore()
    (stage.world.root / "restored").unlink()
    _reconcile(stage)


def _prune(stage: Stage) -> None:
    """A failed task with a commit and with work that is not committed in its worktree, cleared away by force."""
    run = _running(stage)
    (stage.world.root / "agents" / "release").touch()
    eventually(lambda: not stage.runtime.store.open_runs(), what="the run closes")
    Path(run.worktree, f"work-unsaved-{run.token}").write_text("not committed\n")
    with open(stage.world.root / "agents" / "began", "a") as file:
        file.write(f"1 unsaved-{run.token} {run.worktree}\n")
    stage.runtime.store.close()
    stage.repairs.append(_prune_by_force)
    stage.act(_prune_by_force)


def _prune_by_force(runtime: Runtime) -> None:
    """What a human does, and does again after it was interrupted."""
    for _ in prune.prune(runtime, prune.Wish(now(), force=True), tell=lambda _: None):
        pass


KILLING = frozenset(f"reconcile: {kind}" for kind in ("lose", "kill", "hang up", "time out", "end"))
"""Effects whose scenario kills or stops a launcher, so that the agent's own end may go unrecorded."""

SCENARIOS: dict[str, Callable[[Stage], None]] = {
    "dispatch": _dispatch,
    "launcher": _launch,
    "undo": _undo,
    "reconcile: close": _close,
    "reconcile: undo": _undo_of_the_dead,
    "reconcile: enter again": _reenter,
    "reconcile: adopt": _adopt,
    "reconcile: hang up": _hang_up,
    "reconcile: lose": _lose,
    "reconcile: time out": _time_out,
    "reconcile: end": _end,
    "reconcile: kill": _kill,
    "reconcile: stall": _stall,
    "reconcile: stir": _stir,
    "reconcile: close pane": _close_pane,
    "reconcile: clear": _clear,
    "prune": _prune,
}
CLEARING = frozenset(each.name for each in vars(clearing).values() if isinstance(each, faults.Effect))
UNDOING = ("undo ", "begin the undo", "close what was undone", "kill the pane", "sweep the processes")


def _scenario(effect: str) -> str:
    """In which scenario the effect is reached."""
    if effect in SCENARIOS:
        return effect
    if effect.startswith("launcher "):
        return "launcher"
    if effect in CLEARING:
        return "prune"
    return "undo" if effect.startswith(UNDOING) else "dispatch"


def chosen(words: list[str]) -> list[Case]:
    """The cases whose name holds all of the words and that this machine can let happen."""
    return [case for case in cases() if can_run(case) and all(word in f"{case.point} × {case.fault}" for word in words)]


def effects() -> list[str]:
    """Every effect that the code names."""
    return list(dict.fromkeys(Case(point, Fault.EXCEPTION).effect for point in faults.points()))


def sample(effect: str) -> list[Case]:
    """Of the cases of one effect, the kill of who has it, and at each point one fault more: another one for each effect."""
    turn = effects().index(effect)
    others = [fault for fault in Fault if fault not in (Fault.KILL_DISPATCHER, Fault.LOCKED)]
    return [
        case
        for place, when in enumerate(("before", "after"))
        for case in (
            Case(f"{when} {effect}", Fault.KILL_DISPATCHER),
            Case(f"{when} {effect}", others[(turn + 4 * place) % len(others)]),
        )
        if can_run(case)
    ]


def run_all(wanted: list[Case], *, workers: int) -> Iterator[Outcome]:
    """Run them side by side; each has a world of its own."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        yield from pool.map(run, wanted)


def main(words: list[str]) -> int:
    """Run some cases, for a look at them."""
    wrong = 0
    for outcome in run_all(chosen(words), workers=2):
        wrong += bool(outcome.violations)
        reached = "" if outcome.reached else " (not reached)"
        print(
            f"{outcome.seconds:5.1f} s {outcome.passes} {outcome.case.point} × {outcome.case.fault}{reached}",
            flush=True,
        )
        for violation in outcome.violations:
            print(f"    {violation}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))


__all__ = ["Case", "Outcome", "can_run", "cases", "run"]
