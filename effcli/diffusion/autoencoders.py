"""Autoencoders of latent models: from images to what the network denoises, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.diffusion.configs import config_of
from effcli.diffusion.folders import DECODERS, load_part, refuse_absent
from effcli.diffusion.models import DiffusionModel

_CLASSES = ("AutoencoderKL", "VQModel", "AutoencoderTiny", "AsymmetricAutoencoderKL", "AutoencoderDC")
_AT_A_TIME = 4

Decode = Callable[[Tensor], Tensor]
"""From what the network denoises to images in -1..1, ``[B, C, H, W]`` each."""


class Autoencoder:
    """The decoder of a latent model, and its encoder; frozen.

    Args:
        network: of diffusers.
        place: its folder, for messages.

    Raises:
        InputError: its configuration does not say how latents are scaled.
    """

    def __init__(self, network: nn.Module, place: str) -> None:
        self.network: Any = network
        self._scale, self._shift = _scale_of_latents(config_of(network), place)

    def decode(self, latents: Tensor) -> Tensor:
        """Images ``[B, 3, S, S]`` about -1..1 where the network is; differentiable."""
        latents = latents / self._scale.to(latents.device)
        if self._shift is not None:
            latents = latents + self._shift.to(latents.device)
        images: Tensor = self.network.decode(latents).sample
        return images

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images ``[B, 3, S, S]`` in -1..1: of a variational encoder the means."""
        out = self.network.encode(images)
        if hasattr(out, "latent_dist"):
            latents: Tensor = out.latent_dist.mode()
        else:
            latents = out.latents if hasattr(out, "latents") else out.latent
        if self._shift is not None:
            latents = latents - self._shift.to(latents.device)
        return latents * self._scale.to(latents.device)


def load_autoencoder(model: DiffusionModel, device: torch.device) -> Autoencoder | None:
    """What lies in `vae/` or `vqvae/` of a latent model's folder; None for models of images.

    Raises:
        InputError: it cannot be read.
    """
    names = [name for name in DECODERS if model.folder is not None and (model.folder / name).is_dir()]
    if not names or model.folder is None:
        refuse_absent(model.folder, DECODERS)
        return None
    folder = model.folder / names[0]
    return Autoencoder(load_part(folder, _CLASSES, "decoder").network.to(device), str(folder))


def load_decoder(model: DiffusionModel, device: torch.device) -> Decode:
    """The decoder of a latent model, a few images at a time, to the CPU; other models' images are images already.

    Raises:
        InputError: it cannot be read.
    """
    return decoder_of(load_autoencoder(model, device))


def decoder_of(autoencoder: Autoencoder | None) -> Decode:
    """As :func:`load_decoder`, of an autoencoder that is there already; None for models of images."""
    if autoencoder is None:
        return lambda images: images
    device = next(autoencoder.network.parameters()).device

    def decode(latents: Tensor) -> Tensor:
        with torch.no_grad():
            parts = [autoencoder.decode(part.to(device)).cpu() for part in latents.split(_AT_A_TIME)]
        return torch.cat(parts).clamp(-1, 1)

    return decode


def _scale_of_latents(config: Mapping[str, Any], place: str) -> tuple[Tensor, Tensor | None]:
    """What latents are divided by before they are decoded, and what is added then (None: nothing)."""
    scale = torch.tensor(float(config.get("scaling_factor") or 1.0))
    shift, mean, std = (config.get(key) for key in ("shift_factor", "latents_mean", "latents_std"))
    if mean is None and std is None:
        return scale, None if shift is None else torch.tensor(float(shift))
    n = config.get("latent_channels", 4)
    if shift is not None or mean is None or std is None or not len(mean) == len(std) == n:
        raise InputError(
            f"the decoder's latents_mean and latents_std are not {n} numbers each without a shift_factor",
            place=place,
        )
    return scale / torch.tensor(std).view(-1, 1, 1), torch.tensor(mean).view(-1, 1, 1)
