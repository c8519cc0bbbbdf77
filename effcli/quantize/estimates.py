"""What a run will take, from a moment's measurement on this machine: for the plan."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from effcli.quantize.fake_quantization.layers import FoundLayer, find_layers
from effcli.quantize.recipe import MpqDmRecipe
from effcli.quantize.weights_only import packed_bytes, quantize_weight

_SAMPLE = 32, 1152
_COPIES = 6
"""Of a layer's weight, in float32, that exist at once while it is quantized: its rows, codes and errors."""
_TRAINED_CALLS = 4
"""Calls of the network that an optimiser step takes the time of: the teacher's, and the student's both ways."""
_ALLOCATION_CALLS = 5
"""Calls that finding ranges and bits takes the time of: each layer's output at several widths."""


@contextmanager
def timed_calls(network: nn.Module) -> Iterator[list[float]]:
    """A list that gets the seconds of each call of ``network``."""
    seconds: list[float] = []
    started: list[float] = []
    hooks = (
        network.register_forward_pre_hook(lambda *_: started.append(time.perf_counter())),
        network.register_forward_hook(lambda *_: seconds.append(time.perf_counter() - started.pop())),
    )
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


def cost_of_weights(network: nn.Module, recipe: MpqDmRecipe) -> dict[str, Any]:
    """Seconds and memory of quantizing the weights alone; a sample of the size of a small layer is quantized.

    Returns:
        ``estimated_s`` and ``estimated_memory_mb``, beyond the libraries.
    """
    found = find_layers(network, recipe.allocation.profile)
    sizes = [one.layer.weight.numel() for one in found]
    largest = 4 * max(sizes) / 1e6
    return {
        "estimated_s": round(_seconds_per_weight(recipe) * sum(sizes), 1),
        "estimated_memory_mb": round(packed_bytes(network, recipe) / 1e6 + _COPIES * largest, 1),
    }


def cost_of_run(
    network: nn.Module, recipe: MpqDmRecipe, n_steps: int, seconds_per_call: float
) -> dict[str, Any]:
    """Seconds of a whole run, counted in calls of the network with one image; larger batches take less.

    Args:
        network: the full-precision one.
        recipe: what will be done.
        n_steps: sampling steps.
        seconds_per_call: of the network, with one image.

    Returns:
        ``estimated_s``.
    """
    calibration, train = recipe.calibration, recipe.train
    calls = n_steps * calibration.n_images + _ALLOCATION_CALLS * calibration.n_inputs
    calls += _TRAINED_CALLS * n_steps * train.trajectories * train.batch_size
    calls += 2 * n_steps * recipe.eval.n_images
    ranges: float = cost_of_weights(network, recipe)["estimated_s"]
    return {"estimated_s": round(calls * seconds_per_call + ranges, 1)}


def _seconds_per_weight(recipe: MpqDmRecipe) -> float:
    layer = nn.utils.skip_init(nn.Linear, _SAMPLE[1], _SAMPLE[0])
    weight = torch.randn(_SAMPLE, generator=torch.Generator().manual_seed(0))
    found, seconds = FoundLayer("sample", layer, False), []
    for _ in range(3):  # the first compiles kernels or loads them
        started = time.perf_counter()
        codes, _ = quantize_weight(found, weight, None, recipe)
        codes.weight()
        seconds.append(time.perf_counter() - started)
    return min(seconds) / weight.numel()
