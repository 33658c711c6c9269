"""The database: the only SQL in the program.

`connection` opens the file and guards every write, `schema` makes and migrates it, `fence` holds the one write that the
launcher makes before an agent may start, `protocol` says what a store can do, and `sqlite` does it.

Nothing is imported at the top: the launcher imports `connection` and `fence` through this package and must start in a blink.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dispatchctl.store.protocol import Store


def open_store(path: str, *, create: bool = False, busy_timeout: float = 60.0) -> "Store":
    """Open the store at `path`; with `create`, make the file (0600) and its directory first.

    Waits at most `busy_timeout` seconds for another writer. Raises `Unavailable` if the file cannot be used, is not a
    dispatchctl database or is from a newer version, and `DispatchctlError` if there is none.
    """
    from dispatchctl.store.sqlite import SqliteStore

    return SqliteStore(path, create=create, busy_timeout=busy_timeout)
