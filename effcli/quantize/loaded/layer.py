"""Layers of a loaded network: a `Linear` or `Conv2d` to diffusers and PEFT, integer codes inside.

What a layer computes with (an `IntegerLayer` or a `PackedLayer`) is made from its codes, for the device it is on, and
made anew where it is moved, copied or unpickled. Casts change the type of its output; codes, scales and the arithmetic
stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.core.errors import UsageError
from effcli.quantize.fake_quantization.layers import StepClock
from effcli.quantize.integer.layer import IntegerLayer, Kernel, default_kernel
from effcli.quantize.integer.weight_only import WeightOnlyLayer
from effcli.quantize.packed.layer import LayerCodes, PackedLayer
from effcli.quantize.packed.layer_tensors import layer_from_tensors, tensors_of_layer

Engine = IntegerLayer | WeightOnlyLayer | PackedLayer


class LoadedLayer(nn.Module):
    """What :class:`LoadedLinear` and :class:`LoadedConv2d` have in common.

    Args:
        codes: the layer.
        clock: tells the sampling step.
        integer: computes in integers, not in floating point.
        dtype: of the output.
        float32_out: the output is float32 whatever the dtype: of a network's last layer.
    """

    codes: LayerCodes
    like: Tensor

    def __init__(
        self,
        codes: LayerCodes,
        clock: StepClock,
        *,
        integer: bool,
        dtype: torch.dtype = torch.float32,
        float32_out: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        self.codes, self.clock, self.integer, self.float32_out = codes, clock, integer, float32_out
        # a parameter: some networks of diffusers ask their parts for the type of the first one
        self.like = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
        self._made_for: tuple[torch.device, bool] | None = None

    @property
    def weight(self) -> Tensor:
        """The dequantized weight, a copy of the network's type: changing it changes nothing."""
        return self.codes.weight().to(self.like)

    @property
    def bias(self) -> Tensor | None:
        """The bias, a copy of the network's type."""
        return None if self.codes.bias is None else self.codes.bias.to(self.like)

    @property
    def out_dtype(self) -> torch.dtype:
        """Of the output."""
        return torch.float32 if self.float32_out else self.like.dtype

    @property
    def n_weights(self) -> int:
        """Parameters of the full-precision layer."""
        return self.codes.rows.n_weights + (0 if self.codes.bias is None else self.codes.bias.numel())

    @property
    def n_bytes(self) -> int:
        """Of the codes, and of what computes with them."""
        held = [v for v in vars(self.codes).values() if isinstance(v, Tensor)]
        rows = self.codes.rows
        held += [rows.row_bits, *rows.by_bits.values(), *([] if rows.table is None else [rows.table])]
        engine = self.__dict__.get("_engine")
        held += [] if engine is None else list(engine.buffers())
        prepacked = getattr(engine, "_prepacked", None)
        n_prepacked = 0 if prepacked is None else self.codes.rows.n_weights
        return n_prepacked + sum({v.data_ptr(): v.numel() * v.element_size() for v in held}.values())

    def engine_on(self, device: torch.device) -> Engine:
        """What computes on ``device``; it is no submodule, so that casts and state dicts pass it by."""
        if self._made_for != (device, self._pads_with_values()):
            self._made_for = (device, self._pads_with_values())
            self.__dict__["_engine"] = self._make_engine(device)
        engine: Engine = self.__dict__["_engine"]
        return engine

    def fused_engine(self, x: Tensor) -> IntegerLayer | None:
        """What multiplies codes of ``x`` that another pass makes; None where this layer takes only floats."""
        if not self.integer or x.device.type != "cpu" or self._pads_with_values():
            return None
        engine = self.engine_on(x.device)
        assert isinstance(engine, IntegerLayer)
        return engine

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for ``x`` of any floating-point type; `torch.compile` leaves it as it is.

        Raises:
            UsageError: gradients are asked for: rounding has none.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            raise UsageError(
                "gradients do not pass through a quantized layer", place="effcli.quantize",
                hint="call the network under torch.no_grad(); train the full-precision model",
            )  # fmt: skip
        engine = self.engine_on(x.device)
        if self._pads_with_values():
            x = self._padded(x)
        out: Tensor = engine(x.to(self._dtype_inside(x)))
        return out.to(self.out_dtype)

    def _pads_with_values(self) -> bool:
        return False

    def _padded(self, x: Tensor) -> Tensor:
        return x

    def _dtype_inside(self, x: Tensor) -> torch.dtype:
        if self.codes.activation_bits is None:
            return self.like.dtype
        keeps = self.integer and x.dtype == torch.bfloat16  # which the kernels read as it is
        return x.dtype if keeps else torch.float32

    def _make_engine(self, device: torch.device) -> Engine:
        codes = self.codes
        if self._pads_with_values():
            codes = replace(codes, geometry=codes.geometry | {"padding": (0, 0)})
        if codes.activation_bits is None:
            return WeightOnlyLayer(codes).to(device)
        if not self.integer:
            return PackedLayer(codes, self.clock).to(device)
        kernel: Kernel = default_kernel() if device.type == "cpu" else "int_mm"
        return IntegerLayer(codes, self.clock, out_dtype=self._dtype_of_product(), kernel=kernel).to(device)

    def _dtype_of_product(self) -> torch.dtype:
        """Of what the kernels give: they have no float16."""
        return self.out_dtype if self.out_dtype == torch.bfloat16 else torch.float32

    # --- casts, copies, state dicts ------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.like.device
        if self._made_for is not None and self._made_for[0] != device:
            self._forget_engine()
        elif self._made_for is not None and self.integer:
            self.__dict__["_engine"].out_dtype = self._dtype_of_product()
        return self

    def _forget_engine(self) -> None:
        """It is made anew when it is needed."""
        self.__dict__["_engine"], self._made_for = None, None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_engine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._forget_engine()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for part, value in tensors_of_layer(self.codes).items():
            destination[prefix + part] = value

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = prefix.removesuffix(".")
        own = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        if f"{prefix}weight" in own:
            error_msgs.append(
                f"{name} is quantized: it takes no {prefix}weight, but packed rows, {prefix}qw*"
            )
            return
        wanted = {prefix + part for part in tensors_of_layer(self.codes) if not part.startswith(("qw", "qt"))}
        missing = sorted(wanted - own.keys())
        if missing:
            missing_keys += missing
            return
        try:
            self.codes = layer_from_tensors(name, self.codes, {k: v.detach().cpu() for k, v in own.items()})
        except (KeyError, ValueError) as error:
            error_msgs.append(f"{name}: {f'lacks {error}' if isinstance(error, KeyError) else error}")
            return
        self._forget_engine()


class LoadedLinear(LoadedLayer, nn.Linear):  # type: ignore[misc, override]
    """A linear layer of a loaded network; see :class:`LoadedLayer`."""

    def __init__(self, codes: LayerCodes, clock: StepClock, **settings: Any) -> None:
        super().__init__(codes, clock, **settings)
        self.out_features, self.in_features = codes.shape


class LoadedConv2d(LoadedLayer, nn.Conv2d):  # type: ignore[override]
    """A convolution of a loaded network; see :class:`LoadedLayer`. ``padding_mode`` may be changed, as of any other.

    Called with the sizes of a `Conv2d` it makes a plain one: PEFT makes a LoRA's branch by the class of the layer.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """This class for codes (and for unpickling, without arguments), `Conv2d` for sizes."""
        if args and not isinstance(args[0], LayerCodes):
            return nn.Conv2d(*args, **kwargs)
        return super().__new__(cls)

    def __init__(self, codes: LayerCodes, clock: StepClock, **settings: Any) -> None:
        super().__init__(codes, clock, **settings)
        self.out_channels, self.in_channels = codes.shape[:2]
        self.kernel_size: Any = tuple(codes.shape[2:])
        for part, pair in codes.geometry.items():
            setattr(self, part, pair)
        self.padding_mode, self.groups = codes.padding_mode, 1
        self.transposed, self.output_padding = False, (0, 0)
        height, width = codes.geometry["padding"]
        self._reversed_padding_repeated_twice = [width, width, height, height]

    def _pads_with_values(self) -> bool:
        return self.padding_mode != "zeros"

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)


def loaded_layer(codes: LayerCodes, clock: StepClock, **settings: Any) -> LoadedLayer:
    """The layer of the kind of ``codes``; see :class:`LoadedLayer` for the settings."""
    kind = LoadedLinear if codes.kind == "linear" else LoadedConv2d
    return kind(codes, clock, **settings)
