"""State dicts of other libraries, as .pth or .safetensors; nothing in them is executed."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.tensor_file import read_pickled_tensors, read_tensors


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors of a state dict.

    Raises:
        InputError: there is no such file, it is damaged, or holds something else.
    """
    place = str(file)
    if not file.is_file():
        raise InputError("no such file", place=place)
    if file.suffix == ".safetensors":
        return read_tensors(file, place)[1]
    return read_pickled_tensors(file, place)


def load_backbone(backbone: nn.Module, place: str) -> None:
    """Load a ResNet-50's state dict with torchvision's names into a detector's backbone; its classifier is left out.

    Raises:
        InputError: the file does not exist, or its weights do not fit.
    """
    own: dict[str, Tensor] = {}
    for name, value in read_state_dict(Path(place)).items():
        part, _, rest = name.partition(".")
        if part in ("conv1", "bn1"):
            own[f"stem.{name}"] = value
        elif part.startswith("layer") and part[5:].isdecimal():
            own[f"stages.{int(part[5:]) - 1}.{rest}"] = value
    try:
        backbone.load_state_dict(own)
    except RuntimeError:
        raise InputError("not a state dict of torchvision's ResNet-50", place=place) from None
