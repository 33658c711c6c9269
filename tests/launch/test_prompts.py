"""Prompts and titles are data: they arrive byte for byte, and no shell, tmux, git or terminal takes them for more."""

import stat
import string
from pathlib import Path

import pytest
from launch.stage import add, configure, lived_in, modes, program, runtime_with
from world import World

from dispatchctl import names
from dispatchctl.dispatch import dispatch
from dispatchctl.runtime import now
from dispatchctl.task import Status

CANARY = "#(touch {canary}) $(touch {canary}) `touch {canary}` ; touch {canary} | touch {canary} & touch {canary}"
PROMPTS = {
    "printable": string.printable.replace("\r", "").replace("\x0b", "").replace("\x0c", ""),
    "control": "\r\x0b\x0c\x1b]0;title\x07\x1b[31m\x7f\x01",
    "emoji": "Größe 🚀👩‍👩‍👧 中文 \u202eright to left\u202c \ufeff \u2028 \x85",
    "lines": "\n\nfirst\n\n\nlast  \n\t\n\n",
    "spaces": "  before and after  ",
    "canary": CANARY,
    "canary in lines": CANARY.replace(" ", "\n"),
    "option": "-rf --help",
    "dashes": "--",
    "plus": "+x",
    "semicolon": "echo a; echo b;",
    "only semicolon": ";",
    "format": "#{pid} #S #[fg=red] %1 #{l:x} ${HOME} ~ * ?",
    "quotes": "'\"\\'\"'\\\\",
    "equals": "argv=x\ntoken=00000000",
    "long": "0123456789abcdef" * 65_536,
    "nearly too long": "x" * 119_999,
    "one": "x",
}
WAYS = {
    "argument": (["{program}", "--", "{prompt}"], 'printf %s "$2" > "$HOME/got-$DISPATCHCTL_TASK"'),
    "stdin": (["{program}"], 'cat > "$HOME/got-$DISPATCHCTL_TASK"'),
    "file": (["{program}", "{prompt_file}"], 'cat "$1" > "$HOME/got-$DISPATCHCTL_TASK"'),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_prompt_arrives_byte_for_byte(world: World, way: str) -> None:
    argv, script = WAYS[way]
    copy = str(program(world.root / "copy", f"#!/bin/sh\n{script}\n"))
    configure(
        world,
        agents__copy={
            "argv": [element.replace("{program}", copy) for element in argv],
            "prompt": way,
            "expects_changes": False,
        },
    )
    runtime, repo, canary = world.runtime(), lived_in(world), world.root / "CANARY"
    prompts = {name: text.replace("{canary}", str(canary)) for name, text in PROMPTS.items()}
    tasks = {
        name: add(runtime, repo, text, agent="copy", title=f"{text[:200]} {name}".replace("\0", ""))
        for name, text in prompts.items()
    }
    done = dispatch(runtime, max_running=len(tasks))
    assert [failure.error.message for failure in done.failed] == []
    for name, task in tasks.items():
        ended = world.ended(runtime, task.id)
        assert ended.status is Status.DONE, ended.error
        assert ended.run is not None
        got = (world.home / f"got-{task.id}").read_bytes().decode()
        if way == "argument" and name == "long":
            assert got == f"Read the task in {ended.run.run_dir}/prompt and do what it says."
            got = (Path(ended.run.run_dir) / "prompt").read_bytes().decode()
        assert got == prompts[name], name
    listed = world.tmux("list-windows", "-a", "-F", "#{window_name}").splitlines()
    assert sorted(listed) == sorted(names.leaf(task.id, task.title, 1) for task in tasks.values())
    assert not canary.exists()


@pytest.mark.parametrize("name", ["printable", "emoji", "lines", "long", "quotes", "canary"])
def test_data_in_a_shell_prompt_stays_data(world: World, name: str) -> None:
    runtime = world.runtime()
    task = add(runtime, lived_in(world), f"cat > $HOME/got <<'END-OF-TEXT'\n{PROMPTS[name]}\nEND-OF-TEXT\n")
    assert dispatch(runtime).failed == []
    world.ended(runtime, task.id)
    assert (world.home / "got").read_text() == f"{PROMPTS[name]}\n"


@pytest.mark.parametrize("beginning", ["-rf", "+x", "--", "-c", ""])
def test_a_shell_prompt_is_a_program_whatever_it_begins_with(world: World, beginning: str) -> None:
    runtime = world.runtime()
    task = add(runtime, lived_in(world), f'{beginning}\nprintf %s "$0 $#" > $HOME/got')
    assert dispatch(runtime).failed == []
    assert world.ended(runtime, task.id).status is Status.DONE
    assert (world.home / "got").read_text() == "sh 0"


def test_what_a_human_says_comes_after_the_prompt_and_never_into_a_program(world: World) -> None:
    copy = str(program(world.root / "copy", '#!/bin/sh\ncat "$1" > "$HOME/got-$DISPATCHCTL_TASK"\n'))
    configure(world, agents__copy={"argv": [copy, "{prompt_file}"], "expects_changes": False})
    runtime, repo = world.runtime(), lived_in(world)
    copied = add(runtime, repo, "write it", agent="copy")
    script = "cp $DISPATCHCTL_PROMPT_FILE $HOME/got-$DISPATCHCTL_TASK"
    scripted = add(runtime, repo, script)
    note = f"touch {world.root}/CANARY; try 'harder'"
    for again in range(2):
        dispatch(runtime)
        for task in (copied, scripted):
            assert world.ended(runtime, task.id).status is Status.DONE
            if not again:
                runtime.store.retry(task.id, note=note, fresh=False, recoveries=3, at=now())
    said = f"\n\n---\nAbout the last try, a human says:\n\n{note}\n"
    assert (world.home / f"got-{copied.id}").read_text() == f"write it{said}"
    assert (world.home / f"got-{scripted.id}").read_text() == script
    assert not (world.root / "CANARY").exists()


def test_what_a_run_leaves_is_private_to_the_user(world: World) -> None:
    configure(world, hooks={"post_create": [["echo", "said"]]})
    runtime = runtime_with(world)
    task = add(runtime, lived_in(world), "echo hello; read wait")
    dispatch(runtime)
    run = world.started(runtime, task.id)
    found = modes(Path(run.run_dir))
    assert found.pop(run.run_dir) == 0o700
    assert {Path(path).name for path in found} >= {
        "spec",
        "prompt",
        "control",
        "output.log",
        "setup.log",
        "exit.json.new",
    }
    assert set(found.values()) == {0o600}
    assert stat.S_ISFIFO((Path(run.run_dir) / "control").lstat().st_mode)
    assert stat.S_IMODE(runtime.database.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "title", ["-rf", "--", "", " ", "..", "../../etc/passwd", "a/b", "HEAD", "x.lock", "@{-1}", "a..b", "🚀", "x" * 500]
)
def test_every_title_makes_a_branch_and_a_directory_that_git_accepts(world: World, title: str) -> None:
    runtime, repo = world.runtime(), lived_in(world)
    task = add(runtime, repo, title=title or "?")
    assert [failure.error.message for failure in dispatch(runtime).failed] == []
    done = world.ended(runtime, task.id)
    assert done.run is not None
    assert done.status is Status.DONE
    assert Path(done.run.worktree).parent.parent == runtime.worktrees_root
    assert world.git(repo, "branch", "--list", done.run.branch)
