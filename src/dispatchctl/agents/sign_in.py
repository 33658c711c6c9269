"""Whether an agent seems to be signed in, as far as files and the environment tell. Nothing is asked of the network.

Only agents are named of which it is known where they keep it; a keychain cannot be looked into. Sources: the agents'
documentation and programs, as noted with their profiles in `built_in`.
"""

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple


class _Signs(NamedTuple):
    """Variables (patterns) and files: any one of them means signed in; `home` is a variable that moves the files."""

    variables: tuple[str, ...]
    files: tuple[str, ...]
    home: tuple[str, str] | None = None


_SIGNS: Mapping[str, _Signs] = {
    "claude": _Signs(
        ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_USE_*"),
        (".claude/.credentials.json",),
        ("CLAUDE_CONFIG_DIR", ".claude"),
    ),
    "codex": _Signs(("OPENAI_API_KEY", "CODEX_API_KEY"), (".codex/auth.json",), ("CODEX_HOME", ".codex")),
    "gemini": _Signs(("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENAI_USE_*"), (".gemini/oauth_creds.json",)),
    "opencode": _Signs(("*_API_KEY", "OPENCODE_CONFIG*"), (".local/share/opencode/auth.json",)),
}


def signed_in(agent: str, environment: Mapping[str, str], home: str, *, keychain: bool) -> tuple[bool | None, str]:
    """Whether the agent seems to be signed in, and what was looked for. None: that cannot be told here.

    `environment` is what the agent would get; with a `keychain` (macOS) a file that is missing tells nothing.
    """
    signs = _SIGNS.get(agent)
    if signs is None:
        return None, ""
    if any(value and fnmatchcase(name, each) for each in signs.variables for name, value in environment.items()):
        return True, ""
    files = [_file(each, signs, environment, home) for each in signs.files]
    if any(os.path.exists(file) for file in files):
        return True, ""
    return (None if keychain else False), f"{' or '.join(files)}, and no {signs.variables[0]}"


def _file(name: str, signs: _Signs, environment: Mapping[str, str], home: str) -> str:
    if signs.home is not None:
        variable, first = signs.home
        if environment.get(variable):
            return os.path.join(environment[variable], name.removeprefix(f"{first}/"))
    return os.path.join(home, name)
