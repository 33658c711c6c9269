"""The door to what the machine says of itself: file systems, who holds or has open a file, states and units of processes.

Only looked at, never changed. Where there is no /proc (not Linux), or another user's process is not shown, the answer is
None or empty, which is "not seen" and not "not there". Sources: proc(5), cgroups(7).
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Volume:
    """The file system that a path is on: its kind as the kernel calls it, and the bytes that are free to this user."""

    path: str
    kind: str
    free: int


def volume(path: str) -> Volume:
    """The file system of the path, or of the nearest directory above it that exists. Raises `OSError`."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    found = os.statvfs(path)
    return Volume(path, kind_of_file_system(path), found.f_bavail * found.f_frsize)


def kind_of_file_system(path: str) -> str:
    """As /proc/self/mountinfo names it, for the last mount on the longest directory above the path; "" if not known.

    The path is absolute, its links followed: nothing is asked of the disk here, which may not answer.
    """
    best, kind = "", ""
    for line in _lines("/proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        words = left.split()
        if len(words) < 5 or not right:
            continue
        at = words[4].encode().decode("unicode_escape", "replace")  # a blank is \040
        inside = at == "/" or path == at or path.startswith(f"{at}/")
        if inside and len(at) >= len(best):
            best, kind = at, right.split()[0]
    return kind


def state(pid: int) -> str | None:
    """The letter of the process's state, such as `T` for stopped; None if there is none, or that cannot be told."""
    for line in _lines(f"/proc/{pid}/stat"):
        return line.rpartition(")")[2].split()[0]
    return None


def name(pid: int) -> str:
    """The process's name as the kernel has it; "" if there is none."""
    return next(iter(_lines(f"/proc/{pid}/comm")), "").strip()


def working_directory(pid: int) -> str | None:
    """Where the process works; None if there is none, or that cannot be told."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None


def unit(pid: int) -> str | None:
    """The systemd unit whose control group the process is in, the innermost one; None if there is none.

    The last part of the path that ends in `.service` or `.scope`: `/user.slice/user-1.slice/user@1.service/tmux.service`.
    """
    for line in _lines(f"/proc/{pid}/cgroup"):
        hierarchy, controllers, path = [*line.strip().split(":", 2), "", ""][:3]
        if hierarchy == "0" or controllers == "name=systemd":
            units = [part for part in path.split("/") if part.endswith((".service", ".scope"))]
            if units:
                return units[-1]
    return None


def is_service(unit: str) -> bool:
    """Whether what is in the unit ends with a service; the user's own systemd, which is one too, ends with the user."""
    return unit.endswith(".service") and not unit.startswith("user@")


LINGERING = "/var/lib/systemd/linger"


def lingers(uid: int) -> bool | None:
    """Whether the user's own systemd, and its services, outlive a logout; None if nobody is known by that number.

    There is a file for each user for whom `loginctl enable-linger` was called. Source: loginctl(1), logind-user.c.
    """
    import pwd  # only asked of a service that is installed

    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
    return os.path.exists(os.path.join(LINGERING, user))


def openers(paths: Collection[str]) -> Mapping[str, list[int]]:
    """The processes that have each of the files open, but for this one; files that nobody has open are left out."""
    wanted, found = set(paths), dict[str, list[int]]()
    for entry in _listed("/proc") if wanted else ():
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        for descriptor in _listed(f"/proc/{entry}/fd"):
            try:
                target = os.readlink(f"/proc/{entry}/fd/{descriptor}")
            except OSError:
                continue
            if target in wanted and int(entry) not in found.get(target, ()):
                found.setdefault(target, []).append(int(entry))
    return found


def holders(paths: Collection[str]) -> Mapping[str, int]:
    """A process that holds the `flock` on each of the files, where one is seen: it has it open, and took it if that is known.

    Whoever took a lock may be gone while a child that inherited it lives; a process that has the file open may only wait.
    """
    takers: dict[int, list[int]] = {}
    for line in _lines("/proc/locks"):
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK":
            takers.setdefault(int(words[5].rpartition(":")[2]), []).append(int(words[4]))
    found = {}
    for path, pids in openers(paths).items():
        try:
            took = [pid for pid in takers.get(os.stat(path).st_ino, ()) if pid in pids]
        except OSError:
            continue
        found[path] = (took or pids)[0]
    return found


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except (OSError, ValueError):
        return []


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []
