"""The main job on real input, in a place of its own: a repository, a database and a tmux server that are gone afterwards."""

import os
import shlex
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from dispatchctl import dispatch, intake, lookout, processes
from dispatchctl.config import Environment
from dispatchctl.errors import ExitCode, Unavailable
from dispatchctl.intake import Wish
from dispatchctl.render import shapes, views
from dispatchctl.render.output import Output
from dispatchctl.runtime import Runtime, now
from dispatchctl.task import Status

LONGEST_PLACE = 90
"""Bytes of a directory whose socket tmux can use."""

TASKS = (
    ("Greet the world", "echo 'Hello, world' > hello.txt; git add hello.txt; git commit -qm 'Say hello'", ()),
    (
        "Count to three",
        "for n in 1 2 3; do echo $n >> count.txt; sleep 0.1; done; git add .; git commit -qm 'Count to three'",
        (),
    ),
    ("Build on the greeting", "cat hello.txt; echo 'and goodbye' >> hello.txt; git commit -qam 'Say goodbye'", (1,)),
)


def run(environment: Environment, output: Output, *, keep: bool) -> int:
    """Dispatch three tasks, wait for them, show what came of it. The exit code is 0 if all three are done."""
    place = _place()
    runtime = Runtime(_apart(environment, place), private_tmux=True)
    try:
        return _run(runtime, place, output)
    finally:
        if keep:
            where = f"--db {shlex.quote(str(runtime.database))}"
            output.story(f"kept: {place}", hint=f"dispatchctl list {where}; dispatchctl attach 1 {where}")
        else:
            _clean_up(runtime, place)
            output.story("the demo's repository, database and tmux server are gone again")


def _place() -> Path:
    """A new directory whose path is short enough for the socket of a tmux server in it."""
    place = Path(os.path.realpath(tempfile.mkdtemp(prefix="dispatchctl-demo-")))
    if len(os.fsencode(place)) > LONGEST_PLACE:
        place.rmdir()
        raise Unavailable(f"the path of {place} is too long for the socket of a tmux server", "export TMPDIR=/tmp")
    return place


def _clean_up(runtime: Runtime, place: Path) -> None:
    """End the server and what an interrupted demo left running, then remove the place."""
    tokens = []
    if runtime.database.exists():
        tokens = [run.token for run in runtime.store.open_runs()]
        runtime.store.close()
    if os.path.exists(runtime.socket):
        runtime.windows().end_server()
    for token in tokens:
        processes.sweep(partial(processes.of_run, token), grace=1.0)
    shutil.rmtree(place)


def _apart(environment: Environment, place: Path) -> Environment:
    """The same environment with nothing of the user's own files, database or tmux server in it."""
    variables = {
        name: value for name, value in environment.inherited.items() if not name.startswith(("DISPATCHCTL_", "GIT_"))
    }
    variables |= {
        "HOME": str(place / "home"),
        "XDG_CONFIG_HOME": str(place / "home" / ".config"),
        "XDG_DATA_HOME": str(place / "home" / ".local" / "share"),
        "DISPATCHCTL_TMUX__SOCKET": str(place / "tmux"),
        "DISPATCHCTL_TASK__AGENT": "shell",
    }
    (place / "home").mkdir()
    (place / "home" / ".gitconfig").write_text("[user]\n\tname = Demo\n\temail = demo@example.invalid\n")
    return replace(Environment.read(variables), no_color=environment.no_color)


def _run(runtime: Runtime, place: Path, output: Output) -> int:
    repo = place / "repo"
    runtime.git.make_repository(str(repo), {"README.md": "A repository to try dispatchctl in.\n"})
    output.story(f"a repository, a database and a tmux server of its own, in {place}")
    wishes = [Wish(title=title, prompt=prompt, repo=str(repo), after=after) for title, prompt, after in TASKS]
    tasks = [intake.add(runtime, [wish])[0].id for wish in wishes]
    for task in tasks:
        output.story(f"$ dispatchctl add {TASKS[task - 1][0]!r} -p …          → task {task}")
    while any(runtime.store.task(task).status in (Status.READY, Status.IN_PROGRESS) for task in tasks):
        done = dispatch.dispatch(runtime)
        for started in done.started:
            assert started.run is not None
            output.story(
                f"$ dispatchctl dispatch                     → task {started.id} runs in window {started.run.window_id}"
            )
        for failure in done.failed:
            output.story(f"task {failure.task}: {failure.error.message}", hint=failure.error.hint)
        running = [run.task for run in runtime.store.open_runs()]
        if not running:
            break
        for ended in lookout.wait(runtime, running, timeout=60.0, through_blocked=False):
            output.story(f"$ dispatchctl wait {ended.id}                       → {ended.status}")
    return _show(runtime, output, tasks, str(repo))


def _show(runtime: Runtime, output: Output, ids: list[int], repo: str) -> int:
    tasks = [runtime.store.task(task) for task in ids]
    output.story("$ dispatchctl list")
    held = lookout.held(runtime, tasks)
    if output.as_json:
        output.json({"tasks": [shapes.task(task, held.get(task.id)) for task in tasks]})
    else:
        output.table(views.TASK_HEADS, (views.task_row(task, held.get(task.id), now()) for task in tasks))
    runs = [] if output.as_json else [(task.base, task.run) for task in tasks if task.run is not None]
    output.story(f"$ git -C {repo} log --oneline --all")
    for base, run in runs:
        for commit, subject in runtime.git.commits(repo, base, run.branch):
            output.line(f"{run.branch}: {commit[:9]} {subject}")
    return ExitCode.OK if all(task.status is Status.DONE for task in tasks) else ExitCode.FAILED
