"""diff and merge, as they are typed: what is shown, in which form, and what a pull request takes."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli.desk import Desk, is_error
from cli.terminal import Terminal, on_terminal
from world import Said

from dispatchctl.task import Run, Status

WORK = "echo committed > c; git add c; git commit -qm work; echo changed >> README; echo new > u;"
WORK += " echo i > .gitignore; echo x > i"
URL = "https://github.example/o/r/pull/1"
GH = """#!/bin/sh
printf '%s\\n' "$@" >> $HOME/gh-words; cat >> $HOME/gh-body; pwd >> $HOME/gh-where; env > $HOME/gh-env
"""


def bytes_of(desk: Desk, *words: str) -> bytes:
    """The answer as bytes: names and contents may be of no character."""
    command = [*("dispatchctl", *words)]
    return subprocess.run(command, env=desk.world.variables, cwd=desk.repo, stdout=subprocess.PIPE, check=True).stdout


def untouched(run: Run) -> dict[str, Any]:
    """Files and index of the worktree, and its repository, byte for byte; git dates an object anew that it finds there."""
    places = [Path(run.worktree), Path(run.repo, ".git")]
    found = [path for place in places for path in sorted(place.rglob("*")) if path.is_file()]
    return {str(path): (path.read_bytes(), "objects" in path.parts or path.stat().st_mtime_ns) for path in found}


# -- diff -----------------------------------------------------------------------------------------------------------------


def test_a_diff_has_committed_uncommitted_and_untracked_files_and_touches_nothing(shared: Desk) -> None:
    task = shared.ended("Change", WORK)
    before = untouched(shared.newest(task))
    said = shared.ok("diff", str(task))
    assert re.findall(r"^\+\+\+ b/(.*)$", said, re.MULTILINE) == [".gitignore", "README", "c", "u"]
    assert "\n+changed\n" in said
    assert "\x1b" not in said
    assert shared.ok("diff", str(task), "--name-only").split() == [".gitignore", "README", "c", "u"]
    assert "4 files changed, 4 insertions(+)" in shared.ok("diff", str(task), "--stat")
    assert untouched(shared.newest(task)) == before
    applied = shared.world.repository("applied")
    subprocess.run(["git", "-C", applied, "apply"], input=said, text=True, check=True)
    assert (applied / "u").read_text() == "new\n"


def test_a_diff_as_json_has_every_file_and_the_patch(shared: Desk) -> None:
    task = shared.ended(
        "Files", "git mv README 'to\n-x'; head -c 99 /dev/zero > b; echo 1 > \"$(printf '\\377\"q')\"; git add ."
    )
    run = shared.newest(task)
    answer = shared.json("diff", str(task))["diff"]
    assert (answer["task"], answer["run"], answer["base_commit"]) == (task, run.token, run.base_commit)
    assert answer["source"] == "worktree"
    assert answer["files"] == [
        {"path": "b", "before": None, "status": "A", "added": None, "deleted": None},
        {"path": "to\n-x", "before": "README", "status": "R", "added": 0, "deleted": 0},
        {"path": '\udcff"q', "before": None, "status": "A", "added": 1, "deleted": 0},
    ]
    assert answer["patch"].encode("utf-8", "surrogateescape") == bytes_of(shared, "diff", str(task))
    assert shared.json("diff", str(task), "--stat")["diff"]["patch"] is None


def test_odd_names_and_contents_are_data(shared: Desk) -> None:
    names = ["-x", "--output=pwned", "a\nb", 'q"q', "\x1b[31mred", "ü"]
    task = shared.ended("Odd", "exit 0")
    place = Path(shared.newest(task).worktree)
    for name in names:
        (place / name).write_bytes(b"\xff one\n")
    (place / os.fsdecode(b"\xfe")).write_bytes(b"\0")
    said = bytes_of(shared, "diff", str(task))
    assert b"\x1b" not in said
    assert b'+++ "b/\\033[31mred"' in said
    assert b"+\xff one\n" in said
    assert b'Binary files /dev/null and "b/\\376" differ' in said
    assert not (place / "pwned\n").exists()
    assert sorted(os.listdir(place)) == sorted([".dispatchctl", ".git", "README", os.fsdecode(b"\xfe"), *names])
    paths = [file["path"] for file in shared.json("diff", str(task))["diff"]["files"]]
    assert sorted(paths) == sorted([*names, "\udcfe"])


def test_an_empty_diff_is_empty(shared: Desk) -> None:
    task = shared.ended("Idle", "exit 0")
    said = shared.run("diff", str(task))
    assert (said.code, said.out) == (0, "")
    assert f"task {task} has changed nothing since" in said.err
    assert shared.json("diff", str(task))["diff"]["files"] == []


def test_no_program_of_the_repositorys_settings_is_run(shared: Desk) -> None:
    ran = shared.world.root / "ran"
    script = (
        f"git config diff.external 'touch {ran}; :'; git config diff.evil.command 'touch {ran}; :';"
        f" git config diff.evil.textconv 'touch {ran}; cat'; git config core.fsmonitor 'touch {ran}; :';"
        " echo '* diff=evil' > .gitattributes; echo evil >> README; exit 0"
    )
    task = shared.ended("Evil", script)
    ran.unlink(missing_ok=True)
    assert "+evil" in shared.ok("diff", str(task))
    assert "+evil" in shared.json("diff", str(task))["diff"]["patch"]
    status, text = on_terminal(shared, "diff", str(task), GIT_PAGER="cat", NO_COLOR="1")
    assert (status, "+evil" in text) == (0, True)
    assert not ran.exists()
    for key in ("diff.external", "diff.evil.command", "diff.evil.textconv", "core.fsmonitor"):
        shared.world.git(shared.repo, "config", "--unset", key)


def test_of_a_worktree_that_is_gone_the_branch_is_shown(shared: Desk) -> None:
    task = shared.ended("Gone", WORK)
    run = shared.newest(task)
    shared.world.git(shared.repo, "worktree", "remove", "-f", "-f", run.worktree)
    assert shared.ok("diff", str(task), "--name-only") == "c\n"
    assert shared.json("diff", str(task))["diff"]["source"] == "branch"


def test_a_running_agents_changes_are_shown(shared: Desk) -> None:
    task = shared.dispatched("Running", "echo x > x; touch $HOME/written; sleep 600")
    shared.wait_for_file(Path(shared.newest(task).worktree, "x"))
    assert shared.ok("diff", str(task), "--name-only") == "x\n"
    shared.ok("cancel", str(task), "--force")


def test_what_is_gone_is_said_with_a_hint(shared: Desk) -> None:
    task = shared.add("Never")
    is_error(shared.run("diff", str(task)), 4, [f"task {task} has not run yet", f"dispatchctl dispatch {task}"])
    task = shared.ended("Cleared", "exit 3")
    shared.ok("cancel", str(task))
    is_error(shared.run("diff", str(task), "--json"), 4, [f"task {task} has neither a worktree nor a branch any more"])


@pytest.mark.parametrize("how", ["", "--no-ff", "--squash", "by hand"])
@pytest.mark.parametrize("moved", [False, True], ids=["in place", "moved"])
def test_of_a_merged_task_what_was_merged_is_shown(desk: Desk, how: str, moved: bool) -> None:
    work = "echo m > m; git add m; git commit -qm m; echo n > n; git add n; git commit -qm n"
    task = desk.ended("Merged", work)
    if moved:
        (desk.repo / "other").write_text("x")
        desk.world.git(desk.repo, "add", "other")
        desk.world.git(desk.repo, "commit", "-qm", "other")
    if how == "by hand":
        desk.world.git(desk.repo, "merge", "-q", "--squash", desk.newest(task).branch)
        desk.world.git(desk.repo, "commit", "-qm", "squashed")
        how = ""
    before = desk.ok("diff", str(task))
    desk.ok("merge", str(task), *how.split())
    (desk.repo / "later").write_text("x")
    desk.world.git(desk.repo, "add", "later")
    desk.world.git(desk.repo, "commit", "-qm", "later")
    assert desk.ok("diff", str(task)) == before
    seen = desk.json("diff", str(task))["diff"]
    assert (seen["source"], [file["path"] for file in seen["files"]]) == ("merged", ["m", "n"])


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(shared: Desk) -> None:
    task = shared.ended("Nested", "echo x > x; git init -q inner; exit 3")
    said = shared.run("diff", str(task), "--name-only")
    assert (said.code, said.out) == (0, "x\n")
    assert f"task {task}: not all of {shared.newest(task).worktree} could be read" in said.err


def test_a_terminal_gets_colours_and_the_users_pager(shared: Desk) -> None:
    task = shared.ended("Shown", "echo x > x")
    code, text = on_terminal(shared, "diff", str(task), GIT_PAGER="cat")
    assert (code, "\x1b[32m+" in text) == (0, True)
    code, text = on_terminal(shared, "diff", str(task), GIT_PAGER="cat", NO_COLOR="1")
    assert (code, "\x1b" in text, "+x" in text) == (0, False, True)
    code, text = on_terminal(shared, "diff", str(task), GIT_PAGER="sed s/^/paged:/", NO_COLOR="1")
    assert (code, "paged:+x" in text) == (0, True)
    code, text = on_terminal(shared, "diff", str(task), "--stat", PAGER="head -n 1", NO_COLOR="1")
    assert (code, "1 +" in text) == (0, True)


def test_ctrl_c_in_the_pager_is_the_pagers(shared: Desk) -> None:
    task = shared.ended("Paged", "echo x > x")
    pager = "sh -c 'trap \"echo caught; exit 0\" INT; echo ready; while :; do sleep 0.1; done'"
    terminal = Terminal(shared.world, "diff", str(task), cwd=shared.repo, GIT_PAGER=pager)
    terminal.read_until("ready")
    terminal.type("\x03")
    assert "caught" in terminal.read_to_end()
    assert terminal.process.returncode == 0


# -- merge ----------------------------------------------------------------------------------------------------------------


def test_a_merge_says_what_was_done_and_that_the_checkout_went_along(desk: Desk) -> None:
    task = desk.ended("Work", "echo x > x; git add x; git commit -qm x", "--review")
    tip = desk.world.git(desk.repo, "rev-parse", desk.newest(task).branch)
    said = desk.run("merge", str(task))
    along = f"{desk.repo}, where it is checked out, was brought along"
    assert (said.code, said.out) == (0, f"task {task} is merged into main, by fast-forward to {tip[:10]}; {along}\n")
    assert said.err == f"task {task} was in review: it is done now\n"
    again = desk.json("merge", str(task))
    assert again["task"]["status"] == "done"
    nothing: dict[str, object] = {"checkout": None, "kept": [], "pull_request": None}
    assert again["merge"] == {"base": "main", "commit": tip, "how": "already", **nothing}


def test_refusals_have_their_codes(desk: Desk) -> None:
    task = desk.ended("Work", WORK)
    desk.refused(
        "merge", str(task), code=4, says=["holds what is not in its branch: 3 uncommitted files", "add -A && git"]
    )
    desk.refused("merge", str(task), "--pr", code=4, says="holds what is not in its branch")
    desk.refused("merge", "99", code=3)
    desk.refused("merge", str(task), "--pr", "--squash", code=2)
    desk.refused("merge", str(task), "--no-ff", "--squash", code=2)
    failed = desk.ended("Failed", "exit 3")
    desk.refused("merge", str(failed), code=4, says=[f"task {failed} was not merged: it is failed", "retry"])
    draft = desk.add("Draft", "x", "--backlog")
    desk.refused("merge", str(draft), code=4, says=["it is backlog", f"dispatchctl release {draft}"])
    running = desk.dispatched("Runs", "sleep 600")
    desk.refused("merge", str(running), code=4, says=["it is in_progress", f"dispatchctl wait {running}"])


# -- pull requests --------------------------------------------------------------------------------------------------------


def gh(desk: Desk, script: str) -> None:
    """Put a gh on PATH that notes what it is asked, and then does this."""
    place = desk.world.root / "bin"
    place.mkdir(exist_ok=True)
    (place / "gh").write_text(GH + script)
    (place / "gh").chmod(0o755)
    desk.world.extra["PATH"] = f"{place}{os.pathsep}{desk.world.variables['PATH']}"


def remote(desk: Desk, name: str = "origin") -> Path:
    """A bare repository as a remote."""
    path = desk.world.root / f"{name}.git"
    desk.world.git(desk.repo, "clone", "-q", "--bare", str(desk.repo), str(path))
    desk.world.git(desk.repo, "remote", "add", name, str(path))
    return path


def words(desk: Desk) -> list[str]:
    """What gh was asked since somebody looked last."""
    path = desk.world.home / "gh-words"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def offers(desk: Desk, task: int, *more: str) -> Said:
    return desk.run("merge", str(task), "--pr", *more)


def test_a_pull_request_is_opened_once_and_pushed_again(desk: Desk) -> None:
    bare = remote(desk)
    gh(desk, f'case "$*" in *view*) echo OPEN;; *) echo Creating >&2; echo {URL};; esac\n')
    title = "-t; $(touch x) ünd"
    task = desk.ended("x", "echo x > x; git add x; git commit -qm x; dispatchctl done -m 'the result'", "--review")
    desk.ok("edit", str(task), "--title", title)
    run = desk.newest(task)
    said = offers(desk, task)
    assert (said.code, said.out) == (0, f"{URL}\n"), said
    asked = ["pr", "create", "--head", run.branch, "--base", "main", "--title", title, "--body-file", "-"]
    assert words(desk) == asked
    assert (desk.world.home / "gh-body").read_text() == "the result"
    assert (desk.world.home / "gh-where").read_text().strip() == str(desk.repo)
    assert desk.world.git(bare, "rev-parse", run.branch) == desk.world.git(desk.repo, "rev-parse", run.branch)
    assert (desk.task(task).status, desk.newest(task).pull_request) == (Status.IN_REVIEW, URL)
    assert os.path.isdir(run.worktree)
    place = Path(run.worktree)
    desk.world.git(place, "commit", "-q", "--allow-empty", "-m", "more")
    answer = desk.json("merge", str(task), "--pr")
    assert answer["merge"]["pull_request"] == URL
    assert "create" not in words(desk)
    assert desk.world.git(bare, "rev-parse", run.branch) == desk.world.git(place, "rev-parse", "HEAD")
    [event] = [event for event in desk.runtime.store.events(task=task) if event.kind == "pull_request"]
    assert event.detail == {"run": {"pull_request": URL}}


def test_a_pull_request_that_was_closed_is_followed_by_another(desk: Desk) -> None:
    remote(desk)
    gh(desk, f"echo {URL}\n")
    task = desk.ended("Work", "git commit -q --allow-empty -m x")
    offers(desk, task)
    gh(desk, 'case "$*" in *view*) echo CLOSED;; *) echo https://github.example/2;; esac\n')
    assert offers(desk, task).out == "https://github.example/2\n"


def test_a_pull_request_that_gh_knows_and_we_do_not_is_taken(desk: Desk) -> None:
    remote(desk)
    gh(desk, f'echo \'a pull request for branch "x" into branch "main" already exists:\n{URL}\' >&2; exit 1\n')
    task = desk.ended("Work", "git commit -q --allow-empty -m x")
    said = offers(desk, task)
    assert (said.code, said.out) == (0, f"{URL}\n")
    assert desk.newest(task).pull_request == URL


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        ("echo 'To get started with GitHub CLI, please run:  gh auth login' >&2; exit 4", 69, ["gh auth login"]),
        ("echo 'pull request create failed: no' >&2; exit 1", 1, ["pull request create failed: no"]),
        ("exit 0", 1, ["gh opened no pull request"]),
    ],
)
def test_a_gh_that_refuses_is_quoted_and_the_push_is_said(
    desk: Desk, script: str, code: int, says: Sequence[str]
) -> None:
    bare = remote(desk)
    gh(desk, script)
    task = desk.ended("Work", "git commit -q --allow-empty -m x")
    branch = desk.newest(task).branch
    is_error(offers(desk, task), code, [f"its branch {branch} was pushed to origin, but gh", *says])
    assert desk.world.git(bare, "rev-parse", branch)
    assert desk.newest(task).pull_request is None


def test_without_gh_nothing_is_pushed(desk: Desk) -> None:
    bare = remote(desk)
    task = desk.ended("Work", "git commit -q --allow-empty -m x")
    said = desk.run("merge", str(task), "--pr", DISPATCHCTL_TOOLS__GH="no-such-gh")
    is_error(said, 69, "no-such-gh is not installed")
    assert desk.world.git(bare, "for-each-ref", "--format=%(refname)") == "refs/heads/main"


def test_a_gh_that_hangs_is_ended(desk: Desk) -> None:
    remote(desk)
    gh(desk, "sleep 600\n")
    task = desk.ended("Work", "git commit -q --allow-empty -m x")
    is_error(desk.run("merge", str(task), "--pr", DISPATCHCTL_GIT__TIMEOUT="2s"), 69, "gh did not end within 2 s")


def test_the_remote_is_that_of_the_base_else_origin_else_the_only_one(desk: Desk) -> None:
    gh(desk, f"echo {URL}\n")
    task = desk.ended("Work", "git commit -q --allow-empty -m x")
    desk.refused("merge", str(task), "--pr", code=4, says="there is no remote from which main comes")
    only = remote(desk, "only")
    assert offers(desk, task).err.startswith(f"task {task} was pushed to only")
    origin = remote(desk)
    assert "pushed to origin" in offers(desk, task).err
    desk.world.git(desk.repo, "config", "branch.main.remote", "only")
    desk.world.git(desk.repo, "config", "branch.main.merge", "refs/heads/trunk")
    words(desk)
    desk.world.git(Path(desk.newest(task).worktree), "commit", "-q", "--allow-empty", "-m", "more")
    other = desk.ended("Other", "git commit -q --allow-empty -m y")
    assert "pushed to only" in offers(desk, other).err
    assert words(desk)[5] == "trunk"
    assert desk.world.git(only, "branch", "--list", desk.newest(other).branch)
    assert not desk.world.git(origin, "branch", "--list", desk.newest(other).branch)


def test_a_push_that_is_refused_is_not_forced(desk: Desk) -> None:
    bare = remote(desk)
    gh(desk, f"echo {URL}\n")
    task = desk.ended("Work", "git commit -q --allow-empty -m x")
    branch = desk.newest(task).branch
    theirs = desk.world.git(desk.repo, "commit-tree", "-m", "theirs", "main^{tree}")
    desk.world.git(desk.repo, "push", "-q", "origin", f"{theirs}:refs/heads/{branch}")
    said = offers(desk, task)
    is_error(said, 1, [f"git did not push {branch} to origin", "rejected"])
    assert desk.world.git(bare, "rev-parse", branch) == theirs
    assert words(desk) == []
