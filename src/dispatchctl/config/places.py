"""Where things are: the database, what stands beside it, and the tmux server's socket. Nothing is created here."""

import os
from pathlib import Path

from dispatchctl.config.environment import Environment
from dispatchctl.config.layers import Settings


def database_path(env: Environment, option: str | None = None) -> Path:
    """`--db`, else DISPATCHCTL_DB, else `dispatchctl/dispatchctl.db` under XDG_DATA_HOME.

    Links are followed, so that two spellings of one database do not have two state directories with locks of their own.
    """
    named = option or env.database
    path = env.expand(named) if named else env.data_home / "dispatchctl" / "dispatchctl.db"
    return Path(os.path.realpath(path))


def state_dir(database: Path) -> Path:
    """The directory of the database's runs, locks and worktrees: its path with the suffix `.d`."""
    return database.with_name(database.name + ".d") if database.suffix == ".d" else database.with_suffix(".d")


def worktrees_root(settings: Settings, database: Path) -> Path:
    """The directory that holds the worktrees: `worktrees.root`, else one in the state directory."""
    return Path(settings.worktrees.root) if settings.worktrees.root else state_dir(database) / "worktrees"


def tmux_socket(env: Environment, settings: Settings) -> str:
    """The absolute path of the tmux server's socket, as tmux 3.3 itself finds it (tmux.c, `make_label`).

    A name stands in `tmux-UID` under the first of TMUX_TMPDIR and /tmp that exists, with links followed.
    """
    socket = settings.tmux.socket
    inside = (env.tmux or "").partition(",")[0]
    if "/" in socket or (not socket and inside):
        return os.path.abspath(socket or inside)
    tmpdir = str(env.expand(env.tmux_tmpdir or "/tmp"))
    base = os.path.realpath(tmpdir if os.path.exists(tmpdir) else "/tmp")
    return f"{base}/tmux-{env.uid}/{socket or 'default'}"
