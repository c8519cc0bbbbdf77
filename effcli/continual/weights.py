"""Classifiers on the disk: safetensors whose metadata say what the network is built from and its classes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

from pydantic import Json

from effcli.continual.network import Calibration, ClassifierSpec, ImageClassifier
from effcli.core.errors import InputError
from effcli.core.tensor_file import save_tensors
from effcli.core.weight_file import Header, build_network, read_weights

FORMAT, VERSION = "effcli-continual-classifier", "1"
FILE_NAME = "model/classifier.safetensors"


class ImageClassifierHeader(Header):
    """What is in the metadata."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    about: Json[ClassifierSpec]
    calibration: Json[Calibration] | None = None


def save_classifier(file: Path, classifier: ImageClassifier) -> None:
    """Write a safetensors file."""
    metadata = {"format": FORMAT, "version": VERSION, "about": json.dumps(asdict(classifier.about))}
    if classifier.calibration is not None:
        metadata["calibration"] = json.dumps(asdict(classifier.calibration))
    tensors = {name: value.contiguous() for name, value in classifier.state_dict().items()}
    save_tensors(file, tensors, metadata)


def load_classifier(place: str | Path) -> ImageClassifier:
    """Read a classifier.

    Args:
        place: its file, or the run directory that it lies in.

    Raises:
        InputError: there is none, or it is damaged.
    """
    file = Path(place) / FILE_NAME if Path(place).is_dir() else Path(place)
    if not file.is_file():
        raise InputError(
            "no classifier in it", place=str(place), hint="name a finished run of `effcli continual`"
        )
    header, tensors = read_weights(file, str(file), ImageClassifierHeader)
    classifier = build_network(lambda: ImageClassifier(header.about), tensors, str(file))
    classifier.calibration = header.calibration
    return classifier
