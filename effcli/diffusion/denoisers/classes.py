"""Which networks of diffusers are understood: one row per class.

A row says where a class differs from "takes noisy images and ``timestep``, returns what it predicts". What is found
from the module itself: its layers, its last block, where the timestep stands among the arguments. A network without a
row can be read and its weights quantized, but not called: how it is told the time is anyone's guess.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.diffusion.configs import config_of

Condition = dict[str, Tensor]
"""Keyword arguments of the network, one row per image; ``a.b`` is the entry b of the dictionary a, ``channels`` what
is put beside the channels of the image."""

Call = Callable[[nn.Module, Tensor, Any, Condition], Tensor]
"""What the network predicts ``[B, C, H, W]`` at (x_t of that shape, t, condition)."""

CHANNELS = "channels"
_IMAGES = ("hidden_states", "sample", "x")
_TIMES = ("timestep", "timesteps")
_FLUX_SIDE = 128


def call_unet(network: nn.Module, x: Tensor, t: Any, given: Condition) -> Tensor:
    """A UNet: what is beside the channels of the image is put there; a predicted variance is left out."""
    arguments, channels = dict(given), x.shape[1]
    if CHANNELS in arguments:
        x = torch.cat([x, arguments.pop(CHANNELS)], 1)
    text: dict[str, Any] = {}
    if "encoder_hidden_states" in _arguments_of(network) and "encoder_hidden_states" not in arguments:
        text["encoder_hidden_states"] = None  # which a UNet conditioned on images alone makes itself
    out: Tensor = network(x, t, **text, **nested(arguments), return_dict=False)[0]
    return out[:, :channels] if out.shape[1] == 2 * channels else out


def call_by_keyword(network: nn.Module, x: Tensor, t: Any, given: Condition) -> Tensor:
    """A network that takes one timestep per image, by name; a predicted variance is left out."""
    names = set(_arguments_of(network))
    image, time = (next(name for name in known if name in names) for known in (_IMAGES, _TIMES))
    times = torch.as_tensor(t, device=x.device).expand(len(x))
    arguments = {image: x, time: times, **nested(given)}
    if "return_dict" in names:
        arguments["return_dict"] = False
    out = network(**arguments)
    prediction: Tensor = out[0] if isinstance(out, tuple) else out
    return prediction[:, : x.shape[1]] if prediction.shape[1] == 2 * x.shape[1] else prediction


def _arguments_of(network: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Of its ``forward``; of a network wrapped for several processes that of the network."""
    inner = getattr(network, "module", network)
    return inspect.signature((inner if isinstance(inner, nn.Module) else network).forward).parameters


def call_flux(network: nn.Module, x: Tensor, t: Any, given: Condition) -> Tensor:
    """Flux: patches of 2x2 are tokens, each with its place; the text has the place 0."""
    n, channels, height, width = x.shape
    rows, columns = height // 2, width // 2
    tokens = x.view(n, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, rows * columns, -1)
    places = torch.zeros(rows, columns, 3, device=x.device)
    places[..., 1] += torch.arange(rows, device=x.device)[:, None]
    places[..., 2] += torch.arange(columns, device=x.device)
    out: Tensor = network(
        hidden_states=tokens,
        timestep=torch.as_tensor(t, device=x.device).float().expand(n),
        img_ids=places.view(-1, 3),
        txt_ids=places.new_zeros(given["encoder_hidden_states"].shape[1], 3),
        **given,
        return_dict=False,
    )[0]
    patches = out.view(n, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(n, channels, height, width)


def call_lumina(network: nn.Module, x: Tensor, t: Any, given: Condition) -> Tensor:
    """Lumina 2: is told how far the image is (0 is noise) and predicts the flow towards it: the negative of ours."""
    mask = given["encoder_attention_mask"].long()
    return -call_by_keyword(network, x, t, {**given, "encoder_attention_mask": mask})


@dataclass(frozen=True)
class DenoiserClass:
    """How a class of networks is used.

    Attributes:
        part: its folder in a pipeline.
        call: how it is called.
        pipeline: whose ``encode_prompt`` makes its text conditions; None for a CLIP text model's last states, or none.
        text: the keyword arguments that come from prompts.
        time_scale: what the timesteps of the scheduler are multiplied by before the network gets them.
        time_offset: what is added then.
        latent_patch: side of the patches that a channel of the network's input stands for.
        joins_tokens: its last blocks see the tokens of the text before those of the image, as one sequence.
        even_sigmas: its pipelines ask a scheduler of flow matching for sigmas evenly between 1 and 1 / steps.
        labels: key of the number of classes, whose label beyond the last means no class.
    """

    part: str = "transformer"
    call: Call = call_by_keyword
    pipeline: str | None = None
    text: tuple[str, ...] = ()
    time_scale: float = 1.0
    time_offset: float = 0.0
    latent_patch: int = 1
    joins_tokens: bool = False
    even_sigmas: bool = False
    labels: str | None = None


DENOISERS: dict[str, DenoiserClass] = {
    "UNet2DModel": DenoiserClass("unet", call_unet),
    "UNet2DConditionModel": DenoiserClass("unet", call_unet, text=("encoder_hidden_states",)),
    "DiTTransformer2DModel": DenoiserClass(labels="num_embeds_ada_norm"),
    "PixArtTransformer2DModel": DenoiserClass(
        pipeline="PixArtSigmaPipeline", text=("encoder_hidden_states", "encoder_attention_mask")
    ),
    "SD3Transformer2DModel": DenoiserClass(
        pipeline="StableDiffusion3Pipeline", text=("encoder_hidden_states", "pooled_projections")
    ),
    "FluxTransformer2DModel": DenoiserClass(
        call=call_flux,
        pipeline="FluxPipeline",
        text=("encoder_hidden_states", "pooled_projections"),
        time_scale=1e-3,
        latent_patch=2,
        even_sigmas=True,
    ),
    "AuraFlowTransformer2DModel": DenoiserClass(
        pipeline="AuraFlowPipeline", text=("encoder_hidden_states",), time_scale=1e-3, joins_tokens=True
    ),
    "SanaTransformer2DModel": DenoiserClass(),
    "Lumina2Transformer2DModel": DenoiserClass(
        call=call_lumina, time_scale=-1e-3, time_offset=1.0, joins_tokens=True, even_sigmas=True
    ),
}
PARTS = ("unet", "transformer")
"""Folders of a pipeline where the network may be."""


def denoiser_class(network: nn.Module | str) -> DenoiserClass:
    """The row of a network, or of a class by its name; that of an unknown one says only its folder."""
    name = network if isinstance(network, str) else class_name_of(network)
    return DENOISERS.get(name, DenoiserClass("unet" if "UNet" in name else "transformer"))


def class_name_of(network: nn.Module) -> str:
    """The name of a network's class of diffusers, also of one derived from it."""
    names = [one.__name__ for one in type(network).__mro__]
    return next((name for name in names if name in DENOISERS), names[0])


def class_of(name: str, place: str) -> Callable[..., Any]:
    """The class of diffusers with this name, if it is one that denoises.

    Raises:
        InputError: it is not.
    """
    import diffusers

    found = getattr(diffusers, name, None)
    is_model = isinstance(found, type) and issubclass(found, diffusers.ModelMixin)
    parameters = set(inspect.signature(cast(Any, found).forward).parameters) if is_model else set()
    if "ControlNet" in name or not (parameters & set(_IMAGES) and parameters & set(_TIMES)):
        known = ", ".join(DENOISERS)
        raise InputError(
            f"holds a {name}, not a network of diffusers that denoises images at a timestep",
            place=place,
            hint=f"such as {known}",
        )
    return cast(Callable[..., Any], found)


def is_unet(network: nn.Module) -> bool:
    """Whether it is one of the UNets that were quantized first: their edge layers are the first three and the last."""
    return class_name_of(network) in ("UNet2DModel", "UNet2DConditionModel")


def predicts_variances(network: nn.Module) -> bool:
    """Whether a network returns a variance for each channel beside what it predicts, which is left out here."""
    config = config_of(network)
    n_in, n_out = config.get("in_channels"), config.get("out_channels")
    return isinstance(n_in, int) and n_out == 2 * n_in


def sample_shape_of(network: nn.Module, place: str) -> tuple[int, int, int]:
    """(C, H, W) of what a network denoises.

    Raises:
        InputError: its configuration does not say.
    """
    config, row = config_of(network), denoiser_class(network)
    size = config.get("sample_size") or (_FLUX_SIDE if row.latent_patch > 1 else None)
    channels, out = config.get("in_channels"), config.get("out_channels")
    if size is None or not isinstance(channels, int):
        key = "sample_size" if isinstance(channels, int) else "in_channels"
        name = "UNet" if is_unet(network) else type(network).__name__
        raise InputError(f"the {name}'s config.json has no {key}", place=place)
    if is_unet(network) and isinstance(out, int):
        channels = min(channels, out)  # others stand beside those of the image
    height, width = (size, size) if isinstance(size, int) else size
    return channels // row.latent_patch**2, int(height), int(width)


def n_tokens_of(network: nn.Module, place: str) -> int:
    """The length of the image's sequence, of patches of the network's size."""
    _, height, width = sample_shape_of(network, place)
    side = _patch_of(network)
    return (height // side) * (width // side)


def nested(condition: Mapping[str, Tensor]) -> dict[str, Any]:
    """``{"a.b": c}`` as ``{"a": {"b": c}}``."""
    arguments: dict[str, Any] = {}
    for name, value in condition.items():
        outer, _, inner = name.rpartition(".")
        (arguments.setdefault(outer, {}) if outer else arguments)[inner] = value
    return arguments


def last_block(network: nn.Module) -> nn.Module:
    """The block whose output is what the last layers make the prediction of: the last of the last list of blocks.

    Raises:
        InputError: the network has no list of blocks.
    """
    lists = [
        child for _, child in network.named_children() if isinstance(child, nn.ModuleList) and len(child)
    ]
    ups = getattr(network, "up_blocks", None)
    if not isinstance(ups, nn.ModuleList) and not lists:
        raise InputError(f"{type(network).__name__} has no list of blocks, whose features could be compared")
    return (ups if isinstance(ups, nn.ModuleList) else lists[-1])[-1]


def feature_map(network: nn.Module, output: Any, sample_shape: tuple[int, int, int]) -> Tensor:
    """The image's features ``[B, C, h, w]`` in what a block of a network returned: maps, tokens, or several of them.

    Raises:
        InputError: none of it is a map, or has as many tokens as the image has patches.
    """
    values = [one for one in (output if isinstance(output, tuple) else (output,)) if isinstance(one, Tensor)]
    for value in values:
        if value.ndim == 4:
            return value
    side = _patch_of(network)
    rows, columns = (length // side for length in sample_shape[1:])
    for value in reversed([one for one in values if one.ndim == 3]):
        n_before = value.shape[1] - rows * columns
        if n_before == 0 or (n_before > 0 and denoiser_class(network).joins_tokens):
            found: Tensor = value[:, n_before:].mT.unflatten(2, (rows, columns))
            return found
    shapes = ", ".join("x".join(map(str, one.shape)) for one in values)
    raise InputError(
        f"the last block returns {shapes or 'no tensor'}: no features of {rows}x{columns} patches"
    )


def _patch_of(network: nn.Module) -> int:
    """The side, in what the network denoises, of the patch that a token stands for."""
    patch = config_of(network).get("patch_size", 1)
    return denoiser_class(network).latent_patch * (patch if isinstance(patch, int) else 1)
