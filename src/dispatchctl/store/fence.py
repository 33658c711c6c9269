"""The fenced start: the one write between a launched window and a running agent.

Imported by the launcher before the agent starts, so the SQL is all there is.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dispatchctl.store.connection import Database


def start(
    database: "Database",
    token: str,
    *,
    at: int,
    launcher: tuple[int, int],
    agent: tuple[int, int],
    awake: int | None = None,
) -> bool:
    """Commit `launching → started` with the (pid, start time) pairs; False if the run was given up or asked to end.

    Whoever gets False must not let the agent run. `at` is in milliseconds since the epoch, `awake` in those of this boot.
    """
    values = {
        "token": token,
        "at": at,
        "launcher_pid": launcher[0],
        "launcher_start": launcher[1],
        "agent_pid": agent[0],
        "agent_start": agent[1],
        "awake": awake,
    }
    with database:
        changed = database.execute(
            """UPDATE runs SET phase = 'started', started_at = :at, launcher_pid = :launcher_pid,
                      launcher_start = :launcher_start, agent_pid = :agent_pid, agent_start = :agent_start,
                      started_awake = :awake, activity = 'unknown'
               WHERE token = :token AND phase = 'launching' AND ask IS NULL AND report IS NULL""",
            values,
        )
        if changed != 1:
            return False
        database.execute(
            """INSERT INTO events (task, run, at, actor, kind, detail)
               SELECT task, token, :at, 'launcher', 'started', json_object('run', json_object(
                      'phase', phase, 'started_at', started_at, 'launcher_pid', launcher_pid,
                      'launcher_start', launcher_start, 'agent_pid', agent_pid, 'agent_start', agent_start,
                      'started_awake', started_awake))
               FROM runs WHERE token = :token""",
            values,
        )
    return True
