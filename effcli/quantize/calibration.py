"""From a full-precision UNet to a quantized one: inputs caught from its own samples, widths, first ranges.

All layers initialise one after another in a single forward pass, so that each sees inputs that the layers before it
have quantized already (MPQ-DM, sections 3.3 and 3.7).
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
from effcli.quantize.allocation import (
    SEARCHES,
    allocate_by_error,
    allocate_by_kurtosis,
    kurtosis,
    raise_tenth,
    smoothing,
    total_error,
    uniform_bits,
)
from effcli.quantize.layers import (
    EDGE_BITS,
    QuantizedLayer,
    StepClock,
    apply_layer,
    find_layers,
    per_channel,
    quantized_layers,
    replace_module,
)
from effcli.quantize.quantizer import fake_quantize, find_range, top_code
from effcli.quantize.recipe import AllocationSection, CalibrationSection, QuantizeRecipe

_RANGE_ELEMENTS = 1 << 16
"""Activations that a range is found on; the extremes are always among them."""


@torch.no_grad()
def collect_inputs(guided: Guided, recipe: QuantizeRecipe, run: Run) -> dict[str, Tensor]:
    """What the network is called with while it samples: ``n_inputs`` rows drawn from all steps of ``n_images`` samples.

    Returns:
        ``x`` ``[N, C, H, W]``, ``t`` int64 ``[N]``, and the condition's arguments, a row each.
    """
    settings = recipe.calibration
    scheduler = ddim_scheduler(guided.scheduler_config, recipe.sampler.steps)
    generator = run.runtime.generator("calibrate")
    n_steps = recipe.sampler.steps
    rows = torch.randperm(n_steps * settings.n_images, generator=generator)[: settings.n_inputs].sort().values
    kept: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
    batches = range(0, settings.n_images, recipe.eval.batch_size)
    with progress_bar("calibrate", n_steps * len(batches), unit="steps", show=run.show_progress) as advance:
        for first in batches:
            n = min(recipe.eval.batch_size, settings.n_images - first)
            noise = torch.randn(n, *guided.sample_shape, generator=generator).to(guided.device)
            condition = guided.draw(n, generator)
            predict = guided.predictor(condition)
            walk = trajectory(predict, scheduler, noise, eta=recipe.sampler.eta, generator=generator)
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


def check_weights(unet: nn.Module, source: str) -> None:
    """Refuse weights that no range can be found for.

    Raises:
        InputError: NaN or infinity in a tensor.
    """
    for name, value in unet.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"{name} holds NaN or infinite values", place=source)


def wrap_layers(unet: nn.Module, recipe: QuantizeRecipe, scheduler_config: dict[str, Any]) -> nn.Module:
    """A copy of ``unet`` whose layers are replaced by :class:`QuantizedLayer`; ranges are not set yet."""
    student = copy.deepcopy(unet).requires_grad_(False)
    timesteps = timesteps_of(ddim_scheduler(scheduler_config, recipe.sampler.steps))
    clock = StepClock(timesteps)
    clock.attach(student)
    widths, train = recipe.widths, recipe.train
    for found in find_layers(student, recipe.allocation.profile):
        edge_bits = EDGE_BITS if widths.activations is not None else None
        many = not found.is_edge and train.per_step_activations
        wrapped = QuantizedLayer(
            found.layer,
            clock,
            activation_bits=edge_bits if found.is_edge else widths.activations,
            n_steps=len(timesteps) if many else 1,
            rank=0 if found.is_edge else min(train.rank, *found.layer.weight.shape[:2]),
            integer_zeros=train.zero_points == "integer",
        )
        replace_module(student, found.name, wrapped)
    return student


def initialise(
    student: nn.Module, call: Callable[[nn.Module], Any], recipe: QuantizeRecipe, advance: Callable[[], None]
) -> list[dict[str, Any]]:
    """Set every layer's widths and ranges in one forward pass.

    Args:
        student: of :func:`wrap_layers`.
        call: runs the student on the calibration inputs.
        recipe: the settings.
        advance: called after each layer.

    Returns:
        a row a layer: its path, rows by width, and the squared output error against uniform bits.
    """
    report: dict[str, dict[str, Any]] = {}
    hooks = []

    def before(layer: QuantizedLayer, inputs: tuple[Tensor, ...], name: str) -> None:
        if name not in report:
            bits = recipe.widths.weights if layer.update_a is not None else EDGE_BITS
            report[name] = {"layer": name, **_initialise_layer(layer, inputs[0], bits, recipe)}
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


@torch.no_grad()
def _initialise_layer(layer: QuantizedLayer, x: Tensor, bits: int, recipe: QuantizeRecipe) -> dict[str, Any]:
    settings = recipe.calibration
    is_edge = layer.update_a is None
    x = x.float()
    if settings.smoothing and not is_edge and layer.activation_bits is not None:
        layer.in_scale.copy_(_smoothing_of(layer.layer, x))
    set_activation_range(layer, x, settings)
    rows = layer.smoothed_weight().flatten(1)
    if is_edge or not 2 <= bits <= 7:
        scale, zero = find_range(rows, top_code(bits), settings.range_method)
        layer.set_rows(uniform_bits(len(rows), bits), scale, zero)
        return {"rows": {str(bits): len(rows)}}
    ranges = {b: find_range(rows, top_code(b), settings.range_method) for b in (bits - 1, bits, bits + 1)}
    errors = row_errors(layer, x, ranges, quantize_input=recipe.allocation.search == "paper")
    row_bits = allocate(rows, errors, bits, recipe.allocation)
    scale, zero = (
        torch.stack([ranges[int(b)][part][i] for i, b in enumerate(row_bits.tolist())]) for part in (0, 1)
    )
    layer.set_rows(row_bits, scale, zero)
    uniform = total_error(uniform_bits(len(rows), bits).to(rows.device), errors)
    return {
        "rows": {str(b): int((row_bits == b).sum()) for b in sorted(set(row_bits.tolist()))},
        "error_to_uniform": total_error(row_bits.to(rows.device), errors) / max(uniform, 1e-30),
    }


def allocate(rows: Tensor, errors: dict[int, Tensor], bits: int, settings: AllocationSection) -> Tensor:
    """The bits of each row, uint8 ``[c_out]``.

    Args:
        rows: smoothed weights, ``[c_out, K]``.
        errors: bits -> squared output error of each row, for N-1, N and N+1.
        bits: N.
        settings: the rule.
    """
    if settings.rule == "uniform":
        return uniform_bits(len(rows), bits)
    if settings.plus:
        return raise_tenth(kurtosis(rows), bits)
    if settings.rule == "error":
        return allocate_by_error(errors, bits)
    return allocate_by_kurtosis(kurtosis(rows), errors, bits, SEARCHES[settings.search])


def row_errors(
    layer: QuantizedLayer, x: Tensor, ranges: dict[int, tuple[Tensor, Tensor]], *, quantize_input: bool
) -> dict[int, Tensor]:
    """|| W_o X - Q(W_o; b) Q(X) ||^2 of each row o at each width b (section 3.3, step 4).

    Args:
        layer: with smoothing and activation range set.
        x: its input.
        ranges: b -> scale and zero-point of each row.
        quantize_input: as in the paper; the released code leaves X as it is.

    Returns:
        b -> ``[c_out]``.
    """
    module = layer.layer
    target = apply_layer(module, x, module.weight)
    smoothed = x * per_channel(layer.in_scale, x, module)
    seen = layer.quantized_input(x) if quantize_input else smoothed
    axis = 1 if isinstance(module, nn.Conv2d) else target.ndim - 1
    others = [a for a in range(target.ndim) if a != axis]
    weight = layer.smoothed_weight()
    shape = (-1, *([1] * (weight.ndim - 1)))
    errors = {}
    for b, (scale, zero) in ranges.items():
        w = fake_quantize(weight, scale.view(shape), zero.view(shape), top_code(b))
        errors[b] = (apply_layer(module, seen, w) - target).square().sum(others)
    return errors


def set_activation_range(layer: QuantizedLayer, x: Tensor, settings: CalibrationSection) -> None:
    """Find one range for the layer's smoothed inputs and give it to every step."""
    if layer.activation_bits is None:
        return
    values = (x * per_channel(layer.in_scale, x, layer.layer)).flatten()
    if len(values) > _RANGE_ELEMENTS:
        stride = len(values) // _RANGE_ELEMENTS
        values = torch.cat([values[::stride], values.min()[None], values.max()[None]])
    scale, zero = find_range(values[None], layer.act_top, settings.range_method)
    with torch.no_grad():
        layer.act_scale.fill_(scale.item())
        layer.act_zero.fill_(zero.item())


def _smoothing_of(module: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    over_weight = module.weight.abs().amax([a for a in range(module.weight.ndim) if a != 1])
    axis = 1 if isinstance(module, nn.Conv2d) else x.ndim - 1
    return smoothing(over_weight, x.abs().amax([a for a in range(x.ndim) if a != axis]))
