"""cancel, retry and unblock: what a human decides of a task."""

import os
from pathlib import Path

from cli.desk import TASK_KEYS, Desk, program, running
from world import eventually

from dispatchctl.task import Outcome, Phase, Status


def test_cancel_of_a_task_that_does_not_run(shared: Desk) -> None:
    ready, draft = shared.add("Ready"), shared.add("Draft", "x", "--backlog")
    review, failed = shared.ended("Review", "echo x > x"), shared.ended("Failed", "exit 1")
    for task in (ready, draft, review, failed):
        assert shared.ok("cancel", str(task)) == f"task {task} is cancelled\n"
        assert shared.task(task).status is Status.CANCELLED
    done = shared.ended("Done")
    shared.refused("cancel", str(done), code=4, says=f"task {done} is done")


def test_cancel_of_a_running_task_ends_every_process_and_keeps_its_work(shared: Desk) -> None:
    task = shared.dispatched("Runs", "echo work > work; setsid sleep 601 & trap '' TERM; sleep 600; sleep 600")
    run = shared.newest(task)
    eventually((Path(run.worktree) / "work").exists)
    answer = shared.json("cancel", str(task))["task"]
    assert set(answer) == TASK_KEYS
    assert (answer["status"], answer["run"]["phase"], answer["run"]["outcome"]) == ("cancelled", "closed", "cancelled")
    assert shared.agents_left(run) == []
    assert (Path(run.worktree) / "work").read_text() == "work\n"
    assert shared.world.git(shared.repo, "branch", "--list", run.branch)
    said = shared.run("cancel", str(task))
    assert (said.code, said.out) == (0, f"task {task} is cancelled\n")
    assert f"task {task}: {run.worktree} holds what would be lost: 1 uncommitted file\n" in said.err
    assert f"  hint: dispatchctl cancel {task} --force\n" in said.err


def test_cancel_of_a_task_that_is_being_launched_leaves_no_trace(desk: Desk) -> None:
    gate = desk.world.root / "gate"
    program(desk.repo / ".git" / "hooks" / "post-checkout", f"#!/bin/sh\nwhile [ ! -e {gate} ]; do sleep 0.02; done\n")
    task = desk.add("Launching", "sleep 600")
    with running(desk, "dispatch", str(task)) as dispatcher:
        eventually(lambda: desk.task(task).run is not None and desk.newest(task).base_commit)
        assert desk.newest(task).phase is Phase.LAUNCHING
        with running(desk, "cancel", str(task)) as canceller:
            eventually(lambda: desk.newest(task).ask)
            gate.touch()
            assert canceller.wait(60) == 0
        _, err = dispatcher.communicate(timeout=60)
    assert dispatcher.returncode == 1
    assert f"task {task} was not started" in err
    assert desk.task(task).status is Status.CANCELLED
    assert desk.newest(task).outcome is Outcome.CANCELLED
    assert desk.world.leftovers(desk.newest(task), desk.repo) == []


def fake_agent(desk: Desk) -> Path:
    """An agent that writes down its prompt, and changes something."""
    seen = desk.world.root / "prompts"
    script = program(
        desk.world.root / "bin" / "fake-agent",
        f'#!/bin/sh\nprintf "%s\\0" "$2" >> {seen}\npwd >> {desk.world.root}/places\necho x >> x; git add x\n'
        "git commit -qm x; exit 4\n",
    )
    settings = desk.world.home / ".config" / "dispatchctl" / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'[agents.fake]\nargv = ["{script}", "--", "{{prompt}}"]\n')
    return seen


def test_retry_goes_on_in_the_worktree_and_the_agent_hears_what_was_said(desk: Desk) -> None:
    seen = fake_agent(desk)
    task = desk.ended("Fake", "Do this\nand that.", "--agent", "fake")
    first = desk.newest(task)
    assert (desk.task(task).status, first.exit_code) == (Status.FAILED, 4)
    assert desk.ok("retry", str(task), "-m", "Look at the tests\nfirst.") == f"task {task} is ready\n"
    assert (desk.task(task).error, desk.task(task).result) == (None, None)
    desk.ok("dispatch", str(task))
    desk.world.ended(desk.runtime, task)
    prompts = seen.read_text().split("\0")
    assert prompts[0] == "Do this\nand that."
    assert prompts[1].startswith("Do this\nand that.\n")
    assert "Look at the tests\nfirst." in prompts[1]
    second = desk.newest(task)
    assert (second.number, second.worktree, second.branch) == (2, first.worktree, first.branch)
    assert (Path(second.worktree) / "x").read_text() == "x\nx\n"

    said = desk.run("retry", str(task), "--fresh")
    assert said.code == 0
    assert f"refs/dispatchctl/rescue/{task}/{second.token}" in said.err
    desk.ok("dispatch", str(task))
    desk.world.ended(desk.runtime, task)
    third = desk.newest(task)
    assert (third.branch, third.worktree) == (f"{first.branch}-3", f"{first.worktree}-3")
    assert (Path(third.worktree) / "x").read_text() == "x\n"
    assert not os.path.exists(first.worktree)
    assert desk.world.git(desk.repo, "show", f"refs/dispatchctl/rescue/{task}/{second.token}:x") == "x\nx"
    assert desk.world.root.joinpath("places").read_text().split() == [first.worktree] * 2 + [third.worktree]
    assert seen.read_text().split("\0")[2] == "Do this\nand that."


def test_a_message_to_the_shell_is_not_run(desk: Desk) -> None:
    task = desk.ended("Shell", "echo ran; exit 1")
    desk.ok("retry", str(task), "-m", f"touch {desk.world.root}/executed")
    desk.ok("dispatch", str(task))
    desk.world.ended(desk.runtime, task)
    assert desk.ok("logs", str(task)) == "ran\n"
    assert not os.path.exists(desk.world.root / "executed")


def test_retry_of_every_status_that_allows_it(shared: Desk) -> None:
    done, review = shared.ended("Done"), shared.ended("Review", "echo x > x")
    cancelled = shared.add("Cancelled")
    shared.ok("cancel", str(cancelled))
    blocked = shared.ended("Blocked", "dispatchctl block -m which")
    assert shared.task(blocked).status is Status.BLOCKED
    for task in (done, review, cancelled, blocked):
        answer = shared.json("retry", str(task))["task"]
        assert set(answer) == TASK_KEYS
        assert (answer["status"], answer["error"]) == ("ready", None)


def test_retry_is_refused_once_a_child_has_started(desk: Desk) -> None:
    parent = desk.ended("Parent")
    child = desk.add("Child", "exit 0", "--after", str(parent))
    desk.ok("dispatch", str(child))
    desk.world.ended(desk.runtime, child)
    desk.refused("retry", str(parent), code=4, says=f"task {parent} cannot be retried: task {child}")


def test_unblock_answers_in_the_session(shared: Desk) -> None:
    task = shared.dispatched(
        "Asks", "stty -echo; dispatchctl block -m which; read -r a; printf '<%s>\\n' \"$a\"; exit 0; sleep 600"
    )
    eventually(lambda: shared.task(task).status is Status.BLOCKED)
    assert shared.ok("unblock", str(task), "-m", "the blue one") == f"task {task} is in_progress\n"
    shared.world.ended(shared.runtime, task)
    assert "<the blue one>\n" in shared.ok("logs", str(task))
    assert (shared.task(task).status, shared.task(task).error) == (Status.DONE, None)


def test_unblock_without_a_message_says_what_was_asked(shared: Desk) -> None:
    task = shared.dispatched("Waits", "dispatchctl block -m 'which colour?'; read -r a; sleep 600")
    eventually(lambda: shared.task(task).status is Status.BLOCKED)
    said = shared.run("unblock", str(task))
    assert (said.code, said.out) == (0, f"task {task} is in_progress\n")
    assert "it had asked: which colour?\n" in said.err
    assert said.err.endswith(f"  hint: dispatchctl send {task} 'ANSWER'\n")


def test_unblock_without_a_session_makes_the_task_ready_and_tells_the_next_run(desk: Desk) -> None:
    seen = fake_agent(desk)
    task = desk.ended("Asked and left", "dispatchctl block -m which")
    assert (desk.task(task).status, desk.newest(task).phase) == (Status.BLOCKED, Phase.CLOSED)
    desk.ok("edit", str(task), "--agent", "fake", "-p", "Paint it")
    assert desk.json("unblock", str(task), "-m", "the blue one")["task"]["status"] == "ready"
    desk.ok("dispatch", str(task))
    desk.world.ended(desk.runtime, task)
    assert seen.read_text().startswith("Paint it\n")
    assert "the blue one" in seen.read_text()


def test_an_answer_that_nobody_would_get_changes_nothing(desk: Desk) -> None:
    task = desk.dispatched("Asks", "dispatchctl block -m which; trap '' HUP TERM; sleep 600")
    eventually(lambda: desk.task(task).status is Status.BLOCKED)
    run = desk.newest(task)
    os.kill(run.launcher_pid or 0, 9)
    desk.world.tmux("kill-server")
    desk.refused("unblock", str(task), "-m", "blue", code=4, says=f"the window of task {task} is gone")
    assert desk.task(task).status is Status.BLOCKED
