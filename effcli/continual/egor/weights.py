"""A trained detector as a file: safetensors, with all that it is built from and needs later in the metadata.

State dicts of torchvision's FCOS and RetinaNet can be read too; the names of their classes are given beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, Json, TypeAdapter, ValidationError

from effcli.continual.egor.detectors.detector import Detector
from effcli.continual.egor.detectors.gfl import Gfl, GflConfig
from effcli.continual.egor.detectors.nanodet import NanoDetM
from effcli.continual.egor.detectors.released_weights import read_state_dict
from effcli.continual.egor.detectors.torchvision_detectors import KINDS, TorchvisionDetector, from_state_dict
from effcli.continual.egor.inversion import AspectHistogram
from effcli.core.errors import InputError, UsageError
from effcli.core.tensor_file import BUILTIN_PREFIX, builtin_file, has_format, save_tensors
from effcli.core.weight_file import Count, Header, Side, build_network, first_mistake, read_weights

FORMAT, VERSION = "effcli-detector", "1"
FILE_NAME = "model/detector.safetensors"
NANODET = "nanodet-m"
BUILTIN = "builtin:nanodet-m"
"""The detector in the package: 80 classes of COCO."""


@dataclass(frozen=True)
class DetectorSpec:
    """What is known of a detector beside its weights.

    Attributes:
        classes: names, in the order of its scores.
        histograms: how long or wide the boxes of each class were.
        longest, shortest: most pixels of the sides of images that it is shown; None for any.
    """

    classes: tuple[str, ...]
    histograms: tuple[AspectHistogram, ...]
    longest: Side | None
    shortest: Side | None

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")


class ObjectDetectorHeader(Header):
    """What is in the metadata."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    config: Json[dict[str, Any]]
    about: Json[DetectorSpec]


UNKNOWN_RATIOS = AspectHistogram((-2.0, -1.5, 1.0, 1.5), (1, 1, 2, 1))
"""Where nothing is known of a class's boxes: from twice as high to twice as wide as the other side."""


def is_detector(place: str) -> bool:
    """Whether a run directory holds a detector, a file is one, or it is one in the package."""
    if place.startswith(BUILTIN_PREFIX):
        return True
    path = Path(place)
    return (path / FILE_NAME).is_file() if path.is_dir() else path.is_file() and has_format(path, FORMAT)


def save_detector(file: Path, detector: Detector, about: DetectorSpec) -> None:
    """Write a detector, atomically."""
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(_config_of(detector)),
        "about": json.dumps(asdict(about)),
    }
    module = detector.net if isinstance(detector, TorchvisionDetector) else detector
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    save_tensors(file, tensors, metadata)


def _config_of(detector: Detector) -> dict[str, Any]:
    if isinstance(detector, Gfl):
        return {"kind": "gfl", **asdict(detector.config)}
    if isinstance(detector, NanoDetM):
        return {"kind": NANODET, "n_classes": detector.n_classes}
    return {"kind": next(kind for kind, (own, _) in KINDS.items() if isinstance(detector, own))}


def load_detector(
    place: str,
    classes: Sequence[str] = (),
    sides: tuple[int | None, int | None] = (None, None),
) -> tuple[Detector, DetectorSpec]:
    """Read a detector from its file, its run directory or the package, or torchvision's from a state dict.

    Args:
        place: the file, the run, or ``builtin:nanodet-m``.
        classes: names of torchvision's labels, from 0, or from 1 where 0 is the background; else they are in the file.
        sides: longest and shortest side of images for torchvision's; else they are in the file.

    Raises:
        InputError: there is none, or the file is damaged or of another kind.
        UsageError: names are missing, or there are too few or too many.
    """
    if place.startswith(BUILTIN_PREFIX):
        with builtin_file(place, FORMAT) as packed:
            return _ours(packed, place)
    path = Path(place)
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            "no detector in it",
            place=place,
            hint="name a run of `effcli continual train-detector` or of `--method egor`, or its file",
        )
    if not has_format(file, FORMAT) and file.suffix in {".pth", ".pt", ".safetensors"}:
        return _torchvision(file, classes), DetectorSpec(
            tuple(classes), (UNKNOWN_RATIOS,) * len(classes), *sides
        )
    return _ours(file, str(file))


def _ours(file: Path, place: str) -> tuple[Detector, DetectorSpec]:
    header, tensors = read_weights(file, place, ObjectDetectorHeader)
    kind = header.config.get("kind")
    detector: Detector
    if kind == "gfl":
        config = _gfl_config(header.config, place)
        detector = build_network(lambda: Gfl(config), tensors, place)
    elif kind == NANODET:
        detector = build_network(lambda: NanoDetM(_n_classes(header.config, place)), tensors, place)
    elif isinstance(kind, str) and kind in KINDS:
        detector = from_state_dict(tensors, place)
    else:
        raise InputError(f"unknown kind of detector {kind!r}", place=place)
    n_named = (len(header.about.classes), len(header.about.histograms))
    if n_named != (detector.n_classes, detector.n_classes):
        what = f"names {n_named[0]} classes with {n_named[1]} histograms, and detects {detector.n_classes}"
        raise InputError(what, place=place)
    for name, one in zip(header.about.classes, header.about.histograms, strict=True):
        if len(one.ratios) != len(one.counts) or not sum(one.counts) or any(-1 < r < 1 for r in one.ratios):
            raise InputError(f"its histogram of the class {name!r} is damaged", place=place)
    return detector.eval(), header.about


def _n_classes(content: Mapping[str, Any], place: str) -> int:
    try:
        return TypeAdapter(Count).validate_python(content.get("n_classes"), strict=True)
    except ValidationError as error:
        raise InputError(
            f"its metadata are damaged: config.n_classes{first_mistake(error)}", place=place
        ) from None


def _gfl_config(content: Mapping[str, Any], place: str) -> GflConfig:
    settings = {key: value for key, value in content.items() if key != "kind"}
    try:
        return TypeAdapter(GflConfig).validate_json(json.dumps(settings))
    except ValidationError as error:
        raise InputError(f"its metadata are damaged: config.{first_mistake(error)}", place=place) from None


def _torchvision(file: Path, classes: Sequence[str]) -> Detector:
    """With as many columns as there are names; the column of the background goes."""
    detector = from_state_dict(read_state_dict(file), str(file))
    if not classes:
        raise UsageError(
            f"does not name its {detector.n_classes} classes",
            place=str(file),
            hint="-s detector_classes=[cat,dog,...]",
        )
    if detector.n_classes == len(classes) + 1:
        detector.drop_column(0)
    if detector.n_classes != len(classes):
        raise UsageError(
            f"has {detector.n_classes} classes, but {len(classes)} names were given", place=str(file)
        )
    return detector.eval()
