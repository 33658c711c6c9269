"""Each promise, a way to break the code that keeps it, and the test that then fails: only so does its passing say anything."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent.parent
SOURCES = TESTS.parent / "src"


@dataclass(frozen=True)
class Breakage:
    """In `module`, `right` is replaced by `wrong`; then `test` has to fail."""

    promise: str
    what: str
    module: str
    right: str
    wrong: str
    test: str


BREAKAGES = (
    Breakage(
        "P1",
        "a run whose dispatcher died is not undone",
        "plan.py",
        "yield _action(Kind.UNDO, run, what)",
        "return",
        "tests/test_reconcile.py::test_a_dispatcher_killed_at_any_step_leaves_no_trace_or_a_true_row",
    ),
    Breakage(
        "P1",
        "a run whose launcher was killed stays open",
        "plan.py",
        'return _action(Kind.LOSE, run, "its launcher was killed")',
        'return _action(Kind.REPORT, run, "its launcher was killed")',
        "tests/test_reconcile.py::test_a_killed_launcher_gives_its_task_back_and_leaves_no_agent",
    ),
    Breakage(
        "P2",
        "the launcher starts its agent although the fence refused",
        "launcher.py",
        "passed = _pass_fence(spec, me, agent)",
        "passed = _pass_fence(spec, me, agent) or True",
        "tests/launch/test_late_starts.py::test_the_fence_lets_no_agent_of_a_run_start_that_was_given_up",
    ),
    Breakage(
        "P2",
        "an agent that the database has lost does not hold its task",
        "dispatch.py",
        "besides=mended.held",
        "besides=()",
        "tests/reconcile/test_restored_databases.py::test_yesterdays_copy_in_which_the_number_is_another_tasks",
    ),
    Breakage(
        "P3",
        "a run that began is undone where the row does not say so",
        "observation.py",
        'began=os.path.exists(os.path.join(run.run_dir, "started")),',
        "began=False,",
        "tests/reconcile/test_restored_databases.py::test_a_lost_start_is_not_undone",
    ),
    Breakage(
        "P3",
        "clearing away does not look at what would be lost",
        "clearing.py",
        "if found and not (force and found.rescuable):\n        raise Kept",
        "if False:\n        raise Kept",
        "tests/test_clearing.py::test_work_survives_cancel_retry_rm_and_prune",
    ),
    Breakage(
        "P4",
        "an undo leaves the run directory",
        "steps.py",
        "lambda launch: rundir.remove(launch.run.run_dir)",
        "nothing",
        "tests/launch/test_steps.py::test_an_error_after_a_step_leaves_no_trace",
    ),
    Breakage(
        "P4",
        "what a lost run left alive is not ended",
        "mend.py",
        "        _sweep(work)\n        ending = launcher",
        "        ending = launcher",
        "tests/test_reconcile.py::test_a_killed_launcher_gives_its_task_back_and_leaves_no_agent",
    ),
    Breakage(
        "P5",
        "the launcher tries once to close its run",
        "launcher.py",
        "RECORD_FOR = 3_600.0",
        "RECORD_FOR = 0.0",
        "tests/launch/test_records.py::test_a_database_that_is_locked_for_long_gets_the_end_later",
    ),
    Breakage(
        "P6",
        "a tmux that does not answer counts as none",
        "windows.py",
        "return Server(Answer.UNKNOWN, said=error.message)",
        "return Server(Answer.NO_SERVER)",
        "tests/test_reconcile.py::test_tmux_that_does_not_answer_changes_nothing",
    ),
    Breakage(
        "P7",
        "events do not carry what changed of the task",
        "store/ledger.py",
        'detail = {"task": task_changes, "run": run_changes}',
        'detail = {"task": {}, "run": run_changes}',
        "tests/store/test_replay.py::test_a_history_is_replayed_to_its_rows_after_tasks_were_removed",
    ),
    Breakage(
        "P8",
        "a window is named as the title says",
        "steps.py",
        "run, names.leaf(run.task, launch.task.title, 1), runtime.store.id, command",
        "run, launch.task.title, runtime.store.id, command",
        "tests/launch/test_tmux_failures.py::test_the_window_has_a_safe_name_in_the_session_of_its_repository",
    ),
)


def is_noticed(breakage: Breakage) -> bool:
    """Break a copy of the sources, and whether the test fails there, and passes with the sources as they are."""
    with tempfile.TemporaryDirectory(prefix="dctl-b", dir="/tmp") as directory:
        copy = Path(directory) / "src"
        shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("__pycache__"))
        whole = _passes(breakage, copy)
        module = copy / "dispatchctl" / breakage.module
        text = module.read_text()
        assert text.count(breakage.right) == 1, (
            f"{breakage.module} has {text.count(breakage.right)} × {breakage.right!r}"
        )
        module.write_text(text.replace(breakage.right, breakage.wrong))
        return whole and not _passes(breakage, copy)


def _passes(breakage: Breakage, sources: Path) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", breakage.test]
    environment = {
        **os.environ,
        "PYTHONPATH": str(sources),
        "PROOF_SOURCES": str(sources),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=600)  # noqa: PLW1510
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
    return done.returncode == 0
