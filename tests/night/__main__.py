"""`scripts/night`: a night of tasks of mixed fate through `watch`, with random kills of everything. 1 if anything is wrong."""

import argparse
import os
import random
import signal
import sys
from collections import Counter, defaultdict
from pathlib import Path

from figures import page
from watched import private_world

from night import fates, judge
from night.crowd import CALM, LIMIT, SETTINGS, Night, Told

PAGE = page.ROOT / "docs" / "night.md"


def main() -> int:
    """Play it, judge it, and write it to docs/night.md if it was a whole one."""
    parser = argparse.ArgumentParser(prog="scripts/night", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000, metavar="N", help="how many tasks; 1000")
    parser.add_argument("--seed", type=int, metavar="N", help="the same decisions again")
    parser.add_argument("--kill-every", type=float, default=1.0, metavar="SECONDS", help="mean time between kills; 1")
    parser.add_argument("--page", action="store_true", help="write docs/night.md although it is not a whole night")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the world is cleared away
    seed = random.randrange(100_000) if wanted.seed is None else wanted.seed
    command = f"scripts/night --tasks {wanted.tasks} --seed {seed} --kill-every {wanted.kill_every:g}"
    print(command, flush=True)
    circumstances = page.Circumstances(command)
    with private_world("n", SETTINGS) as world:
        night = Night(world, seed=seed, tasks=wanted.tasks, kill_every=wanted.kill_every)
        told = night.play()
        wrong = judge.violations(night, told)
        code, seconds = night.watched.stop()
        if code or seconds > 5:
            wrong.append(f"watch ended with {code} after {seconds:.1f} s")
        wrong += judge.left_over(world)
        text = _page(night, told, wrong)
        if "NIGHT_LOG" in os.environ:
            _keep(world.root, Path(os.environ["NIGHT_LOG"]))
    text += f"\n{circumstances.told()}\n"
    print(text)
    if wanted.page or wanted.tasks >= 1_000:
        PAGE.write_text(text)
    return int(bool(wrong))


def _keep(root: Path, place: Path) -> None:
    """The database, the log and what agents wrote, to look at afterwards."""
    import shutil  # only for whoever looks for a fault

    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "watch.log", place)
    shutil.copytree(root / "agents", place / "agents", dirs_exist_ok=True)
    shutil.copytree(root / "home" / ".local", place / "local", dirs_exist_ok=True, symlinks=True, ignore=_pipes)


def _pipes(directory: str, names: list[str]) -> list[str]:
    return [
        name for name in names if not os.path.isfile(f"{directory}/{name}") and not os.path.isdir(f"{directory}/{name}")
    ]


def _page(night: Night, told: Told, wrong: list[str]) -> str:
    tasks = {task.id: task for task in night.store.tasks()}
    ended: dict[str, Counter[str]] = defaultdict(Counter)
    tries: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for number, name in told.fates.items():
        if number in tasks:
            ended[name][str(tasks[number].status)] += 1
        runs = night.store.runs(number)
        tries[name] += len(runs)
        outcomes.update(str(run.outcome) for run in runs)
    rows = [
        (name, sum(ended[name].values()), tries[name], _counted(ended[name])) for name in fates.FATES if name in ended
    ]
    statuses = Counter(str(task.status) for task in tasks.values())
    locks = _counted(told.git_locks) or "none"
    lines = "\n".join(f"* {each}" for each in wrong[:40])
    return f"""# A night

Made by `scripts/night`; not to be edited. {len(tasks)} tasks of mixed fate through `dispatchctl watch --max-running {LIMIT}`,
while something is killed with SIGKILL every {1000 * night.kill_every:.0f} ms or so; the daemon is started again as
systemd would. A user answers those that ask, approves and rejects. Nothing is killed once {100 * CALM:.0f} % have ended; then
it has to become quiet.

Killed: {_counted(told.kills)}. The daemon was started {told.starts} times. Answers: {_counted(told.answers)}.
Runs: {outcomes.total()} ({_counted(outcomes)}); at most {told.most_open} open at once, in {told.looks} looks.
{told.seconds:.0f} s.
Tasks in the end: {_counted(statuses)}.

{page.table(("what the task does", "tasks", "runs", "ended"), *rows)}

Each task's ending is one of those that are right for it: `done` and `failed` as its program says, `failed` too if its own agent
was killed, in review if a git was killed and its work is not committed, `ready` for ever if the task that it comes after is not
done. Looked at besides: every run begins after the last one of its task was closed; no agent noticed a second one of its task;
`list`, `stats` and `history` count the same, and each task's history is one chain; replaying the events gives the rows; every
worktree, branch, pane, process, run directory and lock belongs to a row; whatever an agent wrote is there; `doctor` finds no
error; the daemon's log has no traceback; after SIGTERM nothing is left but the tmux server.

Violations: **{len(wrong)}**. Lock files of killed gits in the repository itself, counted apart: {locks}.
{lines}
"""


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counter.most_common())


if __name__ == "__main__":
    sys.exit(main())
