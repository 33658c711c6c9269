"""What `doctor --fix` does: only what cannot lose work. Each remedy looks again under its lock, may be done twice, and may be
killed anywhere: it is one effect, or reconcile, which is made for that.
"""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dispatchctl import processes, rundir
from dispatchctl.doctor.table import Finding, Mend
from dispatchctl.errors import DispatchctlError
from dispatchctl.plan import Kind
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime


@dataclass(frozen=True)
class Mended:
    """What was done about findings of one check, or why it could not be."""

    check: str
    subject: str
    done: str
    ok: bool


def mend(runtime: Runtime, findings: Sequence[Finding]) -> list[Mended]:
    """Mend what can be mended of the findings, one kind after the other; one that fails does not keep the others from it."""
    done: list[Mended] = []
    for kind, remedy in REMEDIES.items():
        concerned = [finding for finding in findings if finding.mend is kind]
        try:
            done += remedy(runtime, concerned) if concerned else []
        except (DispatchctlError, OSError) as error:
            first = concerned[0]
            done.append(Mended(first.check, first.subject, f"could not be mended: {error}", ok=False))
    return done


def _reconcile(runtime: Runtime, findings: Sequence[Finding]) -> list[Mended]:
    result = []
    for done in reconcile(runtime).done:
        action = done.action
        if action.kind is Kind.REPORT:
            continue  # nothing was done, and what is left is found again
        subject = f"run {action.run}" if action.task is None else f"task {action.task}"
        checks = [finding.check for finding in findings if finding.subject == subject]
        said = f"{action.reason}: {action.kind} run {action.run}" + (f", but {done.error}" if done.error else "")
        result.append(Mended(checks[0] if checks else "nothing-to-reconcile", subject, said, done.ok))
    return result or [Mended(findings[0].check, "reconcile", "reconciled: nothing had to be done any more", ok=True)]


def _recount(runtime: Runtime, findings: Sequence[Finding]) -> list[Mended]:
    changed = runtime.store.recount()
    return [Mended(findings[0].check, "counters", f"counted again: {changed} rows were wrong", ok=True)]


def _rebuild(runtime: Runtime, findings: Sequence[Finding]) -> list[Mended]:
    made = runtime.store.rebuild()
    said = f"made again: {', '.join(made)}" if made else "nothing had to be made any more"
    return [Mended(findings[0].check, findings[0].subject, said, ok=True)]


def _write_ahead(runtime: Runtime, findings: Sequence[Finding]) -> list[Mended]:
    runtime.store.use_write_ahead_log()
    return [Mended(findings[0].check, findings[0].subject, "is in WAL mode again", ok=True)]


def _make_private(runtime: Runtime, findings: Sequence[Finding]) -> list[Mended]:  # noqa: ARG001 - as every remedy
    for finding in findings:
        os.chmod(finding.target, stat.S_IMODE(os.stat(finding.target).st_mode) & 0o700)
    return [Mended(each.check, each.subject, "is private now", ok=True) for each in findings]


def _remove_run_directories(runtime: Runtime, findings: Sequence[Finding]) -> list[Mended]:
    return [done for each in findings if (done := _remove_run_directory(runtime, each)) is not None]


def _remove_run_directory(runtime: Runtime, finding: Finding) -> Mended | None:
    """Remove the directory of a run that is on no row, of which nothing lives and whose agent never began."""
    path = finding.target
    token = os.path.basename(path)
    owner = processes.lock(str(runtime.state / "locks" / f"{token}.owner"))
    if owner is None:
        return None
    try:
        if token in runtime.store.find_runs([token]) or processes.of_run(token) or rundir.started(path) is not None:
            return None
        if any(os.path.lexists(os.path.join(path, name)) for name in ("exit.json", "output.log")):
            return None
        rundir.remove(path)
    finally:
        if owner.is_in_place():
            os.unlink(owner.path)
        owner.release()
    return Mended(finding.check, finding.subject, "was removed", ok=True)


REMEDIES: Mapping[Mend, Callable[[Runtime, Sequence[Finding]], list[Mended]]] = {
    Mend.RECOUNT: _recount,  # first: a wrong count may refuse the very write that ends a run
    Mend.REBUILD: _rebuild,
    Mend.WRITE_AHEAD: _write_ahead,
    Mend.MAKE_PRIVATE: _make_private,
    Mend.RECONCILE: _reconcile,
    Mend.REMOVE_RUN_DIRECTORY: _remove_run_directories,
}
