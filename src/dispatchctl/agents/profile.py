"""What a profile is, and what it makes of a prompt and an environment. Pure, but for the search of a program."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from itertools import pairwise

# In bytes of UTF-8. One argument of execve holds 131,071 on Linux: MAX_ARG_STRLEN, 32 pages of 4 KiB, less a NUL.
LONGEST_ARGUMENT = 120_000

LAST_MESSAGE_FILE = "{last_message_file}"
PLACEHOLDERS = (
    *("{prompt}", "{prompt_file}", "{worktree}", "{session_id}", "{git_dir}", "{git_common_dir}"),
    LAST_MESSAGE_FILE,
)

SHELL = "shell"

# Right where dispatchctl runs and wrong in another worktree: repositories and indexes (they beat `git -C`), Python
# environments and paths (they import the other checkout), another pane's tmux, our own settings, the directory
# (opencode believes PWD, others INIT_CWD, before they ask the system where they are), and what systemd tells a service.
FOREIGN = (
    *("GIT_*", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "PYTHONHOME", "PYTHONPATH"),
    *("TMUX", "TMUX_PANE", "DISPATCHCTL_*", "PWD", "OLDPWD", "INIT_CWD"),
    *("NOTIFY_SOCKET", "WATCHDOG_*", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "LISTEN_*", "MAINPID"),
)

# The marks of an enclosing agent session: Claude Code refuses to start in one ("nested session"), and Codex believes
# itself sandboxed. What signs in and configures is kept. Sources: src/cli_agent_orchestrator/clients/tmux.py of
# awslabs/cli-agent-orchestrator; the names in the codex program.
_STRIP = ("CLAUDE*", "CODEX_SANDBOX*", "CODEX_NETWORK_*", "CODEX_THREAD_ID", "CODEX_CI")
_KEEP = ("CLAUDE_CONFIG_DIR", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_USE_*", "CLAUDE_CODE_SKIP_*")


class PromptBy(StrEnum):
    """How an agent takes its prompt."""

    ARGUMENT = "argument"
    STDIN = "stdin"
    FILE = "file"


class LastMessage(StrEnum):
    """Where what the agent said last can be read after its end: nowhere, at the end of its output, or in a file."""

    NOWHERE = ""
    OUTPUT = "output"
    FILE = "file"


@dataclass(frozen=True)
class Profile:
    """How one agent is run; `argv` and `resume` may hold `PLACEHOLDERS`, as whole elements. `max_running` 0 is no limit."""

    name: str
    argv: tuple[str, ...]
    prompt: PromptBy
    interactive: bool
    env: Mapping[str, str] = field(default_factory=dict)
    strip: tuple[str, ...] = _STRIP
    keep: tuple[str, ...] = _KEEP
    expects_changes: bool = True
    resume: tuple[str, ...] | None = None
    last_message: LastMessage = LastMessage.NOWHERE
    max_running: int = 0
    note: str = ""
    source: str = "built in"

    def __post_init__(self) -> None:
        if self.interactive and self.prompt is PromptBy.STDIN:
            raise ValueError(f"agent {self.name} cannot be interactive and read its prompt from standard input")
        if self.interactive and self.last_message is LastMessage.OUTPUT:
            raise ValueError(f"what agent {self.name} draws on its screen does not end with its last message")


@dataclass(frozen=True)
class Invocation:
    """What to execute in the worktree; without a `stdin_file`, standard input is the pane's terminal."""

    argv: tuple[str, ...]
    stdin_file: str | None


def prompt_of(argv: Sequence[str]) -> PromptBy:
    """How an argv takes the prompt, by its placeholders."""
    if "{prompt}" in argv:
        return PromptBy.ARGUMENT
    return PromptBy.FILE if "{prompt_file}" in argv else PromptBy.STDIN


def last_of(argv: Sequence[str]) -> LastMessage:
    """Where an argv leaves the last message, by its placeholders."""
    return LastMessage.FILE if LAST_MESSAGE_FILE in argv else LastMessage.NOWHERE


def _can_be_argument(prompt: str, argv: Sequence[str]) -> bool:
    """Whether the program would get this prompt whole, and not take it for an option (sh knows `+x` as one too)."""
    if "\0" in prompt or len(prompt.encode("utf-8", "surrogatepass")) > LONGEST_ARGUMENT:
        return False
    return not prompt.startswith(("-", "+")) or ("--", "{prompt}") in pairwise(argv)


def compose(
    profile: Profile,
    *,
    prompt: str,
    prompt_file: str,
    worktree: str,
    session_id: str,
    git_dir: str,
    git_common_dir: str,
    last_message_file: str,
    resume: bool = False,
) -> Invocation:
    """What to execute so that the agent works on `prompt`, which is also the text of the file `prompt_file`.

    Paths are absolute; `session_id` is a UUID that the agent has not seen, or with `resume` that of the session to
    continue. An agent whose `profile.resume` is None starts anew, and needs a new id.

    A prompt that cannot be an argument (too long, with a NUL, or like an option) is replaced by a sentence that names
    the file. For the shell it is `. FILE`, which leaves `$0` and `$#` as `sh -c PROMPT` has them; `sh FILE` would not.
    """
    argv = profile.resume if resume and profile.resume else profile.argv
    if not _can_be_argument(prompt, argv):
        quoted = "'" + prompt_file.replace("'", "'\\''") + "'"
        prompt = f". {quoted}" if profile.name == SHELL else f"Read the task in {prompt_file} and do what it says."
    given = (prompt, prompt_file, worktree, session_id, git_dir, git_common_dir, last_message_file)
    values = dict(zip(PLACEHOLDERS, given, strict=True))
    stdin_file = prompt_file if profile.prompt is PromptBy.STDIN else None
    return Invocation(tuple(values.get(element, element) for element in argv), stdin_file)


def find_program(profile: Profile, path: str) -> str | None:
    """The absolute name of the profile's program, looked for along `path` (as in PATH); None if it is not there.

    Empty and relative entries of `path` are passed over: they mean another directory in the worktree.
    """
    name = profile.argv[0]
    for directory in [""] if os.path.isabs(name) else filter(os.path.isabs, path.split(os.pathsep)):
        candidate = os.path.join(directory, name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def agent_environment(inherited: Mapping[str, str], profile: Profile, extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of an agent: what it may have of `inherited`, then the profile's `env`, then `extra`.

    `FOREIGN` variables and those of `profile.strip` are left out, except what `profile.keep` matches. The programs of a
    virtual environment that is left out leave PATH with it. TERM is as inherited: the pane's must come in `extra`.
    """
    unwanted = (*FOREIGN, *profile.strip)
    env = {
        name: value for name, value in inherited.items() if _matches(name, profile.keep) or not _matches(name, unwanted)
    }
    active = inherited.get("VIRTUAL_ENV")
    if active and "VIRTUAL_ENV" not in env and "PATH" in env:
        programs = os.path.join(active, "bin")
        env["PATH"] = os.pathsep.join(d for d in env["PATH"].split(os.pathsep) if d.rstrip("/") != programs)
    return {**env, **profile.env, **extra}
