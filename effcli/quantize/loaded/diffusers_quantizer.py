"""How ``from_pretrained`` of diffusers reads a packed model: `registration.py` puts this into its tables.

diffusers makes the network without values and fills in the parameters that are not quantized; the rest comes from the
packed file, read and checked as by `load`.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from torch import nn

from effcli.core.errors import InputError
from effcli.quantize.fake_quantization.layers import StepClock, replace_module
from effcli.quantize.loaded.registration import QUANT_METHOD

if TYPE_CHECKING:
    from effcli.quantize.packed.model import PackedModel

_PLACE = "from_pretrained"


class QuantMethod(StrEnum):
    """The name of the format, with the attribute ``value`` that diffusers asks for."""

    MPQ = QUANT_METHOD


class PackedConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """``quantization_config`` in the `config.json` of a packed model.

    Args:
        version: of the packed file.
        unknown: keys that diffusers or a newer effcli added.

    Raises:
        InputError: the version is not one that this effcli reads.
    """

    def __init__(self, version: int = 1, **unknown: Any) -> None:
        from effcli.quantize.weights import VERSIONS

        self.quant_method: Any = QuantMethod.MPQ
        self.version = version
        if version not in VERSIONS:
            raise InputError(
                f"the packed model is of version {version}, this effcli reads {VERSIONS[-1]} and below",
                place="quantization_config", hint="upgrade effcli",
            )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """As `config.json` has it."""
        return {"quant_method": QuantMethod.MPQ.value, "version": self.version}

    def to_diff_dict(self) -> dict[str, Any]:
        """The same: diffusers asks for it in ``repr``."""
        return self.to_dict()


class PackedQuantizer(DiffusersQuantizer):  # type: ignore[misc]
    """Builds the packed layers while diffusers loads the rest; its methods are those that diffusers calls, in order."""

    requires_calibration = True
    use_keep_in_fp32_modules = True
    packed: PackedModel | None = None
    dtype = torch.float32

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        """Refuse to spread the network over several devices.

        Raises:
            InputError: it is asked for.
        """
        places = set(device_map.values()) if isinstance(device_map, dict) else {device_map}
        if len(places) > 1 or places & {"disk", "auto", "balanced", "balanced_low_0", "sequential"}:
            raise InputError(
                f"device_map is {device_map!r}: a packed network is on one device", place=_PLACE,
                hint="leave it out and call .to(device)",
            )  # fmt: skip

    def update_torch_dtype(self, torch_dtype: Any) -> Any:
        """Note the type between the layers; float32 where none is asked for."""
        self.dtype = torch_dtype or torch.float32
        return self.dtype

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: list[str]) -> list[str]:
        """Read the packed file; diffusers is told of what is not quantized."""
        from effcli.quantize.weights import load_packed

        if len(checkpoint_files) != 1:
            raise InputError(f"has {len(checkpoint_files)} weight files: a packed model is one", place=_PLACE)
        self.packed = load_packed(Path(checkpoint_files[0]))
        return [key for key in loaded_keys if key in self.packed.others]

    def update_missing_keys(self, model: Any, missing_keys: list[str], prefix: str) -> list[str]:
        """Without those of the packed layers."""
        return [key for key in missing_keys if key.rpartition(".")[0] not in self._packed().layers]

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        """Check that the network is the file's, and make room for its layers."""
        from effcli.quantize.packed.model import check_fits

        packed = self._packed()
        check_fits(model, packed)
        for name in packed.layers:
            replace_module(model, name, nn.Identity())

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Put the packed layers in."""
        from effcli.quantize.integer.layer import unsupported_reason
        from effcli.quantize.packed_unet import finish, put_layers

        packed = self._packed()
        clock = StepClock(packed.about["timesteps"])
        others = chain(model.parameters(), model.buffers())  # some networks have none beside their layers
        device = next((value.device for value in others), torch.device("cpu"))
        put_layers(model, packed, clock, integer=unsupported_reason(packed) is None, dtype=self.dtype)
        finish(model.requires_grad_(False), packed, clock, device)
        self.packed = None
        model.is_quantized = False  # to diffusers this means that a cast is an error, which it is not here
        return model

    def _packed(self) -> PackedModel:
        if self.packed is None:
            raise InputError(
                "this version of diffusers does not name the weight file", place=_PLACE, hint="upgrade it"
            )
        return self.packed

    @property
    def is_serializable(self) -> bool:
        """Its `save_pretrained` writes the packed file."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Rounding has no gradients."""
        return False
