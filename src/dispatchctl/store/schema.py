"""The tables, and how a file of an earlier version becomes one of this version.

The CHECKs say what the types in `dispatchctl.task` say. Columns that no event carries are derived or only a last sighting,
and are marked so; everything else in `tasks` and `runs` can be had again by replaying the events.
"""

from dispatchctl.errors import Unavailable
from dispatchctl.store.connection import Database
from dispatchctl.store.counted import BOUNDS_S
from dispatchctl.task import Activity, Actor, Ask, Life, Outcome, Phase, Report, Status

APPLICATION_ID = 0x64737063  # "dspc"


def _one_of(values: type[Status | Phase | Outcome | Report | Ask | Life | Activity | Actor]) -> str:
    return "(" + ", ".join(f"'{value}'" for value in values) + ")"


VERSION_1: tuple[str, ...] = (
    "CREATE TABLE installation (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    f"""CREATE TABLE tasks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        title TEXT NOT NULL CHECK (length(title) > 0),
        prompt TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN {_one_of(Status)}),
        priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 4),
        labels TEXT NOT NULL CHECK (json_valid(labels) AND json_type(labels) = 'array'),
        agent TEXT NOT NULL CHECK (length(agent) > 0),
        repo TEXT NOT NULL CHECK (repo GLOB '/*'),
        base TEXT NOT NULL CHECK (length(base) > 0),
        review INTEGER NOT NULL CHECK (review IN (0, 1)),
        retries_left INTEGER NOT NULL CHECK (retries_left >= 0),
        recoveries_left INTEGER NOT NULL CHECK (recoveries_left >= 0),
        timeout_s INTEGER NOT NULL CHECK (timeout_s >= 0),
        not_before INTEGER,
        error TEXT,
        result TEXT,
        note TEXT,              -- what a human said to the next try
        resume TEXT,            -- token of the run in whose worktree the next try goes on
        external_key TEXT UNIQUE,
        newest_run TEXT,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        waits INTEGER NOT NULL DEFAULT 0 CHECK (waits >= 0),          -- derived: parents that are not done
        due INTEGER NOT NULL DEFAULT 1 CHECK (due IN (0, 1))          -- derived: not_before has passed, as last seen
    ) STRICT""",
    """CREATE TABLE after (
        task INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
        parent INTEGER NOT NULL REFERENCES tasks (id),
        PRIMARY KEY (task, parent),
        CHECK (task <> parent)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX after_parent ON after (parent)",
    f"""CREATE TABLE runs (
        token TEXT PRIMARY KEY CHECK (token GLOB '[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]'),
        task INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
        number INTEGER NOT NULL CHECK (number >= 1),
        phase TEXT NOT NULL CHECK (phase IN {_one_of(Phase)}),
        agent TEXT NOT NULL,
        repo TEXT NOT NULL,
        branch TEXT NOT NULL,
        worktree TEXT NOT NULL CHECK (worktree GLOB '/*'),
        resumed INTEGER NOT NULL CHECK (resumed IN (0, 1)),
        run_dir TEXT NOT NULL CHECK (run_dir GLOB '/*'),
        owner_lock TEXT NOT NULL CHECK (owner_lock GLOB '/*'),
        step_lock TEXT NOT NULL CHECK (step_lock GLOB '/*'),
        host TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        claimed_at INTEGER NOT NULL,
        socket TEXT NOT NULL CHECK (socket GLOB '/*'),
        session TEXT NOT NULL,
        base_commit TEXT,
        owns_tree INTEGER NOT NULL DEFAULT 0 CHECK (owns_tree IN (0, 1)),
        owns_branch INTEGER NOT NULL DEFAULT 0 CHECK (owns_branch IN (0, 1)),
        server_pid INTEGER,
        server_start INTEGER,
        window_id TEXT,
        pane_id TEXT,
        launcher_pid INTEGER,
        launcher_start INTEGER,
        agent_pid INTEGER,
        agent_start INTEGER,
        started_at INTEGER,
        report TEXT CHECK (report IN {_one_of(Report)}),
        report_message TEXT,
        report_by TEXT CHECK (report_by IN {_one_of(Actor)}),
        ask TEXT CHECK (ask IN {_one_of(Ask)}),
        outcome TEXT CHECK (outcome IN {_one_of(Outcome)}),
        exit_code INTEGER,
        signal INTEGER,
        ended_at INTEGER,
        closed_at INTEGER,
        error TEXT,
        activity TEXT CHECK (activity IN {_one_of(Activity)}),      -- last sighting
        heartbeat_at INTEGER,                                       -- last sighting
        life TEXT CHECK (life IN {_one_of(Life)}),                  -- last sighting
        life_at INTEGER,                                            -- last sighting
        UNIQUE (task, number),
        CHECK ((phase = 'closed') = (outcome IS NOT NULL)),
        CHECK ((phase = 'closed') = (closed_at IS NOT NULL)),
        CHECK (phase <> 'started' OR started_at IS NOT NULL),
        CHECK (phase NOT IN ('launching', 'undoing') OR started_at IS NULL),
        CHECK (phase = 'closed' OR (exit_code IS NULL AND signal IS NULL AND ended_at IS NULL)),
        CHECK (exit_code IS NULL OR signal IS NULL),
        CHECK (started_at IS NOT NULL OR (exit_code IS NULL AND signal IS NULL AND agent_pid IS NULL)),
        CHECK (outcome <> 'rolled_back' OR started_at IS NULL),
        CHECK ((server_pid IS NULL) = (server_start IS NULL)),
        CHECK ((window_id IS NULL) = (pane_id IS NULL)),
        CHECK ((launcher_pid IS NULL) = (launcher_start IS NULL)),
        CHECK ((agent_pid IS NULL) = (agent_start IS NULL)),
        CHECK (base_commit IS NOT NULL OR (owns_tree = 0 AND owns_branch = 0)),
        CHECK ((report IS NULL) = (report_by IS NULL))
    ) STRICT, WITHOUT ROWID""",
    "CREATE UNIQUE INDEX runs_open ON runs (task) WHERE phase <> 'closed'",
    f"""CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        task INTEGER NOT NULL,      -- no foreign key: what happened stays when the task is removed
        run TEXT,
        at INTEGER NOT NULL,
        actor TEXT NOT NULL CHECK (actor IN {_one_of(Actor)}),
        kind TEXT NOT NULL,
        from_status TEXT CHECK (from_status IN {_one_of(Status)}),
        to_status TEXT CHECK (to_status IN {_one_of(Status)}),
        detail TEXT NOT NULL CHECK (json_valid(detail))
    ) STRICT""",
    "CREATE INDEX events_of_task ON events (task, id)",
    "CREATE INDEX events_by_time ON events (at)",
    """CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'events are append-only'); END""",
    """CREATE TRIGGER events_are_only_pruned BEFORE DELETE ON events
        WHEN NOT EXISTS (SELECT 1 FROM installation WHERE key = 'pruning')
        BEGIN SELECT RAISE(ABORT, 'events are append-only'); END""",
    "CREATE INDEX tasks_claimable ON tasks (priority, id) WHERE status = 'ready' AND waits = 0 AND due = 1",
    "CREATE INDEX tasks_deferred ON tasks (not_before) WHERE status = 'ready' AND due = 0",
    "CREATE INDEX tasks_by_status ON tasks (status, id)",
    "INSERT INTO installation VALUES ('id', lower(hex(randomblob(8))))",
)

VERSION_2: tuple[str, ...] = (
    "ALTER TABLE runs ADD COLUMN started_awake INTEGER",
    "ALTER TABLE runs ADD COLUMN asked_awake INTEGER",
    "ALTER TABLE runs ADD COLUMN cleared_at INTEGER CHECK (cleared_at IS NULL OR phase = 'closed')",
    "CREATE INDEX runs_kept ON runs (closed_at) WHERE phase = 'closed' AND cleared_at IS NULL",
    """CREATE TABLE sightings (    -- when the run's agent was last heard of; no event carries it
        token TEXT PRIMARY KEY REFERENCES runs (token) ON DELETE CASCADE,
        output_size INTEGER NOT NULL,
        heartbeat_at INTEGER,
        stirred_awake INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE places (       -- where runs have been: tmux sockets and repositories, and the program that was used
        kind TEXT NOT NULL CHECK (kind IN ('tmux', 'git')),
        path TEXT NOT NULL CHECK (path GLOB '/*'),
        program TEXT NOT NULL,
        PRIMARY KEY (kind, path)
    ) STRICT, WITHOUT ROWID""",
)
"""What reconcile needs: times awake, in milliseconds of the clock that stands still while the machine sleeps."""


def _bucket(ms: str) -> str:
    """The bound of the bucket that so many milliseconds fall into; null past the last."""
    return "CASE " + " ".join(f"WHEN {ms} <= {bound * 1000:.0f} THEN {bound}" for bound in BOUNDS_S) + " END"


def _counted(what: str, of: str, ms: str, where: str) -> str:
    """A statement of a trigger: one more of this, and so many milliseconds more."""
    return f"""INSERT INTO tallies SELECT '{what}', json_array({of}), 1, {ms} WHERE {where}
                ON CONFLICT DO UPDATE SET count = count + 1, total_ms = total_ms + excluded.total_ms;"""


_WAITED = "max(NEW.claimed_at - NEW.ready_at, 0)"
_RAN = "max(NEW.ended_at - NEW.started_at, 0)"
_WAS_RAN = _RAN.replace("NEW.", "")
_OPEN_RUN = "EXISTS (SELECT 1 FROM runs WHERE task = NEW.id AND phase <> 'closed')"

TALLIES: tuple[str, ...] = (
    """CREATE TABLE tallies (      -- how often something has happened; what is removed or pruned later stays counted
        what TEXT NOT NULL CHECK (what IN ('moved', 'ended', 'waited', 'ran', 'spent')),
        of TEXT NOT NULL CHECK (json_valid(of)),
        count INTEGER NOT NULL,
        total_ms INTEGER NOT NULL,
        PRIMARY KEY (what, of)
    ) STRICT, WITHOUT ROWID""",
    """INSERT INTO tallies SELECT 'moved', json_array(from_status, to_status), count(*), 0
        FROM events WHERE to_status IS NOT NULL GROUP BY from_status, to_status""",
    """INSERT INTO tallies SELECT 'ended', json_array(agent, outcome, report, exit_code, signal), count(*), 0
        FROM runs WHERE phase = 'closed' GROUP BY agent, outcome, report, exit_code, signal""",
    f"""INSERT INTO tallies SELECT 'ran', json_array(agent, {_bucket(_WAS_RAN)}), count(*), sum({_WAS_RAN})
        FROM runs WHERE phase = 'closed' AND started_at IS NOT NULL AND ended_at IS NOT NULL GROUP BY 2""",
    f"""CREATE TRIGGER moves_are_counted AFTER INSERT ON events WHEN NEW.to_status IS NOT NULL BEGIN
        {_counted("moved", "NEW.from_status, NEW.to_status", "0", "true")}
        END""",
    f"""CREATE TRIGGER ends_are_counted AFTER UPDATE OF phase ON runs
        WHEN NEW.phase = 'closed' AND OLD.phase <> 'closed' BEGIN
        {_counted("ended", "NEW.agent, NEW.outcome, NEW.report, NEW.exit_code, NEW.signal", "0", "true")}
        {_counted("waited", f"NEW.agent, {_bucket(_WAITED)}", _WAITED, "NEW.ready_at IS NOT NULL")}
        {_counted("ran", f"NEW.agent, {_bucket(_RAN)}", _RAN, "NEW.started_at IS NOT NULL AND NEW.ended_at IS NOT NULL")}
        END""",
    f"""CREATE TRIGGER tries_are_counted AFTER UPDATE OF retries_left, recoveries_left ON tasks
        WHEN NEW.status = 'ready' AND OLD.status IN ('in_progress', 'blocked', 'failed') AND {_OPEN_RUN} BEGIN
        {_counted("spent", "NEW.agent, 'retry'", "0", "NEW.retries_left < OLD.retries_left")}
        {_counted("spent", "NEW.agent, 'recovery'", "0", "NEW.recoveries_left < OLD.recoveries_left")}
        END""",
)
"""Counters that only grow, kept by the file itself, so that reading them costs nothing and nothing that is pruned is missed."""

VERSION_3: tuple[str, ...] = (
    "ALTER TABLE runs ADD COLUMN agent_session TEXT",
    "ALTER TABLE runs ADD COLUMN ready_at INTEGER",
    "ALTER TABLE runs ADD COLUMN merged TEXT",
    "ALTER TABLE runs ADD COLUMN pull_request TEXT",
    "ALTER TABLE tasks ADD COLUMN ready_at INTEGER",  # derived: since when nothing but room keeps it from being claimed
    "UPDATE tasks SET ready_at = max(updated_at, ifnull(not_before, 0)) WHERE status = 'ready' AND waits = 0",
    "DROP INDEX tasks_claimable",
    """CREATE INDEX tasks_claimable ON tasks (priority, id, repo, agent)
        WHERE status = 'ready' AND waits = 0 AND due = 1""",
    """CREATE INDEX tasks_claimable_by_place ON tasks (repo, agent, priority, id)
        WHERE status = 'ready' AND waits = 0 AND due = 1""",
    """CREATE INDEX runs_ended ON runs (closed_at, agent, repo, outcome, report, exit_code, signal,
        ready_at, claimed_at, started_at, ended_at) WHERE phase = 'closed'""",
    "DROP INDEX tasks_by_status",
    "CREATE INDEX tasks_by_status ON tasks (status, id, agent, repo)",
    "CREATE INDEX tasks_waiting ON tasks (ready_at, agent, repo) WHERE ready_at IS NOT NULL",
    "CREATE INDEX events_moved ON events (to_status, at, task) WHERE to_status IS NOT NULL",
    *TALLIES,
    """CREATE TABLE pauses (       -- what is not to be started: the repository, or with '' the whole queue
        repo TEXT PRIMARY KEY CHECK (repo = '' OR repo GLOB '/*'),
        at INTEGER NOT NULL,
        reason TEXT
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE cursors (      -- the last event that a reader of events has dealt with
        name TEXT PRIMARY KEY,
        event INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
)
"""What the queue needs: pauses, limits by repository and agent, the agent's own session, what became of the work."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (VERSION_1, VERSION_2, VERSION_3)
"""What takes a file from version n to n + 1, at index n. Only ever appended to."""


def migrate(database: Database, *, create: bool) -> None:
    """Bring the file to this version, once, however many processes try at the same time.

    Everything happens in one transaction that looks at `user_version` again after it has the lock. Raises `Unavailable`
    for an empty file unless it may be made, for one of a newer version, and for one that is not ours.
    """
    with database.reading():  # one moment: another process may be making the file right now
        if _version(database, create=create) == len(MIGRATIONS):
            return
    database.use_write_ahead_log()
    with database:
        for number in range(_version(database, create=create), len(MIGRATIONS)):
            for statement in MIGRATIONS[number]:
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {number + 1}")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _version(database: Database, *, create: bool) -> int:
    """The version of a file that is ours, or 0 for an empty one that may be made."""
    version, owner = _number(database, "user_version"), _number(database, "application_id")
    if owner != APPLICATION_ID:
        if database.row("SELECT 1 FROM sqlite_schema LIMIT 1") or version or owner:
            raise Unavailable(f"{database.path} is a database, but not one of dispatchctl", "dispatchctl config")
        if not create:
            raise Unavailable(f"the database {database.path} is empty", "dispatchctl init")
    elif version > len(MIGRATIONS):
        raise Unavailable(
            f"the database {database.path} was made by a newer dispatchctl (schema {version}; "
            f"this one knows up to {len(MIGRATIONS)})",
            "pip install --upgrade dispatchctl",
        )
    return version


def _number(database: Database, pragma: str) -> int:
    return int(database.row(f"PRAGMA {pragma}")[0])
