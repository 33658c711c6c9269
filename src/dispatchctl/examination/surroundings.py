"""The machine around dispatchctl: tmux, git, settings, agents, disks, and the database as a file."""

import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from dispatchctl import agents, machine, processes
from dispatchctl.agents.sign_in import signed_in
from dispatchctl.doctor.health import Agent, Agents, DatabaseFile, Fault, Gate, Place, Program, Setup, Tools
from dispatchctl.errors import DispatchctlError, UsageError
from dispatchctl.examination.looker import PATIENCE_S, Looker
from dispatchctl.store.health import sqlite_version
from dispatchctl.task import Status
from dispatchctl.windows import Windows

T = TypeVar("T")

GATE_S = 2.0
"""Seconds for which a lock before the database has to be held without a break to be found stuck; a write takes milliseconds."""


def tools(looker: Looker) -> Tools:
    return Tools(_tmux(looker), _git(looker))


def _tmux(looker: Looker) -> Program:
    try:
        path = looker.runtime.program(looker.settings.tools.tmux, "tmux")
    except DispatchctlError as error:
        return Program("tmux", None, said=error.message)
    windows = Windows(path, "/nonexistent", looker.runtime.environment.inherited, timeout=PATIENCE_S)
    return _versioned("tmux", path, windows.version)


def _git(looker: Looker) -> Program:
    try:
        path = looker.runtime.program(looker.settings.tools.git, "git")
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


def setup(looker: Looker) -> Setup:
    faults = []
    for repo in _repositories(looker):
        try:
            looker.runtime.settings_for(repo)
        except UsageError as error:
            faults.append(Fault(repo, error.message, error.hint or "dispatchctl config"))
    return Setup(tuple(looker.setup), tuple(faults))


def _repositories(looker: Looker) -> list[str]:
    """Those of unfinished tasks, as far as the database can be read."""
    try:
        return sorted({task.repo for task in looker.unfinished}) if looker.store is not None else []
    except (DispatchctlError, ValueError):
        return []


def agents_of_tasks(looker: Looker) -> Agents:
    tasks = looker.unfinished
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


def database_file(looker: Looker) -> DatabaseFile:
    path = looker.database
    places = (
        _place("database", os.path.dirname(path)),
        _place("worktrees", str(looker.runtime.worktrees_root)),
    )
    gates = tuple(gate for suffix in ("-next", "-gate") if (gate := _gate(path + suffix)) is not None)
    version = sqlite_version()
    users = machine.openers([path]).get(path, []) if looker.store is not None else []
    others = {pid: name for pid in users if not _is_ours(name := machine.name(pid))}
    if others:  # one that was being started by us has let go of it by now
        still = machine.openers([path]).get(path, [])
        others = {pid: name for pid, name in others.items() if pid in still}
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
