"""diff and merge: what an agent has changed, and bringing it into its base."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from dispatchctl.cli.context import Cli
from dispatchctl.cli.values import Id
from dispatchctl.errors import ExitCode, Unanswered, UsageError
from dispatchctl.render.output import write

if TYPE_CHECKING:
    from dispatchctl.merging import Merged
    from dispatchctl.task import Run
    from dispatchctl.worktrees import Difference, FileChange


def diff(
    cli: Cli,
    id: Id,
    stat: Annotated[bool, typer.Option("--stat", help="Only how much of which file.")] = False,
    name_only: Annotated[bool, typer.Option("--name-only", help="Only the names of the files.")] = False,
) -> int:
    """Show what the task's newest run has changed since the commit from which it started.

    That is committed, uncommitted and untracked files, but for ignored ones, in its worktree or, if that is gone, on its
    branch; or, if that is gone too, what was merged. On a terminal git shows it, in colour and through your pager. No diff
    driver and no text conversion is run.
    """
    from dispatchctl import changes  # git's half of the program, which other commands do without

    options = [name for name, asked in (("--stat", stat), ("--name-only", name_only)) if asked]
    with changes.difference(cli.runtime, id) as (run, seen):
        if seen.unread:
            cli.output.failure(
                f"task {id}: not all of {run.worktree} could be read: {seen.unread}", f"ls -la {run.worktree}"
            )
        if cli.as_json:
            patch = None if options else seen.patch()
            cli.output.json({"diff": shape(run, seen, seen.files(), patch)})
            return ExitCode.OK
        if sys.stdout.isatty():
            code = seen.show(options, color=not cli.environment.no_color)
            if code not in (0, -2, -13, 141):  # the pager was left before the end, or heard Ctrl-C
                raise Unanswered(f"task {id}: git diff ended with {code}", f"dispatchctl diff {id} | cat")
            return ExitCode.OK
        text = seen.patch(*options)
        if not text:
            cli.output.story(f"task {id} has changed nothing since {seen.base[:10]}")
        write(text)
    return ExitCode.OK


def shape(run: "Run", seen: "Difference", files: "Sequence[FileChange]", patch: bytes | None) -> dict[str, object]:
    """The JSON of what has changed; bytes of no character are lone surrogates, as Python's `surrogateescape` has them."""
    return {
        "task": run.task,
        "run": run.token,
        "base_commit": seen.base,
        "source": seen.source,
        "files": [shape_of_file(file) for file in files],
        "patch": None if patch is None else patch.decode("utf-8", "surrogateescape"),
    }


def shape_of_file(file: "FileChange") -> dict[str, object]:
    """The JSON of one changed file."""
    return {
        "path": file.path,
        "before": file.before,
        "status": file.status,
        "added": file.added,
        "deleted": file.deleted,
    }


def shape_of_merge(done: "Merged | None", url: str | None) -> dict[str, object]:
    """The JSON of what became of the work."""
    return {
        "base": done and done.base,
        "commit": done and done.commit,
        "how": done and done.how,
        "checkout": done and done.checkout,
        "kept": [each.message for each in done.kept] if done else [],
        "pull_request": url,
    }


SAID = {
    "fast_forward": "task {id} is merged into {base}, by fast-forward to {commit}",
    "merge": "task {id} is merged into {base}, as {commit}",
    "squash": "task {id} is merged into {base}, as the one commit {commit}",
    "nothing": "task {id}: there is nothing to be merged, {base} has all of it",
    "already": "task {id} was merged into {base} before, as {commit}",
}


def merge(
    cli: Cli,
    id: Id,
    squash: Annotated[bool, typer.Option("--squash", help="As one commit; a ref keeps the branch's own.")] = False,
    no_ff: Annotated[bool, typer.Option("--no-ff", help="With a merge commit, even where none is needed.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave its worktree and branch there.")] = False,
    pr: Annotated[bool, typer.Option("--pr", help="Push its branch and open a pull request with gh instead.")] = False,
) -> int:
    """Merge a task that is done or in review into its base; one in review is approved by that.

    Refused, and then nothing has changed: on conflict, for what is not committed, or if the base has moved. If the base is
    checked out somewhere, files and index go along with it there, provided that its tracked files are clean; what git does
    not track is never overwritten. No hook of the repository runs, but for pre-push with --pr.

    Then worktree and branch go if nothing would be lost. With --pr they stay, and so does the status; said again, it pushes
    again.
    """
    if pr:
        if squash or no_ff:
            raise UsageError(
                "--pr goes with neither --squash nor --no-ff: the merge is not done here",
                f"dispatchctl merge {id} --pr",
            )
        return _offer(cli, id)
    if squash and no_ff:
        raise UsageError("--squash and --no-ff exclude each other", f"dispatchctl merge {id} --squash")
    from dispatchctl import merging  # git's half of the program, which other commands do without

    done = merging.merge(cli.runtime, id, merging.Wish(squash, no_ff, keep), tell=cli.output.notice)
    line = SAID[done.how].format(id=id, base=done.base, commit=done.commit[:10])
    if done.checkout:
        line += f"; {done.checkout}, where it is checked out, was brought along"
    if cli.as_json:
        cli.output.json({"task": cli.shape(done.task), "merge": shape_of_merge(done, None)})
    else:
        cli.output.line(line)
    if done.approved:
        cli.output.story(f"task {id} was in review: it is {done.task.status} now")
    for why in done.kept:
        cli.output.failure(why.message, why.hint)
    return ExitCode.OK


def _offer(cli: Cli, id: int) -> int:
    """The pull request."""
    from dispatchctl import pull_requests  # git's half of the program, which other commands do without

    done = pull_requests.offer(cli.runtime, id)
    how = "was open before" if done.again else "is open"
    cli.output.story(f"task {id} was pushed to {done.remote}; its pull request {how}")
    if cli.as_json:
        cli.output.json({"task": cli.shape(done.task), "merge": shape_of_merge(None, done.url)})
    else:
        cli.output.line(done.url)
    return ExitCode.OK
