"""The verbs of ``effcli enhance``."""

from .commands import app

__all__ = ["app"]
