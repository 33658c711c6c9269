"""Tasks that depend on each other, and a daemon that is killed in the middle; `scripts/figures --part graph` has more."""

from figures import graph
from world import World


def test_dependent_tasks_run_in_order_within_the_limit_although_watch_is_killed(world: World) -> None:
    played = graph.play(world, 24, limit=3)
    assert played.wrong == []
    assert played.open_when_killed
