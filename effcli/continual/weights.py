"""Classifiers on the disk: safetensors whose metadata say what the network is built from and its classes; ONNX."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Json

from effcli.continual.network import ClassifierSpec, ImageClassifier
from effcli.core.errors import InputError
from effcli.core.tensor_file import save_tensors
from effcli.core.weight_file import Header, build_network, read_weights
from effcli.nn.onnx_file import save_onnx

FORMAT, VERSION = "effcli-continual-classifier", "1"
FILE_NAME = "model/classifier.safetensors"


class ImageClassifierHeader(Header):
    """What is in the metadata."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    about: Json[ClassifierSpec]


def save_classifier(file: Path, classifier: ImageClassifier) -> None:
    """Write a safetensors file."""
    metadata = {"format": FORMAT, "version": VERSION, "about": json.dumps(asdict(classifier.about))}
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
    return build_network(lambda: ImageClassifier(header.about), tensors, str(file))


def export_onnx(file: Path, classifier: ImageClassifier) -> None:
    """Write an ONNX file: ``images`` in 0..1 to ``logits``, any batch size, preprocessing inside.

    The names of the classes and the size of the images are in its metadata.

    Raises:
        UsageError: the packages for it are not installed.
    """
    about = classifier.about
    example = torch.zeros(2, about.channels, about.side, about.side)
    metadata = {
        "classes": json.dumps(about.classes),
        "tasks": json.dumps(about.tasks),
        "method": about.method,
        "input": f"images, float32, 0..1, [batch, {about.channels}, {about.side}, {about.side}]",
    }
    save_onnx(classifier, example, file, input_name="images", output_name="logits", metadata=metadata)
