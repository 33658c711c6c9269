"""Bringing what a task's newest run has committed into the task's base.

A merge first makes sure of everything, then moves the base in one step, then notes it, then clears. Killed before that step
it has changed nothing; killed after it, the base has the work, and merging again finds that, notes it and goes on. Whatever
refuses has changed no ref, no index and no file.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from shlex import quote

from dispatchctl import clearing
from dispatchctl.changes import place_of, squash_trailer
from dispatchctl.errors import Busy, DispatchctlError, Refused
from dispatchctl.faults import effect
from dispatchctl.launch import undisturbed
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Phase, Run, Status, Task
from dispatchctl.worktrees import Conflict, Found, LocalBranch, Losses

NOTING_INTENT = effect("keep what is to be merged")
MOVING_BASE = effect("move the base")
NOTING_MERGE = effect("note the merge")
KEEPING_COMMITS = effect("keep the commits that were squashed")

NAMED = 5
"""Files in conflict that are named; the rest are counted."""
LISTED = 50
"""Commits whose subjects a squash lists."""
SHELL = "shell"
"""The agent that takes no message."""


class How(StrEnum):
    """How the work came into the base."""

    FAST_FORWARD = "fast_forward"
    MERGE = "merge"
    SQUASH = "squash"
    NOTHING = "nothing"
    ALREADY = "already"


@dataclass(frozen=True)
class Wish:
    """How it is to be merged: as one commit, never by fast-forward, and whether worktree and branch stay afterwards."""

    squash: bool = False
    no_ff: bool = False
    keep: bool = False


@dataclass(frozen=True)
class Merged:
    """A merged task; `commit` of the base holds the work, `checkout` was brought along, `kept` says why something stays."""

    task: Task
    base: str
    commit: str
    how: How
    approved: bool = False
    checkout: str | None = None
    kept: tuple[DispatchctlError, ...] = ()


@dataclass(frozen=True)
class Work:
    """What is to be merged: the place of the task's newest run, and the tips of its branch and of its base."""

    task: Task
    place: Run
    tip: str
    base: LocalBranch


# -- merging --------------------------------------------------------------------------------------------------------------


def merge(runtime: Runtime, number: int, wish: Wish, *, tell: Callable[[str], None]) -> Merged:
    """Merge the branch of the task's newest run into the task's base, note it, and clear worktree and branch away.

    A task in review is approved by it. `tell` hears how to get back what a squash has left out. Raises `Refused`, and nothing
    has changed, for what is not finished, not committed, in conflict, or where the base cannot be moved; `Busy` if it moved
    meanwhile.
    """
    place = place_of(runtime, mergeable(runtime, number))
    repository = runtime.git.repository(place.repo)
    lock = runtime.git.lock(repository)
    try:
        task = mergeable(runtime, number)  # another merge may have come first
        place = place_of(runtime, task)
        done = _merged_before(runtime, task, place) or _merge(runtime, work_of(runtime, task, place), wish)
    finally:
        lock.release()
    if wish.keep:
        return done
    kept = _clear(runtime, done, place, tell)
    return replace(done, task=runtime.store.task(number), kept=tuple(kept))


def mergeable(runtime: Runtime, number: int) -> Task:
    """The task, if its work may be merged now: it is done or in review, and nothing of it runs."""
    task = runtime.store.task(number)
    hints = {
        Status.BACKLOG: f"dispatchctl release {number}",
        Status.READY: f"dispatchctl dispatch {number}",
        Status.IN_PROGRESS: f"dispatchctl wait {number}",
        Status.BLOCKED: f"dispatchctl done {number}",
        Status.FAILED: f"dispatchctl retry {number}",
        Status.CANCELLED: f"dispatchctl retry {number}",
    }
    if task.status in hints:
        raise Refused(
            f"task {number} was not merged: it is {task.status}, and only what is done or in review is merged",
            hints[task.status],
        )
    if task.run is not None and task.run.phase is not Phase.CLOSED:
        raise Refused(f"task {number} was not merged: it has an open run", f"dispatchctl wait {number}")
    return task


def _merged_before(runtime: Runtime, task: Task, place: Run) -> Merged | None:
    """The answer for a task whose work was merged and whose branch has gone: what may be left has to be cleared away."""
    run = task.run
    if run is None or run.merged is None or runtime.git.find(place).tip is not None:
        return None
    return Merged(task, task.base, run.merged, How.ALREADY)


def work_of(runtime: Runtime, task: Task, place: Run) -> Work:
    """What is to be merged, if all of it is in the branch and the base is a local branch. Raises `Refused`; only looks."""
    git, not_merged = runtime.git, f"task {task.id} was not merged"
    found = git.find(place)
    if found.tip is None:
        rescued = f"git -C {quote(place.repo)} for-each-ref refs/dispatchctl/rescue/{task.id}"
        raise Refused(f"{not_merged}: its branch {place.branch} is gone", rescued)
    there = quote(found.files or place.worktree)
    losses = git.weigh(place, found)
    left_out = replace(losses, commits=0, elsewhere=(), missing=None).named(place.branch)
    if left_out:
        raise _left_out(task, losses, there, f"{place.worktree} holds what is not in its branch: {', '.join(left_out)}")
    if git.head_beyond(place, found):
        raise Refused(
            f"{not_merged}: {place.worktree} has commits checked out that are not in its branch {place.branch}",
            f"git -C {there} log --oneline {quote(place.branch)}..HEAD",
        )
    base = git.local_branch(place.repo, task.base)
    if not isinstance(base, LocalBranch):
        raise Refused(f"{not_merged}: its base {task.base} is {base}, not a local branch", _other_base(runtime, place))
    if base.name == place.branch:
        raise Refused(f"{not_merged}: its base is its own branch", _other_base(runtime, place))
    return Work(task, place, found.tip, base)


def _left_out(task: Task, losses: Losses, there: str, what: str) -> Refused:
    """The refusal of a worktree that holds more than its branch; uncommitted files alone can be committed by a command."""
    if losses.unfinished or losses.beyond:
        return Refused(f"task {task.id} was not merged: {what}", f"git -C {there} status")
    hint = f"git -C {there} add -A && git -C {there} commit -m {quote(task.title)}"
    if task.status is Status.IN_REVIEW and task.agent != SHELL:
        hint = f"dispatchctl reject {task.id} -m 'commit your work'"
    return Refused(
        f'task {task.id} was not merged: {what}; the setting task.uncommitted = "commit" has such files committed when an'
        " agent ends",
        hint,
    )


def _other_base(runtime: Runtime, place: Run) -> str:
    """What has the task merged into a branch that there is."""
    branch = runtime.git.main_branch(place.repo, besides=place.branch)
    if branch is None:
        return f"git -C {quote(place.repo)} branch --all"
    return f"dispatchctl edit {place.task} --base {quote(branch)}"


def _merge(runtime: Runtime, work: Work, wish: Wish) -> Merged:
    """Have the base hold the work, and note it."""
    git, run = runtime.git, work.task.run
    assert run is not None, "there is work"
    how, commit = _found_in_base(runtime, work)
    checkout = None
    if commit is None:
        how, commit = _result(runtime, work, wish)
        checkout = _checkout_of(runtime, work, commit)
        if how in (How.SQUASH, How.MERGE):
            with NOTING_INTENT:
                git.note_intended(work.place, commit)
        try:
            with undisturbed(), MOVING_BASE:
                _move(runtime, work, commit, checkout)
        except (Refused, Busy):
            git.forget_intended(work.place)
            raise
    try:
        with NOTING_MERGE:
            task = runtime.store.note_merged(run.token, commit, at=now())
    except Refused as error:
        raise Refused(
            f"{work.base.name} has the work of task {work.task.id} now, but {error.message}", error.hint
        ) from error
    git.forget_intended(work.place)
    return Merged(task, work.base.name, commit, how, work.task.status is Status.IN_REVIEW, checkout)


def _found_in_base(runtime: Runtime, work: Work) -> tuple[How, str | None]:
    """The commit of the base that holds the work already, by a merge that was killed, by hand, or because there is none."""
    git, repo = runtime.git, work.place.repo
    for known in (work.task.run.merged if work.task.run else None, git.intended(work.place)):
        if known and git.is_held(repo, work.tip, known, work.base.tip):
            return How.ALREADY, known
    return How.NOTHING, work.tip if git.is_in(repo, work.tip, work.base.tip) else None


def _result(runtime: Runtime, work: Work, wish: Wish) -> tuple[How, str]:
    """The commit that the base is to become: objects only. Raises `Refused` for a conflict."""
    git, repo, base = runtime.git, work.place.repo, work.base
    forward = git.is_in(repo, base.tip, work.tip)
    if forward and not wish.squash and not wish.no_ff:
        return How.FAST_FORWARD, work.tip
    tree = git.tree(repo, work.tip) if forward else git.merged_tree(repo, base.tip, work.tip)
    if isinstance(tree, Conflict):
        raise _conflict(work, tree)
    if tree == git.tree(repo, base.tip) and not wish.no_ff:
        return How.NOTHING, base.tip
    given = runtime.environment.inherited
    unknown = git.identity(repo, given)
    if unknown:
        raise DispatchctlError(
            f"task {work.task.id} was not merged: git does not know who you are, for the commit ({unknown})",
            "git config --global user.name NAME && git config --global user.email ADDRESS",
        )
    parents = [base.tip] if wish.squash else [base.tip, work.tip]
    message = _squash_message(runtime, work) if wish.squash else _merge_message(work.task)
    return (How.SQUASH if wish.squash else How.MERGE), git.make_commit(repo, tree, parents, message, given)


def _merge_message(task: Task) -> str:
    return "\n\n".join([f"Merge task {task.id}: {task.title}", *_result_of(task)]) + "\n"


def _squash_message(runtime: Runtime, work: Work) -> str:
    """The title, the agent's result, the subjects of the commits that it stands for, and whose work it is, as a trailer."""
    task = work.task
    subjects = runtime.git.subjects(work.place.repo, work.base.tip, work.tip)
    listed = [f"- {each}" for each in subjects[:LISTED]]
    if len(subjects) > LISTED:
        listed.append(f"- and {len(subjects) - LISTED} more")
    parts = [task.title, *_result_of(task), "\n".join(listed), squash_trailer(task.id)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _result_of(task: Task) -> list[str]:
    return [task.result.strip()] if task.result and task.result.strip() else []


def _conflict(work: Work, conflict: Conflict) -> Refused:
    task, base = work.task, work.base.name
    more = f" and {len(conflict.paths) - NAMED} more" if len(conflict.paths) > NAMED else ""
    ask = quote(f"merge {base} into your branch and resolve the conflicts")
    by_hand = f"git -C {quote(work.place.worktree)} merge {quote(base)}"
    return Refused(
        f"task {task.id} was not merged: it is in conflict with {base} in {', '.join(conflict.paths[:NAMED])}{more}",
        by_hand if task.agent == SHELL else f"dispatchctl retry {task.id} -m {ask}",
    )


# -- moving the base ------------------------------------------------------------------------------------------------------


def _checkout_of(runtime: Runtime, work: Work, commit: str) -> str | None:
    """The checkout that has to be brought along, if there is one. Raises `Refused` if the base cannot be moved there."""
    git, repo, base = runtime.git, work.place.repo, work.base
    not_merged = f"task {work.task.id} was not merged"
    if commit == base.tip:
        return None
    pinned = git.pinned_by(repo, base.name)
    if pinned is not None:
        raise Refused(
            f"{not_merged}: a rebase or bisect that began on {base.name} is not finished ({pinned})",
            f"git -C {quote(repo)} worktree list",
        )
    there = git.checkouts(repo, base.name)
    if not there:
        return None
    if len(there) > 1:
        raise Refused(
            f"{not_merged}: its base {base.name} is checked out in {' and '.join(there)}, and only one could be brought along",
            f"git -C {quote(repo)} worktree list",
        )
    [path] = there
    by_hand = f"git -C {quote(path)} status"
    if not os.path.isdir(path):
        raise Refused(
            f"{not_merged}: its base {base.name} is checked out in {path}, which is not there",
            f"git -C {quote(repo)} worktree prune",
        )
    for run in runtime.store.open_runs():
        if os.path.realpath(run.worktree) == os.path.realpath(path):
            raise Refused(
                f"{not_merged}: its base {base.name} is checked out in {path}, where task {run.task} is at work",
                f"dispatchctl wait {run.task}",
            )
    why = git.in_the_way(path, base.tip, commit)
    if why:
        raise Refused(f"{not_merged}: its base {base.name} is checked out in {path}, and {why}", by_hand)
    return path


def _move(runtime: Runtime, work: Work, commit: str, checkout: str | None) -> None:
    """Have the base point to the commit if it still points to what was looked at; nothing has happened if this raises."""
    if commit == work.base.tip:
        return
    if checkout is None:
        _move_alone(runtime, work, commit)
    else:
        _bring_along(runtime, work, commit, checkout)


def _move_alone(runtime: Runtime, work: Work, commit: str) -> None:
    git, repo, base, task = runtime.git, work.place.repo, work.base, work.task.id
    moved = git.move_branch(repo, base.name, commit, base.tip, f"merge of task {task}")
    if moved.code != 0:
        if git.branch_tip(repo, base.name) != base.tip:
            raise _base_moved(work)
        raise Busy(
            f"task {task} was not merged: git did not move {base.name}: {moved.last_words}", f"dispatchctl merge {task}"
        )
    if git.checkouts(repo, base.name):  # in the moment since we looked: what was checked out is the old tip
        git.move_branch(repo, base.name, base.tip, commit, f"merge of task {task} taken back")
        raise _base_moved(work)


def _bring_along(runtime: Runtime, work: Work, commit: str, path: str) -> None:
    git, base, task = runtime.git, work.base, work.task.id
    if not git.stands_on(path, base.name, base.tip):
        raise _base_moved(work)
    brought = git.bring_along(path, commit)
    tip = git.branch_tip(work.place.repo, base.name)
    if tip is not None and git.is_in(work.place.repo, commit, tip):
        return
    said = " ".join(brought.last_words.split())
    if tip != base.tip or brought.code == 0:
        raise _base_moved(work)
    if git.is_locked(path):
        raise Busy(
            f"task {task} was not merged: another git is at work in {path}, or was killed there",
            f"dispatchctl merge {task}",
        )
    raise Refused(
        f"task {task} was not merged: {path} could not be brought along: {said}", f"git -C {quote(path)} status"
    )


def _base_moved(work: Work) -> Busy:
    return Busy(
        f"task {work.task.id} was not merged: {work.base.name} moved, or was checked out, in the middle of it",
        f"dispatchctl merge {work.task.id}",
    )


# -- afterwards -----------------------------------------------------------------------------------------------------------


def _clear(runtime: Runtime, done: Merged, place: Run, tell: Callable[[str], None]) -> list[DispatchctlError]:
    """Clear worktree and branch away if nothing would be lost; why they stay. A ref keeps commits that the base has not."""
    task = done.task.id
    needed = clearing.needed(runtime, done.task, place)
    if needed is not None:
        return [Refused(f"task {task}: its worktree and branch stay: {needed.reason}", needed.hint)]
    if place.host != runtime.host:
        return [
            Refused(f"task {task}: its worktree stays: it ran on another machine ({place.host})", "dispatchctl prune")
        ]
    try:
        back = _keep_commits(runtime, done, place)
        clearing.clear_place(runtime, place, force=False, tell=tell)
    except clearing.Kept as kept:
        hint = kept.obstacle.hint or f"dispatchctl merge {task}"
        return [Refused(f"task {task}: its worktree and branch stay: {kept.obstacle.reason}", hint)]
    except (DispatchctlError, OSError) as error:
        return [DispatchctlError(f"task {task}: its worktree or branch stays: {error}", f"dispatchctl merge {task}")]
    if back:
        tell(back)
    return []


def _keep_commits(runtime: Runtime, done: Merged, place: Run) -> str | None:
    """Have a ref keep the commits of the branch that went into the base as another one; how to get them back."""
    git = runtime.git
    tip = git.branch_tip(place.repo, place.branch)
    if tip is None or git.is_in(place.repo, tip, done.commit):
        return None
    with KEEPING_COMMITS:
        return git.rescue(place, Found(tip=tip))
