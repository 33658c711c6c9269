"""Figures for Prometheus: printed, written to a file, or served on loopback."""

from dispatchctl.metrics.server import listen, serve

__all__ = ["listen", "serve"]
