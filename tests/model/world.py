"""One world of the model: a machine, a repository, a database with copies of its past, and what may happen to them."""

import os
import shutil
import sqlite3
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from store.bench import Sqlite, assert_replayed

from dispatchctl import intent, launch, observation, reconcile
from dispatchctl.plan import Action, Kind
from dispatchctl.snapshot import Holder, Snapshot
from dispatchctl.store.connection import Database
from dispatchctl.store.protocol import Store
from dispatchctl.task import Run
from model import computer as machine
from model import promises
from model.computer import Computer, Process
from model.doors import ModelRuntime, installed, template
from model.pane import is_idle
from model.players import Player, playing
from model.repository import Repository, goes_on

PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""In memory where that can be had: a history makes hundreds of small files."""


@lru_cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory(dir=PLACE) as directory:
        return template(Path(directory) / "tasks.db")


class World:
    """Everything that a history acts on."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="dctl-model-", dir=PLACE))
        self.path = str(self.root / "tasks.db")
        Path(self.path).write_bytes(_empty())
        self.computer = Computer(self.root)
        self.repository = self._make_repository()
        self.repositories = {self.repository.path: self.repository}
        self.copies: deque[bytes] = deque(maxlen=30)
        self.work: list[tuple[str, str]] = []
        self.tasks: dict[str, tuple[int, int]] = {}
        self.places: dict[str, str] = {}
        self.evidence_lost = False
        self.deleted: set[str] = set()
        self.destroyed: set[str] = set()
        self.planned: list[Action] = []
        self.restored = False
        self.points = 0
        self._events = 0
        self._patches = ExitStack()
        self._patches.enter_context(installed(self.computer, self.repositories, self._before_end))
        self._patches.enter_context(patch.object(reconcile, "observe", self._observing(vars(reconcile)["observe"])))
        self._patches.enter_context(patch.object(reconcile, "plan", self._planning(vars(reconcile)["plan"])))
        self._patches.enter_context(patch.object(observation, "holder", self._holding(observation.holder)))
        self._patches.enter_context(patch.object(Database, "__enter__", self._copying(Database.__enter__)))
        self._patches.enter_context(patch.object(launch, "undisturbed", _Undisturbed))
        self.store: Store = self.runtime().store

    def close(self) -> None:
        """Nothing of it is left."""
        try:
            for player in self.computer.players:
                player.kill()
            self.store.close()
        finally:
            self._patches.close()
            self.copies.clear()
            shutil.rmtree(self.root)

    def _make_repository(self) -> Repository:
        repository = Repository(str(self.root / "repo"))
        os.makedirs(self.root / "repo" / ".git")
        (self.root / "repo" / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
        repository.refs["refs/heads/main"] = repository.commit(files=frozenset({"README"}))
        return repository

    # -- who acts ------------------------------------------------------------------------------------------------
    def runtime(self, token: str | None = None) -> ModelRuntime:
        """What a new process has."""
        return ModelRuntime.made(self.computer, self.repositories, token)

    def play(self, name: str, work: Callable[[ModelRuntime], object]) -> Player:
        """Start a command."""

        def command() -> None:
            runtime = self.runtime()
            try:
                work(runtime)
            finally:
                if "store" in runtime.__dict__:
                    runtime.store.close()

        return self.computer.play(name, command)

    @property
    def commands(self) -> list[Player]:
        """The dispatchers, reconciles and humans that are at work; a launcher is somebody's process."""
        owned = {each.player for each in self.computer.processes.values()}
        return [player for player in self.computer.players if player not in owned]

    def step(self, player: Player) -> None:
        """To its next point."""
        self.points += 1
        self.computer.step(player)
        self._see_agents()

    def go_on(self, player: Player, points: int) -> None:
        """That many points, or until it waits for somebody."""
        for _ in range(points):
            if player.over:
                return
            self.step(player)
            if player.at in ("sleep", "a launcher relays"):
                return

    def finish(self) -> None:
        """Everybody goes on until only agents are waited for."""
        for _ in range(400):
            quiet = is_idle(self.computer)
            for player in list(self.computer.players):
                self.step(player)
            if quiet and is_idle(self.computer):
                return
        raise AssertionError(f"they never come to rest: {[(each.name, each.at) for each in self.computer.players]}")

    def _see_agents(self) -> None:
        for process in self.computer.with_kind(machine.Kind.AGENT):
            if process.works and process.token not in self.tasks:
                written = intent.read(str(self.root / "tasks.d" / "runs" / process.token / "run.json"))
                assert written is not None, f"an agent works without its run's being written down: {process}"
                self.tasks[process.token] = (written.task.id, written.task.created_at)
                self.places[process.token] = written.run.worktree

    def _before_end(self, process: Process) -> None:
        runtime = self.runtime()
        try:
            promises.began_for_good(process, runtime.store.find_runs([process.token]).get(process.token))
        finally:
            runtime.store.close()

    def lose_run_directory(self, token: str) -> bool:
        """Somebody deletes what was written beside the database of a run that this, an older one, does not know."""
        if token in self.runs():
            return False
        shutil.rmtree(self.root / "tasks.d" / "runs" / token, ignore_errors=True)
        self.computer.recorded.pop(token, None)
        self.evidence_lost = True
        self.deleted.add(token)
        return True

    def _see_panes(self) -> None:
        """Of which runs the last thing is gone that said whose they are."""
        self.destroyed |= self.deleted - {pane.token for pane in self.computer.panes()}

    def agents(self) -> list[Process]:
        """The agents at work."""
        return [each for each in self.computer.with_kind(machine.Kind.AGENT) if each.works]

    def write(self, worktree: str, name: str) -> None:
        """An agent writes a file; it is work, and must not be lost."""
        if os.path.isdir(worktree):
            (Path(worktree) / name).touch()
            self.work.append((worktree, name))

    def commit(self, worktree: str) -> None:
        """An agent commits all its files."""
        tree = self.repository.trees.get(worktree)
        if tree is None:
            return
        ref = f"refs/heads/{tree.branch}"
        head = self.repository.refs[ref]
        files = self.repository.commits[head].files | set(self.repository.uncommitted(worktree))
        self.repository.refs[ref] = self.repository.commit(head, files=files)

    # -- the database ----------------------------------------------------------------------------------------------
    def restore(self, back: int) -> None:
        """The database is as it was that many commits ago; whoever had it open was ended before."""
        if not self.copies or self.evidence_lost:
            return
        for player in self.commands:
            player.kill()
        self.computer.players = [each for each in self.computer.players if not each.over]
        copy = self.copies[-1 - back % len(self.copies)]
        place = self.root / "copy.db"
        place.write_bytes(copy)
        source, target = sqlite3.connect(place), sqlite3.connect(self.path)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
            place.unlink()
        self.restored = True
        self._events = 0

    def runs(self) -> dict[str, Run]:
        """Every row of a run, by token."""
        return self.store.find_runs([f"{number:08x}" for number in range(1, self.computer.tokens + 1)])

    # -- what holds ------------------------------------------------------------------------------------------------
    def check(self) -> None:
        """What is true after every move."""
        self._see_panes()
        promises.one_agent_per_task(self.computer, self.tasks, self.destroyed)
        promises.work_is_kept(self.repositories.values(), self.work)
        self._events = promises.moves_are_allowed(self.store, self._events)
        runs = self.runs()
        if not self.restored:
            promises.nothing_closed_lives(self.computer, runs)
        promises.ends_are_kept(self.computer, runs)

    def check_history(self) -> None:
        """P7, and what SQLite has to say."""
        assert_replayed(_Rows(self.path), self.store.events())
        promises.consistent(self.path)

    def settle(self) -> None:
        """No more faults; what is dying dies; two reconciles at most; then all is true, and a third has nothing to do."""
        self.computer.silent.clear()
        for pane in self.computer.panes():
            pane.slow = False
        goes_on(self.computer)
        self.finish()
        for _ in range(2):
            self.reconcile()
            self.finish()
        left = self.reconcile()
        assert all(action.kind is Kind.REPORT for action in left), f"a third reconcile still has to do: {left}"
        reported = {action.run for action in left}
        promises.statuses_are_true(self.computer, self.store.tasks(), reported)
        runs = self.runs()
        promises.nobody_is_forgotten(self.computer, runs, reported)
        if not self.restored:
            assert not reported, f"reported though nothing is unknown: {left}"
            promises.nothing_closed_lives(self.computer, runs)
            promises.nothing_without_a_row(self.computer, self.repositories.values(), runs, reported)
        self.check()
        self.check_history()

    def reconcile(self) -> list[Action]:
        """One, to its end; what it planned."""
        self.planned = []
        player = self.play("reconcile", reconcile.reconcile)
        for _ in range(400):
            for each in [player, *(other for other in self.computer.players if other is not player)]:
                self.step(each)
            if player.over:
                return self.planned
        raise AssertionError(f"reconcile does not come to its end: it stands {player.at}")

    # -- looking over reconcile's shoulder ---------------------------------------------------------------------------
    def _observing(self, real: Callable[..., Snapshot]) -> Callable[..., Snapshot]:
        def observe(runtime: Any) -> Snapshot:
            player = playing()
            if player is not None:
                player.silent.clear()
                player.held.clear()
            return real(runtime)

        return observe

    def _holding(self, real: Callable[[str], Holder]) -> Callable[[str], Holder]:
        def holder(path: str) -> Holder:
            player = playing()
            locks = (lock for each in self.computer.players if each is not player for lock in each.locks)
            if player is not None and any(lock.path == path and lock.descriptor >= 0 for lock in locks):
                player.held.add(path)
            return real(path)

        return holder

    def _planning(self, real: Callable[[Snapshot], tuple[Action, ...]]) -> Callable[[Snapshot], tuple[Action, ...]]:
        def checked(world: Snapshot) -> tuple[Action, ...]:
            actions = real(world)
            assert actions == real(world), "plan is not a function of the snapshot"
            player = playing()
            silent, held = (player.silent, player.held) if player is not None else (set[str](), set[str]())
            promises.unknown_changes_nothing(world, actions, silent, held)
            self.planned = list(actions)
            return actions

        return checked

    def _copying(self, real: Callable[[Database], Database]) -> Callable[[Database], Database]:
        def enter(database: Database) -> Database:
            entered = real(database)
            self.copies.append(database._connection.serialize())
            return entered

        return enter


class _Undisturbed:
    """Ctrl-C has to wait."""

    def __enter__(self) -> None:
        player = playing()
        if player is not None:
            player.masked += 1

    def __exit__(self, *failure: object) -> None:
        player = playing()
        if player is not None:
            player.masked -= 1


class _Rows(Sqlite):
    """The rows of a world's database, for the store's own check of its events."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened: list[Store] = []
