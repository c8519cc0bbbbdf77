"""A loaded network: of the class of diffusers that was quantized, and honest about what it is.

Methods of diffusers that would take its layers for ordinary ones either do what they say with packed layers, or refuse
by name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from effcli.core.errors import UsageError
from effcli.core.tensor_file import require_finite_output
from effcli.quantize.loaded.layer import LoadedLayer
from effcli.quantize.packed.model import PackedModel
from effcli.quantize.weights import save_packed

_PLACE = "quantized network"
_AS_GIVEN = {"timestep", "guidance", "img_ids", "txt_ids"}
"""Inputs that are numbers, not activations: a rounded timestep is another one."""


class PackedNetwork:
    """What is different in a network of diffusers whose layers are packed; mixed in by :func:`as_packed_network`.

    It can be saved, copied, pickled, cast, moved, and take LoRAs as branches beside its layers. It refuses to be fused
    or trained.

    Attributes:
        packed_frame: the packed model it came from, without layers and other parameters.
    """

    packed_frame: PackedModel

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As of the class of diffusers; the output has the type of the first input, the noisy images.

        Raises:
            NonFiniteError: an input is NaN or infinite, which quantized layers would make finite.
        """
        names = _names_of_inputs(type(self).__bases__[1])
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        dtype = given[names[0]].dtype
        given = {name: one if name in _AS_GIVEN else _cast(one, self.dtype) for name, one in given.items()}
        out = super().forward(**given)  # type: ignore[misc]
        if isinstance(out, Tensor):  # a few classes, for return_dict=False
            return out.to(dtype)
        if isinstance(out, tuple):
            return (out[0].to(dtype), *out[1:])
        first = next(iter(out))  # "sample", but for a few classes
        out[first] = out[first].to(dtype)
        return out

    @property
    def dtype(self) -> torch.dtype:
        """Between the layers, apart from those that its class keeps in float32."""
        dtypes = {stays_float32(self, name): layer.like.dtype for name, layer in loaded_layers(self)}
        return dtypes.get(False, torch.float32)

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Parameters of the full-precision network; those of quantized layers are not trainable."""
        n: int = super().num_parameters(only_trainable, exclude_embeddings)  # type: ignore[misc]
        return n if only_trainable else n + sum(layer.n_weights for _, layer in loaded_layers(self))

    def packed_model(self) -> PackedModel:
        """Everything that the packed file holds, as the network has it now.

        Raises:
            UsageError: an adapter is loaded, which the file has no place for.
        """
        if _adapted_layers(self):
            raise UsageError(
                "has a LoRA or another adapter, which a packed file cannot hold", place=_PLACE,
                hint="call unload_lora_weights() of the pipeline, or delete_adapters() of the network, first",
            )  # fmt: skip
        layers = {name: layer.codes for name, layer in loaded_layers(self)}
        dtype = getattr(torch, self.packed_frame.about["other_dtype"])
        others = {
            name: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype)
            for name, value in self.state_dict().items()  # type: ignore[attr-defined]
            if name.rpartition(".")[0] not in layers
        }
        return replace(self.packed_frame, layers=layers, others=others)

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        save_function: Any = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        use_flashpack: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write the packed file, in one piece whatever ``max_shard_size``, with its two configurations.

        Raises:
            UsageError: another format or a place on the hub is asked for, or an adapter is loaded.
            RunError: it cannot be written.
        """
        asked = {
            "safe_serialization=False": not safe_serialization,
            f"variant={variant!r}": variant is not None,
            "push_to_hub=True": push_to_hub,
            "use_flashpack=True": use_flashpack,
            "save_function": save_function is not None,
        }
        refused = [name for name, is_asked in asked.items() if is_asked]
        if refused:
            raise UsageError(
                f"save_pretrained does not take {refused[0]}: a packed model is one safetensors file",
                place=_PLACE,
                hint="save without it; upload the folder with huggingface_hub",
            )
        if is_main_process:
            save_packed(Path(save_directory), self.packed_model())

    def dequantize(self) -> nn.Module:
        """An ordinary full-precision network with the dequantized weights; activations are not quantized."""
        from effcli.quantize.packed_unet import dequantize

        return dequantize(self.packed_model()).to(self.device)  # type: ignore[attr-defined]

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of parameters, buffers, codes, and what the layers compute with."""
        n: int = super().get_memory_footprint(return_buffers)  # type: ignore[misc]
        return n + sum(layer.n_bytes for _, layer in loaded_layers(self))

    def fuse_qkv_projections(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the projections' rows have scales of their own."""
        _refuse("fuse_qkv_projections", "quantized projections cannot be joined", "use the network as it is")

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _new_network, (type(self).__bases__[1],), self.__dict__


class AdaptableNetwork(PackedNetwork):
    """The same of a class of diffusers that takes LoRAs: they compute in floating point beside the packed layers."""

    def load_lora_adapter(self, *args: Any, **kwargs: Any) -> None:
        """As of diffusers."""
        super().load_lora_adapter(*args, **kwargs)  # type: ignore[misc]
        _refuse_to_merge(self)

    def add_adapter(self, *args: Any, **kwargs: Any) -> None:
        """As of diffusers."""
        super().add_adapter(*args, **kwargs)  # type: ignore[misc]
        _refuse_to_merge(self)

    def fuse_lora(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: packed weights cannot take an update."""
        _refuse_merging()


def as_packed_network(network: nn.Module, model: PackedModel) -> nn.Module:
    """The same network, with :class:`PackedNetwork` mixed into its class; its quantized layers are `LoadedLayer`."""
    network.packed_frame = replace(model, layers={}, others={})  # type: ignore[assignment]
    base: Any = type(network)
    network.__class__ = packed_class(base)
    return network


@functools.cache
def packed_class(base: type[Any]) -> type[nn.Module]:
    """The class of diffusers with :class:`PackedNetwork` mixed in; it has the name that pipelines write and read."""

    @functools.wraps(base.forward)
    def forward(
        self: Any, *args: Any, **kwargs: Any
    ) -> Any:  # a function of its own: its signature is the base's
        return PackedNetwork.forward(self, *args, **kwargs)

    members = {
        "__module__": base.__module__,
        "__doc__": base.__doc__,
        "forward": forward,
        "from_config": base.from_config,
        "from_pretrained": base.from_pretrained,
    }
    mixin = AdaptableNetwork if hasattr(base, "load_lora_adapter") else PackedNetwork
    made: Any = _EqualToItsBase(base.__name__, (mixin, base), members)
    network_class: type[nn.Module] = made
    return network_class


class _EqualToItsBase(type):
    """A class that is taken for its second base where classes are compared, as `DiffusionPipeline.from_pipe` does."""

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.__bases__[1]

    def __hash__(cls) -> int:
        return hash(cls.__bases__[1])


def _new_network(base: Any) -> Any:
    made = packed_class(base)
    return made.__new__(made)


def loaded_layers(network: Any) -> Iterator[tuple[str, LoadedLayer]]:
    """Every quantized layer of a loaded network with its path."""
    return ((name, layer) for name, layer in network.named_modules() if isinstance(layer, LoadedLayer))


def stays_float32(network: Any, name: str) -> bool:
    """Whether the class of diffusers keeps a parameter or a layer in float32, whatever the network is loaded in."""
    return any(part in name.split(".") for part in getattr(network, "_keep_in_fp32_modules", None) or ())


@functools.cache
def _names_of_inputs(base: type[Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(base.forward).parameters)[1:]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Tensors in tuples, lists and dictionaries, those of half or double precision as ``dtype``; all must be finite."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return value
        if not torch.compiler.is_compiling():
            require_finite_output(value, "inputs of the quantized network")
        return value if value.dtype == torch.float32 else value.to(dtype)
    if isinstance(value, dict):
        return {key: _cast(one, dtype) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_cast(one, dtype) for one in value)
    return value


def _adapted_layers(network: Any) -> list[Any]:
    if find_spec("peft") is None:
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


def _refuse_to_merge(network: Any) -> None:
    """An adapted layer that is asked to merge refuses, too."""
    for layer in _adapted_layers(network):
        if isinstance(layer.get_base_layer(), LoadedLayer):
            layer.merge = _refuse_merging


def _refuse_merging(*args: Any, **kwargs: Any) -> NoReturn:
    _refuse(
        "merging a LoRA",
        "packed weights take no update",
        "quantize the fused model: effcli quantize MODEL --lora FILE; or leave the LoRA beside the network",
    )


def _refuse(what: str, why: str, hint: str) -> NoReturn:
    raise UsageError(f"{what} is not possible: {why}", place=_PLACE, hint=hint)
