"""What a task or an agent wrote never reaches a terminal as an instruction, and a listing fits its width."""

import re
import subprocess
import unicodedata
from typing import Any

import pytest
from cli.desk import COMMAND, Desk, has_controls
from cli.terminal import on_terminal
from rich.cells import cell_len

ASCII = "".join(map(chr, range(33, 127)))  # a space stands after it: a title loses those around it
HOSTILE = (
    f"{ASCII} [bold]b[/bold] [/] 🎉👩‍👩‍👧 é ｗｉｄｅ\nline\ttab\rback \x1b[31mred\x1b]0;title\x07 \x1bP+q\x1b\\ \x08\x7f"
    " \x80\x85\x9b31m\x9d0;t\x9c \u202eevil\u202c \u2066iso\u2069 \u200b\ufeff\u2028\u2029 \ue000 \U000e0041 end"
)
LABEL = HOSTILE[len(ASCII) + 1 :]
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""What rich writes itself: colours and nothing else."""
REORDERS = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u2028\u2029\ufeff]")


def is_safe(text: str) -> bool:
    """Whether a terminal would show the text and obey none of it."""
    return not has_controls(text) and not REORDERS.search(text)


@pytest.fixture(scope="module")
def hostile(shared: Desk) -> int:
    """A task whose every text is hostile, and whose agent says the same."""
    task = int(shared.ok("add", "-q", "--label", LABEL, "--", HOSTILE))
    shared.ok(
        "edit", str(task), "-p", f"cat <<'END'\n{HOSTILE}\nEND\ndispatchctl fail -m \"$(cat $DISPATCHCTL_PROMPT_FILE)\""
    )
    shared.ok("dispatch", str(task))
    shared.world.ended(shared.runtime, task)
    return task


def test_json_gives_back_every_character(shared: Desk, hostile: int) -> None:
    said = shared.run("show", str(hostile), "--json")
    assert not has_controls(said.out)
    task = said.json["task"]
    assert task["title"] == HOSTILE
    assert task["labels"] == [LABEL]
    assert HOSTILE in task["prompt"]
    assert task["error"] == task["prompt"]
    [added] = [event for event in shared.json("history", str(hostile))["events"] if event["kind"] == "added"]
    assert added["detail"]["task"]["title"] == HOSTILE


def test_names_made_from_a_title_hold_none_of_it(shared: Desk, hostile: int) -> None:
    run = shared.newest(hostile)
    assert re.fullmatch(r"dispatch/[a-z0-9-]+", run.branch)
    names = shared.world.tmux("list-panes", "-a", "-F", "#{window_name}#{session_name}")
    assert re.fullmatch(r"[a-z0-9\n-]+", names)


COMMANDS = (
    ["list"],
    ["show", "ID"],
    ["history", "ID"],
    ["runs", "ID"],
    ["logs", "ID"],
    ["wait", "ID"],
    ["ready", "ID"],
    ["ready", "--explain"],
    ["add", "T", "--agent", HOSTILE],
    ["add", "T", "--base", HOSTILE],
    ["add", "T", "--repo", HOSTILE],
    ["add", "T", "-P", HOSTILE],
    ["add", "T", "--timeout", HOSTILE],
    ["list", "--status", HOSTILE],
    ["show", HOSTILE],
    [HOSTILE],
    ["list", f"--{HOSTILE}"],
    ["config", HOSTILE],
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words).split(ASCII)[0][:20])
def test_nothing_obeys_what_a_task_says(shared: Desk, hostile: int, words: list[str]) -> None:
    words = [str(hostile) if word == "ID" else word for word in words]
    said = shared.run(*words)
    assert is_safe(said.out), said.out
    assert is_safe(said.err), said.err
    code, text = on_terminal(shared, *words, columns=200)
    assert code == said.code
    assert is_safe(COLOURS.sub("", text)), text


def test_what_is_shown_of_a_title_is_all_that_can_be(shared: Desk, hostile: int) -> None:
    [line] = [line for line in shared.ok("list").splitlines() if line.startswith(f"{hostile}\t")]
    title = line.split("\t", 7)[7]
    assert title.startswith(f"{ASCII} [bold]b[/bold] [/] 🎉👩‍👩‍👧 é ｗｉｄｅ line tab back ·[31mred·]0;title· ")
    assert len(title) == len(HOSTILE)
    assert not any(unicodedata.category(each) in ("Cc", "Cs", "Co", "Zl", "Zp") for each in title)


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize(
    "words", [["list"], ["history"], ["runs", "ID"], ["agents"], ["config"], ["ready", "--explain"]]
)
def test_a_table_fits_its_terminal(shared: Desk, hostile: int, columns: int, words: list[str]) -> None:
    shared.add(
        "A title of quite some length, so that no terminal of eighty columns has room for it, or even for half", "x"
    )
    words = [str(hostile) if word == "ID" else word for word in words]
    code, text = on_terminal(shared, *words, columns=columns)
    assert code == 0
    lines = COLOURS.sub("", text).splitlines()
    assert len(lines) >= 2
    assert max(map(cell_len, lines)) <= columns, text


def test_the_id_and_the_beginning_of_the_title_are_always_there(shared: Desk, hostile: int) -> None:
    task = shared.add("Unmistakable title of a task", "x", "--priority", "0")
    for columns in (40, 80, 200):
        lines = COLOURS.sub("", on_terminal(shared, "list", columns=columns)[1]).splitlines()
        assert re.match(r"ID +", lines[0])
        assert any(re.match(rf"{task} .*Unmistakable ti", line) for line in lines), lines
        assert any(" ready" in line for line in lines)


def test_no_colour_where_nobody_wants_it(shared: Desk, hostile: int) -> None:
    coloured = on_terminal(shared, "list")[1]
    assert re.search(r"\x1b\[[0-9;]*3[0-7]m", coloured)
    plain = on_terminal(shared, "list", NO_COLOR="1")[1]
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain)
    age = re.compile(r"\b[0-9]+[smh] +")
    assert age.sub("", COLOURS.sub("", plain)) == age.sub("", COLOURS.sub("", coloured))
    dumb = on_terminal(shared, "list", columns=40, TERM="dumb")[1]
    assert "\x1b" not in dumb
    assert max(map(cell_len, dumb.splitlines())) <= 40
    assert "\x1b" not in shared.ok("list")
    assert "\x1b" not in shared.run("add").err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_does_not_speak_utf_8_gets_what_it_can(shared: Desk, hostile: int, encoding: str) -> None:
    more: dict[str, Any] = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    assert shared.json("show", str(hostile), **more)["task"]["title"] == HOSTILE
    for words in (["list"], ["show", str(hostile)], ["history"], ["logs", str(hostile)]):
        done = subprocess.run(
            [*COMMAND, *words],
            env={**shared.world.variables, "PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0"},
            cwd=shared.repo,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "\\U0001f389" in done.stdout.decode(encoding)
    shared.refused("add", "T", "--agent", "🎉", says="\\U0001f389", **more)


@pytest.mark.parametrize(
    "words", ["list", "list --json", "show 1", "logs 1", "history", "agents", "--help", "add -q T"]
)
def test_an_answer_that_cannot_be_written_is_a_failure_with_a_sentence(shared: Desk, hostile: int, words: str) -> None:
    script = f"{' '.join(COMMAND)} {words} > /dev/full"
    done = subprocess.run(
        ["sh", "-c", script], env=shared.world.variables, cwd=shared.repo, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("dispatchctl: "), done.stderr
    assert "No space left on device\n" in done.stderr.partition("hint")[0]


def test_a_command_without_streams_does_its_work(desk: Desk) -> None:
    for number, closed in enumerate((">&-", "2>&-", "<&-", "<&- >&- 2>&-"), 1):
        script = f"{' '.join(COMMAND)} add T -p 'exit 0' {closed}"
        code = subprocess.call(["sh", "-c", script], env=desk.world.variables, cwd=desk.repo)
        assert (code, len(desk.runtime.store.tasks())) == (0, number)
    done = subprocess.run(
        ["sh", "-c", f"{' '.join(COMMAND)} add - <&-"],
        env=desk.world.variables,
        cwd=desk.repo,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.partition("\n")[0]) == (2, "dispatchctl: the title is empty")
    script = f"{' '.join(COMMAND)} dispatch --max 1 <&- >&- 2>&-"
    assert subprocess.call(["sh", "-c", script], env=desk.world.variables, cwd=desk.repo) == 0
    desk.world.ended(desk.runtime, 1)
    assert desk.ok("show", "1", "--json").count('"status": "done"') == 1
