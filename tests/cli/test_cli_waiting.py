"""wait and logs: how it ends, and what the agent said meanwhile."""

import subprocess
import time
from collections.abc import Sequence

import pytest
from cli.desk import COMMAND, TASK_KEYS, Desk, has_controls, running
from world import eventually

from dispatchctl.task import Status

UNTIL = "while [ ! -e {} ]; do sleep 0.02; done"
"""A script that goes on when a file is there."""


def test_wait_is_0_when_all_ended_done_or_in_review(shared: Desk) -> None:
    gate = shared.world.root / "gate"
    done = shared.dispatched("Done", UNTIL.format(gate))
    review = shared.dispatched("Review", f"{UNTIL.format(gate)}; echo x > x")
    with running(shared, "wait", str(done), str(review), str(done)) as waiter:
        assert waiter.poll() is None
        gate.touch()
        out, err = waiter.communicate(timeout=60)
    assert (waiter.returncode, out) == (0, "")
    assert sorted(err.splitlines()) == [f"task {done} is done", f"task {review} is in_review: 1 file is not committed"]
    answer = shared.json("wait", str(review), str(done))
    assert {frozenset(task) for task in answer["tasks"]} == {frozenset(TASK_KEYS)}
    assert [task["id"] for task in answer["tasks"]] == [review, done]
    assert shared.run("wait", str(done), "-q").err == ""


def test_wait_is_1_when_one_did_not(shared: Desk) -> None:
    good, bad = shared.dispatched("Good"), shared.dispatched("Bad", "exit 3")
    said = shared.run("wait", str(bad), str(good))
    assert said.code == 1
    assert f"task {bad} is failed: exited with 3\n" in said.err
    cancelled = shared.add("Cancelled")
    shared.ok("cancel", str(cancelled))
    assert shared.json("wait", str(cancelled), code=1)["tasks"][0]["status"] == "cancelled"


def test_wait_is_124_when_time_runs_out(shared: Desk) -> None:
    first, second = shared.dispatched("Slow", "sleep 600"), shared.dispatched("Slow", "sleep 600")
    shared.refused("wait", str(first), "--timeout", "1s", code=124, says=f"task {first} has not ended within 1 s")
    said = shared.refused("wait", str(first), str(second), "--timeout", "0", "--json", code=124)
    assert said.json["error"]["message"] == f"tasks {first}, {second} have not ended within 0 s"
    shared.refused("wait", str(first), "--timeout", "soon", says="'soon' is not a duration")


def test_wait_for_a_task_that_does_not_exist_is_3(shared: Desk) -> None:
    shared.refused("wait", str(shared.add("T")), "99999", code=3, says="there is no task 99999")


def test_wait_ends_at_a_blocked_task_unless_it_is_waited_through(desk: Desk) -> None:
    gate = desk.world.root / "gate"
    task = desk.dispatched("Asks", f"dispatchctl block -m 'which?'; {UNTIL.format(gate)}; sleep 0")
    said = desk.run("wait", str(task))
    assert (said.code, said.err) == (1, f"task {task} is blocked: which?\n")
    with running(desk, "wait", str(task), "--through-blocked") as waiter:
        desk.ok("unblock", str(task))
        gate.touch()
        _, err = waiter.communicate(timeout=60)
    assert (waiter.returncode, err) == (0, f"task {task} is done\n")


def test_wait_ends_at_a_task_that_is_held_for_ever(shared: Desk) -> None:
    failed = shared.ended("Fails", "exit 1")
    child = shared.add("Child", "x", "--after", str(failed))
    grandchild = shared.add("Grandchild", "x", "--after", str(child))
    said = shared.run("wait", str(child))
    assert (said.code, said.err) == (
        1,
        f"task {child} is held for ever: task {failed} is failed: dispatchctl retry {failed}\n",
    )
    said = shared.run("wait", str(grandchild), str(child))
    assert said.code == 1
    assert f"task {grandchild} is held for ever: after task {child}, which is ready" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no dispatcher is running, so nothing starts task {}, which is ready, by itself: dispatchctl dispatch"),
        (["--backlog"], "task {0} is a draft, which nobody starts: dispatchctl release {0}"),
    ],
)
def test_wait_says_once_that_nobody_starts_a_ready_task(desk: Desk, words: Sequence[str], says: str) -> None:
    task = desk.add("Ready", "exit 0", *words)
    other = desk.add("Other", "exit 0", "--after", str(task))
    with running(desk, "wait", str(task), str(other)) as waiter:
        assert waiter.stderr is not None
        assert waiter.stderr.readline() == says.format(task) + "\n"
        desk.ok("edit", str(task), "--priority", "0")
        if words:
            desk.ok("release", str(task))
        desk.ok("dispatch")
        desk.world.ended(desk.runtime, task)
        desk.ok("dispatch")
        assert waiter.communicate(timeout=60)[1] == f"task {task} is done\ntask {other} is done\n"
    assert waiter.returncode == 0


# -- logs ----------------------------------------------------------------------------------------------------------------
COLOURS = r"printf 'a \033[31mred\033[0m \033]0;title\007b\r\nc\rd \302\233 \316\261\302\240e\n'"


def test_logs_are_text_and_raw_is_what_was_written(shared: Desk) -> None:
    task = shared.ended("Colours", COLOURS)
    text = shared.ok("logs", str(task))
    assert text == "a red b\nc\nd · α\xa0e\n"
    done = subprocess.run(
        [*COMMAND, "logs", str(task), "--raw"],
        env=shared.world.variables,
        cwd=shared.repo,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == b"a \x1b[31mred\x1b[0m \x1b]0;title\x07b\r\r\nc\rd \xc2\x9b \xce\xb1\xc2\xa0e\r\n"


def test_logs_follow_until_the_end_whatever_they_are_cut_into(shared: Desk) -> None:
    gate = shared.world.root / "gate-of-logs"
    script = f"printf 'one \\033[3'; {UNTIL.format(gate)}; printf '1mtwo \\316'; sleep 0.2; printf '\\261 three\\n'"
    task = shared.dispatched("Follows", script)
    with running(shared, "logs", str(task), "-f") as follower:
        assert follower.stdout is not None
        assert follower.stdout.read(4) == "one "
        assert follower.poll() is None
        gate.touch()
        rest, err = follower.communicate(timeout=60)
    assert (follower.returncode, rest, err) == (0, "two α three\n", "")
    assert shared.task(task).status is Status.DONE


def test_logs_without_follow_end_while_the_agent_runs(shared: Desk) -> None:
    task = shared.dispatched("Talks", "echo said; sleep 600")
    eventually(lambda: shared.ok("logs", str(task)) == "said\n")
    began = time.monotonic()
    assert shared.ok("logs", str(task)) == "said\n"
    assert time.monotonic() - began < 20


def test_logs_of_a_large_output_are_its_end_without_a_gap(desk: Desk) -> None:
    task = desk.add("Large", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")
    desk.ok("dispatch", str(task), DISPATCHCTL_OUTPUT__LIMIT="64KiB")
    with running(desk, "logs", str(task), "-f") as follower:
        followed, _ = follower.communicate(timeout=60)
    kept = [int(line.split()[1]) for line in desk.ok("logs", str(task)).splitlines()[1:]]
    assert kept == list(range(kept[0], 20000))
    assert len(kept) > 2000
    assert followed.endswith("line 19999\n")


def test_logs_are_refused_with_a_reason(shared: Desk) -> None:
    task = shared.add("Never ran")
    shared.refused("logs", str(task), code=4, says=f"task {task} has not run yet")
    bad = shared.add("Bad", "x", "--agent", "amp")
    assert shared.run("dispatch", str(bad)).code == 69
    shared.refused("logs", str(bad), code=4, says=[f"of task {bad} never started", "'amp', is not on PATH"])
    shared.refused("logs", "99999", code=3, says="there is no task 99999")


def test_logs_never_hold_a_control_character(shared: Desk) -> None:
    every = "".join(f"\\{byte:03o}" for byte in [*range(1, 32), *range(127, 256)])
    task = shared.ended("Bytes", f"printf '{every}x\\033]unfinished'")
    text = shared.ok("logs", str(task))
    assert not has_controls(text)
    assert text.endswith("xunfinished")
