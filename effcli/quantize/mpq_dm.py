"""MPQ-DM as a method of `effcli quantize`: mixed bits by the rows' outliers, then relation distillation.

docs/methods/mpq-dm.md. The rules that share out bits are in `allocation.py`, the fine-tuning in `training.py` and
`losses.py`, the simulated layers in `fake_quantization/`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from effcli.core.progress import progress_bar
from effcli.core.run import Run
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler, timesteps_of
from effcli.diffusion.models import DiffusionModel
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
from effcli.quantize.calibration import (
    call_with,
    collect_inputs,
    initial_state,
    initialise,
    set_activation_range,
    set_uniform_rows,
    wrap_layers,
)
from effcli.quantize.fake_quantization.codebooks import column_scale
from effcli.quantize.fake_quantization.layers import (
    EDGE_BITS,
    QuantizedLayer,
    apply_layer,
    find_layers,
    per_channel,
    quantized_layers,
)
from effcli.quantize.fake_quantization.row_formats import RowFormat, find_format, mixed
from effcli.quantize.recipe import AllocationSection, MpqDmRecipe
from effcli.quantize.training import fine_tune


def plan(recipe: MpqDmRecipe, model: DiffusionModel) -> dict[str, Any]:
    """What :func:`quantize` would do."""
    layers = find_layers(model.unet, recipe.allocation.profile)
    in_layers = sum(found.layer.weight.numel() for found in layers)
    parameters = sum(parameter.numel() for parameter in model.unet.parameters())
    n_steps = len(timesteps_of(ddim_scheduler(model.scheduler_config, recipe.sampler.steps)))
    return {
        "quantized_layers": len(layers),
        "quantized_weights": f"{in_layers / parameters:.1%}",
        "fine_tuning_steps": recipe.train.trajectories * n_steps,
    }


def quantize(
    recipe: MpqDmRecipe, model: DiffusionModel, teacher: Guided, run: Run
) -> tuple[nn.Module, dict[str, Any]]:
    """Calibrate, allocate, fine-tune; returns the student and how its rows are split."""
    student = wrap_for(recipe, model)
    inputs = run.stage(
        "calibrate", collect_inputs, teacher, recipe.sampler, recipe.calibration, recipe.eval.batch_size, run
    )
    allocated = run.stage("allocate", allocate_bits, student, teacher, inputs, recipe, run)
    student.load_state_dict(allocated["state"], strict=False)
    fine_tune(teacher, student, recipe, run)
    return student, {"allocation": summary(allocated["layers"])}


def wrap_for(recipe: MpqDmRecipe, model: DiffusionModel) -> nn.Module:
    """The model's UNet with the layers that the recipe asks for; ranges are not set yet."""
    return wrap_layers(
        model,
        recipe.sampler,
        recipe.widths,
        profile=recipe.allocation.profile,
        rank=recipe.train.rank,
        per_step_activations=recipe.train.per_step_activations,
        integer_zeros=recipe.train.zero_points == "integer",
        codes=recipe.weights.codes,
    )


def allocate_bits(
    student: nn.Module, teacher: Guided, inputs: dict[str, Tensor], recipe: MpqDmRecipe, run: Run
) -> dict[str, Any]:
    """Widths and first ranges of all layers; returns the state they are in and one row per layer."""
    n_layers = sum(1 for _ in quantized_layers(student))
    with progress_bar("allocate", n_layers, unit="layers", show=run.show_progress) as advance:
        rows = initialise(
            student,
            call_with(teacher, inputs),
            partial(start_layer, recipe=recipe),
            advance,
        )
    return {"state": initial_state(student), "layers": rows}


def start_layer(layer: QuantizedLayer, x: Tensor, recipe: MpqDmRecipe) -> dict[str, Any]:
    """Smooth a layer, find the range of its input ``x``, and give each row its bits and range.

    Returns:
        ``rows``: bits -> how many; and where there was a choice ``error_to_uniform``, the squared output error over
        that of uniform bits.
    """
    settings = recipe.calibration
    bits = EDGE_BITS if layer.is_edge else recipe.widths.weights
    if settings.smoothing and not layer.is_edge and layer.activation_bits is not None:
        layer.in_scale.copy_(_smoothing_of(layer.layer, x))
    if layer.has_codebooks and layer.activation_bits is None:
        layer.in_scale.copy_(column_scale(layer.layer.weight))
    set_activation_range(layer, x, settings.range_method)
    importance = _mean_squares(layer, x) if layer.has_codebooks else None
    if layer.is_edge or not 2 <= bits <= 7:
        set_uniform_rows(layer, bits, settings.range_method, importance)
        return {"rows": {str(bits): len(layer.row_bits)}}
    rows = layer.smoothed_weight().flatten(1)
    codes, method = recipe.weights.codes, settings.range_method
    formats = {b: find_format(rows, b, codes, method, importance) for b in (bits - 1, bits, bits + 1)}
    errors = row_errors(layer, x, formats, quantize_input=recipe.allocation.search == "half")
    row_bits = allocate(rows, errors, bits, recipe.allocation)
    chosen = mixed(formats, row_bits)
    layer.set_rows(row_bits, chosen.scale, chosen.zero, chosen.table)
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
    layer: QuantizedLayer, x: Tensor, formats: dict[int, RowFormat], *, quantize_input: bool
) -> dict[int, Tensor]:
    """|| W_o X - Q(W_o; b) Q(X) ||^2 of each row o at each width b (docs/methods/mpq-dm.md, Bit allocation).

    Args:
        layer: with smoothing and activation range set.
        x: its input.
        formats: b -> what each row is quantized to.
        quantize_input: whether Q(X) is used, or X as it is.

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
    errors = {}
    for b, row_format in formats.items():
        w = row_format.quantized(weight.flatten(1)).view_as(weight)
        errors[b] = (apply_layer(module, seen, w) - target).square().sum(others)
    return errors


def _mean_squares(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """Of the layer's smoothed input, by channel, ``[c_in]``."""
    axis = 1 if isinstance(layer.layer, nn.Conv2d) else x.ndim - 1
    return x.square().mean([a for a in range(x.ndim) if a != axis]) * layer.in_scale.square()


def _smoothing_of(module: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    over_weight = module.weight.abs().amax([a for a in range(module.weight.ndim) if a != 1])
    axis = 1 if isinstance(module, nn.Conv2d) else x.ndim - 1
    return smoothing(over_weight, x.abs().amax([a for a in range(x.ndim) if a != axis]))


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How the rows of all layers are split, and how much smaller the layers' output error is than with uniform bits."""
    counts: dict[str, int] = {}
    for row in rows:
        for bits, n in row["rows"].items():
            counts[bits] = counts.get(bits, 0) + n
    ratios = [row["error_to_uniform"] for row in rows if "error_to_uniform" in row]
    mean = sum(ratios) / len(ratios) if ratios else None
    return {"rows_by_bits": dict(sorted(counts.items())), "mean_error_to_uniform": mean}
