"""Looking at everything that doctor judges by: the snapshot that reconcile plans from, and what lies around it.

Nothing hangs: every program, lock and disk is given a few seconds. Nothing is changed, and nothing that is missing or broken
ends the look: what could not be had is `Unknown`, with the reason.
"""

import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from dispatchctl import agents, config, machine, processes
from dispatchctl.agents.sign_in import signed_in
from dispatchctl.doctor.health import (
    Agent,
    Agents,
    DatabaseFile,
    Directory,
    Fault,
    Fleet,
    Gate,
    GitLock,
    Ground,
    Health,
    Part,
    Place,
    Program,
    Queue,
    Repositories,
    Repository,
    Setup,
    Socket,
    Tools,
    Tree,
    Unknown,
)
from dispatchctl.doctor.health import Contents as ContentsOfDatabase
from dispatchctl.errors import DispatchctlError, UsageError
from dispatchctl.observation import observe
from dispatchctl.reconcile import LAST_TIME
from dispatchctl.runtime import Runtime, now
from dispatchctl.snapshot import Snapshot
from dispatchctl.store import open_store
from dispatchctl.store.health import sqlite_version
from dispatchctl.store.protocol import Store
from dispatchctl.task import FINISHED, Phase, Run, Status, Task
from dispatchctl.windows import Windows
from dispatchctl.worktrees import Limits, Worktrees

T = TypeVar("T")

PATIENCE_S = 5.0
"""Seconds that tmux, git, a disk or a lock is given to answer one question."""
QUICK_CHECK_S = 30.0
"""Seconds that looking through the whole database may take."""
GATE_S = 2.0
"""Seconds for which a lock before the database has to be held without a break to be found stuck; a write takes milliseconds."""
TOKEN = re.compile(r"[0-9a-f]{8}")
MANY = 1_000
"""Rows that are looked at of what there may be any number of."""
UNFINISHED = frozenset(Status) - FINISHED


@dataclass
class Looker:
    """One look: a runtime that cannot hang, the settings as the user has them, and the database if it can be had."""

    runtime: Runtime
    settings: config.Settings
    setup: list[Fault]
    store: Store | None = None
    fault: Fault | None = None

    @property
    def database(self) -> str:
        """The database's path."""
        return str(self.runtime.database)


def look(runtime: Runtime) -> Health:
    """Look at everything, once."""
    looker = _looker(runtime)
    try:
        looker.store = open_store(looker.database, busy_timeout=PATIENCE_S)
        looker.runtime.store = looker.store
    except DispatchctlError as error:
        looker.fault = Fault(looker.database, error.message, error.hint or "dispatchctl config")
    try:
        return Health({kind: _part(looker, kind) for kind in PARTS})
    finally:
        if looker.store is not None:
            looker.store.close()


def _part(looker: Looker, kind: type) -> Part | Unknown:
    """The part, or why it could not be had."""
    needs_store, fill = PARTS[kind]
    if needs_store and looker.store is None:
        return Unknown(looker.database, "the database cannot be opened", "dispatchctl doctor --check database-opens")
    try:
        return fill(looker)
    except DispatchctlError as error:
        return Unknown(kind.__name__.lower(), error.message, error.hint or "dispatchctl doctor -v")
    except (OSError, ValueError) as error:  # ValueError: a row that hands have made, with a status that there is not
        return Unknown(kind.__name__.lower(), str(error), f"sqlite3 {looker.database} 'PRAGMA quick_check'")


def _looker(runtime: Runtime) -> Looker:
    """The same runtime with short time limits, and with defaults in the place of settings that are not valid."""
    faults: list[Fault] = []
    settings = _settings(runtime, faults)
    tmux, git = settings.tmux, settings.git
    seconds = int(PATIENCE_S)
    limits = replace(git, timeout=min(git.timeout, seconds), checkout_timeout=min(git.checkout_timeout, seconds))
    hurried = Runtime(runtime.environment, runtime.db_option, runtime.config_option, runtime.private_tmux)
    hurried.settings = replace(settings, tmux=replace(tmux, timeout=min(tmux.timeout, seconds)), git=limits)
    for name in ("tmux", "git"):
        try:
            getattr(hurried, name)
        except DispatchctlError:  # whoever asks it gets "cannot be run", and says so
            missing = f"/nonexistent/{name}"
            if name == "tmux":
                hurried.tmux = missing
            else:
                hurried.git = Worktrees(missing, runtime.environment.inherited, Limits(PATIENCE_S, PATIENCE_S))
    try:
        _ = hurried.profiles
    except DispatchctlError as error:
        faults.append(Fault("settings", error.message, error.hint or "dispatchctl agents"))
        hurried.profiles = agents.known()
    return Looker(hurried, settings, faults)


def _settings(runtime: Runtime, faults: list[Fault]) -> config.Settings:
    """The user's settings; what is not valid is noted and left out: first the file, then the variables."""
    environment = runtime.environment
    without_file = replace(environment, config=None, config_home=runtime.environment.home / "nonexistent")
    plain = {name: value for name, value in environment.inherited.items() if not name.startswith("DISPATCHCTL_")}
    bare = replace(without_file, inherited=plain)
    for attempt, option in ((environment, runtime.config_option), (without_file, None), (bare, None)):
        try:
            return config.load(attempt, config_option=option)
        except UsageError as error:
            if not any(error.message == fault.text for fault in faults):
                faults.append(Fault("settings", error.message, error.hint or "dispatchctl config"))
    return config.Settings()


# -- the machine ---------------------------------------------------------------------------------------------------------


def _tools(looker: Looker) -> Tools:
    return Tools(_tmux(looker), _git(looker))


def _tmux(looker: Looker) -> Program:
    try:
        path = looker.runtime.program(looker.settings.tools.tmux)
    except DispatchctlError as error:
        return Program("tmux", None, said=error.message)
    windows = Windows(path, "/nonexistent", looker.runtime.environment.inherited, timeout=PATIENCE_S)
    return _versioned("tmux", path, windows.version)


def _git(looker: Looker) -> Program:
    try:
        path = looker.runtime.program(looker.settings.tools.git)
    except DispatchctlError as error:
        return Program("git", None, said=error.message)
    return _versioned("git", path, looker.runtime.git.version)


def _versioned(name: str, path: str, ask: Callable[[], str]) -> Program:
    try:
        said = ask()
    except DispatchctlError as error:
        return Program(name, path, said=error.message)
    numbers = re.match(r"\D*(\d+(?:\.\d+)*)", said)
    if said == "master":
        return Program(name, path, (999,), said)  # tmux, built from its repository
    return Program(name, path, tuple(map(int, numbers[1].split("."))) if numbers else None, said)


def _setup(looker: Looker) -> Setup:
    repos = {task.repo for task in _unfinished(looker)} if looker.store is not None else set()
    faults = []
    for repo in sorted(repos):
        try:
            looker.runtime.settings_for(repo)
        except UsageError as error:
            faults.append(Fault(repo, error.message, error.hint or "dispatchctl config"))
    return Setup(tuple(looker.setup), tuple(faults))


def _agents(looker: Looker) -> Agents:
    tasks = _unfinished(looker)
    found = []
    for name in sorted({task.agent for task in tasks}):
        ready = tuple(task.id for task in tasks if task.agent == name and task.status is Status.READY)
        others = tuple(task.id for task in tasks if task.agent == name and task.status is not Status.READY)
        profile = looker.runtime.profiles.get(name)
        if profile is None:
            found.append(Agent(name, name, found=False, known=False, ready=ready, others=others))
            continue
        variables = agents.agent_environment(looker.runtime.environment.inherited, profile, {})
        program = agents.find_program(profile, variables.get("PATH") or os.defpath)
        home = str(looker.runtime.environment.home)
        is_in, signs = signed_in(name, variables, home, keychain=sys.platform == "darwin")
        argv = profile.argv[0]
        found.append(Agent(name, program or argv, program is not None, True, ready, others, is_in, signs))
    return Agents(tuple(found))


# -- the database --------------------------------------------------------------------------------------------------------


def _file(looker: Looker) -> DatabaseFile:
    path = looker.database
    places = (
        _place("database", os.path.dirname(path)),
        _place("worktrees", str(looker.runtime.worktrees_root)),
    )
    gates = tuple(gate for suffix in ("-next", "-gate") if (gate := _gate(path + suffix)) is not None)
    version = sqlite_version()
    users = machine.openers([path]).get(path, []) if looker.store is not None else []
    others = {pid: name for pid in users if not _is_ours(name := machine.name(pid))}
    return DatabaseFile(path, places, looker.fault, gates, others, version)


def _place(what: str, path: str) -> Place:
    """The file system of a directory that is there, or is to be made, and whether it takes files."""

    def ask() -> Place:
        volume = machine.volume(path)
        refused = None
        try:
            with tempfile.TemporaryFile(dir=volume.path):
                pass
        except OSError as error:
            refused = error.strerror or str(error)
        return Place(what, path, volume.kind, volume.free, refused)

    kind = machine.kind_of_file_system(path)
    try:
        return _within(PATIENCE_S, ask) or Place(what, path, kind, None, f"the disk did not answer in {PATIENCE_S:g} s")
    except OSError as error:
        return Place(what, path, kind, None, error.strerror or str(error))


def _within(seconds: float, ask: Callable[[], T]) -> T | None:
    """The answer, or None if it takes longer: a disk of another machine may not answer at all, and cannot be interrupted."""
    answers: list[T] = []
    failures: list[OSError] = []

    def run() -> None:
        try:
            answers.append(ask())
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    return answers[0] if answers else None


def _gate(path: str) -> Gate | None:
    """The lock if one process holds it all the time that we look."""
    began = time.monotonic()
    while processes.is_locked(path):
        held = time.monotonic() - began
        if held > GATE_S:
            pid = machine.holders([path]).get(path)
            return Gate(path, held, pid, machine.state(pid) if pid is not None else None)
        time.sleep(0.02)
    return None


def _is_ours(name: str) -> bool:
    """Whether a program that has the database open may be dispatchctl: one of Python, as far as its name tells."""
    return not name or name.startswith(("python", "dispatchctl", "pytest"))


def _contents(looker: Looker) -> ContentsOfDatabase:
    return _store(looker).contents(at=now(), within=QUICK_CHECK_S)


def _store(looker: Looker) -> Store:
    assert looker.store is not None, "asked for without one"
    return looker.store


def _unfinished(looker: Looker) -> list[Task]:
    return _store(looker).tasks(status=UNFINISHED)


def _queue(looker: Looker) -> Queue:
    store, at = _store(looker), now()
    waiting = store.tasks(status={Status.READY, Status.BACKLOG})
    parents = store.parents([task.id for task in waiting if task.waits])
    claimable = store.claimable(at=at, limit=MANY)
    since = min((_claimable_since(store, task) for task in claimable), default=None)
    closed = store.last_closed()
    return Queue(
        at,
        tuple(waiting),
        {task: tuple(each) for task, each in parents.items()},
        tuple(store.tasks(status={Status.FAILED}, limit=MANY)),
        tuple(task.id for task in claimable),
        max(since, closed or 0) if since is not None else None,
        looker.settings.dispatch.max_running - len(store.open_runs()),
    )


def _claimable_since(store: Store, task: Task) -> int:
    """When the last thing changed that had kept the task from being claimed."""
    return max([task.updated_at, task.not_before or 0, *(store.task(parent).updated_at for parent in task.after)])


# -- runs and servers ----------------------------------------------------------------------------------------------------


def _fleet(looker: Looker) -> Fleet:
    runtime, settings = looker.runtime, looker.settings
    world = observe(runtime)
    servers = dict(world.servers)
    own = runtime.windows()
    fault = None
    try:
        own.check()
        if own.socket not in servers and os.path.exists(own.socket):
            servers[own.socket] = own.look()
    except DispatchctlError as error:
        fault = Fault(own.socket, error.message, error.hint or "dispatchctl config tmux.socket")
    world = replace(world, servers=servers)
    sockets = tuple(
        Socket(path, path == own.socket, fault if path == own.socket else None, _unit(world, path))
        for path in dict.fromkeys([*servers, own.socket])
    )
    runs = [seen.run for seen in world.runs]
    holders = machine.holders([run.owner_lock for run in runs if run.phase is not Phase.STARTED])
    pids = {pid for run in runs for pid in (run.launcher_pid, run.agent_pid) if pid is not None} | {*holders.values()}
    hooks = max((_hooks_timeout(looker, repo) for repo in {run.repo for run in runs}), default=0)
    return Fleet(
        world,
        {pid: state for pid in pids if (state := machine.state(pid)) is not None},
        {pid: machine.name(pid) for pid in {run.server_pid for run in runs} if pid is not None},
        holders,
        {run.token: fault for run in runs if (fault := _missing(world, run)) is not None},
        sockets,
        settings.dispatch.launch_timeout + hooks + settings.git.checkout_timeout + settings.git.timeout,
        _modified(os.path.join(runtime.state, LAST_TIME)),
    )


def _unit(world: Snapshot, socket: str) -> str | None:
    server = world.servers.get(socket)
    return machine.unit(server.pid) if server is not None and server.pid is not None else None


def _hooks_timeout(looker: Looker, repo: str) -> int:
    try:
        return looker.runtime.settings_for(repo).hooks.timeout
    except UsageError:
        return looker.settings.hooks.timeout


def _missing(world: Snapshot, run: Run) -> Fault | None:
    """What of a started run of this machine is not where it was made."""
    if run.phase is not Phase.STARTED or (run.host, run.boot_id) != (world.host, world.boot_id):
        return None
    if not os.path.isdir(run.worktree):
        there = machine.working_directory(run.agent_pid) if run.agent_pid is not None else None
        moved = f"; its agent works in {there}" if there and there != run.worktree and os.path.isdir(there) else ""
        hint = f"mv {there} {run.worktree}" if moved else f"dispatchctl attach {run.task}"
        return Fault(run.token, f"its worktree {run.worktree} is gone, deleted or moved by hand{moved}", hint)
    if not os.path.isdir(run.run_dir):
        return Fault(run.token, f"its run directory {run.run_dir} is gone", f"dispatchctl attach {run.task}")
    return None


def _modified(path: str) -> int | None:
    try:
        return int(os.stat(path).st_mtime * 1000)
    except OSError:
        return None


# -- repositories and the state directory --------------------------------------------------------------------------------


def _repositories(looker: Looker) -> Repositories:
    store = _store(looker)
    tasks = _unfinished(looker)
    known = [place.path for place in store.places() if place.kind == "git"]
    repos = dict.fromkeys([*known, *(task.repo for task in tasks)])
    return Repositories(
        tuple(_repository(looker, repo, [task for task in tasks if task.repo == repo]) for repo in repos)
    )


def _repository(looker: Looker, repo: str, tasks: Sequence[Task]) -> Repository:
    git = looker.runtime.git
    ready = tuple(task.id for task in tasks if task.status is Status.READY)
    others = tuple(task.id for task in tasks if task.status is not Status.READY)
    try:
        common = git.repository(repo).common_dir
        mark = f"dispatchctl {looker.database} "
        listed = git.listed(repo)
        ours = [each for each in listed if each.reason and each.reason.startswith(mark)]
        words = {each.path: str(each.reason).removeprefix(mark).partition(" ") for each in ours}
        runs = _store(looker).find_runs([token for _, _, token in words.values()])
        trees = tuple(
            Tree(repo, each.path, token, task, each.branch, os.path.isdir(each.path), runs.get(token))
            for each in ours
            for task, _, token in [words[each.path]]
        )
        elsewhere = {each.branch for each in listed if each.reason and each.reason.startswith("dispatchctl ")}
        return Repository(
            repo,
            None,
            ready,
            others,
            trees,
            tuple(_git_locks(git.lock_files(common, mark), [repo, *words])),
            tuple(_unresolved(git, repo, tasks)),
            tuple(_branches(looker, repo, {branch for branch in elsewhere if branch})),
        )
    except (DispatchctlError, OSError) as error:
        said = error if isinstance(error, DispatchctlError) else DispatchctlError(str(error))
        return Repository(repo, Fault(repo, said.message, said.hint or f"git -C {repo} status"), ready, others)


def _git_locks(paths: Sequence[str], places: Iterable[str]) -> list[GitLock]:
    """git closes a lock file while a hook or an editor runs, so a git at work in one of the places counts as its owner."""
    if not paths:
        return []
    users = machine.openers(paths)
    at_work = any(machine.name(pid).startswith("git") for place in places for pid in processes.working_in(place))
    found = []
    for path in paths:
        modified = _modified(path)
        if modified is not None:
            found.append(GitLock(path, (now() - modified) / 1000, at_work or path in users))
    return found


def _unresolved(git: Worktrees, repo: str, tasks: Sequence[Task]) -> list[tuple[int, str, bool]]:
    to_start = [task for task in tasks if task.status in (Status.READY, Status.BACKLOG)]
    bases = list(dict.fromkeys(task.base for task in to_start))
    wrong = git.without_commit(repo, bases) if bases else set()
    return [(task.id, task.base, task.status is Status.READY) for task in to_start if task.base in wrong]


def _branches(looker: Looker, repo: str, elsewhere: set[str]) -> list[str]:
    """Branches that are named by the pattern and that no run has, of this database or, as far as is seen, of another."""
    try:
        pattern = looker.runtime.settings_for(repo).worktrees.branch
    except UsageError:
        pattern = looker.settings.worktrees.branch
    prefix, _, rest = pattern.partition("{")
    if not prefix:
        return []
    numbered = re.compile(re.escape(prefix) + (r"\d+\b" if rest.startswith("id}") else ""))
    named = [branch for branch in looker.runtime.git.branches(repo, prefix) if numbered.match(branch)]
    known = {*_store(looker).known_branches(repo), *elsewhere} if named else set()
    return [branch for branch in named if branch not in known]


def _ground(looker: Looker) -> Ground:
    state = str(looker.runtime.state)
    runs, locks = os.path.join(state, "runs"), os.path.join(state, "locks")
    tokens = [name for name in _names(runs) if TOKEN.fullmatch(name)]  # before the rows: a claim writes its row first
    steps = [name.removesuffix(".step") for name in _names(locks) if name.endswith(".step")]
    known = _store(looker).find_runs({*tokens, *steps})
    directories = [os.path.join(runs, token) for token in tokens if token not in known]
    open_runs = {token for token, run in known.items() if run.phase is not Phase.CLOSED}
    left = [os.path.join(locks, f"{token}.step") for token in steps if token not in open_runs]
    private = [state, looker.database, *(os.path.join(runs, token) for token in tokens)]
    return Ground(
        state,
        tuple(path for path in private if _is_open_to_others(path)),
        tuple(Directory(path, _began(path)) for path in directories),
        tuple(path for path in left if not os.path.exists(f"{path[:-5]}.owner") and processes.is_locked(path) is False),
    )


def _began(run_dir: str) -> bool:
    """Whether an agent was started from the run directory, or anything else is there that somebody may miss."""
    return any(os.path.lexists(os.path.join(run_dir, name)) for name in ("started", "exit.json", "output.log"))


def _is_open_to_others(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & 0o077)
    except OSError:
        return False


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


PARTS: dict[type, tuple[bool, Callable[[Looker], Part]]] = {
    Tools: (False, _tools),
    Setup: (False, _setup),
    Agents: (True, _agents),
    DatabaseFile: (False, _file),
    ContentsOfDatabase: (True, _contents),
    Fleet: (True, _fleet),
    Queue: (True, _queue),
    Repositories: (True, _repositories),
    Ground: (True, _ground),
}
"""How each part is had, and whether the database is needed for it."""
