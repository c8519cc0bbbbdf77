"""``effcli continual``: run (default), eval, export; train-detector, detect and inspect for detectors."""

from . import commands, detectors, inspect_data  # each gives its verbs to the app
from .app import app

__all__ = ["app", "commands", "detectors", "inspect_data"]
