"""dispatchctl as a service of the user's own systemd, or as lines of a crontab.

Three units: a service for `watch`, and a service with a timer for `reconcile`, which makes every status true should `watch`
not run. `units` says what is written, `installing` writes it and tells systemd.
"""

from dispatchctl.service.installing import CRON_HINT, Installed, State, Unit, install, installed, uninstall
from dispatchctl.service.units import (
    RECONCILE,
    TIMER,
    UNITS,
    WATCH,
    Plan,
    as_of_now,
    crontab,
    directory,
    executed,
    is_marked,
    is_ours,
    marked,
    own_program,
    plan,
    program_of,
    units,
    unknown_to_a_service,
)

__all__ = [
    "CRON_HINT",
    "RECONCILE",
    "TIMER",
    "UNITS",
    "WATCH",
    "Installed",
    "Plan",
    "State",
    "Unit",
    "as_of_now",
    "crontab",
    "directory",
    "executed",
    "install",
    "installed",
    "is_marked",
    "is_ours",
    "marked",
    "own_program",
    "plan",
    "program_of",
    "uninstall",
    "units",
    "unknown_to_a_service",
]
