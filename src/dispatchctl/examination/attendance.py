"""Whether somebody starts tasks by itself: the service that was installed, and the daemon's lock."""

import os
import shutil

from dispatchctl import machine, processes
from dispatchctl import service as services
from dispatchctl.doctor.health import Service, Unit
from dispatchctl.examination.looker import Looker
from dispatchctl.runtime import watch_lock


def service(looker: Looker) -> Service:
    """The units that we have written, whatever became of them; none where there is no systemctl."""
    environment = looker.runtime.environment
    if not has_systemd(looker):
        return Service()
    units = services.installed(environment)
    ours = tuple(_unit(path.name, text) for path, text in units.items() if services.is_marked(text))
    return Service(ours, machine.lingers(environment.uid))


def has_systemd(looker: Looker) -> bool:
    """Whether there is a systemctl to talk to it with."""
    return shutil.which("systemctl", path=looker.runtime.environment.path) is not None


def is_attended(looker: Looker) -> bool:
    """Whether `watch` runs for the database, or there is no systemd that might run it: then cron may, which is not seen.

    A timer for `reconcile` starts nothing.
    """
    return processes.is_locked(watch_lock(looker.runtime)) is True or not has_systemd(looker)


def _unit(name: str, text: str) -> Unit:
    program = services.program_of(text)
    found = not program or (os.path.isfile(program[0]) and os.access(program[0], os.X_OK))
    outdated = None
    if not services.is_ours(text):
        outdated = ("was changed since it was written: changes are better kept by `systemctl --user edit`", True)
    elif services.as_of_now(name, text, program) != text:
        outdated = ("was written by another version of dispatchctl", False)
    elif program and found and not _is_same(program, services.own_program()):
        outdated = (f"runs {' '.join(program)}, and this is {' '.join(services.own_program())}", False)
    return Unit(name, program[0] if program else "", found, outdated)


def _is_same(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return one[1:] == other[1:] and os.path.realpath(one[0]) == os.path.realpath(other[0])
