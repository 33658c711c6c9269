"""A dispatcher for coding agents whose status never lies.

Nothing is imported here: the launcher and the quick commands load this package on every turn of an agent.
"""

__version__ = "0.1.0"
