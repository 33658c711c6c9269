"""What a check is, what it finds, and the table of all checks.

A check is one function over one frozen value of `doctor.health`: its name, with hyphens, is its stable id, its docstring its
description. What it needs is said by the type of its parameter. Facts that could not be had are a finding, not silence.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dispatchctl.doctor.health import Health, Unknown


class Severity(StrEnum):
    """error: a status lies, work cannot go on, or could be lost; warning: somebody should look; info: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Mend(StrEnum):
    """What `--fix` can do without losing work; the value says it."""

    RECONCILE = "runs `dispatchctl reconcile`"
    RECOUNT = "counts them again"
    REBUILD = "makes an index or trigger again"
    WRITE_AHEAD = "switches it back to WAL"
    MAKE_PRIVATE = "takes the rights of others away"
    REMOVE_RUN_DIRECTORY = "removes it, unless an agent began there"


@dataclass(frozen=True)
class Problem:
    """What a check found wrong with one subject, and a command that mends it, or shows more.

    Without a `severity` it is the first that the check names. `target` is what `--fix` works on; None: it leaves it to a human.
    """

    subject: str
    text: str
    fix: str
    severity: Severity | None = None
    target: str | None = ""


@dataclass(frozen=True)
class Finding:
    """Something wrong, as it is shown; `mend` is what `--fix` would do to `target`, None if only a human can."""

    check: str
    severity: Severity
    subject: str
    problem: str
    fix: str
    mend: Mend | None = None
    target: str = ""


@dataclass(frozen=True)
class Check:
    """One question about one part of the health, with the severities that its answers may have."""

    id: str
    doc: str
    needs: type
    severities: Sequence[Severity]
    mend: Mend | None
    ask: Callable[[Any], Iterator[Problem]]

    def findings(self, health: Health) -> Iterator[Finding]:
        """What is wrong, or that it is unknown."""
        part = health.part(self.needs)
        if isinstance(part, Unknown):
            yield Finding(self.id, Severity.WARNING, part.subject, f"could not be checked: {part.why}", part.fix)
            return
        for problem in self.ask(part):
            severity = problem.severity or self.severities[0]
            assert severity in self.severities, f"{self.id} does not say that it may be {severity}"
            mend = self.mend if problem.target is not None else None
            yield Finding(self.id, severity, problem.subject, problem.text, problem.fix, mend, problem.target or "")


CHECKS: dict[str, Check] = {}
"""Every check by its id, in the order in which they are made."""


def check(
    *severities: Severity, mend: Mend | None = None
) -> Callable[[Callable[[Any], Iterator[Problem]]], Callable[[Any], Iterator[Problem]]]:
    """Enter the function into the table, with the severities that it may give (the first is meant where it names none)."""

    def enter(ask: Callable[[Any], Iterator[Problem]]) -> Callable[[Any], Iterator[Problem]]:
        name = ask.__name__.replace("_", "-")
        assert name not in CHECKS, name
        [parameter] = inspect.signature(ask).parameters.values()
        CHECKS[name] = Check(name, inspect.getdoc(ask) or "", parameter.annotation, severities, mend, ask)
        return ask

    return enter


def examine(health: Health, checks: Mapping[str, Check] = CHECKS) -> tuple[Finding, ...]:
    """What is wrong, the worst first.

    Where the same reason keeps several checks from being made, it is one finding that names them.
    """
    found: list[Finding] = []
    unmade: dict[Unknown, list[str]] = {}
    for each in checks.values():
        part = health.part(each.needs)
        if isinstance(part, Unknown):
            unmade.setdefault(part, []).append(each.id)
        else:
            found += _safely(each, health)
    for why, ids in unmade.items():
        [first, *others] = ids
        [finding] = checks[first].findings(health)
        more = (
            f"; nor could {', '.join(others) if len(others) < 4 else f'{len(others)} other checks'}" if others else ""
        )
        found.append(Finding(first, finding.severity, why.subject, f"{finding.problem}{more}", why.fix))
    return tuple(sorted(found, key=lambda each: list(Severity).index(each.severity)))


def _safely(each: Check, health: Health) -> list[Finding]:
    """Its findings, or that it broke: doctor has to say what the others found."""
    try:
        return list(each.findings(health))
    except Exception as bug:  # noqa: BLE001 - a broken check is a finding, as nothing else may hide behind it
        said = f"the check itself broke, which is a bug of dispatchctl: {type(bug).__name__}: {bug}"
        return [Finding(each.id, Severity.WARNING, "doctor", said, f"dispatchctl doctor --check {each.id}")]
