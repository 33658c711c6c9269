"""init, agents, config and demo: the first things that a user types."""

import json
import os
import re
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cli.desk import TASK_KEYS, Desk, path_without, program, running
from world import World, eventually

from dispatchctl.config import SETTINGS

AGENT_KEYS = {"name", "program", "found", "interactive", "prompt", "argv", "source", "note"}
SETTING_KEYS = {"key", "value", "source", "doc", "variable"}


def test_init_makes_settings_and_database_once(desk: Desk) -> None:
    config, database = desk.world.home / ".config/dispatchctl/config.toml", desk.runtime.database
    said = desk.run("init")
    assert (said.code, said.err) == (0, "")
    assert said.out == f"made {config}\nmade {database}\n"
    text = config.read_text()
    assert tomllib.loads(text) == {}
    assert tomllib.loads(re.sub(r"^# ", "", text, flags=re.MULTILINE))["dispatch"]["max_running"] == 8
    config.write_text("[task]\npriority = 3\n")
    task = desk.add("T")
    again = desk.run("init")
    assert (again.code, again.out) == (0, "")
    assert again.err == "".join(f"{path} is there already and was not changed\n" for path in (config, database))
    assert config.read_text() == "[task]\npriority = 3\n"
    assert desk.task(task).priority == 3
    assert desk.json("init", "-q") == {"made": []}


def test_init_makes_what_options_and_variables_name(desk: Desk, tmp_path: Path) -> None:
    answer = desk.json("init", "--db", str(tmp_path / "a" / "b.db"), "--config", str(tmp_path / "c" / "d.toml"))
    assert answer == {"made": [str(tmp_path / "c" / "d.toml"), str(tmp_path / "a" / "b.db")]}
    more: dict[str, Any] = {"DISPATCHCTL_DB": str(tmp_path / "e.db"), "DISPATCHCTL_CONFIG": str(tmp_path / "f.toml")}
    assert desk.json("init", **more)["made"] == [str(tmp_path / "f.toml"), str(tmp_path / "e.db")]
    (tmp_path / "file").write_text("x")
    desk.refused(
        "init", "--config", str(tmp_path / "file" / "g.toml"), says=f"cannot be written to {tmp_path}/file/g.toml"
    )
    desk.refused("init", "--config", str(tmp_path), says=f"cannot be written to {tmp_path}: File exists")
    new = str(tmp_path / "new.toml")
    desk.refused("init", "--config", new, "--db", str(tmp_path), code=69, says="is a directory, not a database")
    assert not os.path.exists(new)


def test_agents_says_which_programs_are_found(desk: Desk) -> None:
    script = program(desk.world.root / "bin" / "mine", "#!/bin/sh\n")
    config = desk.world.home / ".config/dispatchctl/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[agents.mine]\nargv = ["mine", "{prompt_file}"]\nnote = "of my own"\n')
    path = f"{script.parent}{os.pathsep}{desk.world.variables['PATH']}"
    agents = {agent["name"]: agent for agent in desk.json("agents", PATH=path)["agents"]}
    assert {frozenset(agent) for agent in agents.values()} == {frozenset(AGENT_KEYS)}
    assert agents["mine"] == {
        "name": "mine",
        "program": str(script),
        "found": True,
        "interactive": False,
        "prompt": "file",
        "argv": ["mine", "{prompt_file}"],
        "source": str(config),
        "note": "of my own",
    }
    assert agents["shell"]["found"] is True
    assert desk.json("agents")["agents"][list(agents).index("mine")]["program"] is None
    rows = [line.split("\t") for line in desk.ok("agents").splitlines()]
    assert [row[0] for row in rows] == sorted(agents)
    assert next(row for row in rows if row[0] == "mine")[1] == "not found: mine"


def test_config_says_each_value_and_where_it_came_from(desk: Desk) -> None:
    config = desk.world.home / ".config/dispatchctl/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[task]\ntimeout = "2h"\nreview = true\n[hooks]\npost_create = [["npm", "ci"]]\n')
    (desk.repo / ".dispatchctl.toml").write_text("[task]\npriority = 1\nreview = false\n")
    found = {setting["key"]: setting for setting in desk.json("config")["settings"]}
    assert list(found) == list(SETTINGS)
    assert {frozenset(setting) for setting in found.values()} == {frozenset(SETTING_KEYS)}
    values = {key: (found[key]["value"], found[key]["source"]) for key in found}
    assert values["dispatch.max_running"] == (8, "default")
    assert values["dispatch.kill_grace"] == ("2s", "DISPATCHCTL_DISPATCH__KILL_GRACE")
    assert values["task.timeout"] == ("2h", str(config))
    assert values["task.review"] == (True, str(config))
    assert values["hooks.post_create"] == ([["npm", "ci"]], str(config))
    assert found["task.agent"]["variable"] == "DISPATCHCTL_TASK__AGENT"
    [here] = desk.json("config", "task.review", "--repo", ".")["settings"]
    assert (here["value"], here["source"]) == (False, str(desk.repo / ".dispatchctl.toml"))
    section = [line.split("\t")[:3] for line in desk.ok("config", "task", "--repo", str(desk.repo)).splitlines()]
    assert ["task.priority", "1", str(desk.repo / ".dispatchctl.toml")] in section
    assert all(row[0].startswith("task.") for row in section)
    assert desk.ok("config", "task.timeout").split("\t")[1] == '"2h"'


def everything_of(world: World) -> tuple[list[str], list[int]]:
    """What a demo would leave: files in the temporary directory, and processes whose HOME is in it."""
    mark = f"HOME={world.root}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                variables = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(each.startswith(mark) for each in variables):
                found.append(int(entry))
    return sorted(path.name for path in world.root.iterdir()), found


def test_demo_does_the_main_job_and_leaves_nothing(desk: Desk) -> None:
    before = everything_of(desk.world)
    said = desk.run("demo", within=120)
    assert said.code == 0, said
    rows = [line.split("\t") for line in said.out.splitlines()[:3]]
    assert [(row[0], row[2]) for row in rows] == [("1", "done"), ("2", "done"), ("3", "done")]
    assert "Say hello" in said.out
    assert said.err.splitlines()[-1] == "the demo's repository, database and tmux server are gone again"
    eventually(lambda: everything_of(desk.world) == before, what="the demo is gone")
    assert not desk.runtime.database.exists()


def test_demo_in_json_and_quiet(desk: Desk) -> None:
    said = desk.run("demo", "--json", "-q", within=120)
    assert (said.code, said.err) == (0, "")
    tasks = said.json["tasks"]
    assert {frozenset(task) for task in tasks} == {frozenset(TASK_KEYS)}
    assert [task["status"] for task in tasks] == ["done"] * 3


def test_demo_keeps_everything_if_it_is_asked_to(desk: Desk) -> None:
    said = desk.run("demo", "--keep", "--db", "/nonexistent/never-used", within=120)
    assert said.code == 0, said
    [socket] = desk.world.root.glob("dispatchctl-demo-*/tmux")
    try:
        kept = re.search(r"dispatchctl list (--db [^ ;]+)", said.err)
        assert kept, said.err
        tasks = json.loads(desk.ok("list", "--json", *kept[1].split()))["tasks"]
        assert [(task["status"], task["run"]["socket"]) for task in tasks] == [("done", str(socket))] * 3
        assert os.path.isdir(tasks[0]["run"]["worktree"])
        panes = subprocess.run(
            ["tmux", "-S", str(socket), "list-panes", "-a", "-F", "#{pane_dead}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert panes.stdout.split() == ["1"] * 3
    finally:
        subprocess.run(["tmux", "-S", str(socket), "kill-server"], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(desk: Desk, number: signal.Signals) -> None:
    before = everything_of(desk.world)
    with running(desk, "demo", "--json") as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if "runs in window" in line:
                break
        demo.send_signal(number)
        demo.stderr.read()
        assert demo.wait(60) == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    eventually(lambda: everything_of(desk.world) == before, what="the demo is gone")


def test_demo_without_tmux_or_git(desk: Desk) -> None:
    for missing in ("tmux", "git"):
        path = path_without(desk.world, missing)
        before = everything_of(desk.world)
        said = desk.run("demo", PATH=path, within=120)
        assert said.code == 69
        assert f"dispatchctl: {missing} is not installed" in said.err
        assert everything_of(desk.world) == before
