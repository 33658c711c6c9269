"""The door to agent programs: how each is started, handed its prompt, resumed, and what it must not inherit.

`profile` says what a profile is and turns one into what the launcher executes, `built_in` is the table of those that
come with the program, `settings` reads the user's. A new agent is one entry, here or in a settings file.

Invariants:

* a prompt is one whole argument, a file, or standard input: never a part of an argument, and never a program except in
  the profile `shell`, where it is one;
* an interactive agent keeps its terminal: it never reads its prompt from standard input.
"""

from dispatchctl.agents.built_in import known
from dispatchctl.agents.profile import (
    FOREIGN,
    LONGEST_ARGUMENT,
    PLACEHOLDERS,
    SHELL,
    Invocation,
    LastMessage,
    Profile,
    PromptBy,
    agent_environment,
    compose,
    find_program,
)
from dispatchctl.agents.settings import profile_from_settings, unknown_agent

__all__ = [
    "FOREIGN",
    "LONGEST_ARGUMENT",
    "PLACEHOLDERS",
    "SHELL",
    "Invocation",
    "LastMessage",
    "Profile",
    "PromptBy",
    "agent_environment",
    "compose",
    "find_program",
    "known",
    "profile_from_settings",
    "unknown_agent",
]
