"""A short night: one task of each fate and some more, with random kills of everything. `scripts/night` plays a whole one."""

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent


def test_whatever_is_killed_in_the_night_every_task_ends_as_it_should() -> None:
    command = [sys.executable, "-m", "night", "--tasks", "22", "--seed", "1", "--kill-every", "0.6"]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True)  # noqa: PLW1510 - shown below
    assert done.returncode == 0, done.stdout + done.stderr
