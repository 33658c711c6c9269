"""All checks, in the order in which they are made and documented."""

from dispatchctl.doctor import database_checks, fleet_checks, machine_checks, queue_checks, service_checks, trace_checks
from dispatchctl.doctor.table import CHECKS, Check, Finding, Mend, Problem, Severity, examine

MODULES = (machine_checks, database_checks, fleet_checks, queue_checks, service_checks, trace_checks)
"""Each has entered its checks into the table."""

__all__ = ["CHECKS", "MODULES", "Check", "Finding", "Mend", "Problem", "Severity", "examine"]
