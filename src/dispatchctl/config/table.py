"""The table of settings: a setting is one line here, and everything else about it follows.

From a line come its type, its place in TOML and in the environment, what it may be, who may set it, the line of the
starting file and of the documentation. Durations are whole seconds, sizes are bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from typing import Any, NamedTuple, TypeVar

from dispatchctl.config.kinds import (
    BRANCH,
    COMMAND,
    COMMANDS,
    DIRECTORY,
    FLAG,
    NAME,
    PROGRAM,
    REVISION,
    SOCKET,
    URLS,
    Command,
    Commands,
    Kind,
    choice,
    choices,
    duration,
    size,
    whole,
)

T = TypeVar("T")


class Scope(Enum):
    """Who may set a setting, besides the user's own file, the environment and options."""

    USER = "user"
    """Nobody."""

    PER_REPOSITORY = "per repository"
    """The user's own tables about single repositories."""

    REPOSITORY = "repository"
    """Those, and the repository's `.dispatchctl.toml`: only what cannot execute anything."""


class Uncommitted(StrEnum):
    """What becomes of changes that an agent left uncommitted."""

    REVIEW = "review"
    COMMIT = "commit"


class Notice(StrEnum):
    """What a user may be told of."""

    BLOCKED = "blocked"
    IN_REVIEW = "in_review"
    FAILED = "failed"
    DONE = "done"
    STALLED = "stalled"
    EMPTY = "empty"


Notices = tuple[Notice, ...]


class StallAction(StrEnum):
    """What becomes of a run that is stalled."""

    NONE = "none"
    END = "end"


class Setting(NamedTuple):
    key: str
    kind: Kind[Any]
    default: Any
    doc: str
    scope: Scope

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "DISPATCHCTL_" + self.key.upper().replace(".", "__")

    def toml(self, value: Any) -> str:
        """A value of this setting as TOML writes it."""
        import json  # only to show settings

        return json.dumps(self.kind.show(value), ensure_ascii=False)


def setting(kind: Kind[T], default: object, doc: str, scope: Scope = Scope.USER) -> T:
    """A field of a section; `default` is written as in TOML. For the type checker it is the value itself."""
    value: T = field(default=kind.read(default), metadata={"kind": kind, "doc": doc, "scope": scope})
    return value


@dataclass(frozen=True)
class Dispatch:
    """How tasks are started and ended."""

    max_running: int = setting(whole(1, 1_000), 8, "How many agents may run at once, over all repositories.")
    max_per_repo: int = setting(
        whole(0, 1_000),
        0,
        "How many of them may run at once in one repository; 0: no limit of its own.",
        Scope.REPOSITORY,
    )
    launch_timeout: int = setting(duration(1), "30s", "How long an agent's window may take to start the agent.")
    report_grace: int = setting(duration(), "30s", "After done or fail, how long a session has to end by itself.")
    kill_grace: int = setting(duration(), "10s", "How long a process has between TERM and KILL.")
    stall_after: int = setting(
        duration(), "30m", "Without output or heartbeat for so long, a run is stalled; 0: never."
    )
    stall_action: StallAction = setting(  # noqa: RUF009 - an enum's member is shared anyway
        choice(StallAction), "none", "What becomes of a stalled run, besides being shown as one."
    )
    retry_wait: int = setting(duration(1), "15s", "First wait before a lost or unstarted task is tried again; doubles.")


@dataclass(frozen=True)
class TaskDefaults:
    """What a task gets that does not say otherwise."""

    agent: str = setting(NAME, "claude", "The agent's profile.", Scope.REPOSITORY)
    base: str = setting(REVISION, "", "Where work is to be merged; empty: the current branch.", Scope.REPOSITORY)
    priority: int = setting(whole(0, 4), 2, "0 comes first, 4 last.", Scope.REPOSITORY)
    retries: int = setting(whole(0, 100), 0, "How often a failed task is run again.", Scope.REPOSITORY)
    recoveries: int = setting(whole(0, 100), 3, "How often a lost or unstarted run is tried again.", Scope.REPOSITORY)
    timeout: int = setting(
        duration(), "12h", "How long a run may take, asleep not counted; 0: no limit.", Scope.REPOSITORY
    )
    review: bool = setting(FLAG, False, "Whether a human looks at the work before it is done.", Scope.REPOSITORY)
    parent_results: bool = setting(
        FLAG, True, "Whether the prompt ends with the results of the tasks that it runs after.", Scope.REPOSITORY
    )
    uncommitted: Uncommitted = setting(  # noqa: RUF009 - an enum's member is shared anyway
        choice(Uncommitted), "review", "What becomes of changes that the agent did not commit.", Scope.REPOSITORY
    )


@dataclass(frozen=True)
class Watch:
    """The daemon."""

    interval: int = setting(duration(1), "5s", "How long it sleeps at most; it wakes when something happens.")
    launches: int = setting(whole(1, 100), 4, "How many tasks it starts at the same time.")


@dataclass(frozen=True)
class Notify:
    """What you are told of, and how. Sent by `dispatchctl watch`, tried by `dispatchctl notify`."""

    on: Notices = setting(  # noqa: RUF009 - a tuple
        choices(Notice), ["blocked", "in_review", "failed", "stalled", "empty"], "What you are told of."
    )
    tmux: bool = setting(FLAG, True, "A message and a bell in the tmux clients that show the task's server.")
    desktop: bool = setting(FLAG, False, "A notification of the desktop (notify-send, osascript).")
    command: Command = setting(  # noqa: RUF009 - a tuple
        COMMAND, [], "A command of yours, which gets each notice as JSON on its standard input."
    )
    urls: Command = setting(  # noqa: RUF009 - a tuple
        URLS, [], "Services, as URLs of apprise: pip install 'dispatchctl[apprise]'."
    )
    timeout: int = setting(duration(1), "30s", "How long each of them may take.")


@dataclass(frozen=True)
class History:
    """What is kept of what happened."""

    keep: int = setting(duration(), "0", "How long `prune` keeps the events of finished tasks; 0: for ever.")


@dataclass(frozen=True)
class Worktrees:
    """Where agents work."""

    root: str = setting(DIRECTORY, "", "The directory that holds the worktrees; empty: beside the database.")
    branch: str = setting(BRANCH, "dispatch/{id}-{slug}", "The name of a run's branch.", Scope.REPOSITORY)


@dataclass(frozen=True)
class Hooks:
    """Commands of yours around a run."""

    post_create: Commands = setting(  # noqa: RUF009 - a tuple
        COMMANDS, [], "Commands to run in a new worktree.", Scope.PER_REPOSITORY
    )
    timeout: int = setting(duration(1), "10m", "How long they may take together.", Scope.PER_REPOSITORY)


@dataclass(frozen=True)
class Tmux:
    """The tmux server in which agents run."""

    socket: str = setting(SOCKET, "", "Its socket: a name (tmux -L) or a path (tmux -S); empty: your own server.")
    timeout: int = setting(duration(1), "10s", "How long tmux may take to answer.")
    keep_windows: int = setting(duration(), "1h", "How long the window of a run that has ended stays, to be looked at.")


@dataclass(frozen=True)
class Git:
    """How long git may take."""

    timeout: int = setting(duration(1), "2m", "For reading, and for registering a worktree.")
    checkout_timeout: int = setting(duration(1), "30m", "For checking out a worktree's files.")


@dataclass(frozen=True)
class Tools:
    """The programs to use: a name on PATH, or a path."""

    git: str = setting(PROGRAM, "git", "git.")
    tmux: str = setting(PROGRAM, "tmux", "tmux.")
    gh: str = setting(PROGRAM, "gh", "GitHub's command line, for `merge --pr`.")


@dataclass(frozen=True)
class Output:
    """What is kept of an agent's output."""

    limit: int = setting(size(64 << 10), "16MiB", "How much, for each run.")


@dataclass(frozen=True)
class Store:
    """The database."""

    busy_timeout: int = setting(duration(1), "60s", "How long to wait for other processes that write to it.")


@dataclass(frozen=True)
class Sections:
    """Every section with its defaults."""

    dispatch: Dispatch = Dispatch()
    watch: Watch = Watch()
    task: TaskDefaults = TaskDefaults()
    worktrees: Worktrees = Worktrees()
    hooks: Hooks = Hooks()
    tmux: Tmux = Tmux()
    git: Git = Git()
    tools: Tools = Tools()
    output: Output = Output()
    store: Store = Store()
    notify: Notify = Notify()
    history: History = History()


SECTIONS: Mapping[str, Any] = {section.name: section.type for section in fields(Sections)}

SETTINGS: Mapping[str, Setting] = {
    key: Setting(key, entry.metadata["kind"], entry.default, entry.metadata["doc"], entry.metadata["scope"])
    for name, section in SECTIONS.items()
    for entry in fields(section)
    for key in [f"{name}.{entry.name}"]
}

_OPENING = """\
## The settings of dispatchctl. Each stands here with its default: remove the "# " before it, and before the [section]
## above it, to change it. `dispatchctl config` shows every value and where it comes from.
## Those marked (repository) may also stand in a repository's own .dispatchctl.toml.
"""

_CLOSING = """
## For one repository: whatever is marked (repository), and hooks. This outranks the repository's own file.
# [repositories."/srv/web"]
# task.agent = "codex"
# hooks.post_create = [["npm", "ci"]]

## Agents of your own stand in tables [agents.NAME]; `dispatchctl agents` shows those that are known.
"""


def starting_config() -> str:
    """The file that `dispatchctl init` writes: every line a comment, and valid TOML without its first `# `."""
    lines = [_OPENING]
    for name, section in SECTIONS.items():
        lines.append(f"\n## {section.__doc__}\n# [{name}]\n")
        for key, entry in SETTINGS.items():
            if key.startswith(f"{name}."):
                mark = " (repository)" if entry.scope is Scope.REPOSITORY else ""
                lines.append(f"## {entry.doc}{mark}\n# {key.removeprefix(f'{name}.')} = {entry.toml(entry.default)}\n")
    return "".join(lines) + _CLOSING
