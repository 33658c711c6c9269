"""The units and cron lines that are written, and what is done with them: a fake systemctl says what it was told."""

import os
import shlex
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli.desk import path_without, program
from hypothesis import given
from hypothesis import strategies as some
from world import World

from dispatchctl import machine, service
from dispatchctl.cli.context import Cli, Globals
from dispatchctl.cli.service import service as command_line
from dispatchctl.config import Environment
from dispatchctl.errors import Unavailable, UsageError
from dispatchctl.service import RECONCILE, TIMER, UNITS, WATCH, Plan, State, installing
from dispatchctl.service.units import SHELL, command, word, words_of

SYSTEMCTL = """
echo "$*" >> "$HOME/told"
[ "$1 $2" = "--user --no-pager" ] || exit 9
shift 2; verb=$1; shift
[ -e "$HOME/no-bus" ] && { echo 'Failed to connect to bus: No medium found' >&2; exit 1; }
[ -e "$HOME/fails-$verb" ] && { echo "Job for dispatchctl.service failed." >&2; exit 1; }
mkdir -p "$HOME/up" "$HOME/read"
case $verb in
show)
    shift
    for unit; do
        at="$HOME/.config/systemd/user/$unit"
        echo "Id=$unit"
        cmp -s "$at" "$HOME/read/$unit" || [ ! -e "$at" ] && echo NeedDaemonReload=no || echo NeedDaemonReload=yes
        [ -e "$HOME/up/$unit" ] && printf 'UnitFileState=enabled\\nActiveState=active\\n\\n' \\
            || printf 'UnitFileState=disabled\\nActiveState=inactive\\n\\n'
    done;;
daemon-reload) rm -f "$HOME"/read/*; cp "$HOME"/.config/systemd/user/*.* "$HOME/read/" 2>/dev/null;;
enable) shift; for unit; do touch "$HOME/up/$unit"; done;;
disable) shift; for unit; do rm "$HOME/up/$unit"; done;;
esac
exit 0
"""
START = "enable --now dispatchctl.service dispatchctl-reconcile.timer"
STOP = "disable --now dispatchctl.service dispatchctl-reconcile.timer"
SHOW = f"show --property=Id,NeedDaemonReload,UnitFileState,ActiveState {' '.join(UNITS)}"
HARD = [
    "a b",
    "%h",
    'x"y',
    "it's",
    "back\\slash",
    "$HOME",
    "${PATH}",
    "ü",
    ";",
    "#x",
    "-x",
    "%%",
    "\\x41",
    "{x}",
    "a=b",
    "",
]


@pytest.fixture
def systemd(world: World) -> World:
    """A world with a database and a systemctl that writes down what it is told."""
    program(world.root / "fake" / "systemctl", f"#!/bin/sh{SYSTEMCTL}")
    world.extra["PATH"] = f"{world.root}/fake:{world.variables['PATH']}"
    world.runtime().make_store()
    return world


def told(world: World) -> list[str]:
    """What systemctl was told since the last look."""
    log = world.home / "told"
    lines = log.read_text().splitlines() if log.exists() else []
    log.write_text("")
    return [line.removeprefix("--user --no-pager ") for line in lines]


def place(world: World) -> Path:
    return world.home / ".config" / "systemd" / "user"


def files(world: World) -> dict[str, str]:
    """The units that are there."""
    return {path.name: path.read_text() for path in place(world).iterdir()} if place(world).exists() else {}


def environment(world: World, **more: str) -> Environment:
    return Environment.read({**world.variables, **more})


# -- words ---------------------------------------------------------------------------------------------------------------


def as_a_shell_reads_it(line: str) -> list[str]:
    """In double quotes a shell reads the same but for `%%`; another's reading, to check ours against."""
    assert "%" not in line.replace("%%", ""), "a specifier"
    return [each.replace("%%", "%") for each in shlex.split(line.removeprefix(":"))]


printable = some.text(
    some.sampled_from("%\"'\\$ ;#{}:=-@xn") | some.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp"))
)


@given(some.lists(printable, min_size=1))
def test_every_word_is_read_as_it_was_meant(words: list[str]) -> None:
    words = ["/usr/bin/x", *words]
    assert as_a_shell_reads_it(command(words)) == words
    assert words_of(command(words)) == words


@given(some.binary())
def test_every_path_that_can_be_is_written_in_ascii_and_read_again(path: bytes) -> None:
    name = os.fsdecode(path)
    assert words_of(word(name)) == [name]
    assert "\n" not in word(name)
    word(name).encode("utf-8")


def test_a_dollar_is_no_variable() -> None:
    assert command(["/x", "$HOME", "a"]) == ':/x "$HOME" a'
    assert command(["/x", "HOME"]) == "/x HOME"


@pytest.mark.parametrize("path", ['/a"b', "/it's", "/back\\slash", "/tab\t"])
def test_a_program_that_systemd_refuses_to_name_is_started_by_a_shell(path: str) -> None:
    """systemd 252: "Executable name contains special characters"."""
    assert words_of(command([path, "watch", "$x"])) == [*SHELL, path, "watch", "$x"]
    unit = service.units(Plan((path,)))[WATCH]
    assert service.executed(unit) == [path, "watch"]


@pytest.mark.parametrize("path", ["/a b/x", "/100%/x", "/$HOME/x", "/ü/x"])
def test_any_other_program_is_started_by_systemd(path: str) -> None:
    assert words_of(command([path, "watch"])) == [path, "watch"]


# -- units ---------------------------------------------------------------------------------------------------------------


def settings_of(text: str) -> dict[str, list[str]]:
    """A unit's lines by key, as another parser reads them."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_units_say_what_they_should() -> None:
    plan = Plan(
        ("/bin/dispatchctl",), ("--db", "/my data/x.db"), ("--label", "a b", "--max-running", "3"), {"PATH": "/a b:/%"}
    )
    units = service.units(plan)
    assert tuple(units) == UNITS
    watch, once, timer = (settings_of(text) for text in units.values())
    expected = ["/bin/dispatchctl", "watch", "--db", "/my data/x.db", "--label", "a b", "--max-running", "3"]
    assert as_a_shell_reads_it(watch["ExecStart"][0]) == expected
    assert as_a_shell_reads_it(watch["Environment"][0]) == ["PATH=/a b:/%"]
    for key, value in {
        "Type": "notify",
        "NotifyAccess": "main",
        "ExecReload": "kill -HUP $MAINPID",
        "Restart": "on-failure",
        "SuccessExitStatus": "75",
        "RestartPreventExitStatus": "75",
        "KillMode": "process",
        "WantedBy": "default.target",
    }.items():
        assert watch[key] == [value]
    assert int(watch["WatchdogSec"][0]) > 0
    assert int(watch["TimeoutStopSec"][0]) > 0
    assert as_a_shell_reads_it(once["ExecStart"][0]) == [
        "/bin/dispatchctl",
        "reconcile",
        "--quiet",
        "--db",
        "/my data/x.db",
    ]
    assert (once["Type"], once["Environment"]) == (["oneshot"], watch["Environment"])
    assert "WantedBy" not in once, "only the timer starts it"
    assert (timer["WantedBy"], timer["Persistent"]) == (["timers.target"], ["true"])
    for text in units.values():
        assert service.is_ours(text)
        assert not service.is_ours(text.replace("75", "76").replace("0/5", "0/6").replace("oneshot", "simple"))


@pytest.mark.parametrize("name", [WATCH, RECONCILE, TIMER])
def test_an_installed_unit_is_written_again_from_itself(name: str) -> None:
    plan = Plan(
        (HARD[0].join("/x"), "-P", "-m", "dispatchctl"),
        ("--db", *HARD),
        ("--label", "watch"),
        {"PATH": "/a b", "X": "%"},
    )
    text = service.units(plan)[name]
    assert service.as_of_now(name, text, plan.program) == text
    moved = service.as_of_now(name, text, ("/other",))
    assert (moved == text) is (name == TIMER)
    assert service.as_of_now(name, moved, plan.program) == text


def test_the_service_finds_the_same_database_and_settings(world: World) -> None:
    assert service.plan(environment(world)).places == ()
    data, config = f"{world.root}/data", f"{world.root}/config"
    moved = service.plan(environment(world, XDG_DATA_HOME=data, XDG_CONFIG_HOME=config))
    real = os.path.realpath(data)
    assert moved.places == (
        "--db",
        f"{real}/dispatchctl/dispatchctl.db",
        "--config",
        f"{config}/dispatchctl/config.toml",
    )
    named = service.plan(environment(world, DISPATCHCTL_DB="~/x.db", DISPATCHCTL_CONFIG="/c.toml"))
    assert named.places == ("--db", os.path.realpath(world.home / "x.db"), "--config", "/c.toml")
    given = service.plan(environment(world), db="rel.db", config="rel.toml")
    assert given.places == ("--db", os.path.realpath("rel.db"), "--config", os.path.abspath("rel.toml"))


def test_the_service_has_todays_path_without_what_means_another_place_there(world: World) -> None:
    path = f"/v/bin{os.pathsep}.{os.pathsep}{os.pathsep}/usr/bin{os.pathsep}rel/bin{os.pathsep}/usr/bin{os.pathsep}/o p"
    plan = service.plan(environment(world, PATH=path, VIRTUAL_ENV="/v", TMUX_TMPDIR="/t", SECRET="x"))
    assert plan.variables == {"PATH": "/usr/bin:/o p", "TMUX_TMPDIR": "/t"}


def test_the_program_is_the_one_that_runs_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = program(tmp_path / "v2" / "dispatchctl", "#!/bin/sh\n")
    link = tmp_path / "bin" / "dispatchctl"
    link.parent.mkdir()
    link.symlink_to(real)
    python = program(tmp_path / "env" / "python", "")
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "argv", [str(link)])
    assert service.own_program() == (str(link),), "the link leads to the next version too"
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "dispatchctl" / "__main__.py")])
    assert service.own_program() == (str(python), "-P", "-m", "dispatchctl")
    script = program(python.parent / "dispatchctl", "")
    assert service.own_program() == (str(script),)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bin/dispatchctl"])
    assert service.own_program() == (str(link),)


# -- install -------------------------------------------------------------------------------------------------------------


def test_install_writes_starts_and_does_nothing_the_second_time(systemd: World) -> None:
    said = systemd.cli("service", "install")
    assert said.code == 0, said.err
    assert told(systemd) == [SHOW, "daemon-reload", START]
    written = files(systemd)
    assert sorted(written) == sorted(UNITS)
    for name, text in written.items():
        assert stat.S_IMODE((place(systemd) / name).stat().st_mode) == 0o644
        assert f"# wrote {place(systemd) / name}\n{text}" in said.out
    expected = [os.path.join(os.path.dirname(sys.executable), "dispatchctl"), "watch"]
    assert service.executed(written[WATCH]) == expected
    assert START in said.err
    assert "DISPATCHCTL_TASK__AGENT" in said.err, "the service does not know it"
    at = {path: path.stat().st_mtime_ns for path in place(systemd).iterdir()}
    again = systemd.cli("service", "install")
    assert (again.code, again.out) == (0, "")
    assert "nothing was changed" in again.err
    assert told(systemd) == [SHOW]
    assert {path: path.stat().st_mtime_ns for path in place(systemd).iterdir()} == at


def test_a_service_that_runs_is_restarted_with_what_has_changed(systemd: World) -> None:
    systemd.cli("service", "install")
    told(systemd)
    said = systemd.cli("service", "install", "--max-running", "3", "--label", "a,b", "--json").json["service"]
    assert told(systemd) == [SHOW, "daemon-reload", "restart dispatchctl.service"]
    assert [each["state"] for each in said["units"]] == ["written", "unchanged", "unchanged"]
    assert said["told"] == ["systemctl --user daemon-reload", "systemctl --user restart dispatchctl.service"]
    assert service.executed(files(systemd)[WATCH])[1:] == [
        "watch",
        "--label",
        "a",
        "--label",
        "b",
        "--max-running",
        "3",
    ]


def test_what_was_killed_half_way_is_finished_by_the_same_command(systemd: World) -> None:
    assert systemd.cli("service", "install", "--no-start").code == 0
    assert told(systemd) == [SHOW, "daemon-reload"]
    for read in (systemd.home / "read").iterdir():
        read.unlink()  # as if systemd had not been told
    assert systemd.cli("service", "install").code == 0
    assert told(systemd) == [SHOW, "daemon-reload", START]
    (systemd.home / "up" / TIMER).unlink()
    assert systemd.cli("service", "install").code == 0
    assert told(systemd) == [SHOW, f"enable --now {TIMER}"]


def test_a_start_that_fails_is_said_and_can_be_tried_again(systemd: World) -> None:
    (systemd.home / "fails-enable").touch()
    said = systemd.cli("service", "install")
    assert said.code == 69
    assert f"`systemctl --user {START}` failed: Job for dispatchctl.service failed." in said.err
    assert "journalctl --user -u dispatchctl.service" in said.err
    assert "crontab" not in said.err + said.out
    (systemd.home / "fails-enable").unlink()
    told(systemd)
    assert systemd.cli("service", "install").code == 0
    assert told(systemd) == [SHOW, START]


def foreign(path: Path) -> None:
    path.write_text("[Service]\nExecStart=/mine\n")


def changed(path: Path) -> None:
    text = service.units(Plan(("/x",)))[WATCH]
    path.write_text(text.replace("WatchdogSec=120", "WatchdogSec=240"))


def masked(path: Path) -> None:
    path.symlink_to("/dev/null")


def broken(path: Path) -> None:
    path.symlink_to("/nonexistent/unit")


@pytest.mark.parametrize("make", [foreign, changed, masked, broken])
def test_a_unit_that_is_somebodys_own_is_kept_unless_forced(systemd: World, make: Any) -> None:
    place(systemd).mkdir(parents=True)
    path = place(systemd) / WATCH
    make(path)
    link, text = path.is_symlink(), path.read_text() if path.exists() else ""
    said = systemd.cli("service", "install")
    assert said.code == 4
    assert str(path) in said.err
    assert ("changed since" if make is changed else "not written by dispatchctl") in said.err
    assert told(systemd) == []
    assert os.listdir(place(systemd)) == [WATCH]
    assert (path.is_symlink(), path.read_text() if path.exists() else "") == (link, text)
    removed = systemd.cli("service", "uninstall")
    assert (removed.code, removed.out, told(systemd)) == (4, "", [])
    assert "was kept" in removed.err
    assert os.path.lexists(path)
    assert systemd.cli("service", "install", "--force").code == 0
    assert not path.is_symlink()
    assert service.is_ours(path.read_text())
    assert told(systemd) == [SHOW, "daemon-reload", START]


def test_without_a_systemd_nothing_is_changed_and_cron_is_named(systemd: World, world: World) -> None:
    (systemd.home / "no-bus").touch()
    for path in (None, path_without(world, "systemctl")):
        if path is not None:
            systemd.extra["PATH"] = path
        why = "there is no systemctl on PATH" if path else "Failed to connect to bus: No medium found"
        said = systemd.cli("service", "install")
        assert (said.code, files(systemd)) == (69, {})
        assert why in said.err
        assert "hint: dispatchctl service print --cron" in said.err
        assert said.out == systemd.cli("service", "print", "--cron").out
        assert systemd.cli("service", "install", "--json").json["error"]["exit_code"] == 69
        told(systemd)


def test_a_systemctl_that_hangs_is_not_waited_for(systemd: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "ANSWER_S", 0.3)
    program(systemd.root / "fake" / "systemctl", "#!/bin/sh\nexec sleep 600\n")
    with pytest.raises(Unavailable, match=r"did not answer within 0\.3 s"):
        service.install(environment(systemd), service.units(Plan(("/x",))))
    assert files(systemd) == {}


def test_a_service_without_a_database_is_not_started(world: World) -> None:
    program(world.root / "fake" / "systemctl", f"#!/bin/sh{SYSTEMCTL}")
    world.extra["PATH"] = f"{world.root}/fake:{world.variables['PATH']}"
    said = world.cli("service", "install")
    assert (said.code, files(world), told(world)) == (1, {}, [])
    assert "dispatchctl init" in said.err
    assert world.cli("service", "install", "--no-start").code == 0
    assert told(world) == [SHOW, "daemon-reload"]


def test_a_directory_that_cannot_be_written_is_said(systemd: World) -> None:
    place(systemd).parent.mkdir(parents=True)
    place(systemd).write_text("in the way")
    said = systemd.cli("service", "install")
    assert said.code == 1
    assert str(place(systemd)) in said.err
    assert "hint: " in said.err


def test_what_ends_at_logout_is_said(
    systemd: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pwd

    monkeypatch.setattr(machine, "LINGERING", str(tmp_path))
    cli = Cli(Globals(quiet=True))
    cli.environment = environment(systemd)
    command_line(cli, "install")
    assert "loginctl enable-linger" in capsys.readouterr().err
    (tmp_path / pwd.getpwuid(os.getuid()).pw_name).touch()
    command_line(cli, "install")
    assert capsys.readouterr().err == ""
    assert machine.lingers(0x7FFF_FFF0) is None


# -- uninstall -----------------------------------------------------------------------------------------------------------


def test_uninstall_removes_what_is_ours_and_says_that_agents_go_on(systemd: World) -> None:
    systemd.cli("service", "install")
    (place(systemd) / "mine.service").write_text("mine")
    told(systemd)
    said = systemd.cli("service", "uninstall")
    assert (said.code, list(files(systemd))) == (0, ["mine.service"])
    assert said.out == "".join(f"removed {place(systemd) / name}\n" for name in UNITS)
    assert "agents that run go on" in said.err
    assert told(systemd) == [SHOW, STOP, "daemon-reload"]
    again = systemd.cli("service", "uninstall", "--json")
    assert again.json["service"] == {"units": [], "told": [], "crontab": None}
    assert (again.code, told(systemd)) == (0, [])
    assert "there is no service" in systemd.cli("service", "uninstall").err


def test_uninstall_keeps_what_was_changed_and_removes_the_rest(systemd: World) -> None:
    systemd.cli("service", "install")
    path = place(systemd) / WATCH
    path.write_text(path.read_text() + "Nice=5\n")
    told(systemd)
    said = systemd.cli("service", "uninstall", "--json")
    assert (said.code, list(files(systemd))) == (4, [WATCH])
    assert {Path(each["path"]).name: each["state"] for each in said.json["service"]["units"]} == {
        WATCH: "kept",
        RECONCILE: "removed",
        TIMER: "removed",
    }
    assert told(systemd) == [SHOW, f"disable --now {TIMER}", "daemon-reload"]
    assert systemd.cli("service", "uninstall", "--force").code == 0
    assert files(systemd) == {}


@pytest.mark.parametrize("obstacle", ["no-bus", "fails-disable"])
def test_what_systemd_does_not_stop_is_not_removed(systemd: World, obstacle: str) -> None:
    systemd.cli("service", "install")
    before = files(systemd)
    (systemd.home / obstacle).touch()
    assert systemd.cli("service", "uninstall").code == 69
    assert files(systemd) == before


# -- print, cron and wrong words -----------------------------------------------------------------------------------------


def test_print_shows_what_install_would_write(systemd: World) -> None:
    said = systemd.cli("service", "print", "--max-running", "2").out
    printed = systemd.cli("service", "print", "--max-running", "2", "--json").json["service"]
    assert (files(systemd), told(systemd)) == ({}, [])
    systemd.cli("service", "install", "--max-running", "2")
    written = {str(place(systemd) / name): text for name, text in files(systemd).items()}
    assert {each["path"]: each["text"] for each in printed["units"]} == written
    assert said == "\n".join(f"# {each['path']}\n{each['text']}" for each in printed["units"])
    assert {each["state"] for each in printed["units"]} == {State.PRINTED}


def test_the_lines_for_cron_are_read_as_they_were_meant(systemd: World) -> None:
    odd = systemd.root / "o dd%'s"
    odd.mkdir()
    words = ("service", "print", "--cron", "--db", str(odd / "x.db"), "--label", "50%")
    lines = systemd.cli(*words).out.splitlines()
    assert lines[0] == f"PATH={(service.plan(environment(systemd)).variables or {})['PATH']}"
    [every] = [line for line in lines if line.startswith("*/5 * * * * ")]
    assert as_cron_reads_it(every)[1:] == ["reconcile", "--quiet", "--db", str(odd / "x.db")]
    [dispatch] = [line.removeprefix("# ") for line in lines if line.startswith("# * * * * * ")]
    expected = ["dispatch", "--quiet", "--db", str(odd / "x.db"), "--label", "50%", ">/dev/null"]
    assert as_cron_reads_it(dispatch)[1:] == expected
    assert systemd.cli(*words, "--json").json["service"] == {
        "units": [],
        "told": [],
        "crontab": "\n".join(lines) + "\n",
    }
    with pytest.raises(UsageError, match="line break"):
        service.crontab(Plan(("/x\ny",)))


def as_cron_reads_it(line: str) -> Sequence[str]:
    """The words that the shell gets: cron ends a command at a `%` without a backslash."""
    said = line.split(None, 5)[5]
    assert "%" not in said.replace("\\%", "")
    return shlex.split(said.replace("\\%", "%"))


@pytest.mark.parametrize(
    "words",
    [
        ("start",),
        ("install", "--cron"),
        ("print", "--no-start"),
        ("print", "--force"),
        ("install", "--max-running", "0"),
        (),
    ],
)
def test_wrong_words_are_refused(systemd: World, words: tuple[str, ...]) -> None:
    said = systemd.cli("service", *words)
    assert (said.code, files(systemd), told(systemd)) == (2, {}, [])
    assert "hint: " in said.err
