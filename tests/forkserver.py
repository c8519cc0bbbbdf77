"""The server that tests fork processes from, one for each process of pytest.

It has imported the libraries already, which takes seconds off each process; it has started no thread and run no kernel.
Where there is no fork, a process imports for itself. What the server imports is one setting for a process of pytest:
set it here alone.
"""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

from effcli.core.registry import TASKS

# What commands import while they work. A name that is gone is passed over in silence, so a test looks for each.
PRELOADED = [
    "diffusers.models.unets.unet_2d",
    "gymnasium",
    "matplotlib.figure",
    "open_clip",
    "torch._dynamo",  # by the first optimiser, two seconds
    "torchmetrics.functional.image",
    "effcli.cli.main",
    "effcli.core.evidence.report",
    "effcli.continual.weights",
    "effcli.detect_stream.stream.stream_detector",
    "effcli.nn.compiled.numba_threads",
    *sorted({task.pipeline(method.name) for task in TASKS.values() for method in task.methods}),
    *sorted({method.module for task in TASKS.values() for method in task.methods}),
]

spawner: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
if hasattr(os, "fork"):
    spawner.set_forkserver_preload(PRELOADED)
