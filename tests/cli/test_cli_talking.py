"""send and attach: a human at an agent's terminal."""

import os
import shlex
from pathlib import Path

import pytest
from cli.desk import TASK_KEYS, Desk
from cli.terminal import Terminal
from world import eventually

from dispatchctl.task import Status

READS = "stty -echo; echo ready; while read -r line; do printf '<%s>\\n' \"$line\"; done; : sleep 600"
"""An agent that reads its terminal."""


@pytest.fixture(scope="module")
def reader(shared: Desk) -> int:
    """A task whose agent says what is typed."""
    task = shared.dispatched("Reader", READS)
    eventually(lambda: "ready\n" in shared.ok("logs", str(task)))
    return task


def said(desk: Desk, task: int) -> str:
    return desk.ok("logs", str(task))


def test_send_arrives_in_a_program_that_reads_its_terminal(shared: Desk, reader: int) -> None:
    assert shared.ok("send", str(reader), "hello agent") == f"sent to task {reader}\n"
    eventually(lambda: "<hello agent>\n" in said(shared, reader))
    hostile = "$(touch /tmp/no) `x` ; kill-server #{pid} #(id) \\n 'q\" é 🎉"
    assert set(shared.json("send", str(reader), hostile)["task"]) == TASK_KEYS
    eventually(lambda: f"<{hostile}>\n" in said(shared, reader))
    shared.ok("send", str(reader), "--", "-x;")
    eventually(lambda: "<-x;>\n" in said(shared, reader))


def test_send_without_enter_waits_for_it(shared: Desk, reader: int) -> None:
    shared.ok("send", str(reader), "half ", "--no-enter")
    shared.ok("send", str(reader), "whole")
    eventually(lambda: "<half whole>\n" in said(shared, reader))


def test_send_is_refused_where_there_is_no_session(shared: Desk) -> None:
    never, over = shared.add("Never ran"), shared.ended("Over")
    shared.refused("send", str(never), "x", code=4, says=f"task {never} is ready and has no session")
    shared.refused("send", str(over), "x", "--json", code=4, says=f"task {over} is done and has no session")
    shared.refused("send", "99999", "x", code=3, says="there is no task 99999")
    shared.refused("send", str(never), os.fsdecode(b"\xff"), says="the text is not valid UTF-8")
    shared.refused("send", str(never), "", says=f"there is nothing to send to task {never}")


def test_attach_shows_the_tasks_window_and_no_other(desk: Desk) -> None:
    first = desk.dispatched("First", f"echo this is the first; {READS}")
    second = desk.dispatched("Second", f"echo this is the second; {READS}")
    for task, text in ((first, "the first"), (second, "the second"), (first, "the first")):
        terminal = Terminal(desk.world, "attach", str(task), cwd=desk.repo)
        terminal.read_until(f"this is {text}")
        terminal.type("typed\r")
        terminal.read_until("<typed>")
        desk.world.tmux("detach-client", "-s", desk.newest(task).session)
        assert "detached" in terminal.read_to_end()
        assert terminal.process.returncode == 0
    assert "<typed>" in said(desk, second)


def test_attach_shows_a_window_whose_agent_has_ended(desk: Desk) -> None:
    task = desk.ended("Over", "echo last words")
    terminal = Terminal(desk.world, "attach", str(task), cwd=desk.repo)
    terminal.read_until("task 1 ended with exit code 0, now done")  # not tmux's own line: it may learn late, or never
    desk.world.tmux("kill-server")
    terminal.read_to_end()


def test_attach_from_a_pane_of_the_same_server_switches_to_the_window(desk: Desk) -> None:
    task = desk.dispatched("Target", f"echo here it is; {READS}")
    desk.world.tmux("new-session", "-d", "-s", "mine", "-x", "80", "-y", "24", "-c", str(desk.repo), "sh")
    tmux = ("tmux", "-S", str(desk.world.socket), "attach-session", "-t", "mine")
    terminal = Terminal(desk.world, cwd=desk.repo, command=tmux)
    terminal.read_until("$" if os.getuid() else "#")
    python = shlex.join([str(Path(desk.world.variables["PATH"].split(os.pathsep)[0]) / "dispatchctl")])
    terminal.type(f"{python} --db {desk.runtime.database} attach {task}\r")
    terminal.read_until("here it is")
    clients = desk.world.tmux("list-clients", "-F", "#{session_name} #{window_id}")
    assert clients == f"{desk.newest(task).session} {desk.newest(task).window_id}"
    desk.world.tmux("kill-server")
    terminal.read_to_end()


def test_attach_from_a_pane_of_another_server_attaches(desk: Desk) -> None:
    task = desk.dispatched("Target", f"echo here it is; {READS}")
    terminal = Terminal(desk.world, "attach", str(task), cwd=desk.repo, TMUX="/tmp/other-socket,1,0", TMUX_PANE="%0")
    terminal.read_until("here it is")
    desk.world.tmux("detach-client", "-s", desk.newest(task).session)
    terminal.read_to_end()
    assert terminal.process.returncode == 0


def test_attach_is_refused_with_a_sentence(desk: Desk) -> None:
    never = desk.add("Never ran")
    desk.refused("attach", str(never), code=4, says=f"task {never} has not run yet, so there is no window")
    desk.refused("attach", "99999", code=3, says="there is no task 99999")
    live = desk.dispatched("Live", "sleep 600")
    error = desk.refused("attach", str(live), says=f"there is no terminal on which task {live} could be shown")
    assert f"-S {desk.world.socket} attach-session -t {desk.newest(live).pane_id}" in error.err
    desk.world.tmux("kill-server")
    desk.world.ended(desk.runtime, live)
    assert desk.task(live).status is not Status.IN_PROGRESS
    desk.refused("attach", str(live), code=4, says=f"the window of task {live} is gone")
