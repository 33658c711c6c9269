"""The service that `dispatchctl service install` made, where there is one and systemd to run it."""

from collections.abc import Iterator

from dispatchctl.doctor.health import Service
from dispatchctl.doctor.table import Problem, Severity, check

ERROR, WARNING, INFO = Severity

INSTALL = "dispatchctl service install"


@check(ERROR)
def service_program(service: Service) -> Iterator[Problem]:
    """The program that each installed unit runs is there."""
    for unit in service.units:
        if not unit.found:
            yield Problem(unit.name, f"runs {unit.program}, which cannot be executed any more", INSTALL)


@check(WARNING)
def service_current(service: Service) -> Iterator[Problem]:
    """Each installed unit is what `dispatchctl service install` would write now, with its options and its PATH."""
    for unit in service.units:
        if unit.outdated is not None:
            text, forced = unit.outdated
            yield Problem(unit.name, text, f"{INSTALL} --force" if forced else INSTALL)


@check(WARNING)
def service_outlives_logout(service: Service) -> Iterator[Problem]:
    """With a service installed, lingering is on: without it systemd ends daemon and agents with the user's last session."""
    if service.units and service.lingers is False:
        yield Problem(
            service.units[0].name, "ends with your last session, and agents with it", "loginctl enable-linger"
        )
