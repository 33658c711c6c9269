"""Readable, safe names made from what a user wrote: pure, and free of anything a shell, tmux or git would interpret."""

import hashlib
import re
import unicodedata


def slug(text: str, longest: int = 40) -> str:
    """The text as lower-case words of `[a-z0-9]` joined by hyphens, cut at a word; may be empty."""
    plain = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z0-9]+", plain)
    kept = ""
    for word in words:
        longer = f"{kept}-{word}" if kept else word[:longest]
        if len(longer) > longest:
            break
        kept = longer
    return kept


def place(repo: str) -> str:
    """A short name for a repository that no other path shares: its last part and four digits of a hash of the whole."""
    leaf = slug(repo.rstrip("/").rpartition("/")[2].removesuffix(".git"), 24) or "repo"
    return f"{leaf}-{hashlib.sha256(repo.encode('utf-8', 'surrogateescape')).hexdigest()[:4]}"


def branch(pattern: str, task: int, title: str, number: int) -> str:
    """The branch of a run: the pattern with `{id}` and `{slug}`; later tries that start afresh get `-2`, `-3`, …"""
    words = slug(title)
    if not words:
        pattern = re.sub(r"[-/_.]*\{slug\}|\{slug\}[-/_.]*", "", pattern).lstrip("-/_.")
    name = pattern.replace("{id}", str(task)).replace("{slug}", words)
    return name if number == 1 else f"{name}-{number}"


def leaf(task: int, title: str, number: int) -> str:
    """The name of a run's worktree and window."""
    words = slug(title)
    name = f"{task}-{words}" if words else str(task)
    return name if number == 1 else f"{name}-{number}"


def lock_reason(database: str, task: int, token: str) -> str:
    """Why a run's worktree is locked against `git worktree prune` and `remove`; it says whose it is.

    The token tells an undo that this very run made it, even if the database was restored to a moment before that was noted.
    """
    return f"dispatchctl {database} {task} {token}"


def of_lock_reason(reason: str | None, database: str) -> tuple[int, str] | None:
    """Task and token of a worktree that is locked for a run of this database."""
    found = re.fullmatch(r"(\d+) ([0-9a-f]{8})", (reason or "").removeprefix(f"dispatchctl {database} "))
    return (int(found[1]), found[2]) if found and reason != found[0] else None
