"""What cannot be meant: each gets its sentence, a hint and exit code 2, and nothing is changed."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli.desk import COMMAND, Desk, is_error
from world import Said

EVERY_ID = ("show", "runs", "logs", "attach", "cancel", "retry", "unblock", "rm", "release", "edit", "wait", "dispatch")
WITH_TASK = ("history", "ready", "done", "fail", "block", "heartbeat")


@pytest.fixture(scope="module")
def task(shared: Desk) -> int:
    return shared.add("T")


@pytest.mark.parametrize("verb", [*EVERY_ID, *WITH_TASK])
def test_ids_that_are_none(shared: Desk, task: int, verb: str) -> None:
    more = ["--priority", "1"] if verb == "edit" else []
    shared.refused(verb, "99999", *more, code=3, says="there is no task 99999\n  hint: dispatchctl list")
    shared.refused(verb, "abc", *more, says="'abc' is not the number of a task")


@pytest.mark.parametrize("word", ["0", "1.0", "1e3", "+1", " 1", "١", "", "1,2", "x" * 300])
def test_words_that_are_no_id(shared: Desk, task: int, word: str) -> None:
    said = shared.refused("show", word, says="is not the number of a task")
    assert len(said.err) < 200


@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64 + 1, 10**39])
def test_huge_ids_name_no_task(shared: Desk, task: int, number: int) -> None:
    for words in (["show"], ["rm"], ["dispatch"], ["wait"], ["add", "T", "--after"], ["history"], ["done"]):
        said = shared.refused(*words, str(number), "--json", code=3)
        assert said.json["error"]["message"] == f"there is no task {number}"


def test_an_id_of_five_thousand_digits(shared: Desk, task: int) -> None:
    said = shared.refused("show", "9" * 5000, code=3, says="there is no task 999")
    assert len(said.err) < 200


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["add"], "add needs TITLE"),
        (["add", ""], "the title is empty"),
        (["add", " \n\t "], "the title is empty"),
        (["add", "-"], "the title is empty"),
        (["add", "x" * 1001], "the title has 1001 bytes, and 1000 is the most"),
        (["add", "é" * 501], "the title has 1002 bytes"),
        (["add", os.fsdecode(b"a\xff")], "the title is not valid UTF-8 (at character 1)"),
        (["add", "T", "-p", os.fsdecode(b"\x80")], "the prompt is not valid UTF-8 (at character 0)"),
        (["add", "T", "-p", ""], "the prompt of 'T' is empty"),
        (["add", "T", "-"], "the prompt of 'T' is empty"),
        (["add", "T", "--label", os.fsdecode(b"\xff")], "the label is not valid UTF-8"),
        (["add", "T", "--label", "l" * 201], "the label has 201 bytes, and 200 is the most"),
        (["add", "T", "--base", os.fsdecode(b"\xff")], "there is no branch or commit"),
        (["add", "T", "-P", "no/such/file"], "the prompt cannot be read from no/such/file: No such file or directory"),
        (["add", "T", "-P", "."], "the prompt cannot be read from .: Is a directory"),
        (["add", "T", "-p", "x", "-P", "README"], "the prompt is given twice"),
        (["add", "T", "-p", "x", "-"], "the prompt is given twice"),
        (["add", "-", "-P", "-"], "the prompt is given twice"),
        (["add", "T", "-p", "x", "-e"], "the prompt is given twice"),
        (["add", "Fix", "the"], "there is a word too many: 'the'"),
        (["add", "Fix", "the", "page"], "there is a word too many: 'page'"),
        (["add", "T", "--priority", "5"], "--priority: '5' is not a whole number from 0 to 4"),
        (["add", "T", "--priority", "high"], "--priority: 'high' is not a whole number from 0 to 4"),
        (["add", "T", "--priority", "-1"], "--priority: '-1' is not a whole number from 0 to 4"),
        (["add", "T", "--retries", "101"], "--retries: '101' is not a whole number from 0 to 100"),
        (["add", "T", "--after", "x"], "--after: 'x' is not the number of a task"),
        (["add", "T", "--after", "1,-2"], "--after: '-2' is not the number of a task"),
        (["add", "T", "--timeout", "2 hours"], "'2 hours' is not a duration"),
        (["add", "T", "--timeout", "-5"], "'-5' is not a duration"),
        (["add", "T", "--timeout", "4000d"], "'4000d' is longer than ten years"),
        (["add", "T", "--not-before", "tomorrow"], "'tomorrow' is not a time"),
        (["add", "T", "--not-before", "20261120"], "'20261120' is not a time"),
        (["add", "T", "--agent", "clod"], "there is no agent called 'clod'"),
        (["add", "T", "--agent", "claud"], "did you mean 'claude'?"),
        (["edit", "1", "--title", ""], "the title is empty"),
        (["edit", "1", "--title", "x" * 1001], "the title has 1001 bytes"),
        (["edit", "1", "-p", " "], "the new prompt of task 1 is empty"),
        (["edit", "1", "--agent", "nobody"], "there is no agent called 'nobody'"),
        (["edit", "1", "--base", "nowhere"], "there is no branch or commit 'nowhere'"),
        (["edit", "1", "--priority", "9"], "--priority: '9' is not a whole number from 0 to 4"),
        (["list", "--status", "redy"], "there is no status 'redy'"),
        (["list", "--status", "done,", "--status", "all"], "there is no status 'all'"),
        (["list", "--limit", "-1"], "--limit: '-1' is not a whole number from 0"),
        (["list", "--limit", "many"], "--limit: 'many' is not a whole number from 0"),
        (["list", "--repo", ""], "--repo names no directory"),
        (["dispatch", "--max", "0"], "--max: '0' is not a whole number from 1"),
        (["dispatch", "--max-running", "no"], "--max-running: 'no' is not a whole number from 1"),
        (["wait", "1", "--timeout", ""], "'' is not a duration"),
        (["wait"], "wait needs ID…"),
        (["rm"], "rm needs ID…"),
        (["send", "1"], "send needs TEXT"),
        (["send", "1", "-x"], "send has no option -x"),
        (["history", "--since", "2026-99-99"], "'2026-99-99' is not a time"),
        (["config", "dispatch.max_runing"], "there is no setting 'dispatch.max_runing'"),
        (["config", "nothing.at.all"], "there is no setting 'nothing.at.all'"),
        (["lst"], "there is no command 'lst'; did you mean list?\n  hint: dispatchctl list --help"),
        (["dispach"], "there is no command 'dispach'; did you mean dispatch?"),
        (["zzz"], "there is no command 'zzz'\n  hint: dispatchctl --help"),
        (["-q"], "no command was named"),
        (["list", "--jsn"], "list has no option --jsn; did you mean --json?\n  hint: dispatchctl list --help"),
        (["--jsn", "list"], "has no option --jsn; did you mean --json?\n  hint: dispatchctl --help"),
        (["list", "--status"], "--status needs a value"),
        (["list", "--json=yes"], "--json takes no value"),
        (["list", "more"], "there is a word too many: 'more'\n  hint: dispatchctl list --help"),
        (["send", "1", "a", "b"], "there is a word too many: 'b' (a text with spaces has to be quoted)"),
        (["cancel", "1", "x"], "there is a word too many: 'x'\n"),
        (["cancel", "55", "56", "57"], "cancel takes one ID, and these are more: 55 56 57\n"),
        (["retry", "5", "6"], "hint: for id in 5 6; do dispatchctl retry $id; done\n"),
        (["list", "--db", ""], "--db names no file"),
        (["--config", "", "list"], "--config names no file"),
    ],
)
def test_what_cannot_be_meant(shared: Desk, task: int, words: Sequence[str], says: str) -> None:
    shared.refused(*words, says=says, given="")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a\0b\nmore", "the title contains a NUL character"),
        (b"title\nwith a \0 in it", "the prompt contains a NUL character"),
        (b"title\nand \xff\xfe", "standard input is not valid UTF-8 (at byte 10)"),
        (b"# \n\n#\n", "the title is empty"),
    ],
)
def test_what_cannot_be_read_from_stdin(shared: Desk, task: int, data: bytes, says: str) -> None:
    with shared.unchanged():
        done = subprocess.run(
            [*COMMAND, "add", "-"],
            env=shared.world.variables,
            cwd=shared.repo,
            input=data,
            capture_output=True,
            timeout=60,
            check=False,
        )
    is_error(Said(done.returncode, done.stdout.decode(), done.stderr.decode()), 2, says)


def test_a_prompt_file_that_is_not_utf_8(shared: Desk, task: int, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(b"ok \xff")
    said = shared.refused("add", "T", "-P", str(tmp_path / "prompt"), says=f"{tmp_path}/prompt is not valid UTF-8")
    assert f"  hint: iconv -t UTF-8 {tmp_path}/prompt" in said.err


@pytest.mark.parametrize(
    "words",
    [["lst"], ["add", ""], ["list", "--status", "no"], ["show", "99999"], ["show", "x"], ["list", "--nope"], []],
)
def test_an_error_is_json_on_stdout_if_json_was_asked_for(shared: Desk, task: int, words: Sequence[str]) -> None:
    said = shared.refused(*words, "--json", code=3 if "99999" in words else 2)
    error = said.json["error"]
    assert said.err == f"dispatchctl: {error['message']}\n  hint: {error['hint']}\n"
    assert shared.refused("--json", *words, code=said.code).out == said.out


def test_words_after_two_dashes_are_no_options(shared: Desk, task: int) -> None:
    said = shared.refused("show", "--", "--json", says="'--json' is not the number of a task")
    assert said.out == ""


def test_global_options_stand_before_or_after_the_command(shared: Desk, task: int, tmp_path: Path) -> None:
    other = str(tmp_path / "other.db")
    config = tmp_path / "config.toml"
    config.write_text("[task]\nretries = 7\n")
    for words in (["--db", other, "--config", str(config), "-q", "add", "T"], ["add", "T", "-q", f"--db={other}"]):
        assert shared.run(*words).err == ""
    assert shared.ok("--json", "--db", other, "list") == shared.ok("list", "--db", other, "--json")
    tasks = shared.json("list", "--db", other)["tasks"]
    assert [task["retries_left"] for task in tasks] == [7, 0]
    assert shared.json("--db", "/nonexistent", "list", "--db", other)["tasks"] == tasks
    for words in (["--version"], ["-q", "--version"], ["list", "--version"], ["show", "--version"]):
        assert shared.ok(*words).startswith("dispatchctl ")


def test_help_is_an_answer(shared: Desk) -> None:
    from dispatchctl.cli.app import ALIASES, COMMANDS

    page = shared.ok("--help")
    assert all(f" {name} " in page for name in COMMANDS)
    assert all(f" {name} " not in page for name in ALIASES)
    assert shared.ok("-h") == page
    assert "Put a task into the queue" in shared.ok("add", "-h")
    nothing = shared.run()
    assert (nothing.code, nothing.out) == (2, "")
    assert nothing.err == page


def test_verbose_says_what_an_error_came_from(shared: Desk) -> None:
    said = shared.run("list", "--db", "/nonexistent/db", "-v")
    assert said.code == 1
    assert "  hint: dispatchctl init\n  from: OperationalError: unable to open database file\n" in said.err
