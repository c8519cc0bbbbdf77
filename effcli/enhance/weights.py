"""Files of WalMaFa weights: our own format, and the checkpoints of the released code.

Our format is one safetensors file whose metadata says ``format: effcli.walmafa``, ``version: 1`` and the
network's configuration as JSON. A released checkpoint (`torch.save`, loaded tensors-only) is converted by
`released_weights.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Json, field_validator

from effcli.core.errors import InputError
from effcli.core.tensor_file import (
    BUILTIN_PREFIX,
    builtin_file,
    read_pickled_tensors,
    read_tensors,
    save_tensors,
)
from effcli.core.weight_file import Header, build_network
from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.walmafa_net import WalMaFa, blank_network
from effcli.enhance.released_weights import convert_released

FORMAT = "effcli.walmafa"
VERSION = "1"


class WalMaFaHeader(Header):
    """The metadata of a weight file."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    config: Json[WalMaFaConfig]

    @field_validator("config", mode="before")
    @classmethod
    def _fill_in(cls, config: str) -> str:
        """Files of 0.1 have no head: their networks say the picture."""
        try:
            content = json.loads(config)
        except ValueError:
            return config  # which is refused
        return json.dumps({"head": "picture", **content}) if isinstance(content, dict) else config


def save_weights(
    path: str | Path,
    network: WalMaFa,
    extra: Mapping[str, str] | None = None,
    *,
    kernel_dtype: torch.dtype | None = None,
) -> None:
    """Write a network's weights, atomically, in our format.

    Args:
        path: the file to write.
        network: not a fused one.
        extra: further metadata, such as what the weights were trained on.
        kernel_dtype: of the tensors with two axes or more, which is nearly all; vectors (biases, the statistics of
            normalisation) keep theirs, and so does everything without this argument.

    Raises:
        RunError: the file cannot be written.
        ValueError: the network is a fused one.
    """
    if network.state_dict().keys() != blank_network(network.config).state_dict().keys():
        raise ValueError("a fused network cannot be saved; save the network before fusing it")
    metadata = {
        **(extra or {}),
        "format": FORMAT,
        "version": VERSION,
        "config": network.config.model_dump_json(),
    }
    tensors = {
        name: tensor.detach()
        .to("cpu", (kernel_dtype if tensor.ndim > 1 else None) or tensor.dtype)
        .contiguous()
        for name, tensor in network.state_dict().items()
    }
    save_tensors(Path(path), tensors, metadata)


def load_weights(source: str | Path) -> WalMaFa:
    """Build the network that a weight file describes, in float32 on the CPU and in evaluation mode.

    Args:
        source: a file in our format, a released checkpoint (``.pth``; a safetensors file with released names
            works too), or ``builtin:NAME`` for weights that come with the package.

    Raises:
        InputError: the file cannot be read, is damaged, or does not hold exactly the weights of a WalMaFa network.
    """
    name = str(source)
    if name.startswith(BUILTIN_PREFIX):
        with builtin_file(name, FORMAT) as file:
            return _load_file(file, place=name)
    return _load_file(Path(source), place=name)


def _load_file(path: Path, place: str) -> WalMaFa:
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", place=place) from None
    metadata, state = (
        read_tensors(path, place) if start[8:] == b"{" else ({}, read_pickled_tensors(path, place))
    )
    if metadata.get("format") == FORMAT:
        config = WalMaFaHeader.parse(metadata, place).config
    else:
        config, state = convert_released(state, place=place)
    return build_network(lambda: blank_network(config), state, place)
