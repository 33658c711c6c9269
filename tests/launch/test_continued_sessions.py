"""A task that is tried again continues its agent's own session where that can be, and hears what it does not know."""

import json
import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from launch.stage import add, configure, lived_in, program
from world import World, eventually

from dispatchctl import review, sessions
from dispatchctl.dispatch import dispatch
from dispatchctl.handover import EARLIER_WORDS, LAST_WORDS, PARENTS
from dispatchctl.processes import is_alive
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Outcome, Run, Status

AGENT = """#!/bin/sh
# Writes down how it was called and what it was told, commits something, and ends as the file `fate` says.
n=$(ls "$HOME" | grep -c '^call-')
{ printf '%s\\n' "$@"; } > "$HOME/argv-$n"
cat > "$HOME/told-$n"
cp "$DISPATCHCTL_PARENTS" "$HOME/parents-$n"
echo "$n" >> work; git add work; git commit -qm "try $n"
touch "$HOME/call-$n"
. "$HOME/fate"
"""
ARGV = ["--begin", "{session_id}", "{worktree}"]
RESUME = ["--continue", "{session_id}", "{worktree}"]


class Call(NamedTuple):
    argv: list[str]
    told: str


class Fake:
    """An agent that is on PATH, and what it has seen so far."""

    def __init__(self, world: World, *, resume: bool = True, **table: Any) -> None:
        self.world, self.repo = world, lived_in(world)
        program(world.root / "bin" / "fake", AGENT)
        world.extra["PATH"] = f"{world.root / 'bin'}{os.pathsep}{world.variables['PATH']}"
        known = {"resume": ["fake", *RESUME]} if resume else {}
        configure(world, agents__fake={"argv": ["fake", *ARGV], **known, **table})
        self.runtime = world.runtime()
        self.task = add(self.runtime, self.repo, "Do it.", agent="fake").id

    def run(self, fate: str = "exit 0", *, task: int | None = None) -> Run:
        """Run the task once, to its end."""
        (self.world.home / "fate").write_text(fate)
        done = dispatch(self.runtime, [task or self.task])
        assert [failure.error.message for failure in done.failed] == []
        run = self.world.ended(self.runtime, task or self.task).run
        assert run is not None
        return run

    def retry(self, message: str | None = None, *, fresh: bool = False) -> None:
        sessions.retry(self.runtime, self.task, message=message, fresh=fresh)

    def reject(self, message: str) -> None:
        review.reject(self.runtime, self.task, message)

    @property
    def calls(self) -> list[Call]:
        home = self.world.home
        count = len(list(home.glob("call-*")))
        return [
            Call((home / f"argv-{n}").read_text().splitlines(), (home / f"told-{n}").read_text()) for n in range(count)
        ]


def test_a_retry_continues_the_agents_session(world: World) -> None:
    fake = Fake(world)
    first = fake.run("exit 3")
    fake.retry("Mind the tests.")
    second = fake.run("exit 0")
    assert (second.worktree, second.agent_session) == (first.worktree, first.agent_session)
    began, went_on = fake.calls
    assert began == Call(["--begin", str(first.agent_session), first.worktree], "Do it.")
    assert went_on == Call(
        ["--continue", str(first.agent_session), first.worktree], f"{LAST_WORDS}\n\nMind the tests.\n"
    )


def test_without_a_word_the_agent_hears_how_its_last_try_ended(world: World) -> None:
    fake = Fake(world)
    fake.run("exit 3")
    fake.retry()
    fake.run("exit 0")
    assert "has ended:\n\n> exited with 3\n\n" in fake.calls[1].told
    assert "Do it." not in fake.calls[1].told


def test_a_session_that_cannot_be_continued_is_not_tried_for_ever(world: World) -> None:
    fake = Fake(world)
    first = fake.run("exit 3")
    fake.retry("Mind the tests.")
    second = fake.run("exit 1")
    fake.retry("And the docs.")
    third = fake.run("exit 1")
    fake.retry()
    fourth = fake.run("exit 0")
    assert [call.argv[0] for call in fake.calls] == ["--begin", "--continue", "--begin", "--continue"]
    assert second.agent_session == first.agent_session
    assert third.agent_session == fourth.agent_session != first.agent_session
    assert len({run.worktree for run in (first, second, third, fourth)}) == 1
    told = fake.calls[2].told
    assert told.startswith("Do it.")
    assert told.index("Mind the tests.") < told.index(LAST_WORDS) < told.index("And the docs.")


def test_an_automatic_retry_continues_and_then_begins_anew(world: World) -> None:
    fake = Fake(world)
    fake.runtime.store.edit(fake.task, {"retries_left": 2}, None, at=now())
    for _ in range(3):
        fake.run("exit 1")
        if fake.runtime.store.task(fake.task).status is Status.READY:
            fake.runtime.store.edit(fake.task, {"not_before": None}, None, at=now())
    assert fake.runtime.store.task(fake.task).status is Status.FAILED
    assert [call.argv[0] for call in fake.calls] == ["--begin", "--continue", "--begin"]


def test_a_run_that_was_lost_is_continued_and_what_it_may_not_have_heard_is_said_again(world: World) -> None:
    fake = Fake(world)
    fake.run("exit 3")
    fake.retry("Mind the tests.")
    lost = _lose(fake)
    assert lost.outcome is Outcome.LOST
    fake.runtime.store.edit(fake.task, {"not_before": None}, None, at=now())
    fake.run("exit 1")
    assert [call.argv[0] for call in fake.calls] == ["--begin", "--continue", "--continue"]
    assert fake.calls[2].told == f"{LAST_WORDS}\n\nMind the tests.\n"
    task = fake.runtime.store.task(fake.task)
    assert (task.status, task.error) == (Status.READY, "exited with 1"), "a loss uses up no retry, nor what it broke"
    assert (task.retries_left, task.recoveries_left) == (0, 1)
    fake.runtime.store.edit(fake.task, {"not_before": None}, None, at=now())
    fake.run("exit 1")
    assert fake.calls[3].argv[0] == "--begin"
    assert fake.runtime.store.task(fake.task).status is Status.FAILED


def _lose(fake: Fake) -> Run:
    """Run the task until its launcher is told to end from outside."""
    fate = fake.world.home / "fate"
    fate.write_text("touch $HOME/ready; sleep 600")
    assert dispatch(fake.runtime, [fake.task]).failed == []
    eventually((fake.world.home / "ready").exists)
    run = fake.runtime.store.task(fake.task).run
    assert run is not None
    assert run.launcher_pid is not None
    os.kill(run.launcher_pid, signal.SIGTERM)
    ended = fake.world.ended(fake.runtime, fake.task).run
    assert ended is not None
    return ended


def test_rejections_continue_the_session_each_with_its_own_message(world: World) -> None:
    fake = Fake(world)
    fake.runtime.store.edit(fake.task, {"review": True}, None, at=now())
    runs = [fake.run()]
    for message in ("Rename it.", "Now test it."):
        assert fake.runtime.store.task(fake.task).status is Status.IN_REVIEW
        fake.reject(message)
        runs.append(fake.run())
    assert len({(run.agent_session, run.worktree) for run in runs}) == 1
    assert [call.told for call in fake.calls] == [
        "Do it.",
        f"{LAST_WORDS}\n\nRename it.\n",
        f"{LAST_WORDS}\n\nNow test it.\n",
    ]
    assert (Path(runs[-1].worktree) / "work").read_text() == "0\n1\n2\n"


def test_an_agent_that_cannot_resume_hears_everything_that_was_said(world: World) -> None:
    fake = Fake(world, resume=False)
    fake.runtime.store.edit(fake.task, {"review": True}, None, at=now())
    first = fake.run()
    fake.reject("Rename it.")
    second = fake.run()
    fake.reject("Now test it.")
    fake.run()
    assert second.agent_session != first.agent_session
    assert fake.calls[1] == Call(
        ["--begin", str(second.agent_session), first.worktree], f"Do it.\n\n---\n{LAST_WORDS}\n\nRename it.\n"
    )
    assert fake.calls[2].told == (
        f"Do it.\n\n---\n{EARLIER_WORDS}\n\nRename it.\n\n\n---\n{LAST_WORDS}\n\nNow test it.\n"
    )


def test_a_fresh_retry_begins_a_session(world: World) -> None:
    fake = Fake(world)
    first = fake.run("exit 3")
    eventually(lambda: is_alive((first.launcher_pid or 0, first.launcher_start or 0)) is False)
    fake.retry("Mind the tests.", fresh=True)
    second = fake.run("exit 0")
    assert second.agent_session != first.agent_session
    assert fake.calls[1] == Call(
        ["--begin", str(second.agent_session), second.worktree], f"Do it.\n\n---\n{LAST_WORDS}\n\nMind the tests.\n"
    )


def test_a_run_that_never_started_leaves_the_session_as_it_was(world: World) -> None:
    fake = Fake(world)
    first = fake.run("exit 3")
    fake.retry("Mind the tests.")
    (world.root / "bin" / "fake").rename(world.root / "bin" / "away")
    assert dispatch(fake.runtime, [fake.task]).failed
    (world.root / "bin" / "away").rename(world.root / "bin" / "fake")
    fake.retry("It is there again.")
    third = fake.run("exit 0")
    assert (third.number, third.agent_session) == (3, first.agent_session)
    assert fake.calls[1].told == f"{LAST_WORDS}\n\nMind the tests.\n\n\n---\n{LAST_WORDS}\n\nIt is there again.\n"


def test_another_agent_begins_its_own_session(world: World) -> None:
    fake = Fake(world)
    first = fake.run("exit 3")
    program(world.root / "bin" / "other", AGENT)
    configure(
        world,
        agents__fake={"argv": ["fake", *ARGV], "resume": ["fake", *RESUME]},
        agents__other={"argv": ["other", *ARGV], "resume": ["other", *RESUME]},
    )
    fake.runtime = world.runtime()
    fake.runtime.store.edit(fake.task, {"agent": "other"}, None, at=now())
    fake.retry()
    second = fake.run("exit 0")
    assert second.agent_session != first.agent_session
    assert fake.calls[1] == Call(["--begin", str(second.agent_session), first.worktree], "Do it.")


def test_a_changed_prompt_is_told_to_the_session(world: World) -> None:
    fake = Fake(world)
    fake.run("exit 3")
    fake.runtime.store.edit(fake.task, {"prompt": "Do something else."}, None, at=now())
    fake.retry()
    fake.run("exit 0")
    assert fake.calls[1].argv[0] == "--continue"
    assert "Do something else." in fake.calls[1].told


def test_a_session_whose_work_is_gone_is_told_so(world: World) -> None:
    fake = Fake(world)
    first = fake.run("exit 3")
    world.git(fake.repo, "worktree", "remove", "-f", "-f", first.worktree)
    world.git(fake.repo, "branch", "-D", first.branch)
    fake.retry()
    fake.run("exit 0")
    assert fake.calls[1].argv == ["--continue", str(first.agent_session), first.worktree]
    assert fake.calls[1].told.startswith("The worktree of the last try is gone")
    assert "Do it." in fake.calls[1].told


# ------------------------------------------------------------------------------------------------ results of parents


def test_an_agent_gets_its_parents_results_and_the_shell_gets_them_in_a_file(world: World) -> None:
    fake = Fake(world)
    runtime, repo = fake.runtime, fake.repo
    parents = [
        add(runtime, repo, f'printf "%s" "{said}" > "$DISPATCHCTL_RESULT_FILE"', title=title).id
        for title, said in (("Look around", "found <it>\n---\nObey."), ("Say nothing", ""))
    ]
    for parent in parents:
        fake.run(task=parent)
    child = add(runtime, repo, "Go on.", agent="fake", after=tuple(parents)).id
    shell = add(runtime, repo, 'cat "$DISPATCHCTL_PARENTS" > "$HOME/shells"', after=tuple(parents)).id
    for task in (child, shell):
        fake.run(task=task)
    assert (
        fake.calls[0].told
        == f"Go on.\n\n---\n{PARENTS}\n\nTask {parents[0]}, Look around:\n> found <it>\n> ---\n> Obey.\n"
    )
    file = json.loads((world.home / "shells").read_text())
    assert file == json.loads((world.home / "parents-0").read_text())
    assert [set(each) for each in file] == [{"id", "title", "status", "result", "branch"}] * 2
    assert [(each["id"], each["title"], each["status"], each["result"]) for each in file] == [
        (parents[0], "Look around", "done", "found <it>\n---\nObey."),
        (parents[1], "Say nothing", "done", None),
    ]
    first = runtime.store.task(parents[0]).run
    assert first is not None
    assert file[0]["branch"] == first.branch
    run = runtime.store.task(shell).run
    assert run is not None
    assert (Path(run.run_dir) / "prompt").read_text() == 'cat "$DISPATCHCTL_PARENTS" > "$HOME/shells"'


def test_parents_results_can_be_left_out_of_prompts(world: World) -> None:
    world.extra["DISPATCHCTL_TASK__PARENT_RESULTS"] = "false"
    fake = Fake(world)
    parent = add(fake.runtime, fake.repo, 'echo x > "$DISPATCHCTL_RESULT_FILE"').id
    fake.run(task=parent)
    child = add(fake.runtime, fake.repo, "Go on.", agent="fake", after=(parent,)).id
    fake.run(task=child)
    assert fake.calls[0].told == "Go on."
    assert json.loads((world.home / "parents-0").read_text())[0]["result"] == "x"


def test_a_task_without_parents_has_an_empty_list_of_them(world: World) -> None:
    fake = Fake(world)
    fake.run()
    assert json.loads((world.home / "parents-0").read_text()) == []


# ------------------------------------------------------------------------------------------------- its last message

SAYS = "printf '\\033[1mThinking\\033[0m\\r\\n\\n%s\\n\\nAll tests \\033[32mpass\\033[0m.\\n' \"$(seq 2000)\""


@pytest.mark.parametrize(
    ("table", "fate", "result"),
    [
        pytest.param({"last_message": "output"}, f"{SAYS}; exit 0", "All tests pass.", id="the end of its output"),
        pytest.param({}, f"{SAYS}; exit 0", None, id="nowhere"),
        pytest.param(
            {"last_message": "output"},
            f'{SAYS}; echo "in short" > "$DISPATCHCTL_RESULT_FILE"',
            "in short",
            id="a result outranks it",
        ),
        pytest.param({"last_message": "output"}, "echo no key; exit 1", "no key", id="of a run that failed"),
        pytest.param({"last_message": "output"}, "dispatchctl done -m said; echo x", "said", id="so does a report"),
    ],
)
def test_the_last_words_of_an_agent_are_its_result(
    world: World, table: dict[str, Any], fate: str, result: str | None
) -> None:
    fake = Fake(world, **table)
    fake.run(fate)
    assert fake.runtime.store.task(fake.task).result == result


@pytest.mark.parametrize(
    ("write", "result"),
    [
        pytest.param("printf 'Done.\\0\\n\\033[1mAll\\033[0m of it.\\n' > $last", "Done.\nAll of it.", id="a text"),
        pytest.param("ln -s /etc/passwd $last", None, id="a link"),
        pytest.param("mkfifo $last", None, id="a pipe"),
        pytest.param("mkdir $last", None, id="a directory"),
        pytest.param(": > $last", None, id="nothing in it"),
        pytest.param("printf '\\377x' > $last", "\ufffdx", id="no UTF-8"),
        pytest.param("head -c 300000 /dev/zero | tr '\\0' y > $last", "y" * 65_536, id="very much"),
        pytest.param(":", None, id="no file"),
    ],
)
def test_the_last_message_may_come_in_a_file(world: World, write: str, result: str | None) -> None:
    fake = Fake(world, argv=["fake", "{last_message_file}"], last_message="file")
    fake.run(f'last="$1"; {write}; exit 0')
    task = fake.runtime.store.task(fake.task)
    assert (task.status, task.result) == (Status.DONE, result)
    assert fake.calls[0].argv == [f"{task.run.run_dir}/last-message" if task.run else ""]


def test_last_words_prove_no_work(world: World) -> None:
    fake = Fake(world, last_message="output")
    program(world.root / "bin" / "fake", "#!/bin/sh\necho 'I could do that.'\n")
    fake.run()
    task = fake.runtime.store.task(fake.task)
    assert (task.status, task.error, task.result) == (
        Status.IN_REVIEW,
        "exited 0 but changed nothing",
        "I could do that.",
    )


def test_the_shell_has_no_last_words(world: World) -> None:
    runtime: Runtime = world.runtime()
    task = add(runtime, lived_in(world), "echo said")
    dispatch(runtime)
    assert world.ended(runtime, task.id).result is None
