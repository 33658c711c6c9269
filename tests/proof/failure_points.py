"""The 24 failure points of the research that this was built on: the effects of the matrix, or the tests, that cover each."""

from pathlib import Path

from proof import matrix

ROOT = Path(__file__).parent.parent.parent
HOSTILE = "tests/reconcile/test_hostile_"

COVERED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("inside the claim's transaction", ("claim", "tests/store/test_claim.py")),
    ("claim committed, no step yet", ("claim", "note the intent")),
    ("claim committed, its answer lost", ("claim",)),
    ("intent stored, git not started", ("note what the run makes",)),
    ("during `git worktree add`", ("register the worktree", "check out")),
    ("branch made, worktree refused", ("register the worktree", "undo branch")),
    ("worktree made, not recorded", ("check out", "step worktree")),
    (
        "during a hook, which hangs or leaves children",
        (
            "run a hook",
            f"{HOSTILE}processes.py::test_a_hook_still_at_work_for_a_dead_dispatcher_is_ended_before_its_worktree_goes",
        ),
    ),
    ("hook done, no window yet", ("step setup", "step run directory")),
    ("no tmux server, or it dies", ("open the window", "tests/launch/test_tmux_failures.py")),
    ("window made, dispatcher dead before it is recorded", ("open the window", "reconcile: adopt")),
    ("window made, its program exits at once", ("tests/launch/test_late_starts.py",)),
    ("window recorded, state not", ("note the window",)),
    ("agent at work, its dispatcher dies", ("launcher opens the gate", "drop the locks")),
    (
        "agent at work, its server dies, or the machine",
        ("reconcile: lose", f"{HOSTILE}servers.py::test_a_reboot_gives_back_what_ran_and_undoes_what_was_starting"),
    ),
    ("agent exits while nobody looks", ("launcher writes the exit file", "reconcile: close")),
    ("exit recorded, the rest half done", ("launcher sweeps", "launcher closes the run")),
    ("clearing away with work in the worktree", ("rescue the work", "tests/test_clearing.py")),
    ("a dispatcher stopped for minutes, then continued", ("tests/reconcile/test_stopped_dispatchers.py",)),
    (
        "pids and window ids used again, clocks that jump",
        (
            f"{HOSTILE}servers.py::test_a_process_that_got_the_number_of_a_launcher_is_not_it",
            f"{HOSTILE}servers.py::test_a_clock_that_is_set_changes_nothing_of_what_lives",
        ),
    ),
    ("reconcile killed anywhere, two at once", ("reconcile: undo", "tests/reconcile/test_two_at_once.py")),
    (
        "database locked, full, away",
        ("launcher closes the run", "tests/launch/test_records.py", "tests/store/test_files.py"),
    ),
    (
        "a human closes the window, deletes or moves the worktree",
        (f"{HOSTILE}windows.py", f"{HOSTILE}processes.py::test_a_worktree_that_the_user_moved_is_kept_where_it_is"),
    ),
    (
        "a cancel or time-out that races with the end",
        ("reconcile: end", "tests/reconcile/test_two_at_once.py", "tests/test_crowd.py"),
    ),
)


def page() -> str:
    """The section; raises `AssertionError` for what is not there (any more)."""
    effects = matrix.effects()
    lines = [
        """## The 24 failure points

The least that a list of points has to cover, and where it is: as an effect of the matrix above, or as a test.

| # | point | covered by |
|---|---|---|"""
    ]
    assert len(COVERED) == 24
    for number, (point, places) in enumerate(COVERED, 1):
        for place in places:
            assert place in effects or _is_test(place), place
        lines.append(
            f"| {number} | {point} | {', '.join(f'`{place}`' if '/' in place else place for place in places)} |"
        )
    return "\n".join(lines) + "\n"


def _is_test(place: str) -> bool:
    path, _, name = place.partition("::")
    file = ROOT / path
    return file.is_file() and f"def {name or 'test_'}" in file.read_text()
