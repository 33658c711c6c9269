"""The built-in profiles: one table, and what is known of each agent.

Seen by running: Claude Code 2.1.197, Codex 0.169.0, Gemini CLI 0.61.0, opencode 1.18.33, Copilot CLI 1.0.102. Read in
the source: aider (2026-05). Read in the documentation: Amp (ampcode.com/manual), Cursor (cursor.com/docs/cli), Goose
(documentation/docs/guides/goose-cli-commands.md). No profile answers a permission prompt for the user: that is what the
setting `args` is for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from dispatchctl.agents.profile import SHELL, LastMessage, Profile, prompt_of

# Stands in the argv of a built-in profile where the setting `args` goes; nowhere else.
_ARGS = "{args}"


def _form(
    name: str, argv: str, resume: str = "", *, interactive: bool = False, last_message: str = "", note: str = ""
) -> Profile:
    """One row of the table below; no element of it holds a space."""
    elements = tuple(argv.split())
    resumed = tuple(resume.split()) or None
    last = LastMessage(last_message)
    return Profile(name, elements, prompt_of(elements), interactive, resume=resumed, last_message=last, note=note)


_SEEN = "its prompt is visible to other users of this machine in the process list"

# Codex's sandbox cannot write the git directory of a linked worktree unless told of it (openai/codex#23661). Its TUI
# hands the work to a daemon that all sessions share and that outlives them, unless told not to (seen in 0.169.0).
_CODEX_DIRS = "--add-dir {git_dir} --add-dir {git_common_dir}"
_CODEX_TUI = f"--no-daemon -c check_for_update_on_startup=false {_CODEX_DIRS} -- {{prompt}}"

# Where an agent has two forms, the first is the default and the setting `interactive` picks the other. A form has no
# way to resume where the agent neither lets us choose the session's id nor is known to look for it by directory.
FORMS = (
    replace(_form(SHELL, "sh {args} -c {prompt}", note=f"the prompt is a script; {_SEEN}"), expects_changes=False),
    _form(
        "claude",
        "claude {args} --session-id {session_id} -- {prompt}",
        "claude {args} --resume {session_id} -- {prompt}",
        interactive=True,
        note=_SEEN,
    ),
    _form(
        "claude",
        "claude {args} -p --session-id {session_id}",
        "claude {args} -p --resume {session_id}",
        last_message="output",
        note='cannot ask for permission: args = ["--permission-mode", "acceptEdits"] lets it edit files',
    ),
    _form(
        "codex",
        f"codex {{args}} {_CODEX_TUI}",
        f"codex resume --last {{args}} {_CODEX_TUI}",  # --last: in this directory, unless --all (exec/src/cli.rs)
        interactive=True,
        note=_SEEN,
    ),
    _form(
        "codex",
        f"codex exec {{args}} {_CODEX_DIRS} -o {{last_message_file}} -",
        f"codex exec {{args}} {_CODEX_DIRS} -o {{last_message_file}} resume --last -",
        last_message="file",
        note='cannot write by itself: args = ["-s", "workspace-write"] lets it write in the worktree',
    ),
    _form(
        "gemini",
        "gemini {args} --session-id {session_id} -i {prompt}",
        "gemini {args} --resume latest -i {prompt}",  # its sessions are kept by directory ("for this project")
        interactive=True,
        note=_SEEN,
    ),
    _form(
        "gemini",
        "gemini {args} --session-id {session_id}",
        "gemini {args} --resume latest",
        last_message="output",
        note='cannot ask for permission: args = ["--approval-mode", "auto_edit"] lets it edit files',
    ),
    _form(
        "aider",
        "aider {args} --message-file {prompt_file}",
        "aider {args} --restore-chat-history --message-file {prompt_file}",
        note="ends after one turn, and commits by itself",
    ),
    _form("opencode", "opencode {args} --prompt {prompt}", interactive=True, note=_SEEN),
    _form("opencode", "opencode run {args}", note="ends after one turn"),
    # Amp takes a first prompt for its interactive form only on standard input, which the terminal needs.
    _form("amp", "amp {args} -x", note="ends after one turn"),
    # It is not documented that cursor-agent knows `--`, or reads a prompt from standard input.
    _form("cursor", "cursor-agent {args} {prompt}", interactive=True, note=_SEEN),
    _form("cursor", "cursor-agent {args} -p {prompt}", note=_SEEN),
    # --session-id gives a new session this id, or resumes the one that has it.
    _form(
        "copilot",
        "copilot {args} --session-id {session_id} -i {prompt}",
        "copilot {args} --session-id {session_id} -i {prompt}",
        interactive=True,
        note=_SEEN,
    ),
    _form(
        "copilot",
        "copilot {args} --session-id {session_id}",
        "copilot {args} --session-id {session_id}",
        note='cannot ask for permission: args = ["--allow-tool=write"] lets it edit files',
    ),
    _form(
        "goose",
        "goose run {args} -n {session_id} -s -i {prompt_file}",  # -s: stay in the session afterwards
        "goose run {args} -r -n {session_id} -s -i {prompt_file}",
        interactive=True,
        note="stays in its session after the first turn",
    ),
    _form(
        "goose",
        "goose run {args} -n {session_id} -i {prompt_file}",
        "goose run {args} -r -n {session_id} -i {prompt_file}",
        note="ends after one turn",
    ),
)


def with_args(argv: Sequence[str], args: Sequence[str]) -> tuple[str, ...]:
    """The argv with `args` where it has a place for them, else right after the program."""
    at = argv.index(_ARGS) if _ARGS in argv else 1
    return (*argv[:at], *args, *(element for element in argv[at:] if element != _ARGS))


def _plain(form: Profile) -> Profile:
    return replace(form, argv=with_args(form.argv, ()), resume=form.resume and with_args(form.resume, ()))


def known(profiles: Iterable[Profile] = ()) -> dict[str, Profile]:
    """Every profile by name, in order of name: the built-in ones, each replaced by one of `profiles` of that name."""
    every = {form.name: _plain(form) for form in reversed(FORMS)} | {profile.name: profile for profile in profiles}
    return {name: every[name] for name in sorted(every)}
