"""A ResNet-50's weights from a file into a detector's backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effcli.continual.egor.gfl import ResNet50Backbone
from effcli.core.errors import InputError
from effcli.core.tensor_file import read_tensors


def load_backbone(backbone: ResNet50Backbone, place: str) -> None:
    """Load a state dict with torchvision's names; its classifier is left out.

    Raises:
        InputError: there is no such file, or it is no such state dict.
    """
    tensors = _read(Path(place), place)
    own: dict[str, Tensor] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part in ("conv1", "bn1"):
            own[f"stem.{name}"] = value
        elif part.startswith("layer") and part[5:].isdecimal():
            own[f"stages.{int(part[5:]) - 1}.{rest}"] = value
    try:
        backbone.load_state_dict(own)
    except RuntimeError:
        raise InputError("is no state dict of torchvision's ResNet-50", place=place) from None


def _read(file: Path, place: str) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError("no such file", place=place)
    if file.suffix == ".safetensors":
        return read_tensors(file, place)[1]
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"cannot be read: {str(error).splitlines()[0][:160]}", place=place) from None
    if not isinstance(content, dict):
        raise InputError("holds no state dict", place=place)
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}
