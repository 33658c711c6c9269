"""`scripts/fault-matrix`: everything of the proof, and docs/faults.md from what came of it."""

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from proof import breakages, failure_points, kills, matrix, scale
from proof.inside import Fault

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "faults.md"
SEEDS = 100
KILLS = 80
MODEL = "random histories: "


def main() -> int:
    """Run what is asked for; 1 if a promise did not hold anywhere."""
    parser = argparse.ArgumentParser(prog="scripts/fault-matrix", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only cases whose name holds all the words; no page")
    parser.add_argument("--effect", metavar="NAME", help="a sample of the cases before and after one effect; no page")
    parser.add_argument("--seed", type=int, metavar="N", help="the world of one seed again; no page")
    parser.add_argument("--kills", type=int, default=KILLS, metavar="N", help="kills in each world")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="worlds with random kills")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="worlds at one time")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part of the page; may be repeated")
    wanted = parser.parse_args()
    if wanted.only:
        return matrix.main(wanted.only)
    if wanted.effect:
        return _tell(matrix.run(case) for case in matrix.sample(wanted.effect))
    if wanted.seed is not None:
        return kills.main([str(wanted.seed), str(wanted.kills)])
    return _everything(wanted)


def _everything(wanted: argparse.Namespace) -> int:
    """Make the parts of the page that are asked for, and leave the others as they are."""
    wrong = 0
    for name in wanted.part or PARTS:
        began = time.monotonic()
        text, violations = PARTS[name](wanted)
        wrong += violations
        sections = _sections(PAGE.read_text() if PAGE.exists() else "")  # another part may have been made meanwhile
        sections[text.split("\n", 1)[0]] = text.rstrip() + "\n"
        print(f"{name}: {violations} violations, {time.monotonic() - began:.0f} s", flush=True)
        order = [heading for heading in HEADINGS if heading in sections]
        PAGE.write_text("\n".join([_opening(), *(sections[heading] for heading in order)]))
    return int(wrong > 0)


def _sections(page: str) -> dict[str, str]:
    """The parts of the page as it is, by their headings."""
    parts = [f"## {part}" for part in page.split("\n## ")[1:]]
    return {part.split("\n", 1)[0]: part.rstrip() + "\n" for part in parts}


def _tell(outcomes: Iterable[matrix.Outcome]) -> int:
    wrong = 0
    for outcome in outcomes:
        wrong += len(outcome.violations)
        print(f"{outcome.seconds:5.1f} s  {outcome.case.point} × {outcome.case.fault}")
        if not outcome.reached and outcome.case.fault is not Fault.DISK_FULL:
            wrong += 1
            print("    the point was not reached")
        for violation in outcome.violations:
            print(f"    {violation}")
    return int(wrong > 0)


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _opening() -> str:
    versions = [_said("tmux", "-V"), _said("git", "--version"), f"Python {sys.version.split()[0]}"]
    system = f"{os.uname().sysname} {os.uname().release.split('-')[0]}, {os.cpu_count()} cores"
    return f"""# What happens when anything is killed

Made by `scripts/fault-matrix` on {time.strftime("%Y-%m-%d", time.gmtime())}; not to be edited. {system}; {", ".join(versions)}.

A *point* lies before or after an *effect*: a change outside the process that makes it. The code lists its effects itself
(`dispatchctl.faults`): each step of a launch and its undo, each write of the launcher, each action of `reconcile`, each step of
clearing away. After each fault one `reconcile` runs, or two where the first had to wait for something to die, and the promises
are looked at from outside: rows with `sqlite3`, `/proc`, `tmux`, `git` and the file system (`tests/proof/outside.py`).
"""


# -- the matrix ----------------------------------------------------------------------------------------------------------


def _matrix(wanted: argparse.Namespace) -> tuple[str, int]:
    began = time.monotonic()
    outcomes = []
    cases = matrix.chosen([])
    for outcome in matrix.run_all(cases, workers=wanted.workers):
        outcomes.append(outcome)
        if outcome.violations:
            print(f"{outcome.case.point} × {outcome.case.fault}: {outcome.violations}", flush=True)
        if len(outcomes) % 100 == 0:
            print(f"matrix: {len(outcomes)} of {len(cases)}", flush=True)
    took = time.monotonic() - began
    wrong = sum(len(outcome.violations) for outcome in outcomes)
    return _matrix_page(outcomes, took, wrong), wrong


def _matrix_page(outcomes: Sequence[matrix.Outcome], took: float, wrong: int) -> str:
    points = {outcome.case.point for outcome in outcomes}
    twice = sum(outcome.passes == 2 for outcome in outcomes)
    missed = [outcome for outcome in outcomes if not outcome.reached]
    cells: dict[str, dict[Fault, list[str]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        mark = (
            "✗" if outcome.violations else "–" if not outcome.reached else str(outcome.passes) if outcome.felt else "·"
        )
        cells[outcome.case.effect][outcome.case.fault].append(mark)
    felt = sum(outcome.felt and outcome.reached for outcome in outcomes)
    lines = [
        f"""## Every fault at every point

{len(points)} points × {len(Fault)} faults = {len(outcomes)} runs in {took / 60:.0f} min; violations: **{wrong}**.
{felt} were felt: somebody failed or died, or there was something to mend; of those {twice} needed two reconciles, the rest one.
A fault that comes too late to matter, such as a failing hook after the checkout, or before there is anything to kill, is not
felt. {len(missed)} times something else happened first, and the point was not reached. A cell has what the fault came to before
and after the effect: how many reconciles made everything true again, · for not felt, – for not reached.

That a process stands still instead is tested apart: dispatchers are stopped at every point of a launch, others reconcile and
dispatch meanwhile, and they go on or are killed (`tests/reconcile/test_stopped_dispatchers.py`).

| effect | {" | ".join(Fault)} |""",
        "|---" * (len(Fault) + 1) + "|",
    ]
    for effect, row in cells.items():
        lines.append(f"| {effect} | {' | '.join(' '.join(row[fault]) for fault in Fault)} |")
    return "\n".join(lines) + "\n"


# -- random kills ----------------------------------------------------------------------------------------------------------


def _kills(wanted: argparse.Namespace) -> tuple[str, int]:
    began = time.monotonic()
    killed, runs, failed = Counter[str](), Counter[str](), 0
    wrong: list[str] = []
    with ProcessPoolExecutor(wanted.workers, mp_context=multiprocessing.get_context("fork")) as pool:
        results = pool.map(partial(kills.run, kills=wanted.kills), range(1, wanted.seeds + 1))
        for number, result in enumerate(results, 1):
            killed += result.kills
            runs += result.runs
            failed += result.failed
            wrong += [f"seed {result.seed}: {violation}" for violation in result.violations]
            if result.violations:
                print(f"seed {result.seed}: {result.violations}", flush=True)
            if number % 10 == 0:
                print(f"random kills: {number} of {wanted.seeds}", flush=True)
    took = time.monotonic() - began
    text = f"""## Random kills

{kills.DISPATCHERS} dispatchers and {kills.RECONCILERS} reconcilers work on one queue while something is killed every
{kills.PAUSE_S * 1000:.0f} ms or so. Each agent holds an exclusive lock and would notice a second one of its task. In the end
every task has to be done, once, or to be failed for a reason that is true (its own agent was killed), and nothing may be left.

Seeds 1 to {wanted.seeds}, {wanted.kills} kills each, {took / 60:.0f} min. Killed: {_counted(killed)}.
Runs: {runs.total()} ({_counted(runs)}); rightly failed or in review, because their own agent or its git was killed: {failed}.
Violations: **{len(wrong)}**. Again, with the same decisions: `scripts/fault-matrix --seed N --kills {wanted.kills}`.
"""
    return text, len(wrong)


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counter.most_common())


# -- the model, and the breakages ------------------------------------------------------------------------------------------


def _model(_: argparse.Namespace) -> tuple[str, int]:
    """The state machine, with its long profile."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "tests/test_model.py"]
    command += ["-k", "random_history"]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "long"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: PLW1510
    found = re.findall(f"{MODEL}(.*)", done.stdout)
    if done.returncode or not found:
        print(done.stdout[-3000:], flush=True)
    text = f"""## Random histories

A hypothesis state machine (`tests/test_model.py`) drives the real program in a model of a computer, in which windows,
processes, files and the clock do what a random history says, and looks at the promises after each step. The same file with
`HYPOTHESIS_PROFILE=long` breaks the program in the ways that `tests/model/broken.py` lists; each has to be noticed.

{found[0] if found else "It was not run."} Violations: **{int(done.returncode != 0)}**.
"""
    return text, int(done.returncode != 0)


def _breakages(_: argparse.Namespace) -> tuple[str, int]:
    """Each promise with the test that fails when the code that keeps it is broken."""
    lines = [
        "## Tests that can fail",
        "",
        "For each promise the code was broken in a copy of the sources, and the test was seen to fail.",
        "",
        "| promise | broken | the test that failed |",
        "|---|---|---|",
    ]
    unnoticed = 0
    for breakage in breakages.BREAKAGES:
        noticed = breakages.is_noticed(breakage)
        unnoticed += not noticed
        print(f"{breakage.promise}: {breakage.what}: {'noticed' if noticed else 'NOT NOTICED'}", flush=True)
        lines.append(f"| {breakage.promise} | {breakage.what} | `{breakage.test}`{'' if noticed else ' **did not**'} |")
    return "\n".join(lines) + "\n", unnoticed


def _cost(_: argparse.Namespace) -> tuple[str, int]:
    return scale.page(), 0


def _points(_: argparse.Namespace) -> tuple[str, int]:
    return failure_points.page(), 0


PARTS = {"matrix": _matrix, "points": _points, "kills": _kills, "model": _model, "breakages": _breakages, "cost": _cost}
HEADINGS = (
    "## Every fault at every point",
    "## The 24 failure points",
    "## Random kills",
    "## Random histories",
    "## Tests that can fail",
    "## What a reconcile costs",
)


if __name__ == "__main__":
    sys.exit(main())
