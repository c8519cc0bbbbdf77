"""From a full-precision UNet to a quantized one: inputs caught from its own samples, layers replaced, first ranges.

All layers initialise one after another in a single forward pass, so that each sees inputs that the layers before it
have quantized already (docs/methods/mpq-dm.md, Procedure). What is done to a layer then is the method's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.progress import progress_bar
from effcli.core.run import Run
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler, timesteps_of, trajectory
from effcli.diffusion.models import DiffusionModel, network_timesteps
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.quantize.allocation import uniform_bits
from effcli.quantize.bit_widths import BitWidths
from effcli.quantize.fake_quantization.layers import (
    EDGE_BITS,
    Profile,
    QuantizedLayer,
    StepClock,
    find_layers,
    per_channel,
    quantized_layers,
    replace_module,
)
from effcli.quantize.fake_quantization.quantizer import RangeMethod, find_range
from effcli.quantize.fake_quantization.row_formats import Codes, find_format
from effcli.quantize.recipe import CalibrationInputsSection

_RANGE_ELEMENTS = 1 << 16
"""Activations that a range is found on; the extremes are always among them."""


@torch.no_grad()
def collect_inputs(
    guided: Guided, sampler: SamplerSettings, settings: CalibrationInputsSection, batch_size: int, run: Run
) -> dict[str, Tensor]:
    """What the network is called with while it samples: ``n_inputs`` random rows from all steps of ``n_images``
    samples.

    Args:
        guided: the full-precision model.
        sampler: how it samples.
        settings: how many images and inputs.
        batch_size: images sampled at a time.
        run: seeds, progress, stopping.

    Returns:
        ``x`` ``[N, C, H, W]``, ``t`` int64 ``[N]``, and the condition's arguments, one row per input.
    """
    scheduler = ddim_scheduler(guided.scheduler_config, sampler.steps)
    generator = run.runtime.generator("calibrate")
    n_steps = len(timesteps_of(scheduler))
    rows = torch.randperm(n_steps * settings.n_images, generator=generator)[: settings.n_inputs].sort().values
    kept: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
    batches = range(0, settings.n_images, batch_size)
    with progress_bar("calibrate", n_steps * len(batches), unit="steps", show=run.show_progress) as advance:
        for first in batches:
            n = min(batch_size, settings.n_images - first)
            noise = torch.randn(n, *guided.sample_shape, generator=generator).to(guided.device)
            condition = guided.random_condition(n, generator)
            predict = guided.predictor(condition)
            walk = trajectory(predict, scheduler, noise, eta=sampler.eta, generator=generator)
            for position, (t, x, _) in zip(range(n_steps), walk, strict=False):
                run.check_stop()
                advance()
                images = rows[rows // settings.n_images == position] % settings.n_images - first
                images = images[(images >= 0) & (images < n)]
                here = {name: value[images] for name, value in condition.items()}
                kept.append((x[images.to(x.device)], torch.full((len(images),), t), here))
    names = kept[0][2]
    return {
        "x": torch.cat([x for x, _, _ in kept]),
        "t": torch.cat([t for _, t, _ in kept]),
        **{name: torch.cat([here[name] for _, _, here in kept]) for name in names},
    }


def call_with(guided: Guided, inputs: dict[str, Tensor]) -> Callable[[nn.Module], Any]:
    """A function that calls a UNet as :func:`collect_inputs` saw the model's own being called."""
    arguments = {name: value.to(guided.device) for name, value in inputs.items()}
    x, t = arguments.pop("x"), arguments.pop("t")
    return lambda unet: guided.with_unet(unet).call(x, t, arguments)


def check_weights(unet: nn.Module, source: str) -> None:
    """Refuse weights that no range can be found for.

    Raises:
        InputError: NaN or infinity in a tensor.
    """
    for name, value in unet.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"{name} holds NaN or infinite values", place=source)


def wrap_layers(
    model: DiffusionModel,
    sampler: SamplerSettings,
    widths: BitWidths,
    *,
    profile: Profile = "all",
    rank: int = 0,
    per_step_activations: bool = False,
    integer_zeros: bool = True,
    codes: Codes = "affine",
) -> nn.Module:
    """A copy of the model's UNet whose layers are replaced by :class:`QuantizedLayer`; ranges are not set yet.

    Args:
        model: stays as it is.
        sampler: says the timesteps.
        widths: mean bits of weights, bits of activations; the first three layers and the last have 8.
        profile: which layers; see :func:`effcli.quantize.fake_quantization.layers.find_layers`.
        rank: of the low-rank update of each weight; 0 for none.
        per_step_activations: one activation scale per timestep, or one for all.
        integer_zeros: zero-points are rounded where they are used.
        codes: of the layers in between: affine, or a codebook for each row.
    """
    n_entries = 2 ** (widths.weights + 1) if codes == "codebook" else 0
    student = copy.deepcopy(model.unet).requires_grad_(False)
    timesteps = network_timesteps(model, sampler.steps)
    clock = StepClock(timesteps)
    clock.attach(student)
    for found in find_layers(student, profile):
        activation_bits = EDGE_BITS if found.is_edge and widths.activations else widths.activations
        wrapped = QuantizedLayer(
            found.layer,
            clock,
            is_edge=found.is_edge,
            activation_bits=activation_bits,
            n_steps=len(timesteps) if per_step_activations and not found.is_edge else 1,
            rank=0 if found.is_edge else min(rank, *found.layer.weight.shape[:2]),
            integer_zeros=integer_zeros,
            n_entries=0 if found.is_edge else n_entries,
        )
        replace_module(student, found.name, wrapped)
    return student


def initialise(
    student: nn.Module,
    call: Callable[[nn.Module], Any],
    start: Callable[[QuantizedLayer, Tensor], dict[str, Any]],
    advance: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Set every layer's widths and ranges in one forward pass.

    Args:
        student: of :func:`wrap_layers`.
        call: runs the student on the calibration inputs.
        start: sets a layer's widths and ranges from its input, and returns what there is to say about it.
        advance: called after each layer.

    Returns:
        one row per layer: its path, and what ``start`` returned.
    """
    report: dict[str, dict[str, Any]] = {}
    hooks = []

    def before(layer: QuantizedLayer, inputs: tuple[Tensor, ...], name: str) -> None:
        if name not in report:
            with torch.no_grad():
                report[name] = {"layer": name, **start(layer, inputs[0].float())}
            advance()

    for name, layer in quantized_layers(student):
        hooks.append(
            layer.register_forward_pre_hook(lambda module, inputs, name=name: before(module, inputs, name))
        )
    clock = next(layer.clock for _, layer in quantized_layers(student))
    with torch.no_grad(), clock.held():
        call(student)
    for hook in hooks:
        hook.remove()
    missing = [name for name, _ in quantized_layers(student) if name not in report]
    if missing:
        raise InputError(f"{missing[0]} was never used: its ranges cannot be found", place="calibration")
    return list(report.values())


def set_activation_range(layer: QuantizedLayer, x: Tensor, method: RangeMethod) -> None:
    """Find one range for the layer's smoothed inputs and use it for every step."""
    if layer.activation_bits is None:
        return
    values = (x * per_channel(layer.in_scale, x, layer.layer)).flatten()
    if len(values) > _RANGE_ELEMENTS:
        stride = len(values) // _RANGE_ELEMENTS
        values = torch.cat([values[::stride], values.min()[None], values.max()[None]])
    scale, zero = find_range(values[None], layer.act_top, method)
    with torch.no_grad():
        layer.act_scale.fill_(scale.item())
        layer.act_zero.fill_(zero.item())


def set_uniform_rows(
    layer: QuantizedLayer, bits: int, method: RangeMethod, importance: Tensor | None = None
) -> None:
    """Give every row ``bits`` bits and the range, or the codebook, of its smoothed weights.

    Args:
        layer: smoothed.
        bits: of each row.
        method: how ranges are found.
        importance: of the input channels, for codebooks, ``[c_in]``.
    """
    with torch.no_grad():
        rows = layer.smoothed_weight().flatten(1)
        found = find_format(rows, bits, "codebook" if layer.has_codebooks else "affine", method, importance)
        layer.set_rows(uniform_bits(len(rows), bits), found.scale, found.zero, found.table)


def initial_state(student: nn.Module) -> dict[str, Tensor]:
    """What :func:`initialise` set, by the names of the student's state dict: for a stage to keep."""
    names = ("in_scale", "row_bits", "weight_top", "scale", "zero", "act_scale", "act_zero")
    return {
        f"{path}.{name}": getattr(layer, name).detach()
        for path, layer in quantized_layers(student)
        for name in (*names, *(("table",) if layer.has_codebooks else ()))
    }
