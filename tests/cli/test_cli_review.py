"""approve and reject, as they are typed."""

import pytest
from cli.desk import TASK_KEYS, Desk, program

from dispatchctl.task import Status

UNCOMMITTED = "echo x > x"
COMMITTED = "echo x > x; git add x; git commit -qm x"


@pytest.fixture
def fake(desk: Desk) -> Desk:
    """With an agent that writes down what it is told, and whose work is reviewed."""
    seen = desk.world.root / "told"
    script = program(
        desk.world.root / "fake-agent",
        f'#!/bin/sh\nprintf "%s\\0" "$2" >> {seen}\necho x >> x; git add x; git commit -qm x\n',
    )
    settings = desk.world.home / ".config" / "dispatchctl" / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'[agents.fake]\nargv = ["{script}", "--", "{{prompt}}"]\n')
    return desk


def test_what_is_approved_is_done_and_its_children_may_start(shared: Desk) -> None:
    task = shared.ended("Review", COMMITTED, "--review")
    child = shared.add("Child", "exit 0", "--after", str(task))
    assert f"task {task}" in str(shared.json("show", str(child))["task"]["held"])
    said = shared.run("approve", str(task))
    assert (said.code, said.out) == (0, f"task {task} is done\n")
    assert "not on its branch" not in said.err
    assert shared.json("show", str(child))["task"]["held"] is None
    kinds = [(event["kind"], event["actor"]) for event in shared.json("history", str(task))["events"]]
    assert kinds[-1] == ("approved", "user")


def test_several_are_approved_at_once_or_none(shared: Desk) -> None:
    first, second = shared.ended("One", COMMITTED, "--review"), shared.ended("Two", COMMITTED, "--review")
    done = shared.ended("Done")
    shared.refused("approve", str(first), str(done), code=4, says=f"task {done} is done, not in review")
    answer = shared.json("approve", str(first), str(second), str(first))["tasks"]
    assert [(task["id"], task["status"]) for task in answer] == [(first, "done"), (second, "done")]
    third = shared.ended("Three", COMMITTED, "--review")
    assert set(shared.json("approve", str(third))["task"]) == TASK_KEYS


def test_files_that_are_not_on_the_branch_are_named(shared: Desk) -> None:
    task = shared.ended("Review", UNCOMMITTED)
    assert shared.task(task).error == "1 file is not committed"
    said = shared.run("approve", str(task))
    run = shared.newest(task)
    assert (said.code, said.out) == (0, f"task {task} is done\n")
    assert f"task {task}: 1 file is in its worktree, but not on its branch {run.branch}" in said.err
    assert f"hint: git -C {run.worktree} status" in said.err
    assert shared.task(task).error is None


def test_what_is_rejected_goes_on_and_hears_why(fake: Desk) -> None:
    task = fake.ended("Fake", "Do this.", "--agent", "fake", "--review")
    first = fake.newest(task)
    assert fake.ok("reject", str(task), "-m", "-Rename it;\nplease.") == f"task {task} is ready\n"
    fake.ok("dispatch", str(task))
    fake.world.ended(fake.runtime, task)
    second = fake.newest(task)
    assert (fake.task(task).status, second.worktree) == (Status.IN_REVIEW, first.worktree)
    told = (fake.world.root / "told").read_text().split("\0")
    assert told[0] == "Do this."
    assert "-Rename it;\nplease." in told[1]
    answer = fake.json("reject", str(task), "-m", "And again.")["task"]
    assert (set(answer), answer["status"], answer["error"], answer["result"]) == (TASK_KEYS, "ready", None, None)
    kinds = [(event["kind"], event["actor"]) for event in fake.json("history", str(task))["events"]]
    assert kinds.count(("rejected", "user")) == 2


@pytest.mark.parametrize("words", [(), ("-m", ""), ("-m", " \n")])
def test_nothing_is_rejected_without_a_word(shared: Desk, words: tuple[str, ...]) -> None:
    task = shared.ended("Review", UNCOMMITTED)
    shared.refused(
        "reject", str(task), *words, code=2, says=(f"task {task} is not rejected", f"reject {task} -m 'WHY'")
    )


def test_a_rejection_of_a_program_is_not_run(shared: Desk) -> None:
    task = shared.ended("Review", UNCOMMITTED)
    said = shared.run("reject", str(task), "-m", f"touch {shared.world.root}/executed")
    assert (said.code, said.out) == (0, f"task {task} is ready\n")
    assert "its prompt is a program" in said.err
    assert not (shared.world.root / "executed").exists()
    shared.ok("cancel", str(task), "--force")


def test_a_message_that_cannot_be_kept_is_refused(shared: Desk) -> None:
    task = shared.ended("Review", UNCOMMITTED)
    shared.refused("reject", str(task), "-m", "x" * 70_000, code=2, says="the message has 70000 bytes")
    shared.refused("reject", "4711", "-m", "x", code=3, says="there is no task 4711")
