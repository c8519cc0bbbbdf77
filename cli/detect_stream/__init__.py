"""The verbs of ``effcli detect-stream``."""

from .commands import app

__all__ = ["app"]
