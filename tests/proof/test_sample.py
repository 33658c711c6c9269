"""A sample of the proof for CI: at every point the kill of who reaches it, and one fault more; and two worlds of random kills.

`scripts/fault-matrix` runs all of it. Each case has a process of its own, which forks what is to be killed.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from dispatchctl import faults, mend, plan, steps
from proof import matrix

TESTS = Path(__file__).parent.parent


def proof(*words: str) -> None:
    """Run a part of the proof; what it says is shown if a promise did not hold."""
    done = subprocess.run([sys.executable, "-m", "proof", *words], cwd=TESTS, capture_output=True, text=True)  # noqa: PLW1510
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("effect", matrix.effects())
def test_whatever_happens_before_or_after_an_effect_the_promises_hold(effect: str) -> None:
    proof("--effect", effect)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_kills_leave_every_task_done_once_and_nothing_else(seed: int) -> None:
    proof("--seed", str(seed), "--kills", "40")


def test_every_step_and_every_action_has_its_points() -> None:
    named = set(matrix.effects())
    assert {f"step {step.name}" for step in steps.STEPS} <= named
    assert {f"undo {step.name}" for step in steps.STEPS} <= named
    assert {f"reconcile: {kind}" for kind in plan.Kind if kind is not plan.Kind.REPORT} <= named
    assert set(mend.APPLY) == set(plan.Kind) - {plan.Kind.REPORT}
    assert len(faults.points()) == 2 * len(named)
