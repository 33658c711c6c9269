"""Commands that scripts and agents call often import nothing that costs time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli.desk import Desk

SLOW = ("rich.console", "libtmux", "git", "sqlite_utils", "asyncio", "pydantic")
WRAPPER = """
import sys
from dispatchctl.cli.app import run
code = run(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write("\\n".join(sys.modules))
sys.exit(code)
"""


def imported(desk: Desk, path: Path, *words: str) -> set[str]:
    """Every module that a command has imported by its end, with its output in a pipe."""
    done = subprocess.run(
        [sys.executable, "-c", WRAPPER, str(path), *words],
        env=desk.world.variables,
        cwd=desk.repo,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(path.read_text().split("\n"))


@pytest.mark.parametrize(
    "words",
    [
        ["list", "--json"],
        ["list"],
        ["show", "ID", "--json"],
        ["show", "ID"],
        ["history", "ID"],
        ["ready"],
        ["add", "T", "-q"],
        ["heartbeat", "ID"],
        ["block", "ID", "-m", "which"],
        ["dispatch", "-q"],
        ["done", "ID", "-m", "ok"],
    ],
    ids=" ".join,
)
def test_nothing_slow_is_imported(desk: Desk, tmp_path: Path, words: list[str]) -> None:
    task = desk.dispatched("Runs", "sleep 600")
    modules = imported(desk, tmp_path / "modules", *(str(task) if word == "ID" else word for word in words))
    assert "dispatchctl.cli.app" in modules
    assert [name for name in SLOW if name in modules] == []


def test_nothing_slow_is_imported_by_an_agent_that_reports(desk: Desk, tmp_path: Path) -> None:
    task = desk.dispatched("Runs", "sleep 600")
    run = desk.newest(task)
    desk.world.extra |= {
        "DISPATCHCTL_TASK": str(task),
        "DISPATCHCTL_TOKEN": run.token,
        "DISPATCHCTL_DB": str(desk.runtime.database),
    }
    for words in (["heartbeat"], ["done", "-m", "ok"]):
        modules = imported(desk, tmp_path / "modules", *words)
        assert [name for name in SLOW if name in modules] == []
        others = {name for name in modules if name.startswith("dispatchctl.cli.")}
        assert others.isdisjoint({"dispatchctl.cli.setup", "dispatchctl.cli.queue", "dispatchctl.cli.work"})


def test_the_version_is_told_without_a_command_line(desk: Desk) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "dispatchctl", "--version"],
        env=desk.world.variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "typer" not in done.stderr
    assert done.stdout.startswith("dispatchctl ")
    assert os.linesep in done.stdout
