"""A model whose weights stay in their files until each is asked for: for work that needs one layer at a time."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.files import read_json
from effcli.core.tensor_file import require_finite
from effcli.core.weight_file import make_within
from effcli.diffusion.denoisers.classes import class_of
from effcli.diffusion.folders import class_in, find_parts, read_scheduler
from effcli.diffusion.models import (
    DiffusionModel,
    empty_unet,
    folder_of,
    load_model,
    say_what_is_read,
    with_pipeline_keys,
)
from effcli.diffusion.weight_files import find_weights

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class UnreadModel:
    """A network with its weights in files.

    Attributes:
        model: the model; its network has no values where weights belong (device ``meta``), unless it had to be loaded.
        read: a weight by its name in the network's state dict, as the file stores it.
    """

    model: DiffusionModel
    read: Callable[[str], Tensor]


def open_model(source: str) -> UnreadModel:
    """Open a model by name, as :func:`effcli.diffusion.models.load_model`, and leave its weights where they are.

    Only safetensors files of a folder of diffusers stay unread; anything else is loaded.

    Raises:
        InputError: as there; or the files hold other tensors than the network has.
    """
    folder = folder_of(source)
    parts = None if folder is None else find_parts(folder, source)
    weights = None if parts is None else find_weights(parts.unet)
    if parts is None or weights is None or weights.kind != "safetensors":
        return _loaded(source)
    dtype, n_tensors = weights.check()
    stored = StoredTensors(weights.files)
    network = make_within(
        lambda: _without_weights(parts.unet, source), stored.n_elements, n_tensors, str(parts.unet)
    )
    if set(network.state_dict()) != set(stored.names):
        return _loaded(source)  # which renames those of earlier versions of diffusers, or says what is wrong
    _check_shapes(network, stored, str(parts.unet))
    model = DiffusionModel(
        network,
        with_pipeline_keys(read_scheduler(parts), network, source),
        source,
        parts.pipeline,
        weights.sha256(),
        weights_dtype=dtype,
        has_assumed_scheduler=parts.scheduler is None,
    )
    say_what_is_read(model, parts)
    return UnreadModel(model, stored.read)


def _loaded(source: str) -> UnreadModel:
    model = load_model(source)
    return UnreadModel(model, model.unet.state_dict().__getitem__)


def _without_weights(folder: Path, source: str) -> nn.Module:
    name = class_in(folder)
    class_of(name, source)
    config = {k: v for k, v in read_json(folder / "config.json").items() if not k.startswith("_")}
    return empty_unet(name, config).eval().requires_grad_(False)


def _check_shapes(network: nn.Module, stored: StoredTensors, place: str) -> None:
    for name, value in network.state_dict().items():
        if tuple(value.shape) != stored.shape(name):
            shapes = f"{stored.shape(name)}, the network needs {tuple(value.shape)}"
            raise InputError(f"{name} has shape {shapes}", place=place)


class StoredTensors:
    """The tensors of safetensors files, read one at a time into memory of their own.

    The files are not mapped: what was read and let go is not kept.

    Args:
        files: all shards of one set of weights.

    Attributes:
        names: of all tensors.
        n_elements: of all of them.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for file in files:
            with file.open("rb") as opened:
                (length,) = struct.unpack("<Q", opened.read(8))
                header: dict[str, dict[str, Any]] = json.loads(opened.read(length))
            for name, about in header.items():
                if name != "__metadata__":
                    self._places[name] = (file, 8 + length, about)
        self.names = list(self._places)
        self.n_elements = sum(math.prod(self.shape(name)) for name in self.names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor."""
        return tuple(self._places[name][2]["shape"])

    def read(self, name: str) -> Tensor:
        """A tensor as it is stored.

        Raises:
            InputError: the file is shorter than its header says, or a number is not finite.
        """
        file, start, about = self._places[name]
        first, last = about["data_offsets"]
        content = np.empty(last - first, dtype=np.uint8)
        with file.open("rb") as opened:
            opened.seek(start + first)
            n_read = opened.readinto(content.data)
        if n_read != len(content):
            raise InputError(f"{name} is cut off: the file is damaged", place=str(file))
        value = torch.from_numpy(content).view(_DTYPES[about["dtype"]]).view(self.shape(name))
        require_finite({name: value}, str(file))
        return value
