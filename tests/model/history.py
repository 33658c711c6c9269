"""Random histories of a model world: what may happen, in any order."""

from collections import Counter
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dispatchctl import clearing, reconcile, runtime, sessions
from dispatchctl.dispatch import dispatch
from dispatchctl.errors import DispatchctlError, Unanswered
from dispatchctl.task import Actor, NewTask, Report, Status
from model import computer as machine
from model.computer import HANGUP, KILL, Process
from model.doors import TABLE
from model.players import Player
from model.repository import goes_on
from model.world import World

WHICH = st.integers(0, 3)
TURNS = st.lists(st.tuples(WHICH, st.integers(1, 20)), max_size=8)
BACK = st.sampled_from([0, 0, 0, 1, 2, 5, 10, 20])
TROUBLES = ["failing step", "Ctrl-C", "killed", "killed", "tmux silent", "cancel"]
CLOCK = st.sampled_from([-100_000, -60, 60, 100_000])
FAR = st.sampled_from([1, 2, 3, 6, 12, 25, 60])
MOST_COMMANDS, MOST_TASKS = 3, 4


def _hear(_: str) -> None:
    """Nobody reads it."""


class Histories(RuleBasedStateMachine):
    """A world to which anything may happen."""

    counted: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.computer = self.world.computer

    def teardown(self) -> None:
        self.counted["points"] += self.world.points
        self.world.close()

    def count(self, what: str) -> None:
        """For the figures in the docs."""
        self.counted[what] += 1

    # -- choosing ------------------------------------------------------------------------------------------------
    def player(self, which: int) -> Player | None:
        """One of those that are at work, commands first."""
        commands = self.world.commands
        others = [each for each in self.computer.players if each not in commands]
        players = [*commands, *others]
        return players[which % len(players)] if players else None

    def one_of(self, which: int, *kinds: machine.Kind) -> Process | None:
        """One of the living processes."""
        found = [each for each in self.computer.with_kind(*kinds) if each.works or each.kind is not machine.Kind.AGENT]
        return found[which % len(found)] if found else None

    def task(self, which: int, *likely: Status) -> int | None:
        """One of the tasks, those with a likely status first."""
        tasks = sorted(self.world.store.tasks(), key=lambda task: (task.status not in likely, task.id))
        return tasks[which % len(tasks)].id if tasks else None

    # -- a user ----------------------------------------------------------------------------------------------------
    def _add(self, **changes: object) -> None:
        new = NewTask("Do it", "true", self.world.repository.path, "main", "shell", **changes)  # type: ignore[arg-type]
        self.world.store.add([new], actor=Actor.USER, at=runtime.now())

    @initialize(tasks=st.integers(1, 2), started=st.sampled_from([True, True, False]))
    def begin(self, tasks: int, started: bool) -> None:
        for _ in range(tasks):
            self._add()
        if started:
            self.world.play("dispatch", dispatch)
            self.world.finish()

    @rule(
        after=st.booleans(), retries=st.integers(0, 1), timeout=st.sampled_from([0, 100, 43_200]), review=st.booleans()
    )
    def add(self, after: bool, retries: int, timeout: int, review: bool) -> None:
        tasks = self.world.store.tasks()
        if len(tasks) < MOST_TASKS:
            parents = (tasks[0].id,) if after and tasks else ()
            self._add(after=parents, retries=retries, timeout_s=timeout, review=review)

    def _attempt(self, name: str, which: int, *likely: Status) -> None:
        task = self.task(which, *likely)
        if task is None:
            return
        verbs = {
            "edit": lambda: self.world.store.edit(task, {"title": "Do it well"}, None, at=runtime.now()),
            "retry": lambda: sessions.retry(self.world.runtime(), task, message=None, fresh=False),
            "unblock": lambda: sessions.unblock(self.world.runtime(), task, None),
        }
        try:
            verbs[name]()
            self.count(name)
        except DispatchctlError:
            pass

    @rule(which=WHICH, verb=st.sampled_from(["edit", "retry", "retry", "unblock"]))
    def tell(self, which: int, verb: str) -> None:
        likely = {"unblock": Status.BLOCKED, "edit": Status.READY}.get(verb, Status.FAILED)
        self._attempt(verb, which, likely)

    @rule(which=WHICH, verb=st.sampled_from(["cancel", "done", "fail", "rm", "rm --force", "retry --fresh"]))
    def command(self, which: int, verb: str) -> None:
        task = self.task(which, Status.DONE if verb.startswith("rm") else Status.IN_PROGRESS)
        if task is None or len(self.world.commands) >= MOST_COMMANDS:
            return
        self.count(verb)
        if verb == "cancel":
            self.world.play(f"cancel {task}", lambda runtime: sessions.cancel(runtime, task, tell=_hear))
        elif verb == "retry --fresh":
            self.world.play(
                f"{verb} {task}", lambda runtime: sessions.retry(runtime, task, message="so", fresh=True, tell=_hear)
            )
        elif verb.startswith("rm"):
            forced = verb == "rm --force"
            self.world.play(
                f"{verb} {task}", lambda runtime: clearing.remove(runtime, [task], force=forced, tell=_hear)
            )
        else:
            said = Report(verb)
            self.world.play(f"{verb} {task}", lambda runtime: sessions.report(runtime, task, said, "so"))

    # -- commands of ours ------------------------------------------------------------------------------------------
    @rule(works=st.booleans(), committed=st.booleans())
    def dispatch_to_the_end(self, works: bool, committed: bool) -> None:
        self.count("dispatch to the end")
        self.computer.silent.clear()
        self.computer.pass_time(100)
        self.world.finish()
        self.world.play("dispatch", dispatch)
        self.world.finish()
        for agent in self.world.agents() if works else ():
            self._work(agent, committed=committed)

    @rule(
        trouble=st.sampled_from(TROUBLES),
        turns=TURNS,
        back=st.none() | BACK,
    )
    def trouble_with_a_launcher(self, trouble: str, turns: list[tuple[int, int]], back: int | None) -> None:
        """A launch goes wrong when its launcher is there already, and both go on; perhaps the database is put back then."""
        self.computer.silent.clear()
        self.computer.pass_time(100)
        player = self.world.play("dispatch", lambda runtime: dispatch(runtime, most=1))
        before = len(self.computer.with_kind(machine.Kind.LAUNCHER))
        for _ in range(150):
            self.world.step(player)
            if len(self.computer.with_kind(machine.Kind.LAUNCHER)) > before:
                break
        if player.over:
            return
        self.count(f"{trouble} with a launcher")
        if trouble == "killed":
            player.kill()
            self.computer.players = [each for each in self.computer.players if not each.over]
        elif trouble == "tmux silent":
            self.computer.silent.add(self.computer.socket)
        elif trouble == "cancel":
            self.command(0, "cancel")
        else:
            player.planted = KeyboardInterrupt() if trouble == "Ctrl-C" else Unanswered("planted")
        self._take_turns(turns)
        if back is not None:
            self.world.restore(back)

    @rule(back=BACK, turns=TURNS)
    def two_reconciles(self, back: int, turns: list[tuple[int, int]]) -> None:
        """The database is put back, and two reconciles find out at the same time."""
        self.count("two reconciles")
        self.computer.silent.clear()
        self.world.restore(back)
        for _ in range(2):
            self.world.play("reconcile", reconcile.reconcile)
        self._take_turns(turns)

    def _take_turns(self, turns: list[tuple[int, int]]) -> None:
        for which, points in turns:
            if self.computer.players:
                self.world.go_on(self.computer.players[which % len(self.computer.players)], points)
                self.world.check()

    @rule(which=WHICH, back=BACK)
    def run_directory_is_deleted(self, which: int, back: int) -> None:
        """After the database was put back: only its pane tells of which task a run was that the database does not know."""
        if self.computer.silent or not self.world.agents():
            return
        self.world.restore(back)
        agent = self.agent(which)
        if agent is not None and self.world.lose_run_directory(agent.token):
            self.count("run directory deleted")
            self.dispatch_to_the_end(False, False)

    @rule(most=st.integers(1, 2), points=FAR)
    def start_dispatch(self, most: int, points: int) -> None:
        if len(self.world.commands) < MOST_COMMANDS:
            self.count("dispatch")
            self.world.go_on(self.world.play("dispatch", lambda runtime: dispatch(runtime, most=most)), points)

    @rule(points=FAR)
    def start_reconcile(self, points: int) -> None:
        if len(self.world.commands) < MOST_COMMANDS:
            self.count("reconcile")
            self.world.go_on(self.world.play("reconcile", reconcile.reconcile), points)

    @rule(which=WHICH, points=FAR)
    def go_on(self, which: int, points: int) -> None:
        player = self.player(which)
        if player is not None:
            self.world.go_on(player, points)

    @rule(points=FAR)
    def start_another_dispatch(self, points: int) -> None:
        self.computer.pass_time(100)
        self.start_dispatch(2, points)

    @rule(points=FAR)
    def all_go_on(self, points: int) -> None:
        for player in list(self.computer.players):
            self.world.go_on(player, points)

    @rule(which=WHICH, interrupted=st.booleans(), points=FAR)
    def fail(self, which: int, interrupted: bool, points: int) -> None:
        commands = self.world.commands
        if commands:
            self.count("failing step")
            player = commands[which % len(commands)]
            player.planted = KeyboardInterrupt() if interrupted else Unanswered("planted")
            self.world.go_on(player, points)

    @rule(which=WHICH)
    def kill_command(self, which: int) -> None:
        commands = self.world.commands
        if commands:
            self.count("command killed")
            commands[which % len(commands)].kill()
            self.computer.players = [each for each in self.computer.players if not each.over]

    @rule()
    def orphaned_git_goes_on(self) -> None:
        if not self.world.commands:
            goes_on(self.computer)

    # -- agents ------------------------------------------------------------------------------------------------------
    def agent(self, which: int) -> Process | None:
        """One that works."""
        return self.one_of(which, machine.Kind.AGENT)

    @rule(which=WHICH, committed=st.booleans())
    def agent_works(self, which: int, committed: bool) -> None:
        agent = self.agent(which)
        if agent is None:
            return
        self._work(agent, committed=committed)

    def _work(self, agent: Process, *, committed: bool) -> None:
        self.count("work")
        place = self.world.places[agent.token]
        self.world.write(place, f"work-{len(self.world.work)}")
        if committed:
            self.world.commit(place)

    @rule(which=WHICH, code=st.sampled_from([0, 0, 1, None]), leaves=st.booleans())
    def agent_ends(self, which: int, code: int | None, leaves: bool) -> None:
        agent = self.agent(which)
        if agent is None:
            return
        self.count("agent ended")
        if leaves:
            left = self.computer.spawn(machine.Kind.HELPER, token=agent.token, database=agent.database)
            left.works = True
        self.computer.end(agent, code=code, signal=KILL if code is None else None)

    @rule(which=WHICH)
    def agent_is_deaf(self, which: int) -> None:
        agent = self.agent(which)
        if agent is not None:
            agent.deaf = True

    @rule(which=WHICH, said=st.sampled_from(["done", "fail", "block", "heartbeat"]))
    def agent_says(self, which: int, said: str) -> None:
        agent = self.agent(which)
        if agent is None:
            return
        parts = self.world.runtime(agent.token)
        try:
            if said == "block":
                sessions.block(parts, None, "which?")
            elif said == "heartbeat":
                sessions.heartbeat(parts, None)
            else:
                sessions.report(parts, None, Report(said), "so")
            self.count(f"agent says {said}")
        except DispatchctlError:
            pass  # the database knows nothing of the run any more
        finally:
            parts.store.close()

    # -- what dies -----------------------------------------------------------------------------------------------------
    @rule(which=WHICH, slow=st.booleans())
    def kill_launcher(self, which: int, slow: bool) -> None:
        process = self.one_of(which, machine.Kind.LAUNCHER)
        if process is None:
            return
        self.count("launcher killed")
        for pane in self.computer.panes():
            if pane.launcher is process:
                pane.slow = slow
        self.computer.end(process, signal=KILL)
        self.computer.players = [each for each in self.computer.players if not each.over]

    @rule(which=WHICH)
    def close_window(self, which: int) -> None:
        panes = self.computer.panes()
        if panes:
            self.count("window closed")
            self.computer.close_pane(panes[which % len(panes)])

    @rule(which=WHICH)
    def move_window(self, which: int) -> None:
        panes = self.computer.panes()
        if panes:
            pane = panes[which % len(panes)]
            pane.session, pane.window_id = "elsewhere", "@99"

    @rule(what=st.sampled_from(["tmux", "processes"]))
    def falls_silent(self, what: str) -> None:
        if not self.world.evidence_lost:
            self.count(f"{what} silent")
            self.computer.silent.add(self.computer.socket if what == "tmux" else TABLE)

    @rule()
    def speaks_again(self) -> None:
        self.computer.silent.clear()

    @rule(what=st.sampled_from(["kill the server", "hang up", "reboot", "set the clock"]), seconds=CLOCK)
    def catastrophe(self, what: str, seconds: int) -> None:
        self.count(what)
        server = self.one_of(0, machine.Kind.SERVER)
        if what == "reboot":
            self.computer.reboot(alike=seconds > 0)
        elif what == "set the clock":
            self.computer.wall += seconds * 1000
        elif server is not None:
            self.computer.end(server, signal=HANGUP if what == "hang up" else KILL)

    @rule()
    def somebody_takes_pids(self) -> None:
        if len(self.computer.with_kind(machine.Kind.FOREIGN)) < 3:
            self.computer.spawn(machine.Kind.FOREIGN)

    @rule(seconds=st.sampled_from([1, 20, 60, 400, 4_000, 50_000]), asleep=st.booleans())
    def time_passes(self, seconds: int, asleep: bool) -> None:
        self.computer.pass_time(seconds, asleep=asleep)

    @rule(back=BACK)
    def restore(self, back: int) -> None:
        self.count("database restored")
        self.world.restore(back)

    # -- what always holds -----------------------------------------------------------------------------------------------
    @rule()
    def settle(self) -> None:
        self.count("settled")
        self.world.settle()

    @invariant()
    def promises_hold(self) -> None:
        self.count("steps")
        self.world.check()
