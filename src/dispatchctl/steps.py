"""What starting a run consists of: each step with its compensation, in order.

Every `undo` works by the run's row alone and takes "not there" for success, so that reconcile can call it after a crash for
a run that never came to that step.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from shlex import quote

from dispatchctl import agents, handover, names, processes, rundir
from dispatchctl.config import Settings
from dispatchctl.errors import (
    ExitCode,
    LaunchError,
    NotYet,
    Unavailable,
    UsageError,
)
from dispatchctl.faults import effect
from dispatchctl.intent import Intent
from dispatchctl.launcher import LAST_MESSAGE
from dispatchctl.processes import Lock
from dispatchctl.runtime import Runtime, now, session_id
from dispatchctl.saga import Step
from dispatchctl.task import Outcome, Phase, Run, Task
from dispatchctl.worktrees import HOOK_OUTPUT, Worktrees

LAUNCH = "import sys; sys.path.append(sys.argv[1]); from dispatchctl import launcher; launcher.main(sys.argv[2])"
PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

NOTING_START = effect("note what the run makes")
REGISTERING = effect("register the worktree")
CHECKING_OUT = effect("check out")
HOOK = effect("run a hook")
OPENING = effect("open the window")
NOTING_WINDOW = effect("note the window")
KILLING_PANE = effect("kill the pane")
SWEEPING = effect("sweep the processes")


@dataclass(frozen=True)
class Start:
    """The commit from which a run starts, and what it is to make."""

    commit: str
    makes_tree: bool
    makes_branch: bool


@dataclass
class Launch:
    """A run on its way: what the steps share. An undo uses the run's row and nothing that only this process knows."""

    runtime: Runtime
    task: Task
    run: Run
    start: "Start | None" = None
    setup_log: bytes = b""

    @property
    def git(self) -> Worktrees:
        """git, as one of the run's processes."""
        return self.runtime.git.for_run(self.run.token)

    @property
    def settings(self) -> Settings:
        """The settings in the run's repository."""
        return self.runtime.settings_for(self.run.repo)

    @contextmanager
    def held(self) -> Iterator[Lock]:
        """The step lock, which git and hooks inherit; unlocked when the step returns, whatever a hook left behind."""
        lock = processes.lock(self.run.step_lock)
        if lock is None:
            raise LaunchError(
                f"task {self.run.task}: something still works for its run {self.run.token}",
                f"fuser {quote(self.run.step_lock)}",
            )
        try:
            yield lock
        finally:
            lock.release()


# -- the steps -----------------------------------------------------------------------------------------------------------


def prepare(launch: Launch) -> None:
    """Resolve what the run starts from and decide what it is to make. A resumed run goes on in its worktree, or has it
    made again from its branch."""
    run, git = launch.run, launch.git
    _check_settings(launch)
    git.repository(run.repo)
    tip = git.branch_tip(run.repo, run.branch) if run.resumed else None
    if run.resumed and git.is_there(run):
        commit = _start_of(launch) or git.commit(run.worktree, "HEAD")
        launch.start = Start(commit, makes_tree=False, makes_branch=False)
    elif tip is not None:
        launch.start = Start(_start_of(launch) or tip, makes_tree=True, makes_branch=False)
    else:
        commit = git.commit(run.repo, start_point(launch.runtime, launch.task))
        git.checked_name(run.repo, run.branch)
        launch.start = Start(commit, makes_tree=True, makes_branch=True)


def _check_settings(launch: Launch) -> None:
    """What can be told of the agent and the settings before anything is made: ten thousand tasks that lack their agent's
    program must not cost ten thousand worktrees."""
    try:
        profile = launch.runtime.profile(launch.run.agent)
        _ = launch.settings
    except UsageError as error:
        raise LaunchError(
            f"task {launch.run.task} was not started: {error.message}",
            error.hint,
            curable=False,
            exit_code=error.exit_code,
        ) from error
    if not launch.settings.hooks.post_create:  # a hook may install it
        _check_program(launch, profile)


def _check_program(launch: Launch, profile: agents.Profile) -> None:
    if agents.find_program(profile, environment(launch).get("PATH", "")) is None:
        raise LaunchError(
            f"task {launch.run.task} was not started: the program of agent {profile.name}, {profile.argv[0]!r}, is not on PATH",
            "dispatchctl agents",
            curable=False,
            exit_code=ExitCode.UNAVAILABLE,
        )


def _start_of(launch: Launch) -> str | None:
    """The commit from which the resumed work began, so that earlier commits of the task count as its work."""
    earlier = [run for run in launch.runtime.store.runs(launch.task.id) if run.branch == launch.run.branch]
    return next((run.base_commit for run in earlier if run.base_commit), None)


def start_point(runtime: Runtime, task: Task) -> str:
    """The task's base, or the branch of its one parent that is not merged there yet.

    Raises `NotYet` for several such parents: they have to be merged first.
    """
    unmerged = {}
    for parent in task.after:
        run = runtime.store.task(parent).run
        if run is None or run.repo != task.repo:
            continue
        if not runtime.git.is_merged(task.repo, run.branch, task.base, merged=run.merged):
            unmerged[parent] = run.branch
    if len(unmerged) > 1:
        listed = ", ".join(map(str, unmerged))
        raise NotYet(
            f"task {task.id} waits until tasks {listed} are merged into {task.base}: it cannot start from several branches",
            "; ".join(f"dispatchctl merge {parent}" for parent in unmerged),
        )
    return next(iter(unmerged.values()), task.base)


def make_tree(launch: Launch) -> None:
    """Store what the run will make, register it under the repository's lock, then check out, which may overlap others.

    Path and branch are looked at, claimed on the row and registered under one lock, so that an undo never takes what
    another dispatcher made.
    """
    run, git, start = launch.run, launch.git, launch.start
    assert start is not None, "prepare comes first"
    if not start.makes_tree:
        _note_start(launch, start)
        return
    with launch.held() as held:
        lock = git.lock(git.repository(run.repo))
        try:
            git.is_free(run, owns_branch=start.makes_branch)
            _note_start(launch, start)
            with REGISTERING:
                git.register(launch.run, lock_reason(launch), held)
        finally:
            lock.release()
        with CHECKING_OUT:
            launch.setup_log += git.check_out(launch.run, held)


def _note_start(launch: Launch, start: Start) -> None:
    with NOTING_START:
        launch.run = launch.runtime.store.note_base(
            launch.run.token,
            base_commit=start.commit,
            owns_tree=start.makes_tree,
            owns_branch=start.makes_branch,
            at=now(),
        )


def lock_reason(launch: Launch) -> str:
    """Why the run's worktree is locked."""
    return names.lock_reason(str(launch.runtime.database), launch.run.task, launch.run.token)


def set_up(launch: Launch) -> None:
    """Copy what `.worktreeinclude` names and run the user's `post_create` commands, in a tree that this run made."""
    run, settings = launch.run, launch.settings
    directory = os.path.join(run.worktree, ".dispatchctl")
    if os.path.islink(directory):
        raise LaunchError(
            f"task {run.task} was not started: {directory} is a symbolic link, through which nothing is written",
            f"git -C {quote(run.repo)} rm .dispatchctl",
            curable=False,
        )
    os.makedirs(directory, exist_ok=True)
    _ignore_itself(os.path.join(directory, ".gitignore"))
    _forget_result(result_file(run))
    if not run.owns_tree:
        return
    launch.git.copy_included(run)
    deadline = time.monotonic() + settings.hooks.timeout
    for command in settings.hooks.post_create:
        with launch.held() as held, HOOK:
            launch.setup_log += _run_hook(launch, command, max(0.1, deadline - time.monotonic()), held)


def _ignore_itself(path: str) -> None:
    """Have git ignore the directory without touching anything that is the user's; a repository's own file stays."""
    try:
        with open(path, "x", encoding="ascii") as file:
            file.write("*\n")
    except FileExistsError:
        pass


def _forget_result(path: str) -> None:
    """Remove what an earlier run left, whatever it is."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _run_hook(launch: Launch, command: Sequence[str], timeout: float, held: Lock) -> bytes:
    shown = " ".join(command)
    try:
        finished = processes.execute(
            command,
            env=environment(launch),
            timeout=timeout,
            cwd=launch.run.worktree,
            held=held,
            merged=True,
            kept=HOOK_OUTPUT,
        )
    except OSError as error:
        raise LaunchError(
            f"task {launch.run.task}: post_create `{shown}` cannot be run: {error}",
            "dispatchctl config hooks",
            curable=False,
        ) from error
    if finished.timed_out or finished.code != 0:
        how = (
            f"ran longer than {launch.settings.hooks.timeout} s"
            if finished.timed_out
            else f"failed with {finished.code}"
        )
        raise LaunchError(
            f"task {launch.run.task}: post_create `{shown}` {how}: {finished.last_words}", "dispatchctl config hooks"
        )
    return b"$ " + os.fsencode(shown) + b"\n" + finished.out


def write_run_directory(launch: Launch) -> None:
    """Everything the launcher needs, in a private directory."""
    run, settings = launch.run, launch.settings
    profile = launch.runtime.profile(run.agent)
    _check_program(launch, profile)
    variables = environment(launch)
    own_session = session_id(launch.runtime.store.id, run.token)
    continued = run.agent_session not in (None, own_session)
    last = launch.runtime.store.run(launch.task.resume) if run.resumed and launch.task.resume else None
    parents = parents_of(launch)
    prompt = prompt_of(launch, profile, last, parents, continued=continued)
    git_dir, common_dir = launch.git.git_dirs(run.worktree)
    invocation = agents.compose(
        profile,
        prompt=prompt,
        prompt_file=os.path.join(run.run_dir, "prompt"),
        worktree=run.worktree,
        session_id=run.agent_session or own_session,
        git_dir=git_dir,
        git_common_dir=common_dir,
        last_message_file=os.path.join(run.run_dir, LAST_MESSAGE),
        resume=continued,
    )
    spec = {
        "token": run.token,
        "task": str(run.task),
        "database": str(launch.runtime.database),
        "worktree": run.worktree,
        "base_commit": str(run.base_commit),
        "stdin": invocation.stdin_file or "",
        "result_file": result_file(run),
        "git": launch.git.program,
        "path": launch.runtime.environment.path,
        "home": str(launch.runtime.environment.home),
        "output_limit": str(settings.output.limit),
        "kill_grace": str(settings.dispatch.kill_grace),
        "timeout_s": str(launch.task.timeout_s),
        "busy_timeout": str(settings.store.busy_timeout),
        "expects_changes": str(int(profile.expects_changes)),
        "uncommitted": str(settings.task.uncommitted),
        "retry_wait_s": str(settings.dispatch.retry_wait),
        "last_message": str(profile.last_message),
        "after_loss": str(int(continued and last is not None and last.outcome is Outcome.LOST)),
    }
    intent = Intent(launch.runtime.store.id, launch.task, run)
    told = json.dumps([asdict(parent) for parent in parents])
    contents = rundir.Contents(spec, invocation.argv, prompt, variables, launch.setup_log, intent, told)
    rundir.write(run.run_dir, contents)


def parents_of(launch: Launch) -> list[handover.Parent]:
    """What the tasks before this one have left."""
    parents = (launch.runtime.store.task(parent) for parent in launch.task.after)
    return [
        handover.Parent(task.id, task.title, task.status, task.result, task.run.branch if task.run else None)
        for task in parents
    ]


def prompt_of(
    launch: Launch, profile: agents.Profile, last: Run | None, parents: Sequence[handover.Parent], *, continued: bool
) -> str:
    """What the agent is told (`handover`); to an agent that goes on with its session, what it does not know yet.

    For `shell` the prompt is the program, and nothing is added to it.
    """
    task, run = launch.task, launch.run
    if profile.name == agents.SHELL:
        return task.prompt
    events = launch.runtime.store.events(task=task.id) if task.note is not None or run.number > 1 else ()
    heard = handover.heard(events, last.token if last else None)
    shown = parents if launch.settings.task.parent_results else ()
    brief = handover.Brief(task, heard, last, shown, new_tree=run.owns_branch)
    return handover.sequel(brief) if continued else handover.whole(brief)


def result_file(run: Run) -> str:
    """Where the agent may leave its result: in the worktree, since a sandboxed agent can write nowhere else."""
    return os.path.join(run.worktree, ".dispatchctl", "result")


def environment(launch: Launch) -> dict[str, str]:
    """The environment of the agent and of hooks."""
    run, runtime = launch.run, launch.runtime
    own = {
        "DISPATCHCTL_TASK": str(run.task),
        "DISPATCHCTL_TOKEN": run.token,
        "DISPATCHCTL_DB": str(runtime.database),
        "DISPATCHCTL_REPO": run.repo,
        "DISPATCHCTL_WORKTREE": run.worktree,
        "DISPATCHCTL_BRANCH": run.branch,
        "DISPATCHCTL_BASE": launch.task.base,
        "DISPATCHCTL_PROMPT_FILE": os.path.join(run.run_dir, "prompt"),
        "DISPATCHCTL_RESULT_FILE": result_file(run),
        "DISPATCHCTL_PARENTS": os.path.join(run.run_dir, "parents.json"),
    }
    variables = agents.agent_environment(runtime.environment.inherited, runtime.profile(run.agent), own)
    path = variables.get("PATH") or os.defpath
    programs = os.path.dirname(sys.executable)
    if not any(os.path.exists(os.path.join(each, "dispatchctl")) for each in path.split(os.pathsep)):
        path = f"{path}{os.pathsep}{programs}"
    return {**variables, "PATH": path}


def open_window(launch: Launch) -> None:
    """Start the launcher in a tagged window of the repository's session."""
    run, runtime = launch.run, launch.runtime
    marks = [f"DISPATCHCTL_TOKEN={run.token}", f"DISPATCHCTL_TASK={run.task}", f"DISPATCHCTL_DB={runtime.database}"]
    command = ["/usr/bin/env", *marks, sys.executable, "-I", "-S", "-c", LAUNCH, PACKAGE_ROOT, run.run_dir]
    with OPENING:
        window = runtime.windows(run.socket).open(
            run, names.leaf(run.task, launch.task.title, 1), runtime.store.id, command
        )
    with NOTING_WINDOW:
        runtime.store.note_window(run.token, window, at=now())


def close_window(launch: Launch) -> None:
    """Close the pane if it still carries the token, and end every process of the run.

    The run directory is made before the pane and removed after it: without one there is no pane, and tmux is not asked.
    """
    run = launch.run
    if os.path.lexists(run.run_dir):
        with KILLING_PANE:
            launch.runtime.windows(run.socket).kill(run.token)
    roots = [(pid, start) for pid, start in ((run.launcher_pid, run.launcher_start),) if pid and start]
    with SWEEPING:
        left = processes.sweep(
            lambda: processes.of_run(run.token, roots), grace=launch.runtime.settings.dispatch.kill_grace
        )
    if left:
        raise Unavailable(f"processes {', '.join(str(pid) for pid, _ in left)} cannot be ended", "ps -o pid,stat,args")


def await_start(launch: Launch) -> None:
    """Wait until the launcher has started the agent. A window that dies first is a failed launch, not a running task."""
    run, store = launch.run, launch.runtime.store
    windows = launch.runtime.windows(run.socket)
    started = time.monotonic()
    look_at, wait = started + 0.25, 0.002
    while True:
        run = store.run(run.token)
        if run.phase in (Phase.STARTED, Phase.CLOSED):
            launch.run = run
            return
        if run.phase is Phase.UNDOING or run.ask is not None or run.report is not None:
            why = run.error or run.report_message or run.ask or run.report
            raise LaunchError(f"task {run.task} was not started: its run was given up: {why}", "dispatchctl history")
        failed = rundir.failure(run.run_dir)
        if failed is not None:
            raise LaunchError(
                f"task {run.task} was not started: {failed[1]}",
                "dispatchctl agents",
                curable=failed[0] not in ("FileNotFoundError", "PermissionError"),
            )
        elapsed = time.monotonic() - started
        if elapsed > launch.runtime.settings.dispatch.launch_timeout:
            raise LaunchError(
                f"task {run.task} was not started: its launcher had not begun after {elapsed:.0f} s",
                "dispatchctl config dispatch.launch_timeout",
            )
        if time.monotonic() > look_at:
            pane = windows.pane_of(run.token)
            silent = (pane is None or pane.dead) and rundir.failure(run.run_dir) is None
            if silent and store.run(run.token).phase is Phase.LAUNCHING:
                raise LaunchError(
                    f"task {run.task} was not started: its window closed before the agent began",
                    f"dispatchctl show {run.task}",
                )
            look_at = time.monotonic() + 0.25
        time.sleep(wait)
        wait = min(wait * 1.5, 0.025)


def nothing(launch: Launch) -> None:
    """There is nothing to take back."""


STEPS: tuple[Step[Launch], ...] = (
    Step("branch", prepare, lambda launch: launch.git.discard_branch(launch.run)),
    Step("worktree", make_tree, lambda launch: launch.git.discard_tree(launch.run, lock_reason(launch))),
    Step("setup", set_up, nothing),
    Step("run directory", write_run_directory, lambda launch: rundir.remove(launch.run.run_dir)),
    Step("window", open_window, close_window),
    Step("start", await_start, nothing),
)
