"""The layers of a UNet that are quantized: which they are, and how one computes while it is trained.

A quantized layer computes with simulated low-bit numbers (docs/methods/mpq-dm.md, Uniform quantizer, Activation scales
per sampling step, Low-rank fine-tuning)::

    y = Q(x delta; d_a[s], z_a[s]) Q((W + B A) / delta; d_w, z_w)^T + b

with one width, scale and zero-point per row (output channel) of W, and one scale and zero-point of the activations per
sampling step s. delta moves outliers of the inputs into the weights.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.diffusion.denoisers.classes import class_name_of, is_unet
from effcli.quantize.fake_quantization.codebooks import quantize_by_table
from effcli.quantize.fake_quantization.quantizer import fake_quantize, rounded, top_code
from effcli.quantize.fake_quantization.row_formats import RowFormat, padded

log = logging.getLogger(__name__)

Profile = Literal["all", "main-path"]
N_FIRST, N_LAST = 3, 1
EDGE_BITS = 8
_KEPT_NAMES = ("conv_shortcut", "skip")
_TIME = "timestep_embedder"
_MIDDLE = "mid_block"
_BFLOAT16_ROUNDING = 2**-8
"""How far a timestep that is not a whole number may be from what a pipeline in half precision makes of it."""


class StepClock:
    """Which sampling step a network is at, told by the timestep it is called with and never by counting calls.

    Args:
        timesteps: of the sampling steps the layers have activation scales for, in any order; as the network gets them.
    """

    def __init__(self, timesteps: Sequence[float]) -> None:
        self.timesteps = torch.tensor(timesteps)
        self.index = 0
        self._position = 1
        self.is_held = False
        self._has_warned = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stay at the present step, whatever timesteps the UNet is called with."""
        self.is_held = True
        try:
            yield
        finally:
            self.is_held = False

    def attach(self, unet: nn.Module) -> None:
        """Set the clock before each forward pass of ``unet``."""
        names = list(inspect.signature(unet.forward).parameters)
        self._position = names.index("timestep") if "timestep" in names else 1
        unet.register_forward_pre_hook(self._read, with_kwargs=True)

    def set_to(self, timestep: float) -> None:
        """Go to the step whose timestep is nearest; the first time that none is exact, a warning says so."""
        distances = (self.timesteps - timestep).abs()
        self.index = int(distances.argmin())
        rounding = _BFLOAT16_ROUNDING * abs(timestep) if self.timesteps.is_floating_point() else 0.0
        if distances[self.index] > rounding and not self._has_warned:
            self._has_warned = True
            log.warning(
                "timestep %g is not one of the %d that this model was quantized for; the ranges of the nearest one "
                "are used",
                timestep,
                len(self.timesteps),
            )

    def _read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.is_held:
            return
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[self._position]
        if isinstance(timestep, Tensor) and timestep.numel() > 1:
            if not bool((timestep == timestep.flatten()[0]).all()):
                raise InputError("a quantized UNet takes one timestep per call", place="timestep")
            timestep = timestep.flatten()[0]
        self.set_to(float(timestep))


@dataclass(frozen=True)
class FoundLayer:
    """A layer to quantize.

    Attributes:
        name: its path in the UNet.
        layer: a `Conv2d` of one group or a `Linear`.
        is_edge: one of the first three or the last: 8 bits, without OMQ, low-rank update and time steps.
    """

    name: str
    layer: nn.Conv2d | nn.Linear
    is_edge: bool


def find_layers(unet: nn.Module, profile: Profile = "all") -> list[FoundLayer]:
    """The layers to quantize, in module order (docs/methods/mpq-dm.md, Quantized layers).

    Args:
        unet: a network of diffusers. Edges of `UNet2DModel` and `UNet2DConditionModel` are the first three layers and
            the last; of other networks all layers outside of the lists of blocks and of the middle block of UNets, and
            those that embed the timestep wherever they are: what makes tokens, tells the time, and makes images of
            tokens.
        profile: ``main-path`` leaves out what the released code leaves out: skip convolutions, downsampling
            convolutions, and in unconditional UNets the attention projections.

    Raises:
        InputError: there is no such layer.
    """
    conditional = class_name_of(unet) != "UNet2DModel"
    found = [
        (name, module)
        for name, module in unet.named_modules()
        if (isinstance(module, nn.Conv2d) and module.groups == 1) or type(module) is nn.Linear
    ]
    if profile == "main-path":
        found = [(n, m) for n, m in found if not _off_the_main_path(n, conditional)]
    if not found:
        raise InputError("this model has no convolution or linear layer to quantize")
    if is_unet(unet):
        edges = {*range(N_FIRST), *range(len(found) - N_LAST, len(found))}
        return [FoundLayer(name, module, i in edges) for i, (name, module) in enumerate(found)]
    blocks = tuple(
        f"{n}." for n, child in unet.named_children() if isinstance(child, nn.ModuleList) or n == _MIDDLE
    )
    return [
        FoundLayer(name, module, not name.startswith(blocks) or _TIME in name.split("."))
        for name, module in found
    ]


def _off_the_main_path(name: str, conditional: bool) -> bool:
    parts = name.split(".")
    if parts[-1] in _KEPT_NAMES or ("downsamplers" in parts and parts[-1] == "conv"):
        return True
    return not conditional and "attentions" in parts


def merged_update(a: Tensor, b: Tensor) -> Tensor:
    """B A, the low-rank update of a weight; tap by tap for convolutions: dW[:, :, u, v] = B[:, :, u, v] A[:, :, u, v].

    Args:
        a: ``[r, c_in]`` or ``[r, c_in, kh, kw]``.
        b: ``[c_out, r]`` or ``[c_out, r, kh, kw]``.

    Returns:
        ``[c_out, c_in]`` or ``[c_out, c_in, kh, kw]``.
    """
    if a.ndim == 2:
        return b @ a
    taps = torch.bmm(b.flatten(2).permute(2, 0, 1), a.flatten(2).permute(2, 0, 1))
    update: Tensor = taps.permute(1, 2, 0).unflatten(2, a.shape[2:])
    return update


class QuantizedLayer(nn.Module):
    """A convolution or a linear layer with simulated low-bit weights and activations, trainable.

    Args:
        layer: the full-precision layer; its weights stay as they are.
        clock: tells the sampling step.
        is_edge: see :class:`FoundLayer`.
        activation_bits: None: activations are not quantized.
        n_steps: sampling steps that have an activation scale each; 1 for one scale.
        rank: of the low-rank update; 0 for none.
        integer_zeros: zero-points are rounded where they are used.
        n_entries: of the largest codebook that a row may get; 0 for affine codes.

    Attributes:
        in_scale: delta, ``[c_in]``.
        row_bits: uint8 ``[c_out]``.
        scale, zero: d_w and z_w, ``[c_out]``.
        table: the rows' codebooks, uint8 ``[c_out, n_entries]``.
        act_scale, act_zero: d_a and z_a, ``[S]``.
        update_a, update_b: A and B.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        clock: StepClock,
        *,
        is_edge: bool = False,
        activation_bits: int | None,
        n_steps: int,
        rank: int,
        integer_zeros: bool = True,
        n_entries: int = 0,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.clock = clock
        self.is_edge = is_edge
        self.activation_bits = activation_bits
        self.integer_zeros = integer_zeros
        weight = layer.weight
        c_out, c_in = weight.shape[:2]
        self.register_buffer("in_scale", torch.ones(c_in))
        self.register_buffer("row_bits", torch.full((c_out,), EDGE_BITS, dtype=torch.uint8))
        self.register_buffer("weight_top", top_code(torch.full((c_out,), EDGE_BITS)))
        table = torch.zeros(c_out, n_entries, dtype=torch.uint8)
        self.register_buffer("table", table, persistent=n_entries > 0)
        self.scale, self.zero = nn.Parameter(torch.ones(c_out)), nn.Parameter(torch.zeros(c_out))
        steps = n_steps if activation_bits is not None else 0
        self.act_scale, self.act_zero = nn.Parameter(torch.ones(steps)), nn.Parameter(torch.zeros(steps))
        self.update_a: nn.Parameter | None = None
        self.update_b: nn.Parameter | None = None
        if rank:
            a = torch.empty(rank, c_in, *weight.shape[2:])
            nn.init.kaiming_uniform_(a, a=5**0.5)
            self.update_a = nn.Parameter(a)
            self.update_b = nn.Parameter(torch.zeros(c_out, rank, *weight.shape[2:]))

    in_scale: Tensor
    row_bits: Tensor
    weight_top: Tensor
    table: Tensor

    def set_rows(self, row_bits: Tensor, scale: Tensor, zero: Tensor, table: Tensor | None = None) -> None:
        """Give each row its bits, scale and zero-point, ``[c_out]`` each, and its codebook."""
        self.row_bits.copy_(row_bits)
        self.weight_top.copy_(top_code(row_bits))
        with torch.no_grad():
            self.scale.copy_(scale)
            self.zero.copy_(zero)
        if table is not None:
            self.table.copy_(padded(table, self.table.shape[1]))

    @property
    def has_codebooks(self) -> bool:
        """Whether codes are places in a table."""
        return self.table.shape[1] > 0

    def mean_step(self) -> float:
        """Mean distance between neighbouring levels of a row."""
        scale = self.scale.detach()
        if self.has_codebooks:
            scale = scale * (self.table[:, -1].float() - self.table[:, 0].float()) / self.weight_top
        return float(scale.mean())

    @property
    def act_top(self) -> Tensor:
        """The largest code of activations."""
        return top_code(self.activation_bits or EDGE_BITS)

    def weight(self) -> Tensor:
        """W + B A, ``[c_out, c_in, ...]``."""
        w: Tensor = self.layer.weight
        if self.update_a is not None and self.update_b is not None:
            w = w + merged_update(self.update_a, self.update_b)
        return w

    def smoothed_weight(self) -> Tensor:
        """(W + B A) / delta, ``[c_out, c_in, ...]``."""
        return self.weight() / per_input(self.in_scale, self.layer.weight)

    def quantized_weight(self) -> Tensor:
        """Q((W + B A) / delta), ``[c_out, c_in, ...]``."""
        w = self.smoothed_weight()
        if self.has_codebooks:
            return quantize_by_table(w.flatten(1), self.scale, self.table, self.weight_top).view_as(w)
        shape = (-1, *([1] * (w.ndim - 1)))
        return fake_quantize(
            w, self.scale.view(shape), self._zero(self.zero).view(shape), self.weight_top.view(shape)
        )

    @torch.no_grad()
    def codes(self) -> Tensor:
        """The weights' codes with whole zero-points, uint8 ``[c_out, K]``; with codebooks, places in them."""
        table = self.table if self.has_codebooks else None
        rows = RowFormat(self.scale, self.zero.round(), self.weight_top, table)
        return rows.codes(self.smoothed_weight().flatten(1))

    def quantized_input(self, x: Tensor) -> Tensor:
        """Q(x delta) at the present step, in float32 whatever autocast made of x."""
        smoothed = x.float() * per_channel(self.in_scale, x, self.layer)
        if self.activation_bits is None:
            return smoothed
        i = min(self.clock.index, len(self.act_scale) - 1)
        return fake_quantize(smoothed, self.act_scale[i], self._zero(self.act_zero[i]), self.act_top)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, simulated."""
        return apply_layer(self.layer, self.quantized_input(x), self.quantized_weight())

    def _zero(self, zero: Tensor) -> Tensor:
        return rounded(zero) if self.integer_zeros else zero


def apply_layer(layer: nn.Conv2d | nn.Linear, x: Tensor, weight: Tensor) -> Tensor:
    """The layer with another weight."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, layer.bias)
    out: Tensor = layer._conv_forward(x, weight, layer.bias)
    return out


def per_channel(values: Tensor, x: Tensor, layer: nn.Module) -> Tensor:
    """``[c_in]`` shaped to multiply the layer's input: along axis 1 of images, along the last axis of others."""
    return values.view(-1, 1, 1) if isinstance(layer, nn.Conv2d) else values


def per_input(values: Tensor, weight: Tensor) -> Tensor:
    """``[c_in]`` shaped to divide a weight ``[c_out, c_in, ...]``."""
    return values.view(-1, *([1] * (weight.ndim - 2)))


def replace_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` at the path ``name`` below ``root``."""
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent) if parent else root, last, module)


def quantized_layers(unet: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """Every quantized layer with its path."""
    return ((name, module) for name, module in unet.named_modules() if isinstance(module, QuantizedLayer))
