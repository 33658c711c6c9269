"""The real program in a model of a computer, through random histories: promises P1 to P7 hold, and each breakage is noticed.

CI takes a short sample, the same each time, so that a red run says something about the commit. `HYPOTHESIS_PROFILE=long`
takes long ones with new histories each time, and looks for every breakage; MODEL_EXAMPLES says how many histories.
"""

import os
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from model.broken import BREAKAGES, SOON_FOUND
from model.history import Histories

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "2000" if LONG else "60"))
SAMPLE = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50,
    derandomize=not LONG,
    database=None,
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
FINDING = settings(SAMPLE, phases=[Phase.generate])
"""A breakage is only to be found, not made small."""
MADE = {
    "dispatch",
    "reconcile",
    "work",
    "agent ended",
    "launcher killed",
    "database restored",
    "reboot",
    "tmux silent",
    "settled",
}
"""What the histories have to be made of, to be worth anything."""


def figures(counted: Counter[str], took: float) -> str:
    """For the docs: how much was done."""
    done = ", ".join(f"{number} {what}" for what, number in counted.most_common() if what not in ("steps", "points"))
    steps, points = counted["steps"], counted["points"]
    return f"{steps} steps, {points} points, {took:.0f} s ({steps / took:.0f} steps a second): {done}"


def test_a_random_history_keeps_every_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: Counter[str] = Counter()
    monkeypatch.setattr(Histories, "counted", counted)
    began = time.monotonic()
    try:
        run_state_machine_as_test(Histories, settings=SAMPLE)
    finally:
        print(f"random histories: {figures(counted, time.monotonic() - began)}")
    assert set(counted) >= MADE


@pytest.mark.parametrize("breakage", BREAKAGES if LONG else SOON_FOUND)
def test_a_breakage_is_noticed(breakage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: Counter[str] = Counter()
    monkeypatch.setattr(Histories, "counted", counted)
    began = time.monotonic()
    with BREAKAGES[breakage](), pytest.raises(BaseException) as noticed:  # an assertion, or a group of them
        run_state_machine_as_test(Histories, settings=FINDING)
    print(f"{breakage}: {figures(counted, time.monotonic() - began)[:60]}: {str(noticed.value)[:120]}")
