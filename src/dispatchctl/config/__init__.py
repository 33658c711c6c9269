"""The environment, the settings and the places that follow from them; the only reader of the environment.

`environment` holds what the process was given, `table` the settings (a new one is one line there), `kinds` what a value
may be, `layers` who is heard first, `toml` the files, `places` the paths.
"""

from dispatchctl.config.environment import Environment
from dispatchctl.config.layers import DEFAULT, OPTION, REPOSITORY_FILE, Settings, config_path, load
from dispatchctl.config.places import database_path, state_dir, tmux_socket, worktrees_root
from dispatchctl.config.table import (
    SETTINGS,
    Dispatch,
    Git,
    Hooks,
    Output,
    Scope,
    Setting,
    StallAction,
    Store,
    TaskDefaults,
    Tmux,
    Tools,
    Uncommitted,
    Worktrees,
    starting_config,
)

__all__ = [
    "DEFAULT",
    "OPTION",
    "REPOSITORY_FILE",
    "SETTINGS",
    "Dispatch",
    "Environment",
    "Git",
    "History",
    "Hooks",
    "Notice",
    "Notify",
    "Output",
    "Scope",
    "Setting",
    "Settings",
    "StallAction",
    "Store",
    "TaskDefaults",
    "Tmux",
    "Tools",
    "Uncommitted",
    "Watch",
    "Worktrees",
    "config_path",
    "database_path",
    "load",
    "starting_config",
    "state_dir",
    "tmux_socket",
    "worktrees_root",
]
