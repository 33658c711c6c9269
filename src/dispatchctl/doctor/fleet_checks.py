"""Open runs, the servers that they run in, and what lives without an open run."""

from collections.abc import Iterator
from shlex import quote

from dispatchctl.doctor.health import Fleet
from dispatchctl.doctor.table import Mend, Problem, Severity, check
from dispatchctl.durations import format_duration
from dispatchctl.plan import Action, Kind
from dispatchctl.snapshot import Answer, Holder, SeenRun, Stray, life
from dispatchctl.task import Activity, Life, Phase, Status

ERROR, WARNING, INFO = Severity

RECONCILE = "dispatchctl reconcile"
OVERDUE_S = 3_600.0
"""Seconds after which somebody should have reconciled, while runs are open."""

NAMED_ELSEWHERE = frozenset({Kind.STIR, Kind.REPORT})
"""What reconcile does in the ordinary course of things, and what it only says, which has checks of its own."""


def _subject(action: Action) -> str:
    return f"run {action.run}" if action.task is None else f"task {action.task}"


def _planned(fleet: Fleet, *kinds: Kind) -> Iterator[Problem]:
    for action in fleet.planned(*kinds):
        yield Problem(_subject(action), action.reason, RECONCILE)


# -- what reconcile would mend -------------------------------------------------------------------------------------------


@check(ERROR, mend=Mend.RECONCILE)
def live_session(fleet: Fleet) -> Iterator[Problem]:
    """Every task in progress, or blocked in its session, has a live agent."""
    for action in fleet.planned(Kind.LOSE, Kind.HANG_UP):
        status = next((seen.status for seen in fleet.world.runs if seen.run.token == action.run), Status.IN_PROGRESS)
        said = status.replace("_", " ")
        yield Problem(_subject(action), f"is {said} and its agent is gone: {action.reason}", RECONCILE)


@check(ERROR, mend=Mend.RECONCILE)
def exit_file_read(fleet: Fleet) -> Iterator[Problem]:
    """The end of every agent is recorded: no exit file waits whose launcher is gone, or does not come to close the run."""
    yield from _planned(fleet, Kind.CLOSE)


@check(ERROR, mend=Mend.RECONCILE)
def launch_finished(fleet: Fleet) -> Iterator[Problem]:
    """Every run that is being started, or undone, has a live dispatcher that does it."""
    for action in fleet.planned(Kind.UNDO):
        error = next((seen.run.error for seen in fleet.world.runs if seen.run.token == action.run), None)
        yield Problem(_subject(action), f"{action.reason}{f': {error}' if error else ''}", RECONCILE)


@check(ERROR, mend=Mend.RECONCILE)
def run_entered(fleet: Fleet) -> Iterator[Problem]:
    """Every agent that began has an open run: the database was not set back to a moment before that."""
    yield from _planned(fleet, Kind.REENTER)


@check(WARNING, mend=Mend.RECONCILE)
def window_noted(fleet: Fleet) -> Iterator[Problem]:
    """Every started run says in which window it is, and no dispatcher died before it had let go of its locks."""
    yield from _planned(fleet, Kind.ADOPT)


@check(ERROR, mend=Mend.RECONCILE)
def run_ends(fleet: Fleet) -> Iterator[Problem]:
    """Every run that has reported, was asked to end or is over its time limit does end."""
    yield from _planned(fleet, Kind.TIME_OUT, Kind.END, Kind.KILL)


@check(WARNING, mend=Mend.RECONCILE)
def run_stalled(fleet: Fleet) -> Iterator[Problem]:
    """Every agent that is not known to wait has written something, or sent a heartbeat, within `dispatch.stall_after`."""
    due = {action.run for action in fleet.planned(Kind.STALL)}
    for seen in fleet.world.runs:
        stalled = seen.run.activity is Activity.STALLED and seen.quiet_s != 0.0
        if stalled or seen.run.token in due:
            quiet = f" for {format_duration(int(seen.quiet_s))}" if seen.quiet_s else ""
            text = f"is quiet: no output and no heartbeat{quiet}"
            target = "" if seen.run.token in due else None  # reconcile only notes it, or ends it if the settings say so
            yield Problem(f"task {seen.run.task}", text, f"dispatchctl attach {seen.run.task}", target=target)


@check(WARNING, mend=Mend.RECONCILE)
def lock_files_left(fleet: Fleet) -> Iterator[Problem]:
    """No run that is not open has lock files, or a claim that was never committed."""
    yield from _planned(fleet, Kind.CLEAR)


@check(INFO, mend=Mend.RECONCILE)
def window_kept_too_long(fleet: Fleet) -> Iterator[Problem]:
    """The windows of ended runs are closed after `tmux.keep_windows`."""
    yield from _planned(fleet, Kind.CLOSE_PANE)


@check(WARNING, mend=Mend.RECONCILE)
def nothing_to_reconcile(fleet: Fleet) -> Iterator[Problem]:
    """Nothing else is there that a reconcile would do."""
    for action in fleet.actions:
        if action.kind not in NAMED_ELSEWHERE | NAMED:
            yield Problem(_subject(action), f"{action.reason} ({action.kind})", RECONCILE)


@check(WARNING, mend=Mend.RECONCILE)
def reconciled_lately(fleet: Fleet) -> Iterator[Problem]:
    """While runs are open, a reconcile went through within the last hour: by a dispatch, by watch or from cron."""
    began = min((seen.run.claimed_at for seen in fleet.world.runs), default=None)
    if began is None:
        return
    since = (fleet.world.at - max(began, fleet.reconciled_at or 0)) / 1000
    if since > OVERDUE_S:
        ago = format_duration(int(since) // 60 * 60)
        yield Problem("reconcile", f"runs are open, and nobody has looked after them for {ago}", RECONCILE)


# -- what only a human can decide ----------------------------------------------------------------------------------------


@check(ERROR)
def live_agent_owned(fleet: Fleet) -> Iterator[Problem]:
    """Every live agent, with its window and processes, belongs to an open run."""
    strays = {stray.token: stray for stray in fleet.world.strays}
    for action in fleet.planned(Kind.REPORT):
        stray = strays.get(action.run)
        if stray is not None and not _of_predecessor(fleet, stray):
            pane = f" (pane {stray.pane.pane_id} on {stray.socket})" if stray.pane is not None else ""
            yield Problem(_subject(action), f"{action.reason}{pane}, run {stray.token}", _way_to(stray))


def _way_to(stray: Stray) -> str:
    if stray.pane is not None and stray.socket is not None:
        return f"tmux -S {quote(stray.socket)} attach -t {quote(stray.pane.pane_id)}"
    return f"grep -l -a DISPATCHCTL_TOKEN={stray.token} /proc/[0-9]*/environ"


@check(ERROR)
def predecessor_gone(fleet: Fleet) -> Iterator[Problem]:
    """No agent lives of a database that was at this path before this one."""
    for stray in fleet.world.strays:
        if stray.run is None and stray.alive and _of_predecessor(fleet, stray):
            text = f"agent of run {stray.token} lives, whose database was at this path and is gone"
            pane = _pane_elsewhere(fleet, stray.token)
            fix = f"tmux -S {quote(pane[0])} attach -t {quote(pane[1])}" if pane else _way_to(stray)
            yield Problem(f"run {stray.token}", text, fix)


def _of_predecessor(fleet: Fleet, stray: Stray) -> bool:
    return stray.pane is None and _pane_elsewhere(fleet, stray.token) is not None


def _pane_elsewhere(fleet: Fleet, token: str) -> tuple[str, str] | None:
    """Socket and pane that carry the token for another database."""
    for socket, server in fleet.world.servers.items():
        pane = server.pane_of(token)
        if pane is not None:
            return socket, pane.pane_id
    return None


@check(WARNING)
def life_known(fleet: Fleet) -> Iterator[Problem]:
    """Whether each run of this machine lives can be told."""
    for seen in fleet.world.runs:
        run = seen.run
        if run.host == fleet.world.host and not _lacks_lock(fleet, seen) and life(fleet.world, seen) is Life.UNKNOWN:
            said = fleet.world.server_of(run).said or "its pane lives and its processes are not seen"
            yield Problem(
                f"task {run.task}", f"whether its agent lives is unknown: {said}", f"tmux -S {quote(run.socket)} ls"
            )


@check(WARNING)
def run_of_this_machine(fleet: Fleet) -> Iterator[Problem]:
    """Every open run is of this machine: of another one nothing can be told here."""
    for seen in fleet.world.runs:
        if seen.run.host != fleet.world.host:
            text = f"runs on another machine ({seen.run.host}), where only that one can look"
            yield Problem(f"task {seen.run.task}", text, f"dispatchctl retry {seen.run.task} --takeover")


@check(ERROR)
def lock_file_there(fleet: Fleet) -> Iterator[Problem]:
    """Every run that is being started has its lock file, which alone tells whether its dispatcher lives."""
    for seen in fleet.world.runs:
        if _lacks_lock(fleet, seen):
            text = f"its lock file {seen.run.owner_lock} is gone, so whether it is being started is unknown"
            yield Problem(f"task {seen.run.task}", text, f"touch {quote(seen.run.owner_lock)} && {RECONCILE}")


def _lacks_lock(fleet: Fleet, seen: SeenRun) -> bool:
    here = seen.run.host == fleet.world.host and seen.run.boot_id == fleet.world.boot_id
    return here and seen.run.phase is not Phase.STARTED and seen.owner is Holder.MISSING and not seen.began


@check(ERROR)
def launch_goes_on(fleet: Fleet) -> Iterator[Problem]:
    """No dispatcher that is starting a run is stopped, or takes longer than its time limits allow."""
    for seen in fleet.world.runs:
        if seen.owner is not Holder.HELD:
            continue
        run, pid = seen.run, fleet.holders.get(seen.run.owner_lock)
        age = (fleet.world.at - run.claimed_at) / 1000
        who = "a process that is not seen" if pid is None else f"process {pid}"
        if pid is not None and fleet.states.get(pid) == "T":
            text = f"is {run.phase}, and its dispatcher, {who}, is stopped"
            yield Problem(f"task {run.task}", text, f"kill -CONT {pid}")
        elif age > fleet.launch_s:
            fix = f"fuser {quote(run.owner_lock)}" if pid is None else f"ps -o pid,stat,args -p {pid}"
            text = f"is {run.phase} since {format_duration(int(age))}, and {who} holds its lock"
            yield Problem(f"task {run.task}", text, fix)


@check(ERROR, WARNING)
def process_goes_on(fleet: Fleet) -> Iterator[Problem]:
    """No launcher is stopped, which could not end its agent or record its end; and no agent is."""
    for seen in fleet.world.runs:
        run = seen.run
        for what, pid, severity in (("launcher", run.launcher_pid, ERROR), ("agent", run.agent_pid, WARNING)):
            if pid is not None and seen.launcher and fleet.states.get(pid) == "T":
                yield Problem(
                    f"task {run.task}", f"its {what}, process {pid}, is stopped", f"kill -CONT {pid}", severity
                )


@check(ERROR)
def run_has_its_places(fleet: Fleet) -> Iterator[Problem]:
    """The worktree and the run directory of every started run are where they were made."""
    for seen in fleet.world.runs:
        fault = fleet.missing.get(seen.run.token)
        if fault is not None:
            yield Problem(f"task {seen.run.task}", fault.text, fault.fix)


# -- tmux servers --------------------------------------------------------------------------------------------------------


@check(ERROR)
def socket_usable(fleet: Fleet) -> Iterator[Problem]:
    """The socket of new runs is a socket of this user's, or can become one."""
    for socket in fleet.sockets:
        if socket.fault is not None:
            yield Problem(socket.path, socket.fault.text, socket.fault.fix)


@check(ERROR)
def server_answers(fleet: Fleet) -> Iterator[Problem]:
    """Every tmux server that runs have used answers, or is not there."""
    faulty = {socket.path for socket in fleet.sockets if socket.fault is not None}
    for path, server in fleet.world.servers.items():
        if server.answer is Answer.UNKNOWN and path not in faulty:
            yield Problem(path, f"tmux does not say what it has: {server.said}", f"tmux -S {quote(path)} ls")


@check(ERROR)
def server_reachable(fleet: Fleet) -> Iterator[Problem]:
    """The socket of every tmux server that lives is there, so that one can attach to it."""
    for pid, seen in fleet.lost_servers().items():
        path = seen.run.socket
        taken = fleet.world.server_of(seen.run).answer is Answer.RUNNING
        how = "another server has taken its socket" if taken else "its socket is gone"
        text = f"the tmux server, process {pid}, lives, and {how}: nobody can attach to its agents"
        yield Problem(
            path, text, f"mv {quote(path)} {quote(path + '.new')} && kill -USR1 {pid}" if taken else f"kill -USR1 {pid}"
        )


@check(INFO)
def one_server(fleet: Fleet) -> Iterator[Problem]:
    """All live runs are in one tmux server."""
    sockets = dict.fromkeys(seen.run.socket for seen in fleet.world.runs if seen.launcher)
    if len(sockets) > 1:
        yield Problem(
            "tmux", f"the runs are in {len(sockets)} servers: {', '.join(sockets)}", "dispatchctl config tmux.socket"
        )


@check(WARNING)
def server_survives(fleet: Fleet) -> Iterator[Problem]:
    """No tmux server with live runs is in the control group of a systemd service, whose end would take the agents with it."""
    for socket in fleet.sockets:
        unit = socket.unit or ""
        if unit.endswith(".service") and not unit.startswith("user@") and _is_used(fleet, socket.path):
            text = f"the tmux server is part of {unit}: when that is stopped, systemd ends its agents"
            fix = f"systemd-run --user --scope tmux -S {quote(socket.path)} new-session -d"
            yield Problem(socket.path, text, f"tmux -S {quote(socket.path)} kill-server && {fix}")


def _is_used(fleet: Fleet, path: str) -> bool:
    return any(seen.run.socket == path and seen.launcher for seen in fleet.world.runs)


NAMED = frozenset(
    {
        *(Kind.LOSE, Kind.HANG_UP, Kind.CLOSE, Kind.UNDO, Kind.REENTER, Kind.ADOPT, Kind.TIME_OUT, Kind.END, Kind.KILL),
        *(Kind.STALL, Kind.CLEAR, Kind.CLOSE_PANE),
    }
)
"""The kinds of actions that checks of their own name."""
