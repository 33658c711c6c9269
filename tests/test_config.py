"""Settings: who is heard first, who may set what, and what is said of a mistake; places; the environment."""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import dispatchctl
from dispatchctl.config import (
    REPOSITORY_FILE,
    SETTINGS,
    Environment,
    Scope,
    Settings,
    Uncommitted,
    config_path,
    database_path,
    load,
    starting_config,
    state_dir,
    tmux_socket,
    worktrees_root,
)
from dispatchctl.config.toml import line_of
from dispatchctl.errors import UsageError

SOURCE = Path(dispatchctl.__file__).parent

Env = Callable[..., Environment]


@pytest.fixture
def env(tmp_path: Path) -> Env:
    """An environment with a home of its own and the variables that the test gives."""

    def read(**variables: str) -> Environment:
        return Environment.read({"HOME": str(tmp_path / "home"), **variables}, uid=1234)

    return read


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    path.mkdir()
    return path


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "home/.config/dispatchctl/config.toml"
    path.parent.mkdir(parents=True)
    return path


# --- defaults and the table


def test_without_files_every_setting_has_its_default(env: Env, repo: Path) -> None:
    settings = load(env(), repo=repo)
    assert settings == Settings()
    assert settings.dispatch.max_running == 8
    assert settings.task.timeout == 43_200
    assert settings.task.uncommitted is Uncommitted.REVIEW
    assert settings.hooks.post_create == ()
    assert settings.output.limit == 16 << 20
    assert settings.sources == dict.fromkeys(SETTINGS, "default")


def test_every_setting_can_be_read_by_its_key() -> None:
    assert {key: Settings().value(key) for key in SETTINGS} == {key: entry.default for key, entry in SETTINGS.items()}


@pytest.mark.parametrize("key", SETTINGS)
def test_every_default_is_one_that_a_user_may_write(key: str) -> None:
    entry = SETTINGS[key]
    written = tomllib.loads(f"value = {entry.toml(entry.default)}")["value"]
    assert entry.kind.read(written) == entry.default
    assert entry.doc.endswith(".")


def test_a_repository_may_set_only_what_cannot_execute() -> None:
    assert {key for key, entry in SETTINGS.items() if entry.scope is Scope.REPOSITORY} == {
        "dispatch.max_per_repo",
        "task.agent",
        "task.base",
        "task.priority",
        "task.retries",
        "task.recoveries",
        "task.timeout",
        "task.review",
        "task.parent_results",
        "task.uncommitted",
        "worktrees.branch",
    }


# --- who is heard first


def test_each_layer_outranks_those_below_it(env: Env, repo: Path, user_file: Path) -> None:
    about = f'[repositories."{repo}".task]'

    def priority(variables: Mapping[str, str], overrides: Mapping[str, object]) -> tuple[int, str]:
        settings = load(env(**variables), repo=repo, overrides=overrides)
        return settings.task.priority, settings.sources["task.priority"]

    user_file.write_text("task.priority = 0\n")
    assert priority({}, {}) == (0, str(user_file))
    (repo / REPOSITORY_FILE).write_text("[task]\npriority = 1\n")
    assert priority({}, {}) == (1, str(repo / REPOSITORY_FILE))
    user_file.write_text(f"task.priority = 0\n{about}\npriority = 3\n")
    assert priority({}, {}) == (3, f'{user_file} [repositories."{repo}"]')
    variable = {"DISPATCHCTL_TASK__PRIORITY": "4"}
    assert priority(variable, {}) == (4, "DISPATCHCTL_TASK__PRIORITY")
    assert priority(variable, {"task.priority": 2}) == (2, "option")


def test_an_option_that_was_not_given_is_not_heard(env: Env) -> None:
    settings = load(env(), overrides={"dispatch.max_running": None, "task.timeout": "2h"})
    assert (settings.dispatch.max_running, settings.task.timeout) == (8, 7_200)
    assert settings.sources["dispatch.max_running"] == "default"


def test_settings_for_another_repository_forget_the_first(env: Env, repo: Path, tmp_path: Path) -> None:
    (repo / REPOSITORY_FILE).write_text('task.agent = "codex"\ntask.retries = 5\n')
    other = tmp_path / "other"
    other.mkdir()
    (other / REPOSITORY_FILE).write_text('task.agent = "gemini"\n')
    first = load(env(), repo=repo, overrides={"dispatch.max_running": 3})
    second = first.for_repository(other)
    assert (first.task.agent, first.task.retries) == ("codex", 5)
    assert (second.task.agent, second.task.retries, second.dispatch.max_running) == ("gemini", 0, 3)
    assert second.sources["task.retries"] == "default"


@pytest.mark.parametrize("spelling", ["{repo}", "{repo}/../repo/", "{link}", "~/link"])
def test_a_table_about_a_repository_is_found_however_its_path_is_spelled(
    env: Env, repo: Path, user_file: Path, tmp_path: Path, spelling: str
) -> None:
    (tmp_path / "link").symlink_to(repo)
    (tmp_path / "home/link").symlink_to(repo)
    name = spelling.format(repo=repo, link=tmp_path / "link")
    user_file.write_text(f'[repositories."{name}".hooks]\npost_create = [["npm", "ci"]]\ntimeout = "1h"\n')
    settings = load(env())
    assert settings.hooks.post_create == ()
    assert settings.for_repository(tmp_path).hooks.post_create == ()
    assert settings.for_repository(repo).hooks.post_create == (("npm", "ci"),)
    assert settings.for_repository(tmp_path / "link").hooks.timeout == 3_600


def test_two_tables_about_one_repository_are_refused(env: Env, repo: Path, user_file: Path) -> None:
    user_file.write_text(f'[repositories."{repo}"]\ntask.retries = 1\n[repositories."{repo}/"]\ntask.retries = 2\n')
    with pytest.raises(UsageError, match="2 tables for the repository"):
        load(env(), repo=repo)


def test_agents_are_handed_on_as_they_stand(env: Env, user_file: Path) -> None:
    user_file.write_text('[agents.mine]\nargv = ["mine", "{prompt}"]\n[agents.mine.env]\nA = "1"\n')
    assert load(env()).agent_tables == {"mine": {"argv": ["mine", "{prompt}"], "env": {"A": "1"}}}


# --- values


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("dispatch.max_running", "12", 12),
        ("dispatch.kill_grace", "1m30s", 90),
        ("task.timeout", "0", 0),
        ("task.base", "", ""),
        ("task.base", "origin/main", "origin/main"),
        ("task.review", "yes", True),
        ("task.review", "FALSE", False),
        ("task.uncommitted", "commit", Uncommitted.COMMIT),
        ("worktrees.root", "~/trees", "{home}/trees"),
        ("worktrees.branch", "bot/{slug}.{id}", "bot/{slug}.{id}"),
        ("hooks.post_create", '[["npm", "ci"], ["make"]]', (("npm", "ci"), ("make",))),
        ("tmux.socket", "work", "work"),
        ("tmux.socket", "~/tmux.sock", "{home}/tmux.sock"),
        ("tools.git", "/opt/my git/bin/git", "/opt/my git/bin/git"),
        ("output.limit", "65536", 1 << 16),
        ("output.limit", "2GiB", 2 << 30),
    ],
)
def test_a_variable_sets_a_value(env: Env, tmp_path: Path, key: str, text: str, value: object) -> None:
    if isinstance(value, str):
        value = value.replace("{home}", str(tmp_path / "home"))
    settings = load(env(**{SETTINGS[key].variable: text}))
    assert settings.value(key) == value
    assert settings.sources[key] == SETTINGS[key].variable


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("dispatch.max_running", ""),
        ("dispatch.max_running", "0"),
        ("dispatch.max_running", "many"),
        ("dispatch.launch_timeout", "0s"),
        ("dispatch.kill_grace", "soon"),
        ("task.agent", ""),
        ("task.agent", "-c"),
        ("task.agent", "two words"),
        ("task.base", "--upload-pack=x"),
        ("task.base", "a\x1b[2J"),
        ("task.priority", "5"),
        ("task.review", "perhaps"),
        ("task.uncommitted", "stash"),
        ("worktrees.root", "trees"),
        ("worktrees.root", "~other/trees"),
        ("hooks.post_create", '["npm", "ci"]'),
        ("hooks.post_create", "[[]]"),
        ("hooks.post_create", '[["npm", 1]]'),
        ("hooks.post_create", "npm ci"),
        ("tmux.socket", "dir/name"),
        ("tmux.socket", ".."),
        ("tools.git", ""),
        ("tools.git", "./git"),
        ("tools.tmux", "-V"),
        ("output.limit", "1KiB"),
        ("output.limit", "16MB"),
        ("output.limit", "-16MiB"),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_says_what_can(env: Env, key: str, text: str) -> None:
    variable = SETTINGS[key].variable
    with pytest.raises(UsageError) as caught:
        load(env(**{variable: text}))
    assert caught.value.message.startswith(f"{variable}: {key} must be {SETTINGS[key].kind.allowed}, not ")
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "pattern",
    [
        "dispatch/{slug}",
        "{id}{slug}",
        "{id}-{title}",
        "-{id}",
        "a b/{id}",
        "/{id}",
        "{id}/",
        "a//{id}",
        ".a/{id}",
        "a..{id}",
        "{id}.",
        "{id}.lock",
        "{id}~1",
        "@{id}",
        "{id",
        "{id:>9}",
    ],
)
def test_a_branch_pattern_that_git_would_not_take_is_refused(env: Env, pattern: str) -> None:
    with pytest.raises(UsageError, match=r"worktrees\.branch must be a branch name with \{id\}"):
        load(env(DISPATCHCTL_WORKTREES__BRANCH=pattern))


@pytest.mark.parametrize("text", ["true", "2.5", '"8"', "[8]", "{a = 1}", "2026-11-20", "0x" + "f" * 9_000])
def test_a_value_of_another_type_is_refused_with_its_line(env: Env, user_file: Path, text: str) -> None:
    user_file.write_text(f"[dispatch]\nmax_running = {text}\n")
    with pytest.raises(UsageError) as caught:
        load(env())
    assert caught.value.message.startswith(f"{user_file}, line 2: dispatch.max_running must be a whole number from 1")
    assert len(caught.value.message) < 300


def test_an_option_with_a_wrong_value_is_refused(env: Env) -> None:
    with pytest.raises(UsageError, match=r"dispatch\.max_running must be a whole number from 1 to 1000, not 0"):
        load(env(), overrides={"dispatch.max_running": 0})


# --- mistakes in files


@pytest.mark.parametrize(
    ("text", "line", "said", "hint"),
    [
        (
            "[dispatch]\nmax_runing = 3",
            2,
            "there is no setting dispatch.max_runing",
            "did you mean dispatch.max_running?",
        ),
        ("# a\ndispatch.max_runing = 3", 2, "there is no setting dispatch.max_runing", "dispatch.max_running"),
        ("\n[dispach]\nmax_running = 3", 3, "there is no setting dispach.max_running", "dispatch.max_running"),
        ("[dispach]", 1, "there is no setting dispach", "did you mean [dispatch]?"),
        ("dispatch = 3", 1, "there is no setting dispatch", "did you mean [dispatch]?"),
        ("[[task]]\nagent = 'x'", 1, "there is no setting task", "[task]"),
        ("max_running = 3", 1, "there is no setting max_running", "dispatch.max_running"),
        ("'dispatch.max_running' = 3", 1, 'there is no setting "dispatch.max_running"', "dispatch.max_running"),
        ("[zebra]\nquagga = 1", 2, "there is no setting zebra.quagga", "dispatchctl config"),
        ('"\\u001b[31m" = 1', 1, 'there is no setting "\\u001b[31m"', "dispatchctl config"),
        ("agents = 1", 1, "agents must be a table", "[agents.NAME]"),
        ("[agents]\nx = 1", 2, "agents.x must be a table", "[agents.NAME]"),
        ('[repositories."/a\\u0000"]', 1, "must name an absolute path", ""),
        ('"é" = 1', 1, 'there is no setting "\\u00e9"', "dispatchctl config"),
        ("[task]\ntask = 1", 2, "there is no setting task.task", "did you mean"),
        ("[repositories]\ntask.agent = 'x'", 2, "must name an absolute path", ""),
        (
            "[repositories.'/r']\ndispatch.max_running = 3",
            2,
            "may not set dispatch.max_running, only dispatch.max_per_repo",
            "set it",
        ),
        ("[repositories.'/r'.agents.x]\nargv = []", 1, "may not set agents.x, only dispatch.max_per_repo", "set it in"),
        ("[repositories.'/r']\ntask.agnt = 'x'", 2, "there is no setting task.agnt", "task.agent"),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_a_way_out(
    env: Env, user_file: Path, text: str, line: int, said: str, hint: str
) -> None:
    user_file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(env())
    assert caught.value.message.startswith(f"{user_file}, line {line}: ")
    assert said in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        (
            "\n[hooks]\npost_create = [['sh', '-c', 'evil']]",
            "hooks.post_create",
            '{user}, under [repositories."{repo}"]',
        ),
        ("\n\ntools.git = '/tmp/evil'", "tools.git", "{user}"),
        ("\n[agents.claude]\nargv = ['evil']", "agents.claude", "{user}"),
        ("\n[repositories.'/r'.hooks]\npost_create = [['evil']]", 'repositories."/r"', "{user}"),
        ("\n\nworktrees = {branch = '{id}', root = '/etc'}", "worktrees.root", "{user}"),
    ],
)
def test_a_repository_cannot_set_what_executes(
    env: Env, repo: Path, tmp_path: Path, text: str, key: str, hint: str
) -> None:
    file = repo / REPOSITORY_FILE
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load(env(), repo=repo)
    line = 2 if "[" in text.splitlines()[1] and key[0] in "ar" else 3
    expected = f"{file}, line {line}: a repository's own file may not set {key}, only dispatch.max_per_repo,"
    assert caught.value.message.startswith(expected)
    user = tmp_path / "home/.config/dispatchctl/config.toml"
    assert caught.value.hint == "set it in " + hint.replace("{user}", str(user)).replace("{repo}", str(repo))


def test_a_key_as_long_as_the_file_is_shortened(env: Env, user_file: Path) -> None:
    user_file.write_text("k" * 9_000 + " = 1\n")
    with pytest.raises(UsageError, match="there is no setting") as caught:
        load(env())
    assert len(caught.value.message) < 400


def test_an_empty_section_says_nothing(env: Env, user_file: Path) -> None:
    user_file.write_text("[dispatch]\n[agents]\n[repositories.'/r'.hooks]\n")
    assert load(env(), repo=Path("/r")) == Settings()


def test_invalid_toml_is_reported_with_line_and_column(env: Env, user_file: Path) -> None:
    user_file.write_text("[dispatch]\nmax_running = = 3\n")
    with pytest.raises(UsageError, match=r"config\.toml is not valid TOML: .* \(at line 2, column 15\)"):
        load(env())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"task.agent = '\xff'", r"is not UTF-8 \(at byte 14\)"),
        (b"a = " + b"[" * 10_000, "nested too deeply"),
        (b"a = " + b"9" * 10_000, "a number in it is too long"),
        (b"#" * (16 << 10) + b"\n", "not an ordinary file of at most 16 KiB"),
    ],
)
def test_a_hostile_repository_file_is_a_usage_error(env: Env, repo: Path, text: bytes, said: str) -> None:
    (repo / REPOSITORY_FILE).write_bytes(text)
    with pytest.raises(UsageError, match=said):
        load(env(), repo=repo)


def test_a_repository_file_that_is_a_device_is_not_read(env: Env, repo: Path) -> None:
    (repo / REPOSITORY_FILE).symlink_to("/dev/zero")
    with pytest.raises(UsageError, match="not an ordinary file"):
        load(env(), repo=repo)


def test_a_directory_in_place_of_the_users_file_is_a_usage_error(env: Env, user_file: Path) -> None:
    user_file.mkdir()
    with pytest.raises(UsageError, match=r"cannot read .*config\.toml: Is a directory"):
        load(env())


_WORDS = st.sampled_from(
    [
        *SETTINGS,
        "[task]",
        "[agents.x]",
        "[repositories.'/r']",
        "agent",
        "=",
        "'x'",
        "3",
        "{",
        "}",
        "[[",
        "]]",
        "\n",
        '"""',
    ]
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(_WORDS | st.text(max_size=3), max_size=15))
def test_whatever_a_repository_file_says_is_settings_or_a_usage_error(env: Env, repo: Path, words: list[str]) -> None:
    (repo / REPOSITORY_FILE).write_text(" ".join(words), encoding="utf-8", errors="surrogateescape", newline="")
    with contextlib.suppress(UsageError):
        assert load(env(), repo=repo).hooks == Settings().hooks


# --- lines of keys

_TEXT = """\
# [task] agent = "comment"
top = 1
dotted.a.b = 2
inline = { c = { d = 3 }, "e f" = 4 }
array = [
    ["[task]"],
    # agent = 1
]
text = \"\"\"
[task]
agent = "text"
\"\"\"

[ task ] # here
  agent = 'x'

[a."b.c"]
"d" = 1
[[list]]
e = 1
"""


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("top", 2),
        ("dotted", 3),
        ("dotted a", 3),
        ("dotted a b", 3),
        ("inline", 4),
        ("inline c d", 4),
        ("array", 5),
        ("text", 9),
        ("task", 14),
        ("task agent", 15),
        ("a", 17),
        ("a b.c", 17),
        ("a b.c d", 18),
        ("list", 19),
        ("agent", None),
        ("task top", None),
        ("inline d", None),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_the_line_of_a_key_is_where_its_statement_begins(keys: str, line: int | None, newline: str) -> None:
    assert line_of(_TEXT.replace("\n", newline), tuple(keys.split())) == line


def test_a_statement_too_long_to_search_costs_the_line_and_nothing_else(env: Env, user_file: Path) -> None:
    user_file.write_text("hooks.post_create = [\n" + '["a"],\n' * 300 + "]\ntask.agnt = 1\n")
    with pytest.raises(UsageError, match=r"config\.toml: there is no setting task\.agnt"):
        load(env())


# --- which file


def test_a_file_that_was_named_must_exist(env: Env, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.toml")
    with pytest.raises(UsageError, match=r"missing\.toml, which --config names"):
        load(env(), config_option=missing)
    with pytest.raises(UsageError, match=r"missing\.toml, which DISPATCHCTL_CONFIG names"):
        load(env(DISPATCHCTL_CONFIG=missing))


def test_the_option_names_the_file_before_the_variable_and_xdg(env: Env, tmp_path: Path) -> None:
    given = env(DISPATCHCTL_CONFIG="~/mine.toml", XDG_CONFIG_HOME="/xdg")
    assert config_path(given, "/option.toml") == Path("/option.toml")
    assert config_path(given, "relative.toml") == Path.cwd() / "relative.toml"
    assert config_path(given) == tmp_path / "home/mine.toml"
    assert config_path(env(XDG_CONFIG_HOME="/xdg")) == Path("/xdg/dispatchctl/config.toml")
    assert config_path(env()) == tmp_path / "home/.config/dispatchctl/config.toml"


def test_an_empty_device_may_be_named_to_have_no_file(env: Env, user_file: Path) -> None:
    user_file.write_text("task.priority = 0\n")
    assert load(env(), config_option=os.devnull).task.priority == 2


def test_a_variable_that_no_setting_has_is_refused(env: Env) -> None:
    with pytest.raises(UsageError, match="DISPATCHCTL_DISPATCH__MAX_RUNING") as caught:
        load(env(DISPATCHCTL_DISPATCH__MAX_RUNING="3"))
    assert caught.value.hint == "did you mean DISPATCHCTL_DISPATCH__MAX_RUNNING?"
    with pytest.raises(UsageError, match="DISPATCHCTL_dispatch__max_running"):
        load(env(DISPATCHCTL_dispatch__max_running="3"))
    assert load(env(DISPATCHCTL_TOKEN="a__b", OTHER__KEY="1")) == Settings()


# --- the starting file


def test_the_starting_file_changes_nothing(env: Env, user_file: Path) -> None:
    user_file.write_text(starting_config())
    assert tomllib.loads(starting_config()) == {}
    assert load(env()) == Settings()


def test_the_starting_file_holds_every_setting_with_its_default(env: Env, user_file: Path) -> None:
    lines = starting_config().splitlines()
    assert all(line.startswith(("## ", "# ")) for line in lines if line)
    user_file.write_text("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines))
    settings = load(env())
    assert settings.sources == dict.fromkeys(SETTINGS, str(user_file))
    assert {key: settings.value(key) for key in SETTINGS} == {key: Settings().value(key) for key in SETTINGS}
    about = settings.for_repository(Path("/srv/web"))
    assert (about.task.agent, about.hooks.post_create) == ("codex", (("npm", "ci"),))


# --- the environment


def test_the_environment_is_read_once_and_whole() -> None:
    given = {
        "HOME": "/home/a",
        "XDG_CONFIG_HOME": "/c",
        "XDG_DATA_HOME": "/d",
        "XDG_RUNTIME_DIR": "/run/user/7",
        "PATH": "/bin",
        "TMUX": "/tmp/tmux-7/default,11,0",
        "TMUX_TMPDIR": "/t",
        "TMUX_PANE": "%3",
        "EDITOR": "ed",
        "VISUAL": "vi -e",
        "TERM": "dumb",
        "NO_COLOR": "1",
        "DISPATCHCTL_TASK": "12",
        "DISPATCHCTL_TOKEN": "0123abcd",
        "DISPATCHCTL_DB": "/db",
        "DISPATCHCTL_CONFIG": "/config",
        "NOTIFY_SOCKET": "@notify",
        "WATCHDOG_USEC": "120000000",
        "INVOCATION_ID": "5f",
        "JOURNAL_STREAM": "8:12",
        "SECRET": "s3cret",
    }
    read = Environment.read(given, uid=7)
    assert read == Environment(
        home=Path("/home/a"),
        config_home=Path("/c"),
        data_home=Path("/d"),
        runtime_dir=Path("/run/user/7"),
        uid=7,
        path="/bin",
        tmux="/tmp/tmux-7/default,11,0",
        tmux_tmpdir="/t",
        tmux_pane="%3",
        editor="vi -e",
        term="dumb",
        no_color=True,
        task=12,
        token="0123abcd",
        database="/db",
        config="/config",
        notify_socket="@notify",
        watchdog_usec=120_000_000,
        in_service=True,
        to_journal=True,
        inherited=given,
    )
    given["LATER"] = "1"
    assert "LATER" not in read.inherited
    assert "s3cret" not in repr(read)


def test_an_empty_or_relative_variable_counts_as_not_set() -> None:
    names = ("TMUX", "TMUX_TMPDIR", "TMUX_PANE", "EDITOR", "VISUAL", "TERM", "NO_COLOR", "PATH")
    ours = ("DISPATCHCTL_TASK", "DISPATCHCTL_TOKEN", "DISPATCHCTL_DB", "DISPATCHCTL_CONFIG")
    bare = Environment.read({"HOME": "/h"}, uid=7)
    empty = Environment.read(
        {"HOME": "/h", "XDG_DATA_HOME": "data", "XDG_CONFIG_HOME": "", **dict.fromkeys((*names, *ours), "")}, uid=7
    )
    assert {**vars(empty), "inherited": None} == {**vars(bare), "inherited": None}
    assert (bare.config_home, bare.data_home) == (Path("/h/.config"), Path("/h/.local/share"))
    assert (bare.path, bare.no_color, bare.task, bare.database) == (os.defpath, False, None, None)


@pytest.mark.parametrize("variables", [{}, {"HOME": ""}])
def test_without_home_the_user_database_is_asked(variables: dict[str, str]) -> None:
    assert Environment.read(variables, uid=0).home == Path(pwd.getpwuid(0).pw_dir)


def test_a_user_without_any_home_is_told_so() -> None:
    with pytest.raises(UsageError, match="HOME is not set and user 4123456789 has no home directory"):
        Environment.read({}, uid=4_123_456_789)


@pytest.mark.parametrize("text", ["x", "-1", "1.0", "²", "٣", "9" * 30])
def test_a_task_variable_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not the number of a task"):
        Environment.read({"HOME": "/h", "DISPATCHCTL_TASK": text})


def test_the_process_environment_is_what_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHCTL_TOKEN", "feedbeef")
    read = Environment.read()
    assert (read.token, read.uid) == ("feedbeef", os.getuid())


# --- places


def test_the_option_names_the_database_before_the_variable_and_xdg(env: Env, tmp_path: Path) -> None:
    real = tmp_path.resolve()
    given = env(DISPATCHCTL_DB="~/mine.db", XDG_DATA_HOME="/xdg")
    assert database_path(given, "/option.db") == Path("/option.db")
    assert database_path(given) == real / "home/mine.db"
    assert database_path(env(XDG_DATA_HOME="/xdg")) == Path("/xdg/dispatchctl/dispatchctl.db")
    assert database_path(env()) == real / "home/.local/share/dispatchctl/dispatchctl.db"


def test_two_spellings_of_a_database_are_one(env: Env, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/alias.db").symlink_to("a.db")
    expected = tmp_path.resolve() / "real/a.db"
    spellings = ["real/a.db", "link/a.db", "link/alias.db", "link/../real/a.db"]
    assert {database_path(env(), f"{tmp_path}/{spelling}") for spelling in spellings} == {expected}


@pytest.mark.parametrize(
    ("database", "directory"),
    [
        ("/a/b.db", "/a/b.d"),
        ("/a/b", "/a/b.d"),
        ("/a/b.c.sqlite", "/a/b.c.d"),
        ("/a/b.d", "/a/b.d.d"),
        ("/a/.db", "/a/.db.d"),
    ],
)
def test_the_state_directory_stands_beside_the_database_and_is_never_it(database: str, directory: str) -> None:
    assert state_dir(Path(database)) == Path(directory)


def test_worktrees_stand_beside_the_database_unless_a_setting_says_where(env: Env) -> None:
    assert worktrees_root(load(env()), Path("/a/b.db")) == Path("/a/b.d/worktrees")
    assert worktrees_root(load(env(DISPATCHCTL_WORKTREES__ROOT="/trees")), Path("/a/b.db")) == Path("/trees")


@pytest.mark.parametrize(
    ("setting", "tmux", "socket"),
    [
        ("/run/my.sock", "/tmp/x,1,0", "/run/my.sock"),
        ("work", "/tmp/x,1,0", "{tmp}/tmux-1234/work"),
        ("", "/tmp/x,1,0", "/tmp/x"),
        ("", "", "{tmp}/tmux-1234/default"),
        ("", ",1,0", "{tmp}/tmux-1234/default"),
    ],
)
def test_the_socket_is_the_one_that_is_named_or_the_users_own(
    env: Env, tmp_path: Path, setting: str, tmux: str, socket: str
) -> None:
    given = env(TMUX=tmux, TMUX_TMPDIR=str(tmp_path))
    settings = load(given, overrides={"tmux.socket": setting})
    assert tmux_socket(given, settings) == socket.replace("{tmp}", str(tmp_path.resolve()))


@pytest.mark.skipif(shutil.which("tmux") is None, reason="asks tmux itself")
@pytest.mark.parametrize("tmpdir", ["dir", "link"])
def test_tmux_itself_puts_a_named_socket_in_the_same_place(tmp_path: Path, tmpdir: str) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    variables = {"HOME": str(tmp_path), "PATH": os.defpath, "TMUX_TMPDIR": str(tmp_path / tmpdir), "TERM": "dumb"}
    tmux = [str(shutil.which("tmux")), "-f", "/dev/null", "-L", "s"]
    subprocess.run([*tmux, "new-session", "-d", "sleep 30"], env=variables, check=True, timeout=10)
    try:
        said = subprocess.run(
            [*tmux, "display-message", "-p", "#{socket_path}"],
            env=variables,
            check=True,
            timeout=10,
            capture_output=True,
            text=True,
        ).stdout.strip()
    finally:
        subprocess.run([*tmux, "kill-server"], env=variables, check=True, timeout=10)
    given = Environment.read(variables)
    assert tmux_socket(given, load(given, overrides={"tmux.socket": "s"})) == said


def test_a_missing_tmux_directory_means_tmp(env: Env, tmp_path: Path) -> None:
    given = env(TMUX_TMPDIR=str(tmp_path / "missing"))
    assert tmux_socket(given, load(given)) == f"{Path('/tmp').resolve()}/tmux-1234/default"


# --- cost


def test_without_files_no_slow_module_is_imported() -> None:
    slow = {"tomllib", "difflib", "pwd", "datetime", "json", "sqlite3", "subprocess", "rich", "typer"}
    program = (
        f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r});"
        "from dispatchctl import config; from pathlib import Path;"
        "env = config.Environment.read({'HOME': '/nonexistent', 'DISPATCHCTL_DISPATCH__MAX_RUNNING': '3'});"
        "settings = config.load(env, repo=Path('/nonexistent'));"
        "assert settings.dispatch.max_running == 3;"
        f"print(sorted({slow!r} & set(sys.modules)))"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    assert subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout == "[]\n"
