"""add, edit and release: what a user says becomes a task, and its number alone is the answer."""

import re
from pathlib import Path
from typing import Any

import pytest
from cli.desk import TASK_KEYS, Desk, options, program

from dispatchctl.runtime import now
from dispatchctl.task import Status

NOBODY = "no dispatcher is running, so nothing starts task {} by itself: dispatchctl dispatch\n"


def test_add_prints_the_id_alone_and_says_that_nobody_starts_it(shared: Desk) -> None:
    said = shared.run("add", "Fix the login page")
    assert said.code == 0
    assert re.fullmatch(r"[1-9][0-9]*\n", said.out)
    task = shared.task(int(said.out))
    assert said.err == NOBODY.format(task.id)
    assert (task.title, task.prompt) == ("Fix the login page", "Fix the login page")
    assert (task.status, task.agent, task.base, task.repo) == (Status.READY, "shell", "main", str(shared.repo))


def test_quiet_add_says_nothing_but_the_id(shared: Desk) -> None:
    for words in (["-q", "add", "Quiet"], ["add", "Quiet", "-q"], ["--quiet", "add", "Quiet"]):
        said = shared.run(*words)
        assert (said.code, said.err) == (0, "")
        assert said.out.strip().isdecimal()


@pytest.mark.parametrize(
    ("words", "given", "title", "prompt"),
    [
        (["T", "-p", "do this"], None, "T", "do this"),
        (["T", "--prompt", "do\nthat\n"], None, "T", "do\nthat\n"),
        (["T", "-P", "FILE"], None, "T", "from a file\n"),
        (["T", "--prompt-file=FILE"], None, "T", "from a file\n"),
        (["T", "-P", "-"], "from\nstdin\n", "T", "from\nstdin\n"),
        (["T", "-"], "from\nstdin\n", "T", "from\nstdin\n"),
        (["-"], "\n# The title\n\nThe rest\n", "The title", "\n# The title\n\nThe rest\n"),
        (["-p", "text", "--", "-title"], None, "-title", "text"),
        (["  spaces around  "], None, "spaces around", "spaces around"),
    ],
)
def test_where_a_prompt_comes_from(
    shared: Desk, words: list[str], given: str | None, title: str, prompt: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("from a file\n")
    said = shared.ok("add", *(word.replace("FILE", str(tmp_path / "file")) for word in words), given=given)
    task = shared.task(int(said))
    assert (task.title, task.prompt) == (title, prompt)


def test_a_prompt_is_written_in_the_editor_with_the_title_as_its_draft(shared: Desk, tmp_path: Path) -> None:
    editor = program(tmp_path / "my editor", '#!/bin/sh\ncp "$2" "$1.draft"; echo "written by $1" > "$2"\n')
    draft = tmp_path / "x.draft"
    task = shared.task(int(shared.ok("add", "The draft", "-e", EDITOR=f"'{editor}' {tmp_path}/x")))
    assert draft.read_text() == "The draft\n"
    assert task.prompt == f"written by {tmp_path}/x\n"
    draft.unlink()
    shared.ok("edit", str(task.id), "--edit", VISUAL=f"'{editor}' {tmp_path}/x", EDITOR="false")
    assert draft.read_text() == task.prompt


@pytest.mark.parametrize(
    ("editor", "says"),
    [
        ("false", "'false' failed with 1"),
        ("exit 127 #", "'exit 127 #' failed with 127"),
        ("truncate -s 0", "left no text"),
        ("rm", "left no text"),
        ("sh -c 'printf \"a\\377\" > $0'", "what was written is not valid UTF-8"),
    ],
)
def test_an_editor_that_leaves_nothing_changes_nothing(shared: Desk, editor: str, says: str) -> None:
    shared.refused("add", "Edited", "-e", says=says, EDITOR=editor)


def test_what_is_wrong_is_said_before_a_prompt_is_written(shared: Desk, tmp_path: Path) -> None:
    editor = program(tmp_path / "editor", f"#!/bin/sh\ntouch {tmp_path}/opened\n")
    shared.refused("add", "T", "-e", "--agent", "nobody", says="no agent called 'nobody'", EDITOR=str(editor))
    assert not (tmp_path / "opened").exists()


def test_every_option_of_add(shared: Desk) -> None:
    shared.world.git(shared.repo, "branch", "release")
    first, second = shared.add("one"), shared.add("two")
    flags = {"base": "release", "agent": "aider", "priority": "0", "retries": "2", "timeout": "1h30m"}
    more = ["--after", f"{first},{second}", "--label", "ui, web", "--label", "urgent", "--label", "ui", "--review"]
    answer = shared.json("add", "All", "-p", "x", *options(flags), *more, "--not-before", "2030-01-02T03:04:05Z")
    assert set(answer) == {"task"}
    task: dict[str, Any] = answer["task"]
    assert set(task) == TASK_KEYS
    assert (task["base"], task["agent"], task["priority"], task["retries_left"]) == ("release", "aider", 0, 2)
    assert (task["timeout_s"], task["after"], task["labels"]) == (5400, [first, second], ["ui", "web", "urgent"])
    assert (task["review"], task["not_before"], task["status"]) == (True, "2030-01-02T03:04:05.000Z", "ready")
    assert task["held"] == f"after task {first}, which is ready; after task {second}, which is ready"


def test_after_may_be_given_several_times_and_names_each_parent_once(shared: Desk) -> None:
    first, second = shared.add("one"), shared.add("two")
    task = shared.add("three", "x", "--after", str(second), "--after", f"{first}, {second},", "--after", "")
    assert shared.task(task).after == (first, second)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("30s", 30), ("20m", 1200), ("2h", 7200), ("1d", 86_400), ("0", 0)]
)
def test_durations_of_a_time_limit(shared: Desk, text: str, seconds: int) -> None:
    assert shared.task(shared.add("T", "x", "--timeout", text)).timeout_s == seconds


@pytest.mark.parametrize(("text", "later_s"), [("+2h", 7200), ("30s", 30), ("now", 0)])
def test_times_before_which_a_task_does_not_start(shared: Desk, text: str, later_s: int) -> None:
    before = now()
    not_before = shared.task(shared.add("T", "x", "--not-before", text)).not_before
    assert not_before is not None
    assert before <= not_before - 1000 * later_s <= now()


def test_a_draft_is_nobodys_until_it_is_released(shared: Desk) -> None:
    said = shared.run("add", "Draft", "--backlog")
    draft = int(said.out)
    assert (said.err, shared.task(draft).status) == ("", Status.BACKLOG)
    other = shared.add("Other", "x", "--backlog")
    shared.refused("release", str(draft), str(shared.add("Ready")), code=4, says="is ready, not in the backlog")
    assert shared.ok("release", str(draft), str(other), str(draft)) == f"task {draft} is ready\ntask {other} is ready\n"
    assert {shared.task(task).status for task in (draft, other)} == {Status.READY}


def test_release_answers_one_task_as_task_and_several_as_tasks(shared: Desk) -> None:
    drafts = [str(shared.add("Draft", "x", "--backlog")) for _ in range(3)]
    assert shared.json("release", drafts[0])["task"]["status"] == "ready"
    assert [task["status"] for task in shared.json("release", *drafts[1:])["tasks"]] == ["ready", "ready"]


@pytest.mark.parametrize(
    ("words", "column", "value", "said"),
    [
        (["--title", " New title "], "title", "New title", "title"),
        (["-p", "new prompt"], "prompt", "new prompt", "prompt"),
        (["-P", "-"], "prompt", "typed", "prompt"),
        (["--base", "HEAD~0"], "base", "HEAD~0", "base"),
        (["--base", ""], "base", "main", "base"),
        (["--agent", "codex"], "agent", "codex", "agent"),
        (["--priority", "4"], "priority", 4, "priority"),
        (["--label", "a", "--label", "b,a"], "labels", ("a", "b"), "label"),
        (["--label", ""], "labels", (), "label"),
        (["--retries", "0"], "retries_left", 0, "retries"),
        (["--timeout", "0"], "timeout_s", 0, "timeout"),
        (["--review"], "review", True, "review"),
        (["--no-review"], "review", False, "review"),
        (["--not-before", "2030-01-01T00:00Z"], "not_before", 1_893_456_000_000, "not-before"),
    ],
)
def test_every_field_can_be_edited(shared: Desk, words: list[str], column: str, value: object, said: str) -> None:
    task = shared.add("Old", "old prompt", "--label", "old", "--review")
    assert shared.ok("edit", str(task), *words, given="typed") == f"task {task} changed: {said}\n"
    assert getattr(shared.task(task), column) == value


def test_edit_removes_all_parents_and_refuses_a_circle(shared: Desk) -> None:
    first = shared.add("first")
    second = shared.add("second", "x", "--after", str(first))
    third = shared.add("third")
    assert shared.ok("edit", str(third), "--after", str(second)) == f"task {third} changed: after\n"
    assert shared.task(third).after == (second,)
    for parent, says in ((third, "waits"), (first, "waits")):
        shared.refused("edit", str(first), "--after", str(parent), code=4, says=[f"task {first} cannot run", says])
    shared.refused("edit", str(third), "--after", "99999", code=3, says="there is no task 99999")
    answer = shared.json("edit", str(third), "--after", "")
    assert set(answer) == {"task"}
    assert (answer["task"]["after"], answer["task"]["held"]) == ([], None)


def test_edit_without_anything_to_change_is_refused(shared: Desk) -> None:
    task = shared.add("T")
    shared.refused("edit", str(task), says=f"nothing of task {task} was to be changed")


def test_add_from_a_linked_worktree_and_below_is_for_the_repository(shared: Desk) -> None:
    linked, deep = shared.world.root / "linked", shared.repo / "src" / "deep"
    shared.world.git(shared.repo, "worktree", "add", "-q", str(linked))
    deep.mkdir(parents=True)
    for words, more in ((["--repo", str(linked)], {}), ([], {"cwd": linked}), ([], {"cwd": deep})):
        task = shared.task(int(shared.ok("add", "T", *words, **more)))
        assert task.repo == str(shared.repo)
