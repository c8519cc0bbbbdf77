"""What a network must be given beside noisy images and timesteps, by its class and configuration.

A need is met by prompts, by labels, by what follows from the recipe and the size of the image, or by a file: a
safetensors file with a tensor per input, one row per image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from effcli.core.errors import InputError
from effcli.diffusion.configs import config_of
from effcli.diffusion.denoisers.classes import (
    CHANNELS,
    class_name_of,
    denoiser_class,
    is_unet,
    predicts_variances,
    sample_shape_of,
)

Source = Literal["text", "labels", "computed", "file"]


@dataclass(frozen=True)
class NeededInput:
    """An input of a network.

    Attributes:
        name: of the keyword argument; ``a.b`` for the entry b of the dictionary a.
        shape: of one image's; None for a side of any length.
        source: what it comes from where no file gives it.
        what: it is, for messages.
    """

    name: str
    shape: tuple[int | None, ...]
    source: Source
    what: str

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape, without its rows, can be it."""
        return len(shape) == len(self.shape) and all(
            wanted in (None, side) for wanted, side in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        sides = ", ".join("N" if side is None else str(side) for side in self.shape or ())
        return f"{self.name} [images{', ' if sides else ''}{sides}]"


_CHANNELS = {
    5: "the mask and the image under it, as of inpainting models",
    4: "the latents of the image to be edited, as of InstructPix2Pix",
    3: "the small image, as of upscalers",
    1: "a map, as of depth-to-image models",
}
_ADDED_CONDITIONS: dict[str, tuple[str, ...]] = {
    "text": (),
    "text_image": ("text_embeds", "image_embeds"),
    "text_time": ("text_embeds",),
    "image": ("image_embeds",),
    "image_hint": ("image_embeds", "hint"),
}


def needs_of(network: nn.Module, place: str) -> list[NeededInput]:
    """Every input that a network must be given.

    Args:
        network: of diffusers.
        place: its name in messages.

    Raises:
        InputError: its class is not known, or it asks for something that no file gives: the message names the key of
            its configuration.
    """
    config = config_of(network)
    name = class_name_of(network)
    if name not in _NEEDS:
        reason = _NOT_CALLED.get(name, "what it must be given and how it is told the time are not known here")
        raise InputError(
            f"is a {name}: {reason}",
            place=place,
            hint=f"--fast quantizes only its weights; supported: {', '.join(_NEEDS)}",
        )
    return _NEEDS[name](network, config, place)


def _of_unet(network: nn.Module, config: dict[str, Any], place: str) -> list[NeededInput]:
    n_in, n_out = config["in_channels"], config["out_channels"]
    if n_out > n_in and not predicts_variances(network):
        raise InputError(
            f"the UNet's out_channels is {n_out} for in_channels {n_in}: neither as many, nor a variance for each",
            place=place,
        )
    needs = []
    if n_in > n_out:
        side = sample_shape_of(network, place)[1:]
        what = _CHANNELS.get(n_in - n_out, "what stands beside the image")
        needs.append(NeededInput(CHANNELS, (n_in - n_out, *side), "file", what))
    return needs + _class_labels(config, place)


def _class_labels(config: dict[str, Any], place: str) -> list[NeededInput]:
    kind, n_classes = config.get("class_embed_type"), config.get("num_class_embeds")
    if kind is None:
        return [NeededInput("class_labels", (), "labels", "the class")] if n_classes else []
    width: dict[str, tuple[int | None, ...]] = {
        "timestep": (),
        "identity": (4 * config["block_out_channels"][0],),
        "projection": (config.get("projection_class_embeddings_input_dim"),),
        "simple_projection": (config.get("projection_class_embeddings_input_dim"),),
    }
    if kind not in width:
        raise InputError(f"the UNet's class_embed_type is {kind!r}, which is not understood", place=place)
    return [NeededInput("class_labels", width[kind], "file", f"an embedding (class_embed_type {kind!r})")]


def _of_text_unet(network: nn.Module, config: dict[str, Any], place: str) -> list[NeededInput]:
    if str(config.get("attention_type", "default")) != "default":
        raise InputError(
            f"the UNet's attention_type is {config['attention_type']!r}: boxes, as of GLIGEN, are not supported",
            place=place,
        )
    needs = _of_unet(network, config, place)
    kind = config.get("encoder_hid_dim_type")
    if kind not in (None, "text_proj", "text_image_proj", "image_proj", "ip_image_proj"):
        raise InputError(f"the UNet's encoder_hid_dim_type is {kind!r}, which is not understood", place=place)
    width = config["cross_attention_dim"] if kind is None else config["encoder_hid_dim"]
    width = width if isinstance(width, int) else width[0]
    source: Source = "text" if kind is None else "file"
    if kind != "image_proj":
        needs.append(NeededInput("encoder_hidden_states", (None, width), source, "embeddings of the prompt"))
    names = ["image_embeds"] if kind in ("text_image_proj", "image_proj", "ip_image_proj") else []
    added = config.get("addition_embed_type")
    if added is not None and added not in _ADDED_CONDITIONS:
        raise InputError(f"the UNet's addition_embed_type is {added!r}, which is not understood", place=place)
    names += [name for name in _ADDED_CONDITIONS.get(added or "text", ()) if name not in names]
    needs += [_added_condition(name, added, config) for name in names]
    if added == "text_time":
        needs.append(NeededInput("added_cond_kwargs.time_ids", (6,), "computed", "sizes of the picture"))
    if config.get("time_cond_proj_dim") is not None:
        needs.append(
            NeededInput("timestep_cond", (config["time_cond_proj_dim"],), "computed", "the guidance scale")
        )
    return needs


def _added_condition(name: str, added: str | None, config: dict[str, Any]) -> NeededInput:
    if name == "hint":
        return NeededInput("added_cond_kwargs.hint", (3, None, None), "file", "the image that is a hint")
    width = None
    if added == "text_time":
        width = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    elif config.get("encoder_hid_dim_type") == "image_proj":
        width = config["encoder_hid_dim"]
    source: Source = "text" if added == "text_time" and name == "text_embeds" else "file"
    is_many = name == "image_embeds" and config.get("encoder_hid_dim_type") == "ip_image_proj"
    shape = (None, None) if is_many else (width,)
    what = "the pooled embedding of the prompt" if name == "text_embeds" else "the embedding of an image"
    return NeededInput(f"added_cond_kwargs.{name}", shape, source, what)


def _of_dit(network: nn.Module, config: dict[str, Any], place: str) -> list[NeededInput]:
    return [NeededInput("class_labels", (), "labels", "the class")]


def _of_pixart(network: nn.Module, config: dict[str, Any], place: str) -> list[NeededInput]:
    width = config.get("caption_channels") or config["cross_attention_dim"]
    needs = [
        NeededInput("encoder_hidden_states", (None, width), "text", "embeddings of the prompt"),
        NeededInput("encoder_attention_mask", (None,), "text", "which tokens of the prompt count"),
    ]
    if getattr(network, "use_additional_conditions", False):
        needs += [
            NeededInput("added_cond_kwargs.resolution", (2,), "computed", "height and width of the picture"),
            NeededInput("added_cond_kwargs.aspect_ratio", (1,), "computed", "height over width"),
        ]
    return needs


def _of_joint_transformer(network: nn.Module, config: dict[str, Any], place: str) -> list[NeededInput]:
    needs = [
        NeededInput(
            "encoder_hidden_states",
            (None, config["joint_attention_dim"]),
            "text",
            "embeddings of the prompt",
        ),
        NeededInput(
            "pooled_projections",
            (config["pooled_projection_dim"],),
            "text",
            "the pooled embedding of the prompt",
        ),
    ]
    if config.get("guidance_embeds"):
        needs.append(NeededInput("guidance", (), "computed", "the guidance scale"))
    return needs


def _of_aura_flow(network: nn.Module, config: dict[str, Any], place: str) -> list[NeededInput]:
    width = config["joint_attention_dim"]
    return [NeededInput("encoder_hidden_states", (None, width), "text", "embeddings of the prompt")]


def _of_sana(network: nn.Module, config: dict[str, Any], place: str) -> list[NeededInput]:
    for key, plain in (("guidance_embeds", False), ("timestep_scale", 1.0)):
        if config.get(key, plain) != plain:
            raise InputError(
                f"the SanaTransformer2DModel's {key} is {config[key]!r}: Sana-Sprint is not supported",
                place=place,
            )
    what = "embeddings of the prompt by Gemma, which are not computed here"
    return [
        NeededInput("encoder_hidden_states", (None, config["caption_channels"]), "file", what),
        NeededInput("encoder_attention_mask", (None,), "file", "which tokens of the prompt count"),
    ]


def _of_lumina(network: nn.Module, config: dict[str, Any], place: str) -> list[NeededInput]:
    what = "embeddings of the prompt by Gemma 2, which are not computed here"
    return [
        NeededInput("encoder_hidden_states", (None, config["cap_feat_dim"]), "file", what),
        NeededInput("encoder_attention_mask", (None,), "file", "which tokens of the prompt count"),
    ]


_NOT_CALLED = {
    "QwenImageTransformer2DModel": "it is given shapes of images beside packed patches; its decoder (of videos) and "
    "text encoder (Qwen2.5-VL) are not read here",
}
"""Classes whose weights can be quantized, and what is missing to call them."""

_NEEDS: dict[str, Callable[[nn.Module, dict[str, Any], str], list[NeededInput]]] = {
    "UNet2DModel": _of_unet,
    "UNet2DConditionModel": _of_text_unet,
    "DiTTransformer2DModel": _of_dit,
    "PixArtTransformer2DModel": _of_pixart,
    "SD3Transformer2DModel": _of_joint_transformer,
    "FluxTransformer2DModel": _of_joint_transformer,
    "AuraFlowTransformer2DModel": _of_aura_flow,
    "SanaTransformer2DModel": _of_sana,
    "Lumina2Transformer2DModel": _of_lumina,
}


def n_classes_of(network: nn.Module) -> int | None:
    """How many classes a network that is told labels knows; None for others."""
    config, row = config_of(network), denoiser_class(network)
    n_classes = config.get(row.labels) if row.labels else config.get("num_class_embeds")
    if is_unet(network) and config.get("class_embed_type") is not None:
        return None
    return n_classes if isinstance(n_classes, int) else None
