"""Fixtures of the tests of reconcile."""

import pytest
from reconcile.scene import HANGS

from dispatchctl import steps


@pytest.fixture
def hanging_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers that `scene.hung` can hang."""
    monkeypatch.setattr(steps, "LAUNCH", f"{HANGS}\n{steps.LAUNCH}")
