"""A night: tasks of mixed fate through `watch`, while everything is killed at random. `python -m night`, or `scripts/night`."""
