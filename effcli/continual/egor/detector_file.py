"""A trained detector as a file: safetensors, with all that it is built from and needs later in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from effcli.continual.egor.gfl import Gfl, GflConfig
from effcli.continual.egor.inversion import AspectHistogram
from effcli.core.errors import InputError
from effcli.core.tensor_file import read_tensors, require_format, save_tensors

FORMAT, VERSION = "effcli-detector", "1"
FILE_NAME = "model/detector.safetensors"


@dataclass(frozen=True)
class About:
    """What is known of a detector beside its weights.

    Attributes:
        classes: names, in the order of its scores.
        histograms: how long or wide the boxes of each class were.
        longest, shortest: most pixels of the sides of images that it is shown; None for any.
    """

    classes: tuple[str, ...]
    histograms: tuple[AspectHistogram, ...]
    longest: int | None
    shortest: int | None


def save_detector(file: Path, detector: Gfl, about: About) -> None:
    """Write a detector, atomically."""
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(asdict(detector.config)),
        "about": json.dumps(asdict(about)),
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in detector.state_dict().items()}
    save_tensors(file, tensors, metadata)


def load_detector(place: str) -> tuple[Gfl, About]:
    """Read a detector from its file or its run directory.

    Raises:
        InputError: there is none, or the file is damaged or of another kind.
    """
    path = Path(place)
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            "holds no detector",
            place=place,
            hint="name a run of `effcli continual train-detector` or of `--method egor`, or its file",
        )
    metadata, tensors = read_tensors(file, str(file))
    require_format(metadata, FORMAT, VERSION, str(file))
    detector = Gfl(GflConfig(**json.loads(metadata["config"])))
    _load(detector, tensors, str(file))
    content = json.loads(metadata["about"])
    histograms = tuple(
        AspectHistogram(tuple(one["ratios"]), tuple(one["counts"])) for one in content["histograms"]
    )
    about = About(tuple(content["classes"]), histograms, content["longest"], content["shortest"])
    return detector.eval(), about


def _load(detector: Gfl, tensors: Mapping[str, Tensor], place: str) -> None:
    try:
        detector.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise InputError(f"weights do not fit the detector: {reason[:160]}", place=place) from None
