"""A trained detector as a file: safetensors, with its architecture and what it predicts in the metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Json
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.tensor_file import (
    BUILTIN_PREFIX,
    builtin_file,
    read_pickled_tensors,
    save_tensors,
)
from effcli.core.weight_file import Header, build_network, check_tensors, read_weights
from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.network.streamdsgn import StreamDsgn
from effcli.detect_stream.released_weights import convert_released

FORMAT, VERSION = "effcli-streamdsgn", "1"
FILE_NAME = "model/streamdsgn.safetensors"
Target = Literal["next", "now"]


class DetectorHeader(Header):
    """What is in the metadata."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    config: Json[NetworkConfig]
    target: Target = "next"


@dataclass(frozen=True)
class Detector:
    """A network and what it was trained for.

    Attributes:
        network: in evaluation mode, without its depth head.
        target: whether its boxes are those of the next frame or of this one.
    """

    network: StreamDsgn
    target: Target


def save_detector(
    file: Path, network: StreamDsgn, target: Target, *, kernel_dtype: torch.dtype | None = None
) -> None:
    """Write a network, atomically; ``kernel_dtype`` of the tensors with two axes or more."""
    tensors = {
        name: value.detach().to("cpu", (kernel_dtype if value.ndim > 1 else None) or value.dtype).contiguous()
        for name, value in network.state_dict().items()
    }
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": network.config.model_dump_json(),
        "target": target,
    }
    save_tensors(file, tensors, metadata)


def load_detector(source: str) -> Detector:
    """Read a detector.

    Args:
        source: a file, a run directory, ``builtin:NAME``, or a checkpoint of the released code (``.pth``).

    Raises:
        InputError: there is none, or it is damaged or of another kind.
    """
    if source.startswith(BUILTIN_PREFIX):
        with builtin_file(source, FORMAT) as file:
            return _load(file, source)
    path = Path(source)
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            "holds no detector",
            place=source,
            hint="name a run of `effcli detect-stream train`, its file, or builtin:street-tiny",
        )
    if file.suffix in (".pth", ".pt"):
        return Detector(convert_released(read_pickled_tensors(file, source), source).eval(), "next")
    return _load(file, source)


def _load(file: Path, place: str) -> Detector:
    header, tensors = read_weights(file, place, DetectorHeader)
    network = build_network(lambda: StreamDsgn(header.config), tensors, place)
    return Detector(network, header.target)


def load_stereo(network: StreamDsgn, source: str) -> None:
    """Take the parts up to the map seen from above from another detector, whatever follows them there.

    Raises:
        InputError: there is none, it is damaged, or it is of another size.
    """
    other = load_detector(source).network
    ours = network.config
    later = {"fusion": ours.fusion, "bev": ours.bev, "ego_motion": ours.ego_motion}
    if other.config.model_copy(update=later) != ours:
        raise InputError(
            "its map seen from above is not that of this network", place=source, hint="see network.size"
        )
    load_weights(network.stereo_parts(), other.stereo_parts().state_dict(), source)


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], place: str) -> None:
    """Fill a network or a part of one.

    Raises:
        InputError: the tensors are not those of this architecture.
    """
    check_tensors(network.state_dict(), tensors, place)
    network.load_state_dict(dict(tensors))
