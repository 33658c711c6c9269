"""Eight processes at once on one database with real agents: dispatch, reconcile, cancel, retry and done, all of them always.

Each agent holds a lock of its task's while it lives and says so if it cannot get it.
"""

import multiprocessing
import random
import signal
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from reconcile.scene import history_holds
from store.test_limits import most_at_once
from world import World, eventually

from dispatchctl import processes, sessions
from dispatchctl.config import Environment
from dispatchctl.dispatch import dispatch
from dispatchctl.errors import DispatchctlError, QueueFull, Refused
from dispatchctl.reconcile import reconcile
from dispatchctl.runtime import Runtime
from dispatchctl.task import FINISHED, Phase, Report, Status

TASKS = 12
OFTEN = ("dispatch",) * 4 + ("reconcile",) * 2 + ("retry",) * 4 + ("cancel", "done")
ONE_AT_A_TIME = """
exec 9>"{root}/agents/$DISPATCHCTL_TASK"
flock -n 9 || echo "$DISPATCHCTL_TOKEN" >> "{root}/twice"
echo "$DISPATCHCTL_TOKEN" > "work-$DISPATCHCTL_TOKEN"
git add -A && git commit -q -m "$DISPATCHCTL_TOKEN"
sleep 0.$(($$ % 5))
"""


def busy(number: int, variables: dict[str, str], rounds: int) -> list[str]:
    """One of the processes; what went wrong, but for refusals. A traceback fails the test."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance = random.Random(number)
    wrong = []
    for _ in range(rounds):
        runtime = Runtime(Environment.read(variables), private_tmux=True)
        task = chance.randint(1, TASKS)
        try:
            match chance.choice(OFTEN):
                case "dispatch":
                    failed = dispatch(runtime, most=2).failed
                    wrong += [f"{each.task}: {each.error.message}" for each in failed if not _given_up(each.error)]
                case "reconcile":
                    wrong += [str(each.error) for each in reconcile(runtime).done if each.error]
                case "cancel":
                    sessions.cancel(runtime, task, tell=lambda _: None)
                case "retry":
                    sessions.retry(runtime, task, message=None, fresh=False)
                case "done":
                    sessions.report(runtime, task, Report.DONE, "so it is")
        except (Refused, QueueFull):
            pass  # another was quicker, or enough are running
        except DispatchctlError as error:
            wrong.append(f"{type(error).__name__}: {error.message}")
        finally:
            runtime.store.close()
    return wrong


def _given_up(error: DispatchctlError) -> bool:
    """Whether the launch failed only because somebody cancelled the task, or reported it, meanwhile."""
    return "its run was given up" in error.message


def test_eight_processes_on_one_database_with_real_agents(world: World) -> None:
    (world.root / "agents").mkdir()
    world.extra |= {"DISPATCHCTL_DISPATCH__RETRY_WAIT": "1", "DISPATCHCTL_DISPATCH__MAX_RUNNING": "5"}
    world.extra["DISPATCHCTL_DISPATCH__MAX_PER_REPO"] = "2"
    runtime, repos = world.runtime(), [world.repository(name) for name in ("one", "two", "three")]
    world.tmux("-f", "/dev/null", "new-session", "-d", "-s", "users-own", "sleep 600")
    for number in range(TASKS):
        prompt = ONE_AT_A_TIME.format(root=world.root)
        world.add(runtime, prompt, repo=repos[number % 3], recoveries=100, retries=100)
    with ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = [pool.submit(busy, number, world.variables, 60) for number in range(8)]
        wrong = [each.result(timeout=240) for each in asked]
    assert wrong == [[]] * 8
    eventually(lambda: _settle(runtime), within=90, what="everything that was begun ends")
    assert not (world.root / "twice").exists(), "two agents of a task at one time"
    _rows_are_what_happened(world, runtime, repos)


def _settle(runtime: Runtime) -> bool:
    """Let every task come to its end."""
    for task in runtime.store.tasks(status=[Status.READY]):
        runtime.store.edit(task.id, {"not_before": None}, None, at=1)
    dispatch(runtime)
    return all(task.status in FINISHED | {Status.IN_REVIEW} for task in runtime.store.tasks())


def _rows_are_what_happened(world: World, runtime: Runtime, repos: list[Path]) -> None:
    history_holds(runtime)
    events = runtime.store.events()
    most = most_at_once(events)
    assert most["all"] <= 5
    assert max(most[str(repo)] for repo in repos) == 2, "no more than the limit, and as many as it allows"
    claimed = Counter(event.task for event in events if event.kind == "claimed")
    assert sum(claimed.values()) >= TASKS
    for task in runtime.store.tasks():
        runs = runtime.store.runs(task.id)
        assert [run.number for run in runs] == list(range(1, claimed[task.id] + 1))
        assert {run.phase for run in runs} <= {Phase.CLOSED}
        eventually(lambda runs=runs: not any(processes.of_run(run.token) for run in runs))  # type: ignore[misc]
    assert list((runtime.state / "locks").iterdir()) == []
    assert [done.error for done in reconcile(runtime).done] == []
    kept = {run.branch for task in runtime.store.tasks() for run in runtime.store.runs(task.id)}
    for repo in repos:
        branches = set(world.git(repo, "branch", "--format=%(refname:short)").split())
        assert branches - kept == {"main"}, "nobody's branch was left"
