"""Doctor finds what is wrong, by planting it in the real world; and `--fix` mends it, where that cannot lose work."""

import os
import pwd
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli.desk import path_without
from reconcile.scene import AT_WORK, at_work, copy_of, dispatcher, gone, is_stopped, kill, killed_at, put_back
from world import World, eventually

from dispatchctl import machine, processes, service
from dispatchctl.dispatch import dispatch
from dispatchctl.doctor import trace_checks
from dispatchctl.doctor.every import CHECKS, Finding, Severity, examine
from dispatchctl.examination import look
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime, now, watch_lock
from dispatchctl.task import Run, Status, Task

EARLIER = -7_200_000
"""Two hours ago, in milliseconds from now."""


def found(world: World, check: str) -> list[Finding]:
    """What the check finds now."""
    every = [finding for finding in examine(look(world.runtime())) if finding.check == check]
    alone = examine(look(world.runtime(), {CHECKS[check].needs}), {check: CHECKS[check]})
    assert [each.subject for each in alone] == [each.subject for each in every]
    return every


def one(world: World, check: str, severity: Severity) -> Finding:
    """The one thing that the check finds, which is as severe as that, and which no other error hides."""
    [finding] = found(world, check)
    assert finding.severity is severity, finding
    assert finding.fix
    return finding


def mended(world: World, check: str) -> None:
    """Check that `--fix` mends what the check finds, says so, and has nothing to do the second time."""
    said = world.cli("doctor", "--fix", "--check", check, "--json")
    assert said.json["findings"] == [], said
    assert said.json["mended"], said
    assert all(each["ok"] for each in said.json["mended"]), said
    assert said.code == 0, said
    again = world.cli("doctor", "--fix", "--check", check, "--json").json
    assert (again["findings"], again["mended"]) == ([], [])


def not_mended(world: World, check: str) -> None:
    """Check that `--fix` leaves to a human what the check finds."""
    said = world.cli("doctor", "--fix", "--check", check, "--json").json
    assert said["findings"], said


def by_hand(runtime: Runtime, *statements: str) -> None:
    """What somebody does with sqlite3, whatever the rules say."""
    with closing(sqlite3.connect(runtime.database)) as database:
        database.execute("PRAGMA ignore_check_constraints = 1")
        with database:
            for statement in statements:
                database.execute(statement)


def ended(world: World, prompt: str = "echo 1 > work", **changes: Any) -> tuple[Runtime, Run]:
    """A task whose agent has ended."""
    runtime = world.runtime()
    repo = world.root / "repo"
    task = world.add(runtime, prompt, repo=repo if repo.exists() else world.repository(), **changes)
    dispatch(runtime, [task.id])
    run = world.ended(runtime, task.id).run
    assert run is not None
    eventually(lambda: run.launcher_pid is None or gone(run.launcher_pid), what="its launcher leaves")
    return runtime, run


def queued(world: World, prompt: str = "true", **changes: Any) -> tuple[Runtime, Task]:
    """A task that waits."""
    runtime = world.runtime()
    repo = world.root / "repo"
    return runtime, world.add(runtime, prompt, repo=repo if repo.exists() else world.repository(), **changes)


def program(world: World, name: str, script: str) -> str:
    """A program of the shell in this world."""
    path = world.root / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


# -- tools, settings, agents ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["tmux", "git"])
def test_a_tool_that_is_not_there_is_found(world: World, tool: str) -> None:
    queued(world)
    world.extra[f"DISPATCHCTL_TOOLS__{tool.upper()}"] = f"/nonexistent/{tool}"
    assert "is not installed" in one(world, f"{tool}-found", Severity.ERROR).problem
    assert world.cli("doctor").code == 1


@pytest.mark.parametrize(("tool", "says"), [("tmux", "tmux 2.9a"), ("git", "git version 2.30.1")])
def test_a_tool_that_is_too_old_is_found(world: World, tool: str, says: str) -> None:
    world.runtime().make_store()
    world.extra[f"DISPATCHCTL_TOOLS__{tool.upper()}"] = program(world, tool, f"echo {says}")
    assert says.rpartition(" ")[2].rstrip("a") in one(world, f"{tool}-version", Severity.ERROR).problem


@pytest.mark.parametrize("tool", ["tmux", "git"])
def test_a_tool_that_hangs_does_not_hang_doctor(world: World, tool: str) -> None:
    at_work(world)
    world.extra[f"DISPATCHCTL_TOOLS__{tool.upper()}"] = program(world, tool, "sleep 600")
    world.extra[f"DISPATCHCTL_{'TMUX' if tool == 'tmux' else 'GIT'}__TIMEOUT"] = "1s"
    began = time.monotonic()
    assert "does not say its version" in one(world, f"{tool}-found", Severity.ERROR).problem
    assert time.monotonic() - began < 40


@pytest.mark.parametrize(
    ("file", "variables"),
    [
        pytest.param("[dispatch]\nmax_runing = 3\n", {}, id="unknown"),
        pytest.param("[dispatch\n", {}, id="not TOML"),
        pytest.param('[agents.mine]\nargv = ["sh", "-c", "{prompt}"]\n', {}, id="agent"),
        pytest.param("", {"DISPATCHCTL_DISPATCH__MAX_RUNNING": "many"}, id="variable"),
    ],
)
def test_settings_that_are_not_valid_are_found_and_the_rest_is_looked_at(
    world: World, file: str, variables: dict[str, str]
) -> None:
    runtime, _ = queued(world)
    by_hand(runtime, "UPDATE tasks SET waits = 3")
    path = world.home / ".config" / "dispatchctl" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(file)
    world.extra |= variables
    one(world, "settings-valid", Severity.ERROR)
    assert found(world, "counters")
    said = world.cli("doctor")
    assert (said.code, "Traceback" in said.err) == (1, False)


def test_a_repository_whose_settings_are_not_valid_is_found(world: World) -> None:
    queued(world)
    (world.root / "repo" / ".dispatchctl.toml").write_text("[tmux]\nsocket = 'mine'\n")
    assert one(world, "repository-settings-valid", Severity.ERROR).subject == str(world.root / "repo")


def test_an_agent_whose_program_is_missing_is_found(world: World) -> None:
    runtime, task = queued(world)
    by_hand(runtime, "UPDATE tasks SET agent = 'goose'")
    assert f"task {task.id}" in one(world, "agent-found", Severity.ERROR).problem
    by_hand(runtime, "UPDATE tasks SET agent = 'nobody', status = 'backlog'")
    assert "is not known" in one(world, "agent-found", Severity.INFO).problem


def test_an_agent_that_is_not_signed_in_is_found(world: World) -> None:
    program(world, "claude", "true")
    runtime, _ = queued(world)
    by_hand(runtime, "UPDATE tasks SET agent = 'claude'")
    world.extra["PATH"] = f"{world.root}:{world.variables['PATH']}"
    assert ".credentials.json" in one(world, "agent-signed-in", Severity.WARNING).problem
    world.extra["ANTHROPIC_API_KEY"] = "secret"
    assert found(world, "agent-signed-in") == []


# -- the database --------------------------------------------------------------------------------------------------------


def no_file(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def somebody_elses(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE mine (x)")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [no_file, empty, garbage, somebody_elses, newer, directory])
def test_a_database_that_cannot_be_opened_is_found_and_the_rest_is_looked_at(
    world: World, spoil: Callable[[Path], None]
) -> None:
    runtime, _ = queued(world)
    runtime.store.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{runtime.database}{suffix}").unlink(missing_ok=True)
    spoil(runtime.database)
    world.extra["DISPATCHCTL_TOOLS__TMUX"] = "/nonexistent/tmux"
    findings = examine(look(world.runtime()))
    assert {"database-opens", "tmux-found"} <= {each.check for each in findings}
    [unmade] = [each for each in findings if "could not be checked" in each.problem]
    assert "other checks" in unmade.problem
    [unknown] = examine(look(world.runtime()), {"live-session": CHECKS["live-session"]})
    assert (unknown.check, unknown.severity) == ("live-session", Severity.WARNING)
    said = world.cli("doctor", "--fix")
    assert (said.code, "Traceback" in said.err) == (1, False)


def test_a_damaged_database_is_found(world: World) -> None:
    runtime, _ = queued(world)
    for number in range(200):
        world.add(runtime, "x" * 500, repo=world.root / "repo", title=f"Task {number}")
    runtime.store.close()
    with closing(sqlite3.connect(runtime.database)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(runtime.database.read_bytes())
    for at in range(len(data) // 2, len(data) - 4096, 4096):
        data[at : at + 64] = b"\xff" * 64
    runtime.database.write_bytes(data)
    assert found(world, "database-intact")
    said = world.cli("doctor")
    assert (said.code, "Traceback" in said.err) == (1, False)


def test_a_row_that_breaks_a_rule_is_found(world: World) -> None:
    runtime, _ = queued(world)
    by_hand(runtime, "UPDATE tasks SET priority = 9")
    assert "CHECK" in one(world, "database-intact", Severity.ERROR).problem
    by_hand(runtime, "UPDATE tasks SET priority = 2, status = 'lazy'")
    assert "CHECK" in one(world, "database-intact", Severity.ERROR).problem


def test_a_run_without_its_task_is_found(world: World) -> None:
    runtime, _ = ended(world)
    by_hand(runtime, "DELETE FROM tasks")
    assert "runs" in one(world, "database-references", Severity.ERROR).problem


@pytest.mark.parametrize(
    ("kind", "name", "check"),
    [
        ("TRIGGER", "events_are_never_changed", "database-complete"),
        ("INDEX", "tasks_claimable", "claim-uses-index"),
    ],
)
def test_a_missing_part_of_the_schema_is_found(world: World, kind: str, name: str, check: str) -> None:
    runtime, _ = queued(world)
    by_hand(runtime, f"DROP {kind} {name}")
    assert name in one(world, check, Severity.ERROR).problem
    mended(world, check)
    assert [task.id for task in world.runtime().store.claimable(at=now(), limit=9)] == [1]


def test_a_missing_table_is_found_and_not_made_up(world: World) -> None:
    runtime, _ = queued(world)
    by_hand(runtime, "DROP TABLE sightings")
    assert "table sightings" in one(world, "database-complete", Severity.ERROR).problem
    not_mended(world, "database-complete")


def test_a_status_that_no_event_has_made_is_found(world: World) -> None:
    runtime, _ = queued(world)
    by_hand(runtime, "UPDATE tasks SET status = 'blocked'")
    assert "is blocked, and its history says ready" in one(world, "status-recorded", Severity.WARNING).problem


def test_a_switched_off_log_is_found_and_switched_on(world: World) -> None:
    runtime, _ = queued(world)
    runtime.store.close()
    with closing(sqlite3.connect(runtime.database)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
    one(world, "write-ahead-log", Severity.WARNING)
    mended(world, "write-ahead-log")


def test_wrong_counters_are_found_and_counted_again(world: World) -> None:
    runtime, first = queued(world)
    _, second = queued(world, after=(first.id,))
    by_hand(runtime, "UPDATE tasks SET waits = 1 - waits", f"UPDATE tasks SET due = 0 WHERE id = {first.id}")
    assert [each.subject for each in found(world, "counters")] == ["task 1", "task 2", "task 1"]
    mended(world, "counters")
    assert [(task.id, task.waits) for task in world.runtime().store.tasks()] == [(first.id, 0), (second.id, 1)]
    assert [task.id for task in world.runtime().store.claimable(at=now(), limit=9)] == [first.id]


def test_a_status_without_its_run_is_found(world: World) -> None:
    runtime, _ = queued(world)
    by_hand(runtime, "UPDATE tasks SET status = 'in_progress'")
    finding = one(world, "status-and-run", Severity.ERROR)
    assert world.cli("doctor", "--fix").code == 1
    subprocess.run(["sh", "-c", finding.fix], env=world.variables, check=True, capture_output=True)
    assert found(world, "status-and-run") == []


def test_a_run_without_its_status_is_found(world: World) -> None:
    runtime, _ = at_work(world)
    by_hand(runtime, "UPDATE tasks SET status = 'ready'")
    one(world, "status-and-run", Severity.ERROR)
    by_hand(runtime, "UPDATE tasks SET status = 'in_progress', newest_run = NULL")
    finding = one(world, "status-and-run", Severity.ERROR)
    assert "as its newest" in finding.problem
    by_hand(runtime, finding.fix.split('"')[1])
    assert found(world, "status-and-run") == []
    assert runtime.store.open_tasks()


def test_a_clock_that_was_set_back_is_found(world: World) -> None:
    runtime, _ = queued(world)
    by_hand(
        runtime,
        f"INSERT INTO events (task, at, actor, kind, detail) VALUES (1, {now() + 600_000}, 'user', 'x', '{{}}')",
    )
    one(world, "clock", Severity.WARNING)


@contextmanager
def holding(path: str) -> Iterator[int]:
    """Another process holds the lock on the file, and is stopped."""
    code = "import fcntl, os, signal, sys; f = open(sys.argv[1], 'a'); fcntl.flock(f, 2); print(flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("lock", ["gate", "next"])
def test_a_process_in_the_way_of_every_writer_is_found(world: World, lock: str) -> None:
    runtime, _ = queued(world)
    with holding(f"{runtime.database}-{lock}") as pid:
        finding = one(world, "database-free", Severity.ERROR)
    assert finding.fix == f"kill -CONT {pid}"


def test_another_program_in_the_database_is_found(world: World) -> None:
    runtime, _ = queued(world)
    with open(runtime.database, "rb") as file, subprocess.Popen(["sleep", "600"], stdin=file) as process:
        try:
            found_here = found(world, "database-shared")
        finally:
            process.kill()
    expected = [f"process {process.pid}"] if sqlite3.sqlite_version_info < (3, 44, 6) else []
    assert [each.subject for each in found_here] == expected


def test_a_place_that_cannot_be_written_is_found(world: World) -> None:
    queued(world)
    world.extra["DISPATCHCTL_WORKTREES__ROOT"] = "/proc/nowhere"
    assert one(world, "places-writable", Severity.ERROR).subject == "worktrees"


def test_a_home_that_cannot_be_written_is_found(world: World) -> None:
    world.extra["HOME"] = "/proc"
    said = world.cli("doctor", cwd=world.root)
    assert (said.code, "Traceback" in said.err) == (1, False)
    assert "[places-writable] database" in said.out


# -- open runs -----------------------------------------------------------------------------------------------------------


def test_a_task_whose_agent_is_gone_is_found_and_given_back(world: World) -> None:
    runtime, run = at_work(world)
    kill(run.launcher_pid)
    assert "in progress and its agent is gone" in one(world, "live-session", Severity.ERROR).problem
    mended(world, "live-session")
    assert runtime.store.task(run.task).status is Status.READY


def test_a_blocked_task_whose_session_is_gone_is_found(world: World) -> None:
    _, run = at_work(world, f"dispatchctl block -m 'which?'; {AT_WORK}")
    kill(run.launcher_pid)
    assert "blocked and its agent is gone" in one(world, "live-session", Severity.ERROR).problem


def test_an_exit_file_that_nobody_read_is_found_and_read(world: World) -> None:
    runtime, run = at_work(world)
    kill(run.launcher_pid)
    eventually(lambda: gone(run.agent_pid))
    ending = f'{{"cause": "by_itself", "ended_at": {now()}, "exit_code": 3, "signal": null, "asked": null}}'
    Path(run.run_dir, "exit.json").write_text(ending)
    one(world, "exit-file-read", Severity.ERROR)
    mended(world, "exit-file-read")
    assert runtime.store.run(run.token).exit_code == 3


def test_a_launch_whose_dispatcher_died_is_found_and_undone(world: World) -> None:
    runtime, task = queued(world, AT_WORK)
    killed_at(world, "before open the window")
    one(world, "launch-finished", Severity.ERROR)
    mended(world, "launch-finished")
    assert runtime.store.task(task.id).status is Status.READY


def test_an_agent_of_which_an_older_database_does_not_know_is_found_and_entered(world: World) -> None:
    runtime, _ = queued(world, AT_WORK)
    copy = copy_of(runtime, world.root / "yesterday.db")
    dispatch(runtime, [1])
    run = world.started(runtime, 1)
    runtime = put_back(world, runtime, copy)
    one(world, "run-entered", Severity.ERROR)
    mended(world, "run-entered")
    assert runtime.store.run(run.token).closed_at is None


def test_a_run_whose_window_nobody_noted_is_found_and_adopted(world: World) -> None:
    runtime, run = at_work(world)
    by_hand(runtime, "UPDATE runs SET window_id = NULL, pane_id = NULL")
    one(world, "window-noted", Severity.WARNING)
    mended(world, "window-noted")
    assert runtime.store.run(run.token).window_id == run.window_id


def test_a_run_that_does_not_end_when_asked_is_found(world: World) -> None:
    runtime, run = at_work(world)
    by_hand(runtime, "UPDATE runs SET ask = 'cancel'")
    one(world, "run-ends", Severity.ERROR)
    world.cli("doctor", "--fix")
    assert world.ended(runtime, run.task).status is Status.CANCELLED


def test_a_stalled_run_is_found(world: World) -> None:
    _, run = at_work(world)
    world.extra["DISPATCHCTL_DISPATCH__STALL_AFTER"] = "1s"
    eventually(lambda: reconcile(world.runtime()).done, what="it stalls")
    assert f"attach {run.task}" in one(world, "run-stalled", Severity.WARNING).fix
    assert world.cli("doctor").code == 0, "a warning is no error"


def test_lock_files_without_a_run_are_found_and_removed(world: World) -> None:
    _, run = ended(world)
    locks = [Path(run.owner_lock), Path(run.step_lock)]
    for lock in locks:
        lock.touch()
    one(world, "lock-files-left", Severity.WARNING)
    mended(world, "lock-files-left")
    assert not [lock for lock in locks if lock.exists()]


def test_a_window_that_was_kept_too_long_is_found_and_closed(world: World) -> None:
    _, run = ended(world)
    world.extra["DISPATCHCTL_TMUX__KEEP_WINDOWS"] = "0s"
    eventually(lambda: found(world, "window-kept-too-long"))
    mended(world, "window-kept-too-long")
    assert run.token not in world.tmux("list-panes", "-a", "-F", "#{@dispatchctl_token}")


def test_that_nobody_reconciles_is_found_and_done(world: World) -> None:
    runtime, _ = at_work(world)
    reconcile(runtime)
    by_hand(runtime, f"UPDATE runs SET claimed_at = claimed_at + {EARLIER}")
    assert found(world, "reconciled-lately") == []
    os.utime(runtime.state / "reconciled", (time.time() - 7_200,) * 2)
    one(world, "reconciled-lately", Severity.WARNING)
    mended(world, "reconciled-lately")


def test_a_live_agent_without_an_open_run_is_found_and_left(world: World) -> None:
    runtime, run = at_work(world)
    by_hand(
        runtime,
        "UPDATE runs SET phase = 'closed', outcome = 'lost', closed_at = 1",
        "UPDATE tasks SET status = 'failed'",
    )
    Path(run.run_dir, "run.json").unlink()
    finding = one(world, "live-agent-owned", Severity.ERROR)
    assert str(run.pane_id) in finding.fix
    not_mended(world, "live-agent-owned")
    assert not gone(run.agent_pid)


def test_an_agent_of_a_deleted_database_is_found(world: World) -> None:
    runtime, run = at_work(world)
    put_back(world, runtime, None).make_store()
    assert run.token in one(world, "predecessor-gone", Severity.ERROR).problem
    assert found(world, "live-agent-owned") == []
    not_mended(world, "predecessor-gone")
    assert not gone(run.agent_pid)


def test_unknown_life_and_a_server_that_does_not_answer_are_found(world: World) -> None:
    _, run = at_work(world)
    kill(run.launcher_pid)
    world.extra["DISPATCHCTL_TOOLS__TMUX"] = program(world, "tmux", '[ "$2" = -V ] || [ "$4" = -V ] && echo tmux 3.3a')
    one(world, "life-known", Severity.WARNING)
    one(world, "server-answers", Severity.ERROR)


def test_a_run_of_another_machine_is_found(world: World) -> None:
    runtime, run = at_work(world)
    by_hand(runtime, "UPDATE runs SET host = 'elsewhere'")
    assert one(world, "run-of-this-machine", Severity.WARNING).fix == f"dispatchctl retry {run.task} --takeover"


def test_a_lock_file_that_is_gone_is_found(world: World) -> None:
    runtime, task = queued(world, AT_WORK)
    killed_at(world, "before check out")
    [run] = runtime.store.open_runs()
    Path(run.owner_lock).unlink()
    finding = one(world, "lock-file-there", Severity.ERROR)
    assert found(world, "life-known") == []
    not_mended(world, "lock-file-there")
    subprocess.run(["sh", "-c", finding.fix], env=world.variables, check=True)
    assert runtime.store.task(task.id).status is Status.READY


def test_a_stopped_dispatcher_is_found(world: World) -> None:
    queued(world, AT_WORK)
    process = dispatcher(world, "before check out", signal.SIGSTOP)
    eventually(lambda: is_stopped(process))
    try:
        assert one(world, "launch-goes-on", Severity.ERROR).fix == f"kill -CONT {process.pid}"
    finally:
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    assert found(world, "launch-goes-on") == []


def test_a_launch_that_takes_for_ever_is_found(world: World) -> None:
    runtime, _ = queued(world, AT_WORK)
    killed_at(world, "before check out")
    [run] = runtime.store.open_runs()
    by_hand(runtime, f"UPDATE runs SET claimed_at = claimed_at + {EARLIER}")
    with holding(run.owner_lock) as pid:
        os.kill(pid, signal.SIGCONT)
        eventually(lambda: f"process {pid}" in one(world, "launch-goes-on", Severity.ERROR).problem)


def test_a_stopped_agent_is_found(world: World) -> None:
    _, run = at_work(world)
    assert run.agent_pid is not None
    os.kill(run.agent_pid, signal.SIGSTOP)
    assert one(world, "process-goes-on", Severity.WARNING).fix == f"kill -CONT {run.agent_pid}"


def test_a_worktree_that_was_moved_or_deleted_is_found(world: World) -> None:
    _, run = at_work(world)
    os.rename(run.worktree, f"{run.worktree}-moved")
    finding = one(world, "run-has-its-places", Severity.ERROR)
    assert f"works in {run.worktree}-moved" in finding.problem
    subprocess.run(["sh", "-c", finding.fix], check=True)
    assert found(world, "run-has-its-places") == []
    subprocess.run(["rm", "-r", run.worktree], check=True)
    assert "is gone" in one(world, "run-has-its-places", Severity.ERROR).problem


def test_a_run_directory_that_was_deleted_is_found(world: World) -> None:
    _, run = at_work(world)
    os.rename(run.run_dir, f"{run.run_dir}-moved")
    assert "run directory" in one(world, "run-has-its-places", Severity.ERROR).problem


# -- tmux servers --------------------------------------------------------------------------------------------------------


def test_a_socket_that_is_none_is_found(world: World) -> None:
    queued(world)
    world.extra["DISPATCHCTL_TMUX__SOCKET"] = str(world.home / ".gitconfig")
    assert "is not a socket" in one(world, "socket-usable", Severity.ERROR).problem


def test_a_server_whose_socket_was_deleted_is_found(world: World) -> None:
    _, run = at_work(world)
    world.socket.unlink()
    finding = one(world, "server-reachable", Severity.ERROR)
    assert finding.fix == f"kill -USR1 {run.server_pid}"
    subprocess.run(["sh", "-c", finding.fix], check=True)
    eventually(world.socket.exists)
    assert found(world, "server-reachable") == []


def test_a_server_whose_socket_another_one_has_taken_is_found(world: World) -> None:
    _, run = at_work(world)
    world.socket.unlink()
    world.tmux("-f", "/dev/null", "new-session", "-d", "sleep 600")
    new = world.tmux("display-message", "-p", "#{pid}")
    finding = one(world, "server-reachable", Severity.ERROR)
    assert "another server has taken its socket" in finding.problem
    subprocess.run(["sh", "-c", finding.fix], check=True)
    eventually(world.socket.exists)
    assert found(world, "server-reachable") == []
    assert world.tmux("display-message", "-p", "#{pid}") == str(run.server_pid)
    os.kill(int(new), signal.SIGKILL)


def test_runs_in_two_servers_are_found(world: World) -> None:
    at_work(world)
    other = str(world.root / "other.sock")
    world.extra["DISPATCHCTL_TMUX__SOCKET"] = other
    at_work(world, repo=world.root / "repo")
    try:
        one(world, "one-server", Severity.INFO)
    finally:
        subprocess.run(["tmux", "-S", other, "kill-server"], check=True)


# -- tasks that wait -----------------------------------------------------------------------------------------------------


def test_tasks_that_nobody_starts_are_found(world: World) -> None:
    runtime, _ = queued(world)
    assert found(world, "queue-moves") == []
    by_hand(runtime, f"UPDATE tasks SET ready_at = ready_at + {EARLIER}")
    assert "ready since 2h" in one(world, "queue-moves", Severity.WARNING).problem
    world.extra["DISPATCHCTL_DISPATCH__MAX_RUNNING"] = "1"
    queued(world, AT_WORK)
    dispatch(world.runtime(), [2])
    assert found(world, "queue-moves") == [], "there is no room"


def test_a_pause_that_somebody_may_have_forgotten_is_found(world: World) -> None:
    runtime, first = queued(world)
    by_hand(runtime, f"UPDATE tasks SET ready_at = ready_at + {EARLIER}")
    runtime.store.pause(first.repo, reason=None, at=now())
    assert found(world, "not-paused-for-long") == []
    assert found(world, "queue-moves") == [], "nobody is to start what is paused"
    by_hand(runtime, "UPDATE pauses SET at = at - 2 * 86400000")
    finding = one(world, "not-paused-for-long", Severity.INFO)
    assert finding.subject == first.repo
    assert finding.fix == f"dispatchctl unpause --repo {first.repo}"
    runtime.store.unpause(first.repo)
    one(world, "queue-moves", Severity.WARNING)


def test_a_task_that_waits_for_ever_is_found(world: World) -> None:
    runtime, first = queued(world)
    queued(world, after=(first.id,))
    assert found(world, "held-for-ever") == []
    runtime.store.cancel(first.id, at=now())
    assert one(world, "held-for-ever", Severity.WARNING).fix == f"dispatchctl retry {first.id}"


def test_tasks_in_a_circle_are_found(world: World) -> None:
    runtime, first = queued(world)
    queued(world, after=(first.id,))
    queued(world, after=(2,))
    queued(world, after=(3,))
    by_hand(runtime, "INSERT INTO after VALUES (1, 3)", "UPDATE tasks SET waits = 1")
    finding = one(world, "no-circle", Severity.ERROR)
    assert finding.problem == "waits for itself: 1 → 3 → 2 → 1"
    subprocess.run(["sh", "-c", finding.fix], env=world.variables, check=True, capture_output=True)
    assert found(world, "no-circle") == []


def test_a_task_that_was_lost_too_often_is_found(world: World) -> None:
    runtime, run = at_work(world, recoveries=0)
    kill(run.launcher_pid)
    reconcile(runtime)
    assert "no recovery is left" in one(world, "recovery-left", Severity.WARNING).problem


def test_a_task_that_failed_too_often_is_found(world: World) -> None:
    runtime, run = ended(world, "exit 3", retries=1)
    by_hand(runtime, "UPDATE tasks SET not_before = NULL, due = 1")
    dispatch(runtime, [run.task])
    world.ended(runtime, run.task)
    assert "no retry is left" in one(world, "retry-left", Severity.INFO).problem


# -- what is on disk -----------------------------------------------------------------------------------------------------


def test_a_repository_that_is_gone_is_found(world: World) -> None:
    queued(world)
    os.rename(world.root / "repo", world.root / "moved")
    assert "of task 1" in one(world, "repository-there", Severity.ERROR).problem


def test_a_base_that_is_gone_is_found(world: World) -> None:
    runtime, _ = queued(world)
    queued(world)
    by_hand(runtime, "UPDATE tasks SET base = 'next' WHERE id = 2")
    finding = one(world, "base-there", Severity.ERROR)
    assert (finding.subject, "'next'" in finding.problem) == ("task 2", True)


def test_a_worktree_of_which_the_database_knows_nothing_is_found_and_left(world: World) -> None:
    runtime, run = ended(world)
    by_hand(runtime, "DELETE FROM runs", "DELETE FROM tasks")
    finding = one(world, "worktree-owned", Severity.WARNING)
    not_mended(world, "worktree-owned")
    refused = subprocess.run(["sh", "-c", finding.fix], env=world.variables, check=False, capture_output=True)
    assert refused.returncode != 0, "git does not remove what is not committed"
    assert Path(run.worktree, "work").exists()


def test_a_worktree_without_its_directory_is_found(world: World) -> None:
    _, run = ended(world)
    subprocess.run(["rm", "-r", run.worktree], check=True)
    finding = one(world, "worktree-whole", Severity.WARNING)
    subprocess.run(["sh", "-c", finding.fix], env=world.variables, check=True)
    assert found(world, "worktree-whole") == []


def test_a_half_made_worktree_is_found(world: World) -> None:
    runtime, run = ended(world)
    by_hand(runtime, "UPDATE runs SET outcome = 'rolled_back', owns_tree = 1")
    assert "never started" in one(world, "worktree-whole", Severity.WARNING).problem
    assert Path(run.worktree, "work").exists()


KILLED_REMOVAL = """
import os, signal, sys
from dispatchctl import clearing, faults
from dispatchctl.config import Environment
from dispatchctl.runtime import Runtime
faults.at_point = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == sys.argv[1] else None
clearing.remove(Runtime(Environment.read(), private_tmux=True), [1], force=True, tell=print)
"""


def test_a_removal_that_was_killed_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = ended(world)
    killed = [sys.executable, "-c", KILLED_REMOVAL]
    subprocess.run([*killed, "after set the worktree aside"], env=world.variables, check=False)
    assert not os.path.exists(run.worktree)
    assert found(world, "removal-finished") == [], "it may be at work"
    assert found(world, "worktree-whole") == [], "its directory is not gone"
    monkeypatch.setattr(trace_checks, "STALE_S", -1.0)
    finding = one(world, "removal-finished", Severity.WARNING)
    subprocess.run(["sh", "-c", finding.fix], env=world.variables, check=True)
    assert Path(run.worktree, "work").exists()
    assert world.git(Path(run.worktree), "status", "--porcelain") == "?? work"
    assert found(world, "removal-finished") == []


@pytest.mark.parametrize("where", ["worktree", "repository"])
def test_a_lock_that_git_left_is_found(world: World, where: str) -> None:
    _, run = ended(world)
    place = run.worktree if where == "worktree" else run.repo
    lock = Path(world.git(Path(place), "rev-parse", "--absolute-git-dir"), "index.lock")
    lock.touch()
    assert found(world, "git-lock-fresh") == [], "somebody may be at work"
    os.utime(lock, (time.time() - 600,) * 2)
    finding = one(world, "git-lock-fresh", Severity.WARNING)
    with open(lock) as file, subprocess.Popen(["sleep", "600"], stdin=file) as process:
        assert found(world, "git-lock-fresh") == [], "somebody has it open"
        process.kill()
    not_mended(world, "git-lock-fresh")
    subprocess.run(["sh", "-c", finding.fix], check=True)
    assert found(world, "git-lock-fresh") == []


def test_a_branch_of_no_run_is_found(world: World) -> None:
    ended(world)
    world.git(world.root / "repo", "branch", "dispatch/99-x")
    world.git(world.root / "repo", "branch", "dispatch/of-mine")
    assert "dispatch/99-x" in one(world, "branch-owned", Severity.INFO).problem


def test_a_run_directory_without_a_run_is_found_and_removed_if_nothing_began_there(world: World) -> None:
    runtime, _ = queued(world)
    runs = runtime.state / "runs"
    for token in ("deadbeef", "0badcafe"):
        (runs / token).mkdir(parents=True, mode=0o700)
        (runs / token / "prompt").write_text("Do it")
    (runs / "0badcafe" / "started").touch()
    assert {each.subject for each in found(world, "run-directory-owned")} == {
        str(runs / "deadbeef"),
        str(runs / "0badcafe"),
    }
    said = world.cli("doctor", "--fix", "--check", "run-directory-owned", "--json").json
    assert [each["subject"] for each in said["findings"]] == [str(runs / "0badcafe")]
    assert [each.name for each in runs.iterdir()] == ["0badcafe"]
    assert not list((runtime.state / "locks").iterdir())


def test_what_others_can_read_is_found_and_made_private(world: World) -> None:
    runtime, run = ended(world)
    open_to_all = [runtime.state, runtime.database, Path(run.run_dir)]
    for path in open_to_all:
        path.chmod(path.stat().st_mode | 0o055)
    assert [each.subject for each in found(world, "private")] == [str(path) for path in open_to_all]
    mended(world, "private")


def test_fix_never_touches_a_worktree_with_work_in_it(world: World) -> None:
    work = "echo 1 > committed; git add committed; git commit -qm kept; echo 2 >> README; echo 3 > untracked"
    runtime, run = ended(world, f"{work}; exit 3")
    _, lost_run = at_work(world, f"{work}; {AT_WORK}", repo=world.root / "repo", recoveries=0)
    kill(lost_run.launcher_pid)
    commits = {each.branch: world.git(Path(each.repo), "rev-parse", each.branch) for each in (run, lost_run)}
    by_hand(runtime, f"DELETE FROM runs WHERE token = '{run.token}'", f"DELETE FROM tasks WHERE id = {run.task}")
    Path(run.owner_lock).touch()
    for lock in Path(run.repo).glob(".git/worktrees/*"):
        os.utime(lock, (1, 1))
        (lock / "index.lock").touch()
        os.utime(lock / "index.lock", (1, 1))
    for _ in range(2):
        said = world.cli("doctor", "--fix")
        assert "Traceback" not in said.err, said.err
    for each in (run, lost_run):
        assert {"committed", "untracked"} <= set(os.listdir(each.worktree))
        assert "2" in Path(each.worktree, "README").read_text()
        assert world.git(Path(each.repo), "rev-parse", each.branch) == commits[each.branch]


# -- the command line ----------------------------------------------------------------------------------------------------


def test_an_unknown_check_is_a_wrong_word_with_a_suggestion(world: World) -> None:
    said = world.cli("doctor", "--check", "live-sesion")
    assert (said.code, said.out) == (2, "")
    assert "did you mean live-session?" in said.err


def test_a_finding_is_one_line_with_a_hint_and_an_error_is_exit_code_1(world: World) -> None:
    _, run = at_work(world)
    kill(run.launcher_pid)
    said = world.cli("doctor")
    line, hint = said.out.splitlines()
    assert line.startswith(f"error [live-session] task {run.task}: is in progress and its agent is gone")
    assert (hint, said.code) == ("  hint: dispatchctl reconcile", 1)
    assert "1 finding" in said.err
    fixed = world.cli("doctor", "--fix")
    assert (fixed.code, fixed.out) == (0, f"all is well: {len(CHECKS)} checks\n")
    assert f"task {run.task}" in fixed.err
    assert world.cli("doctor", "-q", "--check", "live-session").out == "all is well: 1 check\n"


def test_json_has_every_key(world: World) -> None:
    runtime, _ = queued(world)
    by_hand(runtime, "UPDATE tasks SET waits = 3")
    said = world.cli("doctor", "--json").json
    assert said == {
        "schema_version": 1,
        "ok": False,
        "findings": [
            {
                "check": "counters",
                "severity": "error",
                "subject": "task 1",
                "problem": "the count of the tasks that it waits for is wrong",
                "fix": "dispatchctl doctor --fix --check counters",
            }
        ],
        "mended": [],
    }


# -- the service ---------------------------------------------------------------------------------------------------------


@contextmanager
def installed(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A world with the service installed, by a program of its own, and lingering on; the directory of its units."""
    own = program(world, "dispatchctl", "true")
    program(world, "systemctl", "true")
    world.extra["PATH"] = f"{world.root}:{world.variables['PATH']}"
    lingering = world.root / "linger"
    lingering.mkdir()
    (lingering / pwd.getpwuid(os.getuid()).pw_name).touch()
    monkeypatch.setattr(machine, "LINGERING", str(lingering))
    monkeypatch.setattr(sys, "argv", [own])
    world.runtime().make_store()
    environment = world.runtime().environment
    plan = service.plan(environment, db=str(world.root / "o t%her.db"), labels=["a b"], max_running=3)
    assert service.install(environment, service.units(plan), start=False).of(service.State.WRITTEN)
    yield service.directory(environment)


SERVICE_CHECKS = ("service-program", "service-current", "service-outlives-logout")


def test_a_service_as_it_should_be_is_no_finding(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(world, monkeypatch):
        world.extra["PATH"] = f"/somewhere/else:{world.variables['PATH']}"  # another shell has another PATH
        assert [found(world, check) for check in SERVICE_CHECKS] == [[], [], []]


def test_a_service_whose_program_is_gone_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(world, monkeypatch):
        (world.root / "dispatchctl").chmod(0o644)
        units = [(finding.severity, finding.subject) for finding in found(world, "service-program")]
        assert units == [(Severity.ERROR, name) for name in (service.WATCH, service.RECONCILE)]
        assert found(world, "service-current") == []
        assert str(world.root / "dispatchctl") in found(world, "service-program")[0].problem


def test_a_service_that_would_be_written_otherwise_now_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(world, monkeypatch) as place:
        path = place / service.WATCH
        text = path.read_text()
        path.write_text(text + "Nice=5\n")
        changed = one(world, "service-current", Severity.WARNING)
        assert "was changed" in changed.problem
        assert changed.fix == "dispatchctl service install --force"
        older = "".join(text.splitlines(keepends=True)[2:]).replace("RestartSec=10", "RestartSec=1")
        path.write_text(service.marked(service.WATCH, older))
        assert "another version" in one(world, "service-current", Severity.WARNING).problem
        path.write_text(text)
        monkeypatch.setattr(sys, "argv", [program(world, "dispatchctl2", "true")])
        others = found(world, "service-current")
        assert [each.subject for each in others] == [service.WATCH, service.RECONCILE]
        assert f"runs {world.root}/dispatchctl, and this is " in others[0].problem


def test_a_service_that_ends_at_logout_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(world, monkeypatch):
        monkeypatch.setattr(machine, "LINGERING", "/nonexistent")
        assert one(world, "service-outlives-logout", Severity.WARNING).fix == "loginctl enable-linger"


def test_tasks_that_nobody_starts_by_himself_are_found(world: World) -> None:
    runtime, _ = queued(world)
    program(world, "systemctl", "true")
    world.extra["PATH"] = f"{world.root}:{world.variables['PATH']}"
    assert found(world, "queue-attended") == [], "it is ready for a moment only"
    by_hand(runtime, f"UPDATE tasks SET ready_at = {now() - 600_000}, updated_at = {now() - 600_000}")
    assert one(world, "queue-attended", Severity.INFO).fix == "dispatchctl service install"
    watch = processes.lock(watch_lock(runtime))
    assert watch is not None
    assert found(world, "queue-attended") == []
    watch.release()
    assert found(world, "queue-attended")


def test_nothing_is_said_of_services_where_there_is_no_systemd(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, _ = queued(world)
    by_hand(runtime, f"UPDATE tasks SET ready_at = {now() - 600_000}, updated_at = {now() - 600_000}")
    with installed(world, monkeypatch) as place:
        (place / service.WATCH).write_text((place / service.WATCH).read_text() + "Nice=5\n")
        (world.root / "dispatchctl").unlink()
        monkeypatch.setattr(machine, "LINGERING", "/nonexistent")
        checks = (*SERVICE_CHECKS, "queue-attended")
        assert all(found(world, check) for check in checks)
        world.extra["PATH"] = path_without(world, "systemctl")
        assert [found(world, check) for check in checks] == [[], [], [], []]


def test_somebody_elses_unit_is_not_judged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(world, monkeypatch) as place:
        for name in service.UNITS:
            (place / name).write_text("[Service]\nExecStart=/nonexistent/mine\n")
        monkeypatch.setattr(machine, "LINGERING", "/nonexistent")
        assert [found(world, check) for check in SERVICE_CHECKS] == [[], [], []]


def test_a_server_in_the_daemons_own_service_is_known_by_its_control_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lines are those of systemd 252's users' services, with one hierarchy and with several."""
    group = "/user.slice/user-1000.slice/user@1000.service/app.slice"
    for said, unit in {
        f"0::{group}/dispatchctl.service\n": "dispatchctl.service",
        f"0::{group}/dispatchctl-tmux-0a1b2c3d-1.scope\n": "dispatchctl-tmux-0a1b2c3d-1.scope",
        f"12:pids:/x\n1:name=systemd:{group}/dispatchctl.service\n0::/\n": "dispatchctl.service",
        "0::/user.slice/user-1000.slice/session-3.scope\n": "session-3.scope",
        "0::/\n": None,
    }.items():
        monkeypatch.setattr(machine, "_lines", lambda _, said=said: said.splitlines(keepends=True))
        assert machine.unit(1) == unit
        assert machine.is_service(unit or "") is (unit == "dispatchctl.service")
