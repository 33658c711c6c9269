"""What is not as it should be after a night: of every task, of what the commands count, of the world. Each a sentence."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from proof import outside
from world import World

from dispatchctl.task import Outcome, Status, Task
from night import fates
from night.crowd import LIMIT, Night, Told

UNKILLED = re.compile(r"ended with (?:exit code|signal (?!9\b)).*")


def violations(night: Night, told: Told) -> list[str]:
    """Everything that does not hold now that all is quiet; the daemon still runs."""
    world, store = night.world, night.store
    tasks = {task.id: task for task in store.tasks()}
    return [
        *told.wrong,
        *_endings(tasks, told),
        *_runs(night, tasks),
        *_counts(world, tasks),
        *_one_at_a_time(world),
        *outside.violations(world, night.database, night.repo),
        *_said(world, night),
    ]


def _endings(tasks: dict[int, Task], told: Told) -> Iterator[str]:
    if len(tasks) != len(told.fates):
        yield f"{len(tasks)} tasks are there, and {len(told.fates)} were added"
    gits = bool(told.kills["git"])
    for number, task in tasks.items():
        name = told.fates[number]
        parents = [tasks[parent].status for parent in task.after]
        harm = fates.Harm(told.killed_agents[number], gits)
        endings = list(fates.right_endings(name, harm, parents))
        if not fates.is_right(task.status, task.error if task.status is not Status.READY else "", endings):
            yield f"P1 task {number} ({name}) is {task.status}: {task.error}; its parents are {parents}"


def _runs(night: Night, tasks: dict[int, Task]) -> Iterator[str]:
    """Runs one after another, none open, none taken for hung up."""
    if night.told.most_open > LIMIT:
        yield f"{night.told.most_open} runs were open at once, and the limit is {LIMIT}"
    for number in tasks:
        runs = night.store.runs(number)
        for run in runs:
            if run.closed_at is None:
                yield f"P1 run {run.token} of task {number} is {run.phase}"
            if run.outcome is Outcome.HUNG_UP:
                yield f"P1 run {run.token} of task {number} counts as hung up, and nobody closed its window"
        ordered = sorted(runs, key=lambda run: run.number)
        for before, after in pairwise(ordered):
            if before.closed_at is None or after.claimed_at < before.closed_at:
                yield f"P2 run {after.token} of task {number} was claimed before {before.token} was closed"


def _counts(world: World, tasks: dict[int, Task]) -> Iterator[str]:
    """`list`, `stats` and `history` say the same."""
    counts = Counter(str(task.status) for task in tasks.values())
    listed = world.cli("list", "--json").json["tasks"]
    if Counter(task["status"] for task in listed) != counts:
        yield f"P7 list counts {Counter(task['status'] for task in listed)}, the rows are {counts}"
    stats = world.cli("stats", "--since", "0", "--json").json["stats"]["all"]
    if {status: number for status, number in stats["tasks"].items() if number} != counts or stats["open_runs"]:
        yield f"P7 stats counts {stats['tasks']} and {stats['open_runs']} open runs, the rows are {counts}"
    events = world.cli("history", "--limit", "0", "--json").json["events"]
    yield from _chains(events, tasks)
    finished = sum(event["to"] == "done" and event["from"] != "done" for event in events)
    if stats["done"] != finished:
        yield f"P7 stats says that {stats['done']} were done, and history has {finished}"


def _chains(events: list[dict[str, Any]], tasks: dict[int, Task]) -> Iterator[str]:
    """Each change begins where the last ended, and the last ends where the task is."""
    last: dict[int, str | None] = defaultdict(lambda: None)
    for event in sorted(events, key=lambda event: event["id"]):
        if event["to"] is not None:
            if event["from"] != last[event["task"]]:
                yield f"P7 task {event['task']}: from {event['from']}, and it was {last[event['task']]}"
            last[event["task"]] = event["to"]
    for number, task in tasks.items():
        if last[number] != task.status:
            yield f"P7 task {number} is {task.status}, and its history ends with {last[number]}"


def _one_at_a_time(world: World) -> Iterator[str]:
    """By what agents wrote: none began before one of its task that ended by itself had ended, of those begun before."""
    path = world.root / "agents" / "times"
    times: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for task, token, what, at in map(str.split, path.read_text().splitlines() if path.exists() else []):
        times[task].append((int(at), what, token))
    for task, moments in times.items():
        living: set[str] = set()
        ends = {token for _, what, token in moments if what == "ended"}
        for _, what, token in sorted(moments):
            if what == "ended":
                living.discard(token)
            elif living & ends:
                yield f"P2 an agent of task {task} began while {living & ends} was there"
            else:
                living.add(token)


def _said(world: World, night: Night) -> Iterator[str]:
    """No traceback in its log, no worker that ended of itself in a way that it should not, and a doctor who is content."""
    log = night.watched.said()
    for number, piece in enumerate(log.split("Traceback (most recent call last)")[1:]):
        if number < 3:
            yield f"a traceback: {piece[:1500]}"
    yield from (line for line in log.splitlines() if UNKILLED.search(line) and "the worker for" in line)
    said = world.cli("doctor", "--json")
    if not said.out.startswith("{"):
        yield f"doctor ends with {said.code}: {said.err[-600:]}"
        return
    yield from (f"doctor: {each}" for each in said.json["findings"] if each["severity"] == "error")


def left_over(world: World) -> list[str]:
    """Processes that are there when nothing but the tmux server should be."""
    found = []
    for pid in world.processes():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if words and not words.startswith("tmux") and "/tmux " not in words:
            found.append(f"P4 process {pid} is left: {words[:200]}")
    return found
