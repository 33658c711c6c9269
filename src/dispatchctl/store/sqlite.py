"""The store on SQLite."""

from functools import cached_property

from dispatchctl.store.claiming import Claiming
from dispatchctl.store.connection import Database
from dispatchctl.store.figures import Counting
from dispatchctl.store.forgetting import Forgetting
from dispatchctl.store.health import Examining
from dispatchctl.store.merged import MergeVerbs
from dispatchctl.store.reading import Reading
from dispatchctl.store.reentering import Reentering
from dispatchctl.store.runs import RunVerbs
from dispatchctl.store.schema import migrate
from dispatchctl.store.tasks import TaskVerbs


class SqliteStore(TaskVerbs, Claiming, RunVerbs, MergeVerbs, Reentering, Reading, Counting, Forgetting, Examining):
    """A `Store` in one SQLite file."""

    def __init__(self, path: str, *, create: bool, busy_timeout: float) -> None:
        super().__init__(Database(path, create=create, busy_timeout=busy_timeout))
        self.path = path
        try:
            migrate(self._database, create=create)
        except BaseException:
            self._database.close()
            raise

    @cached_property
    def id(self) -> str:
        """The random id of this database."""
        return str(self._database.row("SELECT value FROM installation WHERE key = 'id'")[0])

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._database.close()
