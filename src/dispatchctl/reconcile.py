"""Make every status true again: observe, plan, apply.

It runs before each dispatch, by hand and from cron; twice in a row it does nothing the second time, and two at once do no
harm: every write is fenced by phase and token, an undo is done by whoever holds the run's owner lock, and an end is
recorded once.
"""

from dataclasses import dataclass, field

from dispatchctl.errors import DispatchctlError, Refused
from dispatchctl.mend import APPLY, EFFECTS, Work
from dispatchctl.observation import new_sightings, observe
from dispatchctl.plan import Action, Kind, plan
from dispatchctl.runtime import Runtime, now
from dispatchctl.saga import UndoFailed
from dispatchctl.snapshot import Answer, Snapshot
from dispatchctl.task import Actor

ROUNDS = 9
"""How often a call looks again, at most, after it had to enter runs again."""
LAST_TIME = "reconciled"
"""The file in the state directory whose time says when a reconcile last went through."""


@dataclass(frozen=True)
class Done:
    """What became of an action."""

    action: Action
    ok: bool
    error: str | None = None


@dataclass
class Reconciled:
    """What a call of `reconcile` did, and the sockets that did not answer though a run needs them."""

    done: list[Done] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)

    @property
    def held(self) -> frozenset[int]:
        """Tasks that nobody may start, since an agent of theirs may be alive that no open run owns."""
        return frozenset(each.action.task for each in self.done if each.action.holds and each.action.task is not None)


def reconcile(runtime: Runtime, *, actor: Actor = Actor.RECONCILE, dry_run: bool = False) -> Reconciled:
    """Do what is to be done; one run's trouble does not keep the others from theirs.

    After a run had to be entered again there are more rounds, until one has nothing to do: they say what became of the run
    since, and may have another run of the same task to enter.
    """
    world = observe(runtime)
    last = _apply(runtime, world, actor, dry_run=dry_run)
    result = Reconciled(last)
    entered = any(done.ok and done.action.kind is Kind.REENTER for done in last)
    for _ in range(ROUNDS if entered and not dry_run else 0):
        world = observe(runtime)
        last = _apply(runtime, world, actor, dry_run=False)
        result.done = [done for done in result.done if done.action.kind is not Kind.REPORT] + last
        if not any(done.ok for done in last):
            break
    needed = {seen.run.socket for seen in world.runs}
    unknown = {path: each.said for path, each in world.servers.items() if each.answer is Answer.UNKNOWN}
    result.silent = {path: said for path, said in unknown.items() if path in needed}
    if not dry_run:
        runtime.store.shorten_waits(at=now())
        _remember(runtime, world)
    return result


def _apply(runtime: Runtime, world: Snapshot, actor: Actor, *, dry_run: bool) -> list[Done]:
    seen = {each.run.token: each for each in world.runs}
    strays = {each.token: each for each in world.strays}
    result = []
    for action in plan(world):
        if dry_run or action.kind is Kind.REPORT:
            result.append(Done(action, action.kind is not Kind.REPORT))
            continue
        work = Work(runtime, world, action.reason, seen.get(action.run), strays.get(action.run), actor)
        try:
            with EFFECTS[action.kind]:
                APPLY[action.kind](work)
            result.append(Done(action, True))
        except Refused:
            continue  # somebody else was quicker
        except UndoFailed as failure:
            result.append(Done(action, False, f"it stopped at its {failure}"))
        except (DispatchctlError, OSError) as error:
            result.append(Done(action, False, str(error)))
    return result


def _remember(runtime: Runtime, world: Snapshot) -> None:
    """When runs stirred, and that a reconcile went through."""
    sightings = new_sightings(runtime, world)
    if sightings:
        runtime.store.sight(sightings)
    try:
        with open(runtime.state / LAST_TIME, "w"):
            pass
    except OSError:
        pass  # there is no state directory before the first run, and a full disk keeps nothing from being true
