"""tmux, git, the settings, and the programs of agents."""

from collections.abc import Iterator

from dispatchctl.doctor.health import Agents, Program, Setup, Tools
from dispatchctl.doctor.table import Problem, Severity, check

TMUX_LEAST = (3, 0)
"""Options of a pane (`set-option -p`: @dispatchctl_token and remain-on-exit, `windows.open`) came with tmux 3.0."""
GIT_LEAST = (2, 36)
"""`worktree list -z` (`worktrees.listed`) came with git 2.36, the last of what is used."""

ERROR, WARNING, INFO = Severity


@check(ERROR)
def tmux_found(tools: Tools) -> Iterator[Problem]:
    """tmux is installed and runs."""
    yield from _found(tools.tmux)


@check(ERROR)
def tmux_version(tools: Tools) -> Iterator[Problem]:
    """tmux is new enough."""
    yield from _new_enough(tools.tmux, TMUX_LEAST)


@check(ERROR)
def git_found(tools: Tools) -> Iterator[Problem]:
    """git is installed and runs."""
    yield from _found(tools.git)


@check(ERROR)
def git_version(tools: Tools) -> Iterator[Problem]:
    """git is new enough."""
    yield from _new_enough(tools.git, GIT_LEAST)


def _found(program: Program) -> Iterator[Problem]:
    if program.path is None:
        yield Problem(program.name, program.said, f"dispatchctl config tools.{program.name}")
    elif program.version is None:
        yield Problem(program.name, f"does not say its version: {program.said}", f"{program.path} --help")


def _new_enough(program: Program, least: tuple[int, ...]) -> Iterator[Problem]:
    if program.version is not None and program.version < least:
        has, needs = dotted(program.version), dotted(least)
        yield Problem(program.name, f"is of version {has}, and at least {needs} is needed", f"install {program.name}")


def dotted(version: tuple[int, ...]) -> str:
    """A version as it is written."""
    return ".".join(map(str, version))


@check(ERROR)
def settings_valid(setup: Setup) -> Iterator[Problem]:
    """The settings, by file and by environment, can be read and say nothing that cannot be."""
    for fault in setup.user:
        yield Problem(fault.subject, fault.text, fault.fix)


@check(ERROR)
def repository_settings_valid(setup: Setup) -> Iterator[Problem]:
    """The `.dispatchctl.toml` of each unfinished task's repository is valid."""
    for fault in setup.repositories:
        yield Problem(fault.subject, fault.text, fault.fix)


@check(ERROR, INFO)
def agent_found(agents: Agents) -> Iterator[Problem]:
    """The program of each unfinished task's agent is there; an error where a task is ready, so that it cannot be started."""
    for agent in agents.each:
        if agent.found:
            continue
        needed = "its task cannot be started" if len(agent.ready) == 1 else "its tasks cannot be started"
        what = f"there is no program {agent.program!r} on PATH" if agent.known else "is not known"
        if agent.ready:
            yield Problem(f"agent {agent.name}", f"{what}, so {needed}: {_tasks(agent.ready)}", "dispatchctl agents")
        elif agent.others:
            named = _tasks(agent.others)
            yield Problem(f"agent {agent.name}", f"{what}; it is the agent of {named}", "dispatchctl agents", INFO)


@check(WARNING)
def agent_signed_in(agents: Agents) -> Iterator[Problem]:
    """Each ready task's agent is signed in, as far as files and the environment tell: nothing is asked of the network."""
    for agent in agents.each:
        if agent.found and agent.ready and agent.signed_in is False:
            seen = f"seems not to be signed in: there is no {agent.signs}"
            yield Problem(f"agent {agent.name}", f"{seen}; {_tasks(agent.ready)} may hang", agent.program)


def _tasks(ids: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, ids[:5])) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    return f"task {shown}" if len(ids) == 1 else f"tasks {shown}"
