"""A trained detector as a file: safetensors, with its architecture and what it predicts in the metadata."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Json
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.registry import method_module
from effcli.core.tensor_file import (
    BUILTIN_PREFIX,
    builtin_file,
    read_pickled_tensors,
    save_tensors,
)
from effcli.core.weight_file import Header, build_network, check_tensors, read_weights
from effcli.detect_stream.network.config import NetworkConfig
from effcli.detect_stream.network.depth_map import has_learned_depth
from effcli.detect_stream.network.streamdsgn import StreamDsgn
from effcli.detect_stream.recipe import Target
from effcli.detect_stream.released_weights import convert_released

_CARD_DATA = "- **Data**:"
FORMAT, VERSION = "effcli-streamdsgn", "1"
FILE_NAME = "model/streamdsgn.safetensors"


class DetectorHeader(Header):
    """What is in the metadata."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    config: Json[NetworkConfig]
    target: Target = "next"
    method: str = "streamdsgn"
    """Files of version 0.1 name none."""


@dataclass(frozen=True)
class TrainedDetector:
    """A network and what it was trained for.

    Attributes:
        network: in evaluation mode.
        target: whether its boxes are those of the next frame or of this one.
        method: whose network it is.
    """

    network: StreamDsgn
    target: Target
    method: str = "streamdsgn"

    @property
    def horizons(self) -> tuple[int, ...]:
        """Frames after the one that is shown whose boxes it gives, increasing; 0 for those of this frame."""
        return self.network.config.horizons if self.target == "next" else (0,)


def save_detector(
    file: Path,
    network: StreamDsgn,
    target: Target,
    *,
    method: str = "streamdsgn",
    kernel_dtype: torch.dtype | None = None,
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
        "method": method,
    }
    save_tensors(file, tensors, metadata)


def load_detector(source: str) -> TrainedDetector:
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
            "not a detector",
            place=source,
            hint="name a run of `effcli detect-stream train`, its file, or builtin:street-tiny",
        )
    if file.suffix in (".pth", ".pt"):
        return TrainedDetector(convert_released(read_pickled_tensors(file, source), source).eval(), "next")
    return _load(file, source)


def trained_on(source: str) -> str | None:
    """What a built-in detector has learned from, if that is synthetic, in the words of its card; else None."""
    if not source.startswith(BUILTIN_PREFIX):
        return None
    card = files("effcli.assets") / f"{source.removeprefix(BUILTIN_PREFIX)}.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    found = next((line for line in lines if line.startswith(_CARD_DATA)), "")
    words = found.removeprefix(_CARD_DATA).split(",")[0].split(".")[0].strip()
    return words if words.startswith("synthetic") else None


def _load(file: Path, place: str) -> TrainedDetector:
    header, tensors = read_weights(file, place, DetectorHeader)
    try:
        create = method_module("detect-stream", header.method).create
    except ValueError as error:
        raise InputError(str(error), place=place) from None
    network: StreamDsgn = build_network(lambda: create(header.config), tensors, place)
    return TrainedDetector(network, header.target, header.method)


def require_depth(detector: TrainedDetector, place: str) -> None:
    """Make sure that a detector can tell the depth of pixels.

    Raises:
        InputError: its depth head was never trained.
    """
    if not has_learned_depth(detector.network):
        raise InputError(
            "was not trained to predict depth",
            place=place,
            hint="train it with loss.depth above 0 on data with depth: velodyne, depth_02, or synthetic drives",
        )


def starting_weights(network: StreamDsgn, init: StreamDsgn, place: str) -> dict[str, Tensor]:
    """The weights of a detector for a network to start from; heads of further horizons start as its last head.

    Raises:
        InputError: the detector is of another network.
    """
    state: dict[str, Tensor] = dict(init.state_dict())
    n_known = len(init.later_heads)
    last = init.heads[-1].state_dict()
    for i in range(n_known, len(network.later_heads)):
        state |= {f"later_heads.{i}.{name}": value for name, value in last.items()}
    check_tensors(network.state_dict(), state, place)
    return state


def require_same_stereo(ours: NetworkConfig, other: NetworkConfig, place: str) -> None:
    """Make sure that two networks agree in the parts up to the bird's-eye-view map, whatever follows them.

    Raises:
        InputError: they do not.
    """
    names = ("fusion", "bev", "ego_motion", "horizons")
    later = {name: getattr(ours, name) for name in names}
    if other.model_copy(update=later) != ours:
        raise InputError(
            "its parts up to the bird's-eye-view map are not those of this network",
            place=place,
            hint="compare network.size and network.quirks",
        )
