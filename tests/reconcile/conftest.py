"""Fixtures of the tests of reconcile."""

import pytest
from reconcile.scene import DIES, HANGS

from dispatchctl import steps


@pytest.fixture
def hanging_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers that `scene.hung` can hang, or that die when they have written their exit file."""
    imports, begins, launch = steps.LAUNCH.partition("launcher.main(")
    assert begins
    monkeypatch.setattr(steps, "LAUNCH", f"{HANGS}\n{imports}\n{DIES}\n{begins}{launch}")
