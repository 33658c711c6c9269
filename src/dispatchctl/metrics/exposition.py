"""Figures for Prometheus: its text format, from the database at the moment of asking.

Gauges are counted then. Counters and histograms are tallies that the database keeps itself, in the transactions in which
things happen: a scrape reads some hundred rows however many runs there were, and neither `rm` nor `prune` makes a counter
less. One that does become less tells of a database that was made anew or restored, as a counter's reset should.

Labels are statuses, agents, repositories, outcomes and causes: never a task.
"""

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dispatchctl import __version__
from dispatchctl.errors import DispatchctlError
from dispatchctl.figures import cause
from dispatchctl.reconcile import LAST_TIME
from dispatchctl.runtime import Runtime, now
from dispatchctl.store.counted import BOUNDS_S, Standings, Tally
from dispatchctl.task import Status

# -- what there is to say ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Figures(Collector):
    """Everything, read when it is asked for."""

    runtime: Runtime

    def collect(self) -> Iterator[Metric]:
        """Each metric with its samples."""
        at = now()
        standings, tasks = self.runtime.store.standing(at=at, tasks=False), self.runtime.store.count()
        yield _gauge("build", "The program that says this.", ("version",), [((__version__,), 1)], suffix="_info")
        rows = [((status,), tasks.get(status, 0)) for status in Status]
        yield _gauge("tasks", "Tasks by status.", ("status",), rows)
        yield from _standing(standings, at)
        yield from self._surroundings()
        tallies = defaultdict[str, list[Tally]](list)
        for tally in self.runtime.store.tallies():
            tallies[tally.what].append(tally)
        yield from _ever(tallies)

    def describe(self) -> Iterator[Metric]:
        """Nothing: registering is not to read the database."""
        return iter(())

    def _surroundings(self) -> Iterator[Metric]:
        limit = self.runtime.settings.dispatch.max_running
        yield _gauge("limit", "How many runs may be open; 0: as many as there are.", (), [((), limit)])
        pauses = {"": 0, **{pause.repo: 1 for pause in self.runtime.store.pauses()}}
        rows = [((repo,), paused) for repo, paused in pauses.items()]
        yield _gauge("paused", "Whether nothing is started in the repository; without one, anywhere.", ("repo",), rows)
        with suppress(OSError):  # there was none yet
            last = (self.runtime.state / LAST_TIME).stat().st_mtime
            help_ = "When a reconcile last went through."
            yield _gauge("last_reconcile_timestamp_seconds", help_, (), [((), last)])


Rows = Iterable[tuple[tuple[str, ...], float]]


def _gauge(name: str, help_: str, labels: Sequence[str], rows: Rows, *, suffix: str = "") -> Metric:
    family = GaugeMetricFamily(f"dispatchctl_{name}{suffix}", help_, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _counter(name: str, help_: str, labels: Sequence[str], rows: Rows) -> Metric:
    family = CounterMetricFamily(f"dispatchctl_{name}", help_, labels=labels)
    sums = defaultdict[tuple[str, ...], float](float)
    for values, value in rows:
        sums[values] += value
    for values, value in sorted(sums.items()):
        family.add_metric(values, value)
    return family


def _standing(standings: Standings, at: int) -> Iterator[Metric]:
    """What runs and what waits at this moment."""
    open_runs = [((each.agent, each.repo), each.number) for each in standings.open_runs]
    yield _gauge("runs_open", "Open runs.", ("agent", "repo"), open_runs)
    oldest = min((each.ready_at for each in standings.oldest), default=at)
    help_ = "For how long the task that could have been claimed for longest has waited; 0: there is none."
    yield _gauge("oldest_ready_seconds", help_, (), [((), (at - oldest) / 1000)])


def _ever(tallies: "dict[str, list[Tally]]") -> Iterator[Metric]:
    """What has ever happened."""
    runs = [((_word(each.of[0]), _word(each.of[1])), each.number) for each in tallies["ended"]]
    yield _counter("runs", "Runs that have ended.", ("agent", "outcome"), runs)
    failures = []
    for each in tallies["ended"]:
        agent, outcome, report, exit_code, signal = each.of
        why = cause(str(outcome), _text(report), _number(exit_code), _number(signal))
        if why is not None:
            failures.append(((str(agent), why), each.number))
    yield _counter("failures", "Runs that did not succeed.", ("agent", "cause"), failures)
    moves = [(tuple(map(_word, each.of)), each.number) for each in tallies["moved"]]
    yield _counter("transitions", "Changes of tasks' statuses; new ones come from nowhere.", ("from", "to"), moves)
    for kind, name in (("retry", "retries"), ("recovery", "recoveries")):
        rows = [((_word(each.of[0]),), each.number) for each in tallies["spent"] if each.of[1] == kind]
        yield _counter(name, f"{name.capitalize()} that were used up.", ("agent",), rows)
    waited = "From when nothing but room kept a task from being claimed until it was, of runs that have ended."
    yield _histogram("task_waiting_seconds", waited, tallies["waited"])
    yield _histogram("task_running_seconds", "From the agent's start to its end.", tallies["ran"])


def _histogram(name: str, help_: str, tallies: Iterable[Tally]) -> Metric:
    """One for each agent; the tallies count each bucket by itself, the format adds them up."""
    family = HistogramMetricFamily(f"dispatchctl_{name}", help_, labels=("agent",))
    agents = defaultdict[str, list[Tally]](list)
    for tally in tallies:
        agents[_word(tally.of[0])].append(tally)
    for agent, found in sorted(agents.items()):
        counts = {bound: each.number for each in found for bound in each.of[1:]}
        sum_, cumulative, buckets = sum(each.total_ms for each in found) / 1000, 0, []
        for bound in (*BOUNDS_S, None):
            cumulative += counts.get(bound, 0)
            buckets.append(("+Inf" if bound is None else f"{float(bound)}", cumulative))
        family.add_metric((agent,), buckets, sum_)
    return family


def _word(value: object) -> str:
    return "" if value is None else str(value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


# -- to stdout, and into a file ------------------------------------------------------------------------------------------


def text(runtime: Runtime) -> bytes:
    """Everything, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures(runtime))
    return generate_latest(registry)


def replace(path: Path, content: bytes) -> None:
    """Have the file hold this, whole and readable by everybody; after any error it is as it was.

    What it is written to first does not end as the files that node_exporter reads.
    """
    target = Path(os.path.realpath(path))
    unfinished = None
    try:
        descriptor, unfinished = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    except OSError as error:
        raise DispatchctlError(
            f"the metrics cannot be written to {path}: {error.strerror}", f"ls -ld {quote(str(target.parent))}"
        ) from error
    finally:
        if unfinished is not None:
            with suppress(FileNotFoundError):
                os.unlink(unfinished)
