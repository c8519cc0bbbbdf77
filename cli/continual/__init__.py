"""``effcli continual``: run (default), eval, export; train-detector and detect for detectors."""

from . import commands, detectors  # each gives its verbs to the app
from .app import app

__all__ = ["app", "commands", "detectors"]
