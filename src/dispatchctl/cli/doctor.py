"""doctor: what is wrong, and what to type."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dispatchctl.cli.context import Cli
from dispatchctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from dispatchctl.doctor.table import Check, Finding
    from dispatchctl.remedies import Mended


def doctor(
    cli: Cli,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended without losing work.")] = False,
    check: Annotated[str | None, typer.Option("--check", metavar="ID", help="Make this check alone.")] = None,
) -> int:
    """Say what is wrong, and what to type. Nothing is changed without --fix, and that mends only what cannot lose work.

    Exit code 1 if an error is left; warnings do not change it.
    """
    from dispatchctl import examination
    from dispatchctl.doctor.every import CHECKS, Severity, examine

    chosen = CHECKS if check is None else {check: _named(check, CHECKS)}
    parts = {each.needs for each in chosen.values()}
    findings = examine(examination.look(cli.runtime, parts), chosen)
    mended: list[dict[str, Any]] = []
    if fix and any(finding.mend for finding in findings):
        mended = _mend(cli, findings)
        findings = examine(examination.look(cli.runtime, parts), chosen)
    ok = not any(finding.severity is Severity.ERROR for finding in findings)
    if cli.as_json:
        cli.output.json({"ok": ok, "findings": [shape(finding) for finding in findings], "mended": mended})
    else:
        _show(cli, findings, len(chosen))
    return ExitCode.OK if ok else ExitCode.FAILED


def _named(id: str, checks: "dict[str, Check]") -> "Check":
    if id in checks:
        return checks[id]
    import difflib

    near = difflib.get_close_matches(id, checks, 1)
    hint = f"did you mean {near[0]}? dispatchctl doctor --check {near[0]}" if near else f"checks: {', '.join(checks)}"
    raise UsageError(f"there is no check {id!r}", hint)


def _mend(cli: Cli, findings: "tuple[Finding, ...]") -> list[dict[str, Any]]:
    """Mend, and tell it."""
    from dispatchctl import remedies

    done = remedies.mend(cli.runtime, findings)
    for each in done:
        line = f"{each.subject}: {each.done}"
        if each.ok:
            cli.output.story(line)
        else:
            cli.output.failure(line, f"dispatchctl doctor --check {each.check}")
    return [shape_of_mended(each) for each in done]


def shape_of_mended(mended: "Mended") -> dict[str, Any]:
    """The JSON of what was mended."""
    return {"check": mended.check, "subject": mended.subject, "done": mended.done, "ok": mended.ok}


def shape(finding: "Finding") -> dict[str, Any]:
    """The JSON of a finding."""
    return {
        "check": finding.check,
        "severity": finding.severity,
        "subject": finding.subject,
        "problem": finding.problem,
        "fix": finding.fix,
    }


def _show(cli: Cli, findings: "tuple[Finding, ...]", checks: int) -> None:
    """One line for each finding, with what to type; what `--fix` would mend is counted."""
    for each in findings:
        cli.output.line(f"{each.severity} [{each.check}] {each.subject}: {each.problem}")
        cli.output.line(f"  hint: {each.fix}")
    many = "1 check" if checks == 1 else f"{checks} checks"
    if not findings:
        cli.output.line(f"all is well: {many}")
        return
    mendable = sum(each.mend is not None for each in findings)
    hint = "dispatchctl doctor --fix" if mendable else None
    count = f"{len(findings)} finding{'s' if len(findings) > 1 else ''} in {many}"
    cli.output.story(f"{count}; {mendable} of them --fix can mend" if mendable else count, hint=hint)
