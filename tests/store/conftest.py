"""Fixtures: a store of each backend."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from store.bench import BACKENDS, Backend, Bench


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """An empty store that can be opened several times."""
    made = BACKENDS[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def bench(backend: Backend) -> Bench:
    """An opened store with what a test does to it."""
    return Bench(backend, backend.open())
