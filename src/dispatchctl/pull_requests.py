"""Offering what a task's newest run has committed as a pull request, with `gh`: the status stays, and so does the branch."""

import re
from dataclasses import dataclass
from shlex import quote

from dispatchctl import processes
from dispatchctl.changes import place_of
from dispatchctl.errors import DispatchctlError, Refused, Unanswered, Unavailable
from dispatchctl.faults import effect
from dispatchctl.merging import Work, mergeable, work_of
from dispatchctl.processes import Finished
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Task
from dispatchctl.worktrees import Upstream

PUSHING = effect("push the branch")
OPENING_REQUEST = effect("open the pull request")
NOTING_REQUEST = effect("note the pull request")

ADDRESS = re.compile(r"https?://\S+")
NOT_SIGNED_IN = 4
"""gh's exit code (`gh help exit-codes`)."""
CLOSED = ("CLOSED", "MERGED")


@dataclass(frozen=True)
class Offered:
    """A task whose branch was pushed, and the pull request that asks for it; `again` if that was open already."""

    task: Task
    remote: str
    url: str
    again: bool


def offer(runtime: Runtime, number: int) -> Offered:
    """Push the branch of the task's newest run and open a pull request into its base; one that is open is not opened again.

    Raises `Refused`, and nothing was pushed, for what cannot be merged either: work that is not committed or not finished.
    """
    task = mergeable(runtime, number)
    work = work_of(runtime, task, place_of(runtime, task))
    upstream = runtime.git.upstream(work.place.repo, work.base.name)
    if upstream is None:
        remotes = f"git -C {quote(work.place.repo)} remote -v"
        raise Refused(f"task {number}: there is no remote from which {work.base.name} comes", remotes)
    gh = runtime.program(runtime.settings.tools.gh)
    _push(runtime, work, upstream)
    url = _open_before(runtime, work, gh)
    again = url is not None
    if url is None:
        with OPENING_REQUEST:
            url, again = _create(runtime, work, upstream, gh)
    assert task.run is not None, "there is work"
    with NOTING_REQUEST:
        after = runtime.store.note_pull_request(task.run.token, url, at=now())
    return Offered(after, upstream.remote, url, again)


def _push(runtime: Runtime, work: Work, upstream: Upstream) -> None:
    repo, branch = work.place.repo, work.place.branch
    with PUSHING:
        pushed = runtime.git.push(repo, branch, upstream.remote, runtime.environment.inherited)
    if pushed.code != 0:
        said = " ".join(pushed.last_words.split())
        raise DispatchctlError(
            f"task {work.task.id}: git did not push {branch} to {upstream.remote}: {said}",
            f"git -C {quote(repo)} push {quote(upstream.remote)} {quote(branch)}",
        )


def _open_before(runtime: Runtime, work: Work, gh: str) -> str | None:
    """The pull request that was opened for this run, unless gh says that it is no longer open."""
    known = work.task.run.pull_request if work.task.run else None
    if known is None:
        return None
    state = _gh(runtime, work, gh, "pr", "view", known, "--json", "state", "--jq", ".state")
    return None if state.code == 0 and state.out.decode("utf-8", "replace").strip() in CLOSED else known


def _create(runtime: Runtime, work: Work, upstream: Upstream, gh: str) -> tuple[str, bool]:
    """Open one; its address, and whether gh says that there is one already, as after a kill before it was noted."""
    task = work.task
    words = ("--head", work.place.branch, "--base", upstream.branch, "--title", task.title, "--body-file", "-")
    made = _gh(runtime, work, gh, "pr", "create", *words, given=(task.result or "").encode("utf-8", "replace"))
    there = made.code != 0 and "already exists" in made.last_words
    found = ADDRESS.findall(made.last_words if there else made.out.decode("utf-8", "replace"))
    if found and (made.code == 0 or there):
        return found[-1], there
    said = " ".join(made.last_words.split()) or f"it ended with {made.code}"
    why = (
        f"task {task.id}: its branch {work.place.branch} was pushed to {upstream.remote}, but gh opened no pull request"
    )
    if made.code == NOT_SIGNED_IN:
        raise Unavailable(f"{why}: {said}", f"gh auth login, then: dispatchctl merge {task.id} --pr")
    raise DispatchctlError(f"{why}: {said}", f"dispatchctl merge {task.id} --pr")


def _gh(runtime: Runtime, work: Work, gh: str, *words: str, given: bytes = b"") -> Finished:
    """Run gh in the repository, where it can ask nobody anything."""
    kept = {name: value for name, value in runtime.environment.inherited.items() if not name.startswith("GIT_")}
    quiet = {"GH_PROMPT_DISABLED": "1", "GH_NO_UPDATE_NOTIFIER": "1", "NO_COLOR": "1", "GIT_TERMINAL_PROMPT": "0"}
    limit = runtime.settings.git.timeout
    pushed = f"task {work.task.id}: its branch {work.place.branch} was pushed, but gh"
    try:
        done = processes.execute([gh, *words], env={**kept, **quiet}, timeout=limit, cwd=work.place.repo, given=given)
    except OSError as error:
        raise Unavailable(f"{pushed} cannot be run: {error}", "dispatchctl config tools.gh") from error
    if done.timed_out:
        raise Unanswered(f"{pushed} did not end within {limit} s", f"dispatchctl merge {work.task.id} --pr")
    return done
