"""The database: its file, its contents, and who is in its way."""

from collections.abc import Iterator
from shlex import quote

from dispatchctl.doctor.health import Contents, DatabaseFile
from dispatchctl.doctor.machine_checks import dotted
from dispatchctl.doctor.table import Mend, Problem, Severity, check

ERROR, WARNING, INFO = Severity

REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "ncpfs", "beegfs", "virtiofs"}
)
"""File systems on which a write-ahead log, which needs shared memory, or `flock` may not work between machines."""
LITTLE, TOO_LITTLE = 512 << 20, 32 << 20
AHEAD_MS = 60_000

WAL_RESET_FIXED = (((3, 44, 6), (3, 45)), ((3, 50, 7), (3, 51)))
"""Where a release of an earlier line has the fix too, up to the next line; else it came with 3.51.3 (sqlite.org/wal.html)."""


@check(ERROR)
def database_opens(file: DatabaseFile) -> Iterator[Problem]:
    """The database is there, is one of dispatchctl, of this or an earlier version, and can be read."""
    if file.fault is not None:
        yield Problem(file.fault.subject, file.fault.text, file.fault.fix)


@check(ERROR)
def places_writable(file: DatabaseFile) -> Iterator[Problem]:
    """The database, its directory and the directory of worktrees can be written."""
    for place in file.places:
        if place.refused is not None:
            yield Problem(place.what, f"{place.path} cannot be written: {place.refused}", f"ls -ld {quote(place.path)}")


@check(ERROR)
def local_file_system(file: DatabaseFile) -> Iterator[Problem]:
    """The database is on a file system of this machine: a write-ahead log and file locks need one."""
    for place in file.places[:1]:
        if place.kind in REMOTE or place.kind.startswith("fuse."):
            what = f"{place.path} is on {place.kind}, where write-ahead logs and file locks may fail and lose rows"
            yield Problem(place.what, what, "export DISPATCHCTL_DB=PATH_ON_A_LOCAL_DISK")


@check(ERROR, WARNING)
def disk_space(file: DatabaseFile) -> Iterator[Problem]:
    """The disks that hold the database and the worktrees have room: a warning below 512 MiB, an error below 32."""
    for place in file.places:
        if place.free is not None and place.free < LITTLE:
            severity = ERROR if place.free < TOO_LITTLE else WARNING
            said = f"{place.free >> 20} MiB are left on the disk of {place.path}"
            yield Problem(place.what, said, f"df -h {quote(place.path)}", severity)


@check(ERROR)
def database_free(file: DatabaseFile) -> Iterator[Problem]:
    """No process stands in the way of every writer: the two locks before the database are let go of."""
    for gate in file.gates:
        fix = f"fuser {quote(gate.path)}"
        who = "a process that is not seen"
        if gate.pid is not None:
            who = f"process {gate.pid}"
            fix = f"ps -o pid,stat,args -p {gate.pid}"
            if gate.state == "T":
                who, fix = f"{who}, which is stopped,", f"kill -CONT {gate.pid}"
        yield Problem(gate.path, f"{who} has held it for {gate.held_s:.0f} s, so nothing can be written", fix)


@check(INFO)
def database_shared(file: DatabaseFile) -> Iterator[Problem]:
    """No other program has the database open while SQLite is one with the WAL-reset bug (3.7.0 to 3.51.2).

    Our own processes queue before each write, so that it cannot strike between them.
    """
    if not _resets_badly(file.sqlite):
        return
    for pid, name in file.others.items():
        what = f"{name} has the database open beside dispatchctl; SQLite {dotted(file.sqlite)} can damage it then"
        yield Problem(f"process {pid}", what, f"ps -o pid,stat,args -p {pid}")


def _resets_badly(version: tuple[int, ...]) -> bool:
    if not (3, 7) <= version < (3, 51, 3):
        return False
    return not any(fixed <= version < after for fixed, after in WAL_RESET_FIXED)


@check(ERROR, WARNING)
def database_intact(contents: Contents) -> Iterator[Problem]:
    """`PRAGMA quick_check` finds nothing: no page is damaged, every row obeys its CHECKs."""
    quoted = quote(contents.path)
    if contents.damage is None:
        yield Problem(
            contents.path,
            "is too large to be looked through in time",
            f"sqlite3 {quoted} 'PRAGMA quick_check'",
            WARNING,
        )
    for line in contents.damage or ():
        fix = f"sqlite3 {quoted} .recover | sqlite3 {quote(contents.path + '.recovered')}"
        yield Problem(contents.path, line, f"sqlite3 {quoted} 'PRAGMA integrity_check'" if "CHECK" in line else fix)


@check(ERROR)
def database_references(contents: Contents) -> Iterator[Problem]:
    """Every run and every `after` belongs to a task that is there."""
    for line in contents.broken_references:
        yield Problem(contents.path, line, f"sqlite3 {quote(contents.path)} 'PRAGMA foreign_key_check'")


@check(ERROR, mend=Mend.REBUILD)
def database_complete(contents: Contents) -> Iterator[Problem]:
    """Every table, index and trigger is there."""
    for name in contents.missing:
        text = f"the {name} is not there, and things depend on it"
        fix = f"sqlite3 {quote(contents.path)} .schema"
        if name.startswith("table "):
            yield Problem(contents.path, text, fix, target=None)
        else:
            yield Problem(contents.path, text, "dispatchctl doctor --fix --check database-complete")


@check(ERROR, mend=Mend.REBUILD)
def claim_uses_index(contents: Contents) -> Iterator[Problem]:
    """A claim finds the best task by its index, whatever the number of finished tasks."""
    if not contents.claim_uses_index:
        text = "tasks cannot be claimed by their index tasks_claimable"
        yield Problem(contents.path, text, "dispatchctl doctor --fix --check claim-uses-index")


@check(WARNING, mend=Mend.WRITE_AHEAD)
def write_ahead_log(contents: Contents) -> Iterator[Problem]:
    """The database is in WAL mode, in which readers do not wait."""
    if contents.journal != "wal":
        text = f"is in journal mode {contents.journal}: somebody has switched its write-ahead log off"
        yield Problem(contents.path, text, "dispatchctl doctor --fix --check write-ahead-log")


@check(ERROR, mend=Mend.RECOUNT)
def counters(contents: Contents) -> Iterator[Problem]:
    """The count of each task's unfinished parents is right, and no task without `not_before` waits for it."""
    fix = "dispatchctl doctor --fix --check counters"
    for task in contents.miscounted:
        yield Problem(f"task {task}", "the count of the tasks that it waits for is wrong", fix)
    for task in contents.never_due:
        yield Problem(f"task {task}", "is put off, and has no time before which it may not start", fix)


@check(ERROR)
def status_and_run(contents: Contents) -> Iterator[Problem]:
    """Each task's status and its runs say the same: it is in progress exactly while a run of it is open."""
    for task, what in contents.disagreeing:
        yield Problem(f"task {task}", what, f"dispatchctl cancel {task} && dispatchctl retry {task}")
    for task, token in contents.misplaced:
        text = f"its run {token} is open, and the task names another one, or none, as its newest"
        sql = f"UPDATE tasks SET newest_run = '{token}' WHERE id = {task}"
        yield Problem(f"task {task}", text, f'sqlite3 {quote(contents.path)} "{sql}"')


@check(WARNING)
def status_recorded(contents: Contents) -> Iterator[Problem]:
    """The status of each unfinished task is the one that its history says: nobody has written to the database by hand."""
    for task, what in contents.unrecorded:
        yield Problem(f"task {task}", what, f"dispatchctl history {task}")


@check(WARNING)
def clock(contents: Contents) -> Iterator[Problem]:
    """The clock was not set back: nothing that happened lies in the future."""
    if contents.newest_event_at is not None and contents.newest_event_at > contents.at + AHEAD_MS:
        ahead = (contents.newest_event_at - contents.at) // 1000
        yield Problem("clock", f"the newest event lies {ahead} s in the future: the clock was set back", "date")
