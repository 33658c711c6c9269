"""What runs in a pane: the life of a launcher, with the writes of the real one, and an agent that is only a process."""

import os

from dispatchctl import launcher
from dispatchctl.launcher import Spec
from model.computer import HANGUP, TERM, Computer, Kind, Process
from model.players import playing, stand

BEGINNING = "a launcher begins"
RELAY = "a launcher relays"


def run_launcher(computer: Computer, me: Process, server: Process, run_dir: str) -> None:
    """As `launcher.main`; the process ends with it."""
    try:
        stand(BEGINNING)
        spec = Spec(run_dir)
        control = os.open(spec.path("control"), os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        computer.end(me, code=125)
        return
    try:
        agent = _start(computer, spec, me)
        if agent is not None:
            _end(computer, spec, me, server, _Relay(computer, spec, me, agent, control).run())
    finally:
        os.close(control)
    computer.end(me, code=0)


def _start(computer: Computer, spec: Spec, me: Process) -> Process | None:
    """Fork, pass the fence, open the gate; None if the run was given up or its start failed."""
    agent = computer.spawn(Kind.AGENT, me, token=me.token, database=me.database)
    try:
        with launcher.FENCE:
            passed = launcher._pass_fence(spec, me.name, agent.name)
        if not passed:
            computer.end(agent, code=125)
            return None
        with launcher.MARKING:
            launcher._mark_start(spec, me.name, agent.name)
    except Exception as error:  # noqa: BLE001 - as in the real one
        computer.end(agent, code=125)
        launcher._say_failed(spec, error)
        return None
    with launcher.GATE:
        agent.works = agent.alive
    with launcher.FORGETTING:
        launcher._forget(spec.path("environment"))
    return agent


class _Relay:
    """From the agent's start to its end."""

    def __init__(self, computer: Computer, spec: Spec, me: Process, agent: Process, control: int) -> None:
        self.computer, self.me, self.agent, self.control = computer, me, agent, control
        limit = float(spec["timeout_s"])
        self.time_limit = computer.awake + limit * 1000 if limit else None
        self.end_at: float | None = None
        self.cause = "by_itself"
        self.asked: str | None = None

    def run(self) -> "_Relay":
        """Until the agent has ended."""
        while self.agent.alive:
            stand(RELAY)
            if self.me.hung_up:
                self.finish("hangup", HANGUP)
            for word in self.heard():
                self.listen(word)
            if self.time_limit is not None and self.computer.awake > self.time_limit:
                self.finish("asked", TERM, "timeout")
            if self.end_at is not None and self.computer.awake > self.end_at:
                self.finish("asked", TERM, "report")
        return self

    def listen(self, line: str) -> None:
        """`end WHY` or `report SECONDS`."""
        verb, _, rest = line.partition(" ")
        if verb == "end":
            self.finish("asked", TERM, rest)
        elif verb == "report":
            self.end_at = self.computer.awake + float(rest) * 1000

    def finish(self, cause: str, signal: int, asked: str | None = None) -> None:
        """End the agent."""
        if self.agent.alive:
            self.cause, self.asked = cause, asked
            self.computer.end(self.agent, signal=signal)

    def heard(self) -> list[str]:
        """What was written into the control pipe."""
        try:
            return os.read(self.control, 65_536).decode().splitlines()
        except BlockingIOError:
            return []


def _end(computer: Computer, spec: Spec, me: Process, server: Process, relay: _Relay) -> None:
    ending: dict[str, int | str | bool | None] = {
        "cause": relay.cause,
        "ended_at": computer.wall,
        "exit_code": relay.agent.code,
        "signal": relay.agent.signal,
        "asked": "timeout" if relay.asked == "timeout" else None,
        "server_lives": None,
        "error": None,
    }
    with launcher.RECORDING:
        launcher.write_exit_file(spec.run_dir, ending)
        if os.path.exists(spec.path("exit.json")):
            computer.recorded[spec["token"]] = (relay.agent.code, relay.agent.signal)
    with launcher.SWEEPING:
        for process in computer.of_run(spec["token"], [relay.agent.name, me.name]):
            if process not in (me, server):
                computer.end(process, signal=TERM)
    if relay.cause == "hangup":
        ending["server_lives"] = server.alive
        launcher.write_exit_file(spec.run_dir, ending)
    with launcher.CLOSING:
        launcher._close(spec)


def is_idle(computer: Computer) -> bool:
    """Whether all of ours that are left are launchers that wait: for the agent, or for the database to know the run."""
    launchers = {each.player for each in computer.with_kind(Kind.LAUNCHER)}
    return (
        all(player in launchers and player.at in (RELAY, "sleep") for player in computer.players) and playing() is None
    )
