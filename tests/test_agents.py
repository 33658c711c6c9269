import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dispatchctl.agents import (
    LONGEST_ARGUMENT,
    PLACEHOLDERS,
    Invocation,
    LastMessage,
    Profile,
    PromptBy,
    agent_environment,
    compose,
    find_program,
    known,
    profile_from_settings,
    unknown_agent,
)
from dispatchctl.errors import ExitCode, UsageError

FILE = "/state/runs/0a1b2c3d/prompt"
SESSION = "6f1c7b52-4f0e-4a36-9f5e-0a1b2c3d4e5f"
LAST = "/state/runs/0a1b2c3d/last-message"
SENTENCE = f"Read the task in {FILE} and do what it says."
NAMES = ("aider", "amp", "claude", "codex", "copilot", "cursor", "gemini", "goose", "opencode", "shell")


def invocation(profile: Profile, prompt: str = "fix it", *, file: str = FILE, resume: bool = False) -> Invocation:
    return compose(
        profile,
        prompt=prompt,
        prompt_file=file,
        worktree="/trees/7",
        session_id=SESSION,
        git_dir="/repo/.git/worktrees/7",
        git_common_dir="/repo/.git",
        last_message_file=LAST,
        resume=resume,
    )


def from_settings(name: str, **table: Any) -> Profile:
    return profile_from_settings(name, table, "config.toml")


def forms() -> list[Profile]:
    """Every form of every built-in profile."""
    every = []
    for name in NAMES:
        for interactive in (True, False):
            try:
                every.append(from_settings(name, interactive=interactive))
            except UsageError:
                continue
    return every


def name_of(value: object) -> str:
    return f"{value.name}-{'tui' if value.interactive else 'headless'}" if isinstance(value, Profile) else ""


EVERY_FORM = pytest.mark.parametrize("profile", forms(), ids=name_of)


def refusal(name: str, **table: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        from_settings(name, **table)
    return caught.value


# ------------------------------------------------------------------------------------------------------- built in


def test_the_built_in_agents_are_known_in_order() -> None:
    assert tuple(known()) == NAMES


def test_agents_with_both_forms_offer_both() -> None:
    assert {profile.name for profile in forms() if profile.interactive} == set(NAMES) - {"aider", "amp", "shell"}
    assert {profile.name for profile in forms() if not profile.interactive} == set(NAMES)


@pytest.mark.parametrize("resume", [False, True])
@EVERY_FORM
def test_every_form_hands_over_the_prompt_exactly_once(profile: Profile, resume: bool) -> None:
    composed = invocation(profile, "fix it", resume=resume)
    ways = [composed.argv.count("fix it"), composed.argv.count(FILE), int(composed.stdin_file == FILE)]
    assert sorted(ways) == [0, 0, 1]


@pytest.mark.parametrize("resume", [False, True])
@EVERY_FORM
def test_no_form_leaves_a_placeholder(profile: Profile, resume: bool) -> None:
    assert not [element for element in invocation(profile, resume=resume).argv if "{" in element]


@EVERY_FORM
def test_an_interactive_form_keeps_its_terminal(profile: Profile) -> None:
    assert not (profile.interactive and invocation(profile).stdin_file)


@pytest.mark.parametrize("resume", [False, True])
@EVERY_FORM
def test_no_form_skips_a_permission_prompt(profile: Profile, resume: bool) -> None:
    words = " ".join(invocation(profile, resume=resume).argv)
    assert not [bad for bad in ("yolo", "danger", "yes", "allow", "auto", "force", "bypass", "skip") if bad in words]


@EVERY_FORM
def test_arguments_of_the_user_come_before_the_prompt_in_every_form(profile: Profile) -> None:
    changed = from_settings(profile.name, interactive=profile.interactive, args=["--model", "small"])
    for resume in (False, True):
        before, after = invocation(profile, resume=resume).argv, invocation(changed, resume=resume).argv
        at = after.index("--model")
        assert after[at : at + 2] == ("--model", "small")
        assert (*after[:at], *after[at + 2 :]) == before
        assert at <= before.index("fix it") if "fix it" in before else at >= 1


@pytest.mark.parametrize(
    ("name", "interactive", "expected"),
    [
        pytest.param("shell", False, "sh -c PROMPT", id="shell"),
        pytest.param("claude", True, f"claude --session-id {SESSION} -- PROMPT", id="claude"),
        pytest.param("claude", False, f"claude -p --session-id {SESSION} < {FILE}", id="claude-headless"),
        pytest.param(
            "codex",
            False,
            f"codex exec --add-dir /repo/.git/worktrees/7 --add-dir /repo/.git -o {LAST} - < {FILE}",
            id="codex-headless",
        ),
        pytest.param("aider", False, f"aider --message-file {FILE}", id="aider"),
        pytest.param("amp", False, f"amp -x < {FILE}", id="amp"),
        pytest.param("opencode", False, f"opencode run < {FILE}", id="opencode-headless"),
        pytest.param("cursor", False, "cursor-agent -p PROMPT", id="cursor-headless"),
        pytest.param("goose", True, f"goose run -n {SESSION} -s -i {FILE}", id="goose"),
    ],
)
def test_an_agent_is_started_as_its_documentation_says(name: str, interactive: bool, expected: str) -> None:
    composed = invocation(from_settings(name, interactive=interactive), "PROMPT")
    stdin = [f"< {composed.stdin_file}"] if composed.stdin_file else []
    assert " ".join([*composed.argv, *stdin]) == expected


def test_codex_works_in_its_own_process_and_may_write_the_repository() -> None:
    argv = invocation(known()["codex"]).argv
    assert "--no-daemon" in argv
    assert argv[-6:] == ("--add-dir", "/repo/.git/worktrees/7", "--add-dir", "/repo/.git", "--", "fix it")


def test_options_go_to_the_subcommand_that_knows_them() -> None:
    codex = from_settings("codex", interactive=False, args=["-s", "workspace-write"])
    assert invocation(codex).argv[:4] == ("codex", "exec", "-s", "workspace-write")
    assert invocation(from_settings("goose", args=["--debug"])).argv[:3] == ("goose", "run", "--debug")


def test_a_session_is_continued_by_its_id() -> None:
    assert invocation(known()["claude"], resume=True).argv == ("claude", "--resume", SESSION, "--", "fix it")


def test_an_agent_that_cannot_resume_starts_anew() -> None:
    opencode = known()["opencode"]
    assert opencode.resume is None
    assert invocation(opencode, resume=True) == invocation(opencode)


def test_only_the_shell_need_not_change_anything() -> None:
    assert [name for name, profile in known().items() if not profile.expects_changes] == ["shell"]


@EVERY_FORM
def test_a_form_that_shows_its_prompt_says_so(profile: Profile) -> None:
    assert ("visible to other users" in profile.note) is ("fix it" in invocation(profile).argv)


# ----------------------------------------------------------------------------------------------- prompts as data


@pytest.mark.parametrize(
    "prompt",
    [*PLACEHOLDERS, "a {prompt} b", "; rm -rf ~", "$(reboot)", "#(reboot)", "two\nlines", " --help", "ümläut", ""],
)
def test_a_prompt_is_one_argument_whatever_it_says(prompt: str) -> None:
    assert invocation(known()["claude"], prompt).argv == ("claude", "--session-id", SESSION, "--", prompt)


@pytest.mark.parametrize("prompt", ["-z", "--help", "- [ ] a list", "+z"])
@EVERY_FORM
def test_a_prompt_is_never_taken_for_an_option(profile: Profile, prompt: str) -> None:
    argv = invocation(profile, prompt).argv
    assert prompt not in argv or argv[argv.index(prompt) - 1] == "--"


def test_a_prompt_like_an_option_is_shown_as_it_is_where_that_is_safe() -> None:
    assert invocation(known()["claude"], "--help").argv[-2:] == ("--", "--help")
    assert invocation(known()["gemini"], "--help").argv[-2:] == ("-i", SENTENCE)


@EVERY_FORM
def test_a_prompt_of_a_megabyte_goes_by_its_file(profile: Profile) -> None:
    composed = invocation(profile, "x" * 1_000_000)
    assert max(map(len, composed.argv)) < 200
    assert composed.stdin_file == FILE or any(FILE in element for element in composed.argv)


@pytest.mark.parametrize(
    ("prompt", "whole"),
    [
        pytest.param("x" * LONGEST_ARGUMENT, True, id="longest"),
        pytest.param("x" * (LONGEST_ARGUMENT + 1), False, id="one-more"),
        pytest.param("ü" * (LONGEST_ARGUMENT // 2), True, id="counted-in-bytes"),
        pytest.param("ü" * (LONGEST_ARGUMENT // 2 + 1), False, id="counted-in-bytes-one-more"),
        pytest.param("\ud800", True, id="surrogate"),
        pytest.param("a\0b", False, id="nul"),
    ],
)
def test_a_prompt_is_an_argument_if_one_holds_it(prompt: str, whole: bool) -> None:
    assert invocation(known()["cursor"], prompt).argv[1] == (prompt if whole else SENTENCE)


@pytest.mark.parametrize("padding", [0, LONGEST_ARGUMENT], ids=["short", "long"])
def test_a_script_sees_the_same_however_it_reaches_the_shell(tmp_path: Path, padding: int) -> None:
    script = 'echo "$0|$#|$(cat)"; exit 3\n#' + "x" * padding
    file = tmp_path / "it's a prompt"
    file.write_text(script)
    argv = invocation(known()["shell"], script, file=str(file)).argv
    done = subprocess.run(argv, input="input", capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("sh|0|input\n", 3)


# --------------------------------------------------------------------------------------------- profiles of a user


def test_a_profile_of_ones_own_needs_only_an_argv() -> None:
    mine = from_settings("mine", argv=["my-agent", "--in", "{worktree}", "--", "{prompt}"])
    assert (mine.prompt, mine.interactive, mine.expects_changes) == (PromptBy.ARGUMENT, False, True)
    assert (mine.resume, mine.source) == (None, "config.toml")
    assert invocation(mine).argv == ("my-agent", "--in", "/trees/7", "--", "fix it")


@pytest.mark.parametrize(
    ("argv", "prompt"),
    [
        (["a", "{prompt}"], PromptBy.ARGUMENT),
        (["a", "{prompt}", "{prompt_file}"], PromptBy.ARGUMENT),
        (["a", "{prompt_file}"], PromptBy.FILE),
        (["a", "{worktree}"], PromptBy.STDIN),
    ],
)
def test_an_argv_tells_how_the_prompt_is_taken(argv: list[str], prompt: PromptBy) -> None:
    mine = from_settings("mine", argv=argv)
    assert mine.prompt is prompt
    assert invocation(mine).stdin_file == (FILE if prompt is PromptBy.STDIN else None)


def test_every_placeholder_is_replaced_as_a_whole_element() -> None:
    argv = invocation(from_settings("mine", argv=["agent", *PLACEHOLDERS, "{", "}", "{}", '{"json": 1}'])).argv
    values = ("fix it", FILE, "/trees/7", SESSION, "/repo/.git/worktrees/7", "/repo/.git", LAST)
    assert argv == ("agent", *values, "{", "}", "{}", '{"json": 1}')


def test_a_table_named_like_a_built_in_agent_changes_only_what_it_names() -> None:
    claude = known()["claude"]
    changed = from_settings("claude", env={"A": "1"}, strip=["AWS_*"], keep=["CLAUDE_X"], expects_changes=False)
    assert (changed.argv, changed.resume, changed.prompt) == (claude.argv, claude.resume, claude.prompt)
    assert (changed.interactive, changed.note) == (claude.interactive, claude.note)
    assert (dict(changed.env), changed.expects_changes) == ({"A": "1"}, False)
    assert changed.strip == (*claude.strip, "AWS_*")
    assert changed.keep == (*claude.keep, "CLAUDE_X")


def test_a_table_without_settings_is_the_built_in_agent_from_elsewhere() -> None:
    assert from_settings("gemini").argv == known()["gemini"].argv
    assert from_settings("gemini").source == "config.toml"


def test_profiles_of_a_user_are_known_and_replace_built_in_ones() -> None:
    mine, claude = from_settings("mine", argv=["a"]), from_settings("claude", interactive=False)
    every = known(iter([mine, claude]))
    assert (every["mine"], every["claude"], every["codex"].source) == (mine, claude, "built in")
    assert list(every) == sorted([*NAMES, "mine"])


def test_a_new_argv_does_not_keep_the_old_note() -> None:
    assert from_settings("claude", argv=["claude", "{prompt_file}"]).note == ""
    assert from_settings("claude", argv=["claude", "{prompt_file}"], note="mine").note == "mine"


def test_a_new_argv_may_change_how_the_agent_is_used() -> None:
    headless = from_settings("claude", argv=["claude", "-p"], interactive=False)
    assert (headless.prompt, headless.interactive) == (PromptBy.STDIN, False)
    assert from_settings("aider", argv=["aider", "--message", "{prompt}"], interactive=True).interactive


def test_a_new_argv_does_not_keep_the_old_way_to_resume() -> None:
    assert from_settings("claude", argv=["/opt/claude", "--", "{prompt}"]).resume is None
    assert from_settings("claude", resume=[]).resume is None
    own = from_settings("claude", resume=["claude", "--continue", "--", "{prompt}"], args=["--verbose"])
    assert own.resume == ("claude", "--verbose", "--continue", "--", "{prompt}")


def test_the_shell_may_be_another_shell() -> None:
    bash = from_settings("shell", argv=["bash", "-lc", "{prompt}"])
    assert invocation(bash, "x" * 200_000).argv == ("bash", "-lc", f". '{FILE}'")


# ------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        ({"argvv": ["a"]}, "agents.mine.argvv is not a setting", "did you mean 'argv'?"),
        ({"zzz": 1}, "agents.mine.zzz is not a setting", "settings of an agent: argv, args"),
        ({}, "agents.mine.argv is missing", 'argv = ["mine", "--", "{prompt}"]'),
        ({"argv": []}, "agents.mine.argv must begin with a program, but is empty", "absolute path"),
        ({"argv": [""]}, "agents.mine.argv must begin with a program", "absolute path"),
        ({"argv": ["{prompt}"]}, "agents.mine.argv must begin with a program", "absolute path"),
        ({"argv": ["bin/agent", "{prompt}"]}, "agents.mine.argv must begin with a program", "absolute path"),
        ({"argv": ["~/agent", "{prompt}"]}, "agents.mine.argv must begin with a program", "absolute path"),
        ({"argv": "agent {prompt}"}, "agents.mine.argv must be a list of strings, not 'agent {prompt}'", None),
        ({"argv": ["a", 1]}, "agents.mine.argv must be a list of strings", None),
        ({"argv": ["a", "b\0"]}, "agents.mine.argv must be a list of strings", None),
        ({"argv": ["a", "--p={prompt}"]}, "agents.mine.argv has {prompt} inside '--p={prompt}'", "of its own"),
        ({"argv": ["a", "{promt}"]}, "agents.mine.argv has an unknown placeholder {promt}", "did you mean '{prompt}'?"),
        ({"argv": ["a", "{args}"]}, "agents.mine.argv has an unknown placeholder {args}", "placeholders: {prompt}"),
        ({"argv": ["a"], "args": ["x{worktree}"]}, "agents.mine.args has {worktree} inside", "of its own"),
        (
            {"argv": ["a"], "resume": ["a", "{id}"]},
            "agents.mine.resume has an unknown placeholder {id}",
            "placeholders:",
        ),
        ({"argv": ["a"], "resume": ["{worktree}"]}, "agents.mine.resume must begin with a program", "absolute path"),
        ({"argv": ["a", "{prompt}"], "resume": ["a"]}, "agents.mine.resume must have an element {prompt}", "prompt ="),
        ({"argv": ["a"], "prompt": "argument"}, "agents.mine.argv must have an element {prompt}", "prompt ="),
        ({"argv": ["a"], "prompt": "file"}, "agents.mine.argv must have an element {prompt_file}", "prompt ="),
        ({"argv": ["a", "{prompt}"], "prompt": "stdin"}, "agents.mine.argv cannot have {prompt}", "leave one out"),
        ({"argv": ["a"], "prompt": "typed"}, 'agents.mine.prompt must be "argument", "stdin" or "file", not \'t', None),
        ({"argv": ["a"], "interactive": "yes"}, "agents.mine.interactive must be true or false, not 'yes'", None),
        ({"argv": ["a"], "expects_changes": 1}, "agents.mine.expects_changes must be true or false, not 1", None),
        ({"argv": ["a"], "interactive": True}, 'agents.mine.prompt cannot be "stdin"', "interactive = false"),
        ({"argv": ["a"], "env": ["A=1"]}, "agents.mine.env must be a table of strings", None),
        ({"argv": ["a"], "env": {"A=B": "1"}}, "agents.mine.env must be a table of strings", None),
        ({"argv": ["a"], "strip": "A*"}, "agents.mine.strip must be a list of strings", None),
        ({"argv": ["a"], "note": 1}, "agents.mine.note must be a string", None),
    ],
)
def test_a_table_that_cannot_be_is_refused_by_the_key_at_fault(
    table: Mapping[str, Any], message: str, hint: str | None
) -> None:
    error = refusal("mine", **table)
    assert error.message.startswith(f"config.toml: {message}")
    assert (hint in error.hint) if hint and error.hint else hint == error.hint
    assert error.exit_code is ExitCode.USAGE


def test_a_refusal_does_not_show_an_environment() -> None:
    assert "hunter2" not in refusal("mine", argv=["a"], env={"PASSWORD": "hunter2", "PORT": 1}).message


@pytest.mark.parametrize(("name", "interactive"), [("aider", True), ("amp", True), ("shell", True)])
def test_a_form_that_an_agent_does_not_have_is_refused(name: str, interactive: bool) -> None:
    assert refusal(name, interactive=interactive).message.endswith(".interactive can only be false for this agent")


@pytest.mark.parametrize("option", ["-c", "-lc", "-xec", "-Cc", "-e", "-E", "--command", "--eval"])
@pytest.mark.parametrize("between", [[], ["--"], ["-x"], ["-x", "--"]], ids=" ".join)
@pytest.mark.parametrize("key", ["argv", "resume"])
def test_a_prompt_is_never_a_program(option: str, between: list[str], key: str) -> None:
    table = {"argv": ["bash", "{prompt}"]} | {key: ["bash", option, *between, "{prompt}"]}
    assert f"agents.mine.{key} would run {{prompt}} as a program" in refusal("mine", **table).message


def test_arguments_cannot_make_the_prompt_a_program() -> None:
    refusal("mine", argv=["bash", "{prompt}"], args=["-c"])
    refusal("cursor", args=["-c"])


@pytest.mark.parametrize(
    "argv",
    [
        ["claude", "--continue", "--", "{prompt}"],
        ["opencode", "-c", "--prompt", "{prompt}"],
        ["bash", "-c", 'my-agent -- "$1"', "bash", "{prompt}"],
        ["agent", "-message", "{prompt}"],
    ],
)
def test_a_prompt_after_other_options_is_a_text(argv: list[str]) -> None:
    assert invocation(from_settings("mine", argv=argv)).argv[-1] == "fix it"


def test_an_interactive_agent_that_reads_standard_input_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="mine cannot be interactive"):
        Profile("mine", ("a",), PromptBy.STDIN, interactive=True)


def test_an_unknown_agent_is_answered_with_those_that_are_known() -> None:
    error = unknown_agent("cluade", {"shell", "codex", "claude"})
    assert error.message == "there is no agent called 'cluade'"
    assert error.hint == "did you mean 'claude'? known agents: claude, codex, shell"


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    assert unknown_agent("\x1b[2J", ["codex"]).message == r"there is no agent called '\x1b[2J'"
    assert unknown_agent("\x1b[2J", ["codex"]).hint == "known agents: codex"


# ---------------------------------------------------------------------------------------------------- environment


INHERITED = {
    "PATH": "/home/me/repo/.venv/bin:/home/me/repo/.venv/bin/:/usr/bin:/home/me/repo/.venv/bin2:/bin",
    "VIRTUAL_ENV": "/home/me/repo/.venv",
    "HOME": "/home/me",
    "ANTHROPIC_API_KEY": "key",
}


@pytest.mark.parametrize(
    "name",
    [
        *("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "TMUX", "TMUX_PANE"),
        *("DISPATCHCTL_DB", "DISPATCHCTL_TOKEN", "DISPATCHCTL_DISPATCH__MAX_RUNNING", "PWD", "OLDPWD", "INIT_CWD"),
        *("CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CODEX_SANDBOX", "CODEX_THREAD_ID"),
    ],
)
def test_an_agent_does_not_inherit_what_belongs_to_another_place(name: str) -> None:
    for profile in known().values():
        assert name not in agent_environment({name: "x"}, profile, {})


@pytest.mark.parametrize(
    "name",
    [
        *("HOME", "LANG", "TERM", "SSH_AUTH_SOCK", "ANTHROPIC_API_KEY", "CODEX_HOME", "GITHUB_TOKEN", "git_dir"),
        *("CLAUDE_CONFIG_DIR", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_USE_BEDROCK", "MY_GIT_DIR", "PYTHONUTF8"),
    ],
)
def test_an_agent_inherits_what_signs_in_and_configures(name: str) -> None:
    for profile in known().values():
        assert agent_environment({name: "x"}, profile, {}) == {name: "x"}


def test_a_virtual_environment_leaves_the_path_too() -> None:
    env = agent_environment(INHERITED, known()["claude"], {})
    assert env["PATH"] == "/usr/bin:/home/me/repo/.venv/bin2:/bin"


def test_a_virtual_environment_that_is_kept_stays_in_the_path() -> None:
    env = agent_environment(INHERITED, from_settings("claude", keep=["VIRTUAL_ENV"]), {})
    assert env == INHERITED


def test_a_path_without_a_virtual_environment_stays_as_it_is() -> None:
    odd = {"PATH": ":/usr/bin::./bin/:"}
    assert agent_environment(odd, known()["claude"], {}) == odd
    assert agent_environment({"VIRTUAL_ENV": "/venv"}, known()["claude"], {}) == {}


def test_what_a_profile_strips_is_gone_and_what_it_keeps_is_not() -> None:
    profile = from_settings("claude", strip=["AWS_*", "HOME"], keep=["AWS_REGION", "GIT_SSH_COMMAND", "CLAUDE_X"])
    kept = {"AWS_REGION": "x", "GIT_SSH_COMMAND": "ssh -4", "CLAUDE_X": "1", "HOMER": "doh"}
    gone = {"AWS_SECRET_ACCESS_KEY": "x", "HOME": "/home/me", "GIT_DIR": ".git", "CLAUDECODE": "1"}
    assert agent_environment(kept | gone, profile, {}) == kept


def test_what_dispatch_sets_wins_over_the_profile_and_that_over_what_is_inherited() -> None:
    profile = from_settings("claude", env={"A": "profile", "B": "profile", "CLAUDE_Y": "profile"})
    inherited = {"A": "inherited", "B": "inherited", "C": "inherited"}
    env = agent_environment(inherited, profile, {"B": "dispatch", "DISPATCHCTL_TASK": "7"})
    assert env == {"A": "profile", "B": "dispatch", "C": "inherited", "CLAUDE_Y": "profile", "DISPATCHCTL_TASK": "7"}


def test_what_is_inherited_is_not_changed() -> None:
    inherited = dict(INHERITED)
    agent_environment(inherited, known()["claude"], {"HOME": "/elsewhere"})
    assert inherited == INHERITED


# -------------------------------------------------------------------------------------------------------- program


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_a_program_is_found_where_the_path_has_it_first(tmp_path: Path) -> None:
    first, second = program(tmp_path / "a" / "agent"), program(tmp_path / "b" / "agent")
    mine = from_settings("mine", argv=["agent"])
    assert find_program(mine, f"{second.parent}:{first.parent}") == str(second)
    assert find_program(mine, f"{tmp_path}:{first.parent}") == str(first)
    assert find_program(mine, str(tmp_path)) is None
    assert find_program(mine, "") is None


def test_what_cannot_be_executed_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "a" / "agent", 0o644)
    (tmp_path / "b" / "agent").mkdir(parents=True)
    assert find_program(from_settings("mine", argv=["agent"]), f"{tmp_path / 'a'}:{tmp_path / 'b'}") is None


def test_a_program_is_not_looked_for_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin" / "agent")
    monkeypatch.chdir(tmp_path / "bin")
    assert find_program(from_settings("mine", argv=["agent"]), ":.:../bin") is None


def test_an_absolute_name_needs_no_path(tmp_path: Path) -> None:
    agent = program(tmp_path / "agent")
    assert find_program(from_settings("mine", argv=[str(agent)]), "") == str(agent)
    assert find_program(from_settings("mine", argv=[f"{agent}2"]), str(tmp_path)) is None


# --------------------------------------------------------------------------------------------------- its last message


def test_where_each_agent_leaves_its_last_message() -> None:
    found = {(form.name, form.interactive): form.last_message for form in forms() if form.last_message}
    output, file = LastMessage.OUTPUT, LastMessage.FILE
    assert found == {("claude", False): output, ("gemini", False): output, ("codex", False): file}


def test_codex_writes_its_last_message_into_a_file_also_when_it_goes_on() -> None:
    for resume in (False, True):
        argv = invocation(from_settings("codex", interactive=False), resume=resume).argv
        assert argv[argv.index("-o") + 1] == LAST
        assert argv.index("-o") > argv.index("exec")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        pytest.param({"argv": ["mine", "{prompt}"]}, "", id="nowhere"),
        pytest.param({"argv": ["mine", "-o", "{last_message_file}"]}, "file", id="named in argv"),
        pytest.param({"argv": ["mine"], "last_message": "output"}, "output", id="output"),
        pytest.param({"argv": ["mine", "{last_message_file}"], "last_message": ""}, "", id="said not to be read"),
    ],
)
def test_an_agent_of_ones_own_leaves_its_last_message(table: dict[str, Any], expected: str) -> None:
    assert from_settings("mine", **table).last_message == expected


def test_a_built_in_agent_keeps_its_last_message_unless_it_gets_an_argv() -> None:
    assert from_settings("claude", interactive=False, args=["-v"]).last_message == "output"
    assert from_settings("claude", interactive=False, last_message="").last_message == ""
    assert from_settings("claude", argv=["claude", "-p", "{prompt}"]).last_message == ""
    assert from_settings("claude", interactive=True).last_message == ""


@pytest.mark.parametrize(
    ("table", "says"),
    [
        pytest.param({"argv": ["a"], "last_message": "screen"}, 'must be "", "output" or "file"', id="unknown"),
        pytest.param({"argv": ["a"], "last_message": []}, 'must be "", "output" or "file"', id="a list"),
        pytest.param({"argv": ["a"], "last_message": "file"}, "must have an element {last_message_file}", id="no file"),
        pytest.param(
            {"argv": ["a", "{prompt}"], "interactive": True, "last_message": "output"},
            'last_message cannot be "output" while the agent is interactive',
            id="a screen",
        ),
        pytest.param({"argv": ["a", "-o={last_message_file}"]}, "inside", id="a part of an element"),
    ],
)
def test_a_last_message_that_cannot_be_is_refused(table: dict[str, Any], says: str) -> None:
    assert says in refusal("mine", **table).message
