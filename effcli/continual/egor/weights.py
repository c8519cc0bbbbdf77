"""A trained detector as a file: safetensors, with all that it is built from and needs later in the metadata.

State dicts of torchvision's FCOS and RetinaNet can be read too; the names of their classes are given beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, Json, TypeAdapter, ValidationError
from torch import Tensor

from effcli.continual.egor.detectors.branched import BranchedDetector
from effcli.continual.egor.detectors.copied import CopiedBranch
from effcli.continual.egor.detectors.detector import Detector
from effcli.continual.egor.detectors.gfl import Gfl, GflConfig
from effcli.continual.egor.detectors.nanodet import NanoDetM
from effcli.continual.egor.detectors.released_weights import read_state_dict
from effcli.continual.egor.detectors.torchvision_detectors import KINDS, TorchvisionDetector, from_state_dict
from effcli.continual.egor.inversion import AspectHistogram
from effcli.core.errors import EffcliError, InputError, UsageError
from effcli.core.tensor_file import BUILTIN_PREFIX, builtin_file, has_format, read_tensors, save_tensors
from effcli.core.text import counted
from effcli.core.weight_file import Count, Header, Side, build_network, first_mistake, read_weights

T = TypeVar("T")

FORMAT, VERSION = "effcli-detector", "1"
FILE_NAME = "model/detector.safetensors"
NANODET, BRANCHED, COPIED = "nanodet-m", "branched", "branched-copy"
BUILTIN = "builtin:nanodet-m"
"""The detector in the package: 80 classes of COCO."""


@dataclass(frozen=True)
class DetectorSpec:
    """What is known of a detector beside its weights.

    Attributes:
        classes: names, in the order of its scores.
        histograms: how long or wide the boxes of each class were.
        longest, shortest: pixels that the sides of images are scaled to before it sees them; None for any.
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


@dataclass(frozen=True)
class NanoDetConfig:
    """What a NanoDet-m is built from."""

    n_classes: Count

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class CopyConfig:
    """What a branch is built from that began as a copy of the old detector's heads.

    Attributes:
        n_new: classes of the branch.
    """

    n_new: Count

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class BranchConfig:
    """What the branch of a detector is built from; see :class:`BranchedDetector`."""

    width: Count
    n_new: Count
    channels: Annotated[int, Field(ge=8, le=2**12, multiple_of=8)]
    n_convs: Annotated[int, Field(ge=0, le=64)]

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")


UNKNOWN_RATIOS = AspectHistogram((-2.0, -1.5, 1.0, 1.5), (1, 1, 2, 1))
"""Where nothing is known of a class's boxes: from twice as high to twice as wide as the other side."""


def is_detector(place: str) -> bool:
    """Whether a run directory holds a detector, a file is one, or it is one in the package."""
    if place.startswith(BUILTIN_PREFIX):
        return True
    path = Path(place)
    return (path / FILE_NAME).is_file() if path.is_dir() else path.is_file() and has_format(path, FORMAT)


def is_nanodet(place: str) -> bool:
    """Whether a detector, by its run, file or name in the package, is a NanoDet-m without a branch."""
    if place == BUILTIN:
        return True
    path = Path(place)
    file = path / FILE_NAME if path.is_dir() else path
    if not (file.is_file() and has_format(file, FORMAT)):
        return False
    try:
        config = json.loads(read_tensors(file, place)[0].get("config", ""))
    except (EffcliError, ValueError):
        return False  # what is wrong with it is said when it is loaded
    return isinstance(config, dict) and config.get("kind") == NANODET


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
    if isinstance(detector, BranchedDetector):
        own = BranchConfig(detector.width, detector.n_new, detector.channels, detector.n_convs)
        return {"kind": BRANCHED, "old": _config_of(detector.old), **asdict(own)}
    if isinstance(detector, CopiedBranch):
        return {"kind": COPIED, "old": _config_of(detector.old), "n_new": detector.n_new}
    return {"kind": next(kind for kind, own in KINDS.items() if type(detector) is own)}


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
    detector = _built(header.config, tensors, place)
    n_named = (len(header.about.classes), len(header.about.histograms))
    if n_named != (detector.n_classes, detector.n_classes):
        what = f"names {n_named[0]} classes with {n_named[1]} histograms, and detects {detector.n_classes}"
        raise InputError(what, place=place)
    for name, one in zip(header.about.classes, header.about.histograms, strict=True):
        if len(one.ratios) != len(one.counts) or not sum(one.counts) or any(-1 < r < 1 for r in one.ratios):
            raise InputError(f"its histogram of the class {name!r} is damaged", place=place)
    return detector.eval(), header.about


def _built(content: Mapping[str, Any], tensors: Mapping[str, Tensor], place: str) -> Detector:
    """The network that a file's metadata describe, with its weights."""
    kind = content.get("kind")
    settings = {key: value for key, value in content.items() if key not in ("kind", "old")}
    if kind == "gfl":
        config = _checked(GflConfig, settings, place)
        return build_network(lambda: Gfl(config), tensors, place)
    if kind == NANODET:
        n_classes = _checked(NanoDetConfig, settings, place).n_classes
        return build_network(lambda: NanoDetM(n_classes), tensors, place)
    if kind in (BRANCHED, COPIED) and isinstance(content.get("old"), Mapping):
        inside = "old.net." if content["old"].get("kind") in KINDS else "old."
        frozen = {key.removeprefix(inside): one for key, one in tensors.items() if key.startswith(inside)}
        old = _built(content["old"], frozen, place)
        if kind == COPIED:
            n_new = _checked(CopyConfig, settings, place).n_new
            return build_network(lambda: CopiedBranch(old, n_new), tensors, place)
        branch = _checked(BranchConfig, settings, place)
        return build_network(
            lambda: BranchedDetector(old, branch.width, branch.n_new, branch.channels, branch.n_convs),
            tensors,
            place,
        )
    if isinstance(kind, str) and kind in KINDS:
        return from_state_dict(tensors, place)
    raise InputError(f"unknown kind of detector {kind!r}", place=place)


def _checked(config: type[T], settings: Mapping[str, Any], place: str) -> T:
    try:
        return TypeAdapter(config).validate_json(json.dumps(settings))
    except ValidationError as error:
        raise InputError(f"its metadata are damaged: config.{first_mistake(error)}", place=place) from None


def _torchvision(file: Path, classes: Sequence[str]) -> Detector:
    """With as many columns as there are names; the column of the background goes."""
    detector = from_state_dict(read_state_dict(file), str(file))
    if not classes:
        raise UsageError(
            f"does not name its {detector.n_classes} classes",
            place=str(file),
            hint="learn with it: effcli continual --method egor or branch, -s detector_classes=[cat,dog,...]; "
            "the detector of that run knows the names",
        )
    if detector.n_classes == len(classes) + 1:
        detector.drop_column(0)
    if detector.n_classes != len(classes):
        raise UsageError(
            f"has {counted(detector.n_classes, 'class', 'classes')}, but {counted(len(classes), 'name')} given",
            place=str(file),
        )
    return detector.eval()
