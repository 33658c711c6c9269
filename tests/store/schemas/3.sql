CREATE INDEX after_parent ON after (parent);
CREATE INDEX events_by_time ON events (at);
CREATE INDEX events_moved ON events (to_status, at, task) WHERE to_status IS NOT NULL;
CREATE INDEX events_of_task ON events (task, id);
CREATE INDEX runs_ended ON runs (closed_at, agent, repo, outcome, report, exit_code, signal,
        ready_at, claimed_at, started_at, ended_at) WHERE phase = 'closed';
CREATE INDEX runs_kept ON runs (closed_at) WHERE phase = 'closed' AND cleared_at IS NULL;
CREATE UNIQUE INDEX runs_open ON runs (task) WHERE phase <> 'closed';
CREATE INDEX tasks_by_status ON tasks (status, id, agent, repo);
CREATE INDEX tasks_claimable ON tasks (priority, id, repo, agent)
        WHERE status = 'ready' AND waits = 0 AND due = 1;
CREATE INDEX tasks_claimable_by_place ON tasks (repo, agent, priority, id)
        WHERE status = 'ready' AND waits = 0 AND due = 1;
CREATE INDEX tasks_deferred ON tasks (not_before) WHERE status = 'ready' AND due = 0;
CREATE INDEX tasks_waiting ON tasks (ready_at, agent, repo) WHERE ready_at IS NOT NULL;
CREATE TABLE after (
        task INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
        parent INTEGER NOT NULL REFERENCES tasks (id),
        PRIMARY KEY (task, parent),
        CHECK (task <> parent)
    ) STRICT, WITHOUT ROWID;
CREATE TABLE cursors (      -- the last event that a reader of events has dealt with
        name TEXT PRIMARY KEY,
        event INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        task INTEGER NOT NULL,      -- no foreign key: what happened stays when the task is removed
        run TEXT,
        at INTEGER NOT NULL,
        actor TEXT NOT NULL CHECK (actor IN ('user', 'agent', 'dispatch', 'launcher', 'reconcile', 'watch')),
        kind TEXT NOT NULL,
        from_status TEXT CHECK (from_status IN ('backlog', 'ready', 'in_progress', 'blocked', 'in_review', 'done', 'failed', 'cancelled')),
        to_status TEXT CHECK (to_status IN ('backlog', 'ready', 'in_progress', 'blocked', 'in_review', 'done', 'failed', 'cancelled')),
        detail TEXT NOT NULL CHECK (json_valid(detail))
    ) STRICT;
CREATE TABLE installation (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE pauses (       -- what is not to be started: the repository, or with '' the whole queue
        repo TEXT PRIMARY KEY CHECK (repo = '' OR repo GLOB '/*'),
        at INTEGER NOT NULL,
        reason TEXT
    ) STRICT, WITHOUT ROWID;
CREATE TABLE places (       -- where runs have been: tmux sockets and repositories, and the program that was used
        kind TEXT NOT NULL CHECK (kind IN ('tmux', 'git')),
        path TEXT NOT NULL CHECK (path GLOB '/*'),
        program TEXT NOT NULL,
        PRIMARY KEY (kind, path)
    ) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
        token TEXT PRIMARY KEY CHECK (token GLOB '[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]'),
        task INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
        number INTEGER NOT NULL CHECK (number >= 1),
        phase TEXT NOT NULL CHECK (phase IN ('launching', 'started', 'undoing', 'closed')),
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
        report TEXT CHECK (report IN ('done', 'fail')),
        report_message TEXT,
        report_by TEXT CHECK (report_by IN ('user', 'agent', 'dispatch', 'launcher', 'reconcile', 'watch')),
        ask TEXT CHECK (ask IN ('cancel', 'timeout', 'report')),
        outcome TEXT CHECK (outcome IN ('exited', 'reported', 'timed_out', 'hung_up', 'lost', 'rolled_back', 'cancelled')),
        exit_code INTEGER,
        signal INTEGER,
        ended_at INTEGER,
        closed_at INTEGER,
        error TEXT,
        activity TEXT CHECK (activity IN ('starting', 'working', 'waiting', 'idle', 'stalled', 'unknown')),      -- last sighting
        heartbeat_at INTEGER,                                       -- last sighting
        life TEXT CHECK (life IN ('alive', 'gone', 'unknown')),                  -- last sighting
        life_at INTEGER, started_awake INTEGER, asked_awake INTEGER, cleared_at INTEGER CHECK (cleared_at IS NULL OR phase = 'closed'), agent_session TEXT, ready_at INTEGER, merged TEXT, pull_request TEXT,                                            -- last sighting
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
    ) STRICT, WITHOUT ROWID;
CREATE TABLE sightings (    -- when the run's agent was last heard of; no event carries it
        token TEXT PRIMARY KEY REFERENCES runs (token) ON DELETE CASCADE,
        output_size INTEGER NOT NULL,
        heartbeat_at INTEGER,
        stirred_awake INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
CREATE TABLE tallies (      -- how often something has happened; what is removed or pruned later stays counted
        what TEXT NOT NULL CHECK (what IN ('moved', 'ended', 'waited', 'ran', 'spent')),
        of TEXT NOT NULL CHECK (json_valid(of)),
        count INTEGER NOT NULL,
        total_ms INTEGER NOT NULL,
        PRIMARY KEY (what, of)
    ) STRICT, WITHOUT ROWID;
CREATE TABLE tasks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        title TEXT NOT NULL CHECK (length(title) > 0),
        prompt TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('backlog', 'ready', 'in_progress', 'blocked', 'in_review', 'done', 'failed', 'cancelled')),
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
    , ready_at INTEGER) STRICT;
CREATE TRIGGER ends_are_counted AFTER UPDATE OF phase ON runs
        WHEN NEW.phase = 'closed' AND OLD.phase <> 'closed' BEGIN
        INSERT INTO tallies SELECT 'ended', json_array(NEW.agent, NEW.outcome, NEW.report, NEW.exit_code, NEW.signal), 1, 0 WHERE true
                ON CONFLICT DO UPDATE SET count = count + 1, total_ms = total_ms + excluded.total_ms;
        INSERT INTO tallies SELECT 'waited', json_array(NEW.agent, CASE WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 250 THEN 0.25 WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 1000 THEN 1 WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 5000 THEN 5 WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 15000 THEN 15 WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 60000 THEN 60 WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 300000 THEN 300 WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 900000 THEN 900 WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 1800000 THEN 1800 WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 3600000 THEN 3600 WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 7200000 THEN 7200 WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 14400000 THEN 14400 WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 43200000 THEN 43200 WHEN max(NEW.claimed_at - NEW.ready_at, 0) <= 86400000 THEN 86400 END), 1, max(NEW.claimed_at - NEW.ready_at, 0) WHERE NEW.ready_at IS NOT NULL
                ON CONFLICT DO UPDATE SET count = count + 1, total_ms = total_ms + excluded.total_ms;
        INSERT INTO tallies SELECT 'ran', json_array(NEW.agent, CASE WHEN max(NEW.ended_at - NEW.started_at, 0) <= 250 THEN 0.25 WHEN max(NEW.ended_at - NEW.started_at, 0) <= 1000 THEN 1 WHEN max(NEW.ended_at - NEW.started_at, 0) <= 5000 THEN 5 WHEN max(NEW.ended_at - NEW.started_at, 0) <= 15000 THEN 15 WHEN max(NEW.ended_at - NEW.started_at, 0) <= 60000 THEN 60 WHEN max(NEW.ended_at - NEW.started_at, 0) <= 300000 THEN 300 WHEN max(NEW.ended_at - NEW.started_at, 0) <= 900000 THEN 900 WHEN max(NEW.ended_at - NEW.started_at, 0) <= 1800000 THEN 1800 WHEN max(NEW.ended_at - NEW.started_at, 0) <= 3600000 THEN 3600 WHEN max(NEW.ended_at - NEW.started_at, 0) <= 7200000 THEN 7200 WHEN max(NEW.ended_at - NEW.started_at, 0) <= 14400000 THEN 14400 WHEN max(NEW.ended_at - NEW.started_at, 0) <= 43200000 THEN 43200 WHEN max(NEW.ended_at - NEW.started_at, 0) <= 86400000 THEN 86400 END), 1, max(NEW.ended_at - NEW.started_at, 0) WHERE NEW.started_at IS NOT NULL AND NEW.ended_at IS NOT NULL
                ON CONFLICT DO UPDATE SET count = count + 1, total_ms = total_ms + excluded.total_ms;
        END;
CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_are_only_pruned BEFORE DELETE ON events
        WHEN NOT EXISTS (SELECT 1 FROM installation WHERE key = 'pruning')
        BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER moves_are_counted AFTER INSERT ON events WHEN NEW.to_status IS NOT NULL BEGIN
        INSERT INTO tallies SELECT 'moved', json_array(NEW.from_status, NEW.to_status), 1, 0 WHERE true
                ON CONFLICT DO UPDATE SET count = count + 1, total_ms = total_ms + excluded.total_ms;
        END;
CREATE TRIGGER tries_are_counted AFTER UPDATE OF retries_left, recoveries_left ON tasks
        WHEN NEW.status = 'ready' AND OLD.status IN ('in_progress', 'blocked', 'failed') AND EXISTS (SELECT 1 FROM runs WHERE task = NEW.id AND phase <> 'closed') BEGIN
        INSERT INTO tallies SELECT 'spent', json_array(NEW.agent, 'retry'), 1, 0 WHERE NEW.retries_left < OLD.retries_left
                ON CONFLICT DO UPDATE SET count = count + 1, total_ms = total_ms + excluded.total_ms;
        INSERT INTO tallies SELECT 'spent', json_array(NEW.agent, 'recovery'), 1, 0 WHERE NEW.recoveries_left < OLD.recoveries_left
                ON CONFLICT DO UPDATE SET count = count + 1, total_ms = total_ms + excluded.total_ms;
        END;
