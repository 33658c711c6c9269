"""What tasks of the night do, and how each may end: one table.

Each agent takes an exclusive lock of its task's and would notice a second one; it notes when it begins, and when it ends by
itself. `{root}` is the world, `{pause}` a few seconds.
"""

import random
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dispatchctl.task import Status

LONGEST_S = 5.0

BEGIN = """
exec 9>>"{root}/agents/$DISPATCHCTL_TASK.lock"
flock -n 9 || echo "$DISPATCHCTL_TASK $DISPATCHCTL_TOKEN" >> "{root}/agents/second"
note() { echo "$DISPATCHCTL_TASK $DISPATCHCTL_TOKEN $1 $(date +%s%N)" >> "{root}/agents/times"; }
note began
sleep {pause}
"""
WRITE = """
echo "$DISPATCHCTL_TASK $DISPATCHCTL_TOKEN $PWD" >> "{root}/agents/began"
echo "$DISPATCHCTL_TOKEN" > "work-$DISPATCHCTL_TOKEN"
"""
COMMIT = WRITE + 'git add -A && git commit -qm "work of $DISPATCHCTL_TOKEN"\n'
WELL = "note ended; exit 0\n"
FIRST_ONLY = '[ -e "{root}/agents/$DISPATCHCTL_TASK.tried" ] || { touch "{root}/agents/$DISPATCHCTL_TASK.tried"; '
FOR_EVER = "while :; do sleep 999; done\n"
BLOCK = """
dispatchctl block -m "which colour?" >/dev/null || exit 20
read -r answer
[ "$answer" = blue ] || exit 21
"""

DONE = (Status.DONE, "")
ABSENT = "absent"
"""An agent whose program is not there."""
NO_BASE = "no-such-branch"

Ending = tuple[Status, str]
"""A status, and a pattern that the whole error of the task has to match."""


@dataclass(frozen=True)
class Fate:
    """What a task does and how often there is one; how it ends unless something of its own is killed."""

    weight: int
    script: str
    ending: Ending
    options: Mapping[str, Any] = field(default_factory=dict)
    commits: bool = False


FATES: Mapping[str, Fate] = {
    "done, with a commit": Fate(20, COMMIT + WELL, DONE, commits=True),
    "done, nothing to commit": Fate(16, WELL, DONE),
    "after another task": Fate(9, COMMIT + WELL, DONE, commits=True),
    "fails with 7": Fate(7, "note ended; exit 7", (Status.FAILED, "exited with 7")),
    "fails, then succeeds": Fate(
        7, FIRST_ONLY + "note ended; exit 9; }\n" + COMMIT + WELL, DONE, {"retries": 1}, commits=True
    ),
    "hangs until its time limit": Fate(
        5, FOR_EVER, (Status.FAILED, "ran longer than its time limit of 4 s"), {"timeout_s": 4}
    ),
    "crashes": Fate(4, "kill -SEGV $$", (Status.FAILED, "killed by signal 11")),
    "is killed": Fate(3, "kill -KILL $$", (Status.FAILED, "killed by signal 9")),
    "stalls": Fate(4, FOR_EVER, (Status.FAILED, r"no output and no heartbeat for \d+ s")),
    "asks, and gets an answer": Fate(5, BLOCK + COMMIT + WELL, DONE, commits=True),
    "reports done, and stays": Fate(5, "dispatchctl done -m early >/dev/null || exit 22\n" + FOR_EVER, DONE),
    "reports that it failed": Fate(
        4, "dispatchctl fail -m impossible >/dev/null || exit 22\nsleep 9", (Status.FAILED, "impossible")
    ),
    "is approved": Fate(4, COMMIT + WELL, DONE, {"review": True}, commits=True),
    "is rejected, then approved": Fate(3, COMMIT + WELL, DONE, {"review": True}, commits=True),
    "leaves work uncommitted": Fate(3, WRITE + WELL, (Status.IN_REVIEW, "1 file is not committed")),
    "has no base": Fate(3, WELL, (Status.FAILED, f".*no branch or commit '{NO_BASE}'.*"), {"base": NO_BASE}),
    "has no program": Fate(2, WELL, (Status.FAILED, ".*program of agent absent.*"), {"agent": ABSENT}),
}
AFTER, BLOCKS = "after another task", "asks, and gets an answer"
REVIEWED, REJECTED = "is approved", "is rejected, then approved"
RETRIED = "fails, then succeeds"

KILLED = (Status.FAILED, "killed by signal 9")
UNCOMMITTED = (Status.IN_REVIEW, ".*(not committed|could not say whether all its work is committed)")


def script(name: str, root: str, chance: random.Random) -> str:
    """The prompt of a task."""
    text = BEGIN + FATES[name].script
    return text.replace("{root}", root).replace("{pause}", f"{chance.uniform(0.1, LONGEST_S):.1f}")


def chosen(count: int, chance: random.Random) -> list[str]:
    """So many fates, each at least once if there are enough."""
    names = list(FATES)
    weights = [FATES[name].weight for name in names]
    found = [*names[:count], *chance.choices(names, weights, k=max(0, count - len(names)))]
    chance.shuffle(found)
    return found


@dataclass(frozen=True)
class Harm:
    """What was done to a task: whether agents of its were killed, and whether any git was."""

    agents: int
    gits: bool


def right_endings(name: str, harm: Harm, parents: Collection[Status]) -> Iterator[Ending]:
    """How a task may have ended, given what was done to it and how those ended that it comes after."""
    fate = FATES[name]
    if any(status is not Status.DONE for status in parents):
        yield (Status.READY, ".*")
        return
    yield fate.ending
    if harm.agents:
        yield KILLED
        if name == RETRIED:
            yield (Status.FAILED, "exited with 9")  # its one retry went to the one that was killed
    if harm.gits and fate.commits:
        yield UNCOMMITTED


def is_right(status: Status, error: str | None, endings: Collection[Ending]) -> bool:
    """Whether that is one of the endings."""
    return any(status is right and re.fullmatch(pattern, error or "", re.DOTALL) for right, pattern in endings)
