"""The documentation is true: what README.md says was typed is typed, and the reference names what there is."""

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from world import World, eventually

from dispatchctl.cli.app import ALIASES, COMMANDS, WITHOUT_JSON

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Typed:
    """A command of README.md, what it is to say, and its exit code."""

    command: str
    says: str = ""
    code: int = 0


def typed() -> Iterator[Typed]:
    """The commands of the blocks marked ```console run, in order. `# exit code N` ends a command that is to fail."""
    for block in re.findall(r"^```console run\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        for entry in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            code = re.search(r"# exit code (\d+)$", entry[0])
            yield Typed(entry[0], entry[1], int(code[1]) if code else 0)


def pattern(says: str) -> str:
    """What is to be said, as a regular expression: `…` is anything, alone on a line any lines; blanks and ages vary."""
    lines = []
    for line in says.splitlines():
        words = re.escape(" ".join(line.split())).replace("\\ ", " ").replace("…", ".*")
        lines.append(r"(?:.*\n)*?" if line == "…" else re.sub(r"\b\d+s\b", r"\\d+s", words) + r"\n")
    return "".join(lines)


def on_a_terminal(world: World, command: str, cwd: Path) -> tuple[int, str]:
    """The exit code of a command of the shell, and what it says on a terminal of 120 columns, without colours."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    shell = subprocess.Popen(
        ["sh", "-c", command],
        env=world.variables,
        cwd=cwd,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    said = b""
    while True:
        try:
            piece = os.read(master, 65_536)
        except OSError:  # EIO: nobody has the terminal open any more
            break
        said += piece
    os.close(master)
    text = COLOURS.sub("", said.decode()).replace("\r", "")
    return shell.wait(60), "".join(" ".join(line.split()) + "\n" for line in text.splitlines())


def test_what_the_readme_says_was_typed_says_what_the_readme_says(world: World) -> None:
    repo = world.repository()
    world.extra["GIT_PAGER"] = "cat"
    commands = list(typed())
    assert len(commands) > 20
    for each in commands:
        code, said = on_a_terminal(world, each.command, repo)
        assert code == each.code, f"{each.command}\n{said}"
        assert re.fullmatch(pattern(each.says), said), f"{each.command}\nis to say:\n{each.says}\nand said:\n{said}"


def test_no_document_names_a_command_that_is_not_there() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        blocks = re.findall(r"^```(?:sh|console)[^\n]*\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        for named in re.findall(r"^(?:\$ )?dispatchctl ((?!-)\S+)", "\n".join(blocks), re.MULTILINE):
            assert named in COMMANDS or named in ALIASES, f"{path}: dispatchctl {named}"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_has_every_command(command: str) -> None:
    assert f"\n### {command}\n" in (ROOT / "docs" / "reference" / "commands.md").read_text("utf-8")


def test_every_command_answers_with_the_members_that_the_reference_says(world: World) -> None:
    members = tomllib.loads((ROOT / "docs" / "reference" / "meanings.toml").read_text("utf-8"))["member_of"]
    repo = world.repository()
    asks = "dispatchctl block; read -r it; sleep 600"
    lines = f"""
        init|add Ask -p '{asks}'|edit 1 --priority 1|dispatch|list|show 1|history 1|runs 1|ready|heartbeat 1|send 1 hello
        wait 1|unblock 1|block 1 -m why|done 1|diff 1|merge 1 --keep|retry 1|dispatch 1|fail 1|cancel 1|rm 1
        add Draft --backlog|release 2|agents|config|service print|notify|reconcile|pause|unpause|doctor|prune|stats|demo
        add Look -p 'exit 0' --review|dispatch 3
        wait 3|reject 3 -m better|dispatch 3
        wait 3|approve 3
    """
    asked = set()
    for line in re.split(r"[|\n]", lines.strip()):
        command = line.split()[0]
        if line.startswith(("send", "heartbeat", "wait")):
            eventually(lambda: world.cli("show", "1", "--json", cwd=repo).json["task"]["status"] == "blocked")
        done = subprocess.run(
            ["sh", "-c", f"dispatchctl {line} --json"], env=world.variables, cwd=repo, capture_output=True, check=False
        )
        answer = set(json.loads(done.stdout)) - {"schema_version"}
        assert answer, line
        if answer != {"error"}:
            asked.add(command)
            assert all(command in members[member] for member in answer), (line, answer)
    assert asked == set(COMMANDS) - WITHOUT_JSON


def docs(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What scripts/docs says."""
    command = [sys.executable, ROOT / "scripts" / "docs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_stale_page_of_the_reference_is_found_and_named(tmp_path: Path) -> None:
    assert docs("--into", tmp_path).returncode == 0
    (tmp_path / "json.md").write_text("old")
    (tmp_path / "gone.md").write_text("of a page that is no more")
    checked = docs("--check", "--into", tmp_path)
    assert checked.returncode == 1
    stale = [line for line in checked.stdout.splitlines() if "stale" in line]
    assert [line.split(":")[0] for line in stale] == [str(tmp_path / "json.md"), str(tmp_path / "gone.md")]
    assert "scripts/docs" in stale[0]


def test_the_picture_is_drawn_from_what_is_really_said_and_leaves_nothing_behind(tmp_path: Path) -> None:
    drawn = tmp_path / "demo.svg"
    places = set(Path("/tmp").glob("dctl-*"))
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "record", drawn], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Pick&#160;a&#160;colour" in drawn.read_text("utf-8").replace("\xa0", "&#160;")
    assert not [place for place in set(Path("/tmp").glob("dctl-*")) - places if (place / "home" / "shop").exists()]
