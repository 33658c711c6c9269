"""Tasks as they come in: what a user typed becomes a checked `NewTask`, or one clear refusal and nothing changed."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from dispatchctl.errors import LaunchError, UsageError
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Actor, NewTask, Task

LONGEST_TITLE = 1_000
LONGEST_PROMPT = 16 << 20
LONGEST_LABEL = 200
LONGEST_MESSAGE = 64 << 10


@dataclass(frozen=True)
class Wish:
    """What the user said of a new task; None is what was left to the settings."""

    title: str
    prompt: str | None = None
    repo: str = "."
    base: str | None = None
    agent: str | None = None
    priority: int | None = None
    labels: Sequence[str] = ()
    after: Sequence[int] = ()
    retries: int | None = None
    timeout_s: int | None = None
    review: bool | None = None
    backlog: bool = False
    not_before: int | None = None


def add(runtime: Runtime, wishes: Iterable[Wish]) -> list[Task]:
    """Check and store all of them, or none. Makes the database if there is none.

    Raises `UsageError` for what cannot be: no repository, no commit, no such base or agent; `NoSuchTask` for a parent.
    """
    new = [checked(runtime, wish) for wish in wishes]
    return runtime.make_store().add(new, actor=Actor.USER, at=now())


def checked(runtime: Runtime, wish: Wish) -> NewTask:
    """What the user wished, completed by the settings; nothing is written. Raises `UsageError`."""
    title = checked_text(wish.title.strip(), "title", LONGEST_TITLE)
    if not title:
        raise UsageError("the title is empty", "dispatchctl add 'Fix the login page' -p 'What to do …'")
    prompt = checked_text(title if wish.prompt is None else wish.prompt, "prompt", LONGEST_PROMPT)
    if not prompt.strip():
        raise UsageError(f"the prompt of {title!r} is empty", f"dispatchctl add {quote(title)}")
    repo = repository(runtime, wish.repo)
    settings = runtime.settings_for(repo)
    agent = wish.agent or settings.task.agent
    runtime.profile(agent)
    base = checked_base(runtime, repo, wish.base or settings.task.base or None)
    defaults = settings.task
    return NewTask(
        title=title,
        prompt=prompt,
        repo=repo,
        base=base,
        agent=agent,
        priority=defaults.priority if wish.priority is None else wish.priority,
        labels=checked_labels(wish.labels),
        after=tuple(dict.fromkeys(wish.after)),
        review=defaults.review if wish.review is None else wish.review,
        backlog=wish.backlog,
        retries=defaults.retries if wish.retries is None else wish.retries,
        recoveries=defaults.recoveries,
        timeout_s=defaults.timeout if wish.timeout_s is None else wish.timeout_s,
        not_before=wish.not_before,
    )


def repository(runtime: Runtime, path: str) -> str:
    """The root of the repository that `path` is in. Raises `UsageError`."""
    if not path:
        raise UsageError("--repo names no directory: it is empty", "dispatchctl add 'TITLE' --repo .")
    try:
        root = runtime.git.repository(os.path.realpath(os.path.expanduser(path))).root
    except LaunchError as error:
        raise UsageError(error.message, error.hint) from error
    return checked_text(root, "path of the repository", LONGEST_PROMPT)


def checked_base(runtime: Runtime, repo: str, base: str | None) -> str:
    """The base if it names a commit, or the repository's current branch if none was given. Raises `UsageError`."""
    base = base or None
    try:
        runtime.git.commit(repo, base or "HEAD")
    except LaunchError as error:
        raise UsageError(error.message, error.hint) from error
    return checked_text(base or runtime.git.current_base(repo), "name of the base", LONGEST_PROMPT)


def checked_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """The labels, each once. Raises `UsageError`."""
    return tuple(dict.fromkeys(checked_text(label, "label", LONGEST_LABEL) for label in labels))


def checked_text(text: str, what: str, longest: int) -> str:
    """The text if it is UTF-8, holds no NUL and is not too long. Raises `UsageError`."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise UsageError(
            f"the {what} is not valid UTF-8 (at character {error.start})", "iconv -t UTF-8 'FILE'"
        ) from error
    if "\0" in text:
        raise UsageError(f"the {what} contains a NUL character", "tr -d '\\000' < 'FILE' | dispatchctl add -")
    if size > longest:
        raise UsageError(f"the {what} has {size} bytes, and {longest} is the most", "dispatchctl add 'TITLE' -P 'FILE'")
    return text


def edit(runtime: Runtime, task: int, wish: Mapping[str, Any], after: Sequence[int] | None) -> Task:
    """Change what the user named of a task without an open run; everything is checked as for a new one."""
    before = runtime.store.task(task)
    changes = dict(wish)
    if "title" in changes:
        changes["title"] = checked_text(changes["title"].strip(), "title", LONGEST_TITLE)
        if not changes["title"]:
            raise UsageError("the title is empty", f"dispatchctl edit {task} --title 'Fix the login page'")
    if "prompt" in changes and not checked_text(changes["prompt"], "prompt", LONGEST_PROMPT).strip():
        raise UsageError(f"the new prompt of task {task} is empty", f"dispatchctl edit {task} -e")
    if "labels" in changes:
        changes["labels"] = checked_labels(changes["labels"])
    if "agent" in changes:
        runtime.profile(changes["agent"])
    if "base" in changes:
        changes["base"] = checked_base(runtime, before.repo, changes["base"])
    if not changes and after is None:
        raise UsageError(f"nothing of task {task} was to be changed", f"dispatchctl edit {task} --priority 0")
    return runtime.store.edit(task, changes, after, at=now())
