"""``effcli continual``: run (default), predict, eval, export; train-detector, detect and inspect for detectors."""

from . import commands, detectors, inspect_data, predict  # each gives its verbs to the app
from .app import app

__all__ = ["app", "commands", "detectors", "inspect_data", "predict"]
