"""`effcli continual detect`: a detector on pictures and videos, one result after another."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from effcli.continual.egor.data.detection_sets import ScaledImages, single_image
from effcli.continual.egor.detecting.formats import CocoFile, objects_of, yolo_text
from effcli.continual.egor.detecting.inputs import PICTURE_ENDINGS, DetectInput, Format, coco_file
from effcli.continual.egor.detecting.onnx_detector import OnnxDetector, load_onnx_detector
from effcli.continual.egor.detectors.detector import Detections
from effcli.continual.egor.drawing import draw_boxes
from effcli.continual.egor.evaluation import find
from effcli.continual.egor.weights import load_detector
from effcli.core.errors import EffcliError, UsageError
from effcli.core.files import atomic_path, make_folder, write_text
from effcli.core.runtime import Runtime
from effcli.data.images import read_image
from effcli.data.moving_pictures import write_timed_video
from effcli.data.picture_grid import encode_png

if TYPE_CHECKING:
    from effcli.data.video.source import InputVideo

ONNX = ".onnx"

Say = Callable[[dict[str, Any]], None]
"""What a result is handed to: an image, or a frame of a video."""


class ObjectFinder:
    """A detector, and how long it takes.

    Args:
        place: run directory or file of the detector, an exported ``.onnx`` file, or ``builtin:nanodet-m``.
        score: least one of a box, 0..1.
        runtime: where.
    """

    def __init__(self, place: str, score: float, runtime: Runtime) -> None:
        self._score, self._runtime = score, runtime
        self._ms: list[float] = []
        if place.endswith(ONNX):
            exported = load_onnx_detector(place)
            self.classes, self._sides = exported.classes, (exported.longest, exported.shortest)
            self._find = partial(_find_with, exported)
        else:
            detector, about = load_detector(place)
            detector.to(runtime.device)
            self.classes, self._sides = about.classes, (about.longest, about.shortest)
            self._find = partial(find, detector, runtime=runtime)
        self.n_failed = 0

    def __call__(self, image: Tensor) -> tuple[Detections, float]:
        """What is in an image, uint8 ``[3, H, W]``, and the milliseconds that took, scaling included."""
        started = time.perf_counter()
        (found,) = self._find(single_image(image, *self._sides), threshold=self._score)
        self._ms.append(1000 * (time.perf_counter() - started))
        return found, round(self._ms[-1], 1)

    def drawn(self, image: Tensor, found: Detections) -> Tensor:
        """The image with boxes."""
        return draw_boxes(image, found, self.classes)

    @property
    def ms_per_image(self) -> float | None:
        """The median."""
        return round(median(self._ms), 1) if self._ms else None


def _find_with(exported: OnnxDetector, images: ScaledImages, *, threshold: float) -> list[Detections]:
    """As :func:`find`, with an exported detector."""
    image, _, scale = images[0]
    found = exported.detect(image, threshold)
    return [replace(found, boxes=found.boxes / scale)]


def detect_all(
    finder: ObjectFinder,
    inputs: Sequence[DetectInput],
    paths: Sequence[Path | None],
    form: Format,
    say: Say,
    *,
    output: str | None = None,
) -> str | bytes | None:
    """Find objects in pictures and videos, one after another.

    Args:
        finder: the detector.
        inputs: what is looked at.
        paths: what is written for each; None for nothing.
        form: of what is written.
        say: gets ``image``, ``ms`` and ``objects`` of each picture, ``video``, ``frame`` and ``time_s`` with it of each
            frame of a video; or ``image`` or ``video`` and ``error`` of one that cannot be read.
        output: as on the command line: ``-`` is stdout; without any, labels in a format are returned.

    Returns:
        What belongs on stdout: a PNG, COCO's JSON or YOLO's text; None where that is the lines alone.
    """
    labels = CocoFile(finder.classes)
    to_stdout: str | bytes | None = None
    for one, path in zip(inputs, paths, strict=True):
        if one.is_video:
            _detect_video(finder, one, path, say)
            continue
        try:
            image = read_image(one.source, place=one.name)
        except EffcliError as error:
            finder.n_failed += 1
            say({"image": one.name, "error": error.message})
            continue
        found, ms = finder(image)
        size = (image.shape[1], image.shape[2])
        line = {"image": one.name, "ms": ms, "objects": objects_of(found, finder.classes)}
        if form == "coco":
            labels.add(one.inner.as_posix(), found, size)
        elif form == "yolo":
            to_stdout = _write_text(path, yolo_text(found, size))
        elif output == "-":
            to_stdout = encode_png(finder.drawn(image, found))
        elif path is not None:
            _write_picture(path, finder.drawn(image, found))
            line["drawn"] = str(path)
        say(line)
    if form == "yolo" and output is not None:
        write_text(Path(output) / "classes.txt", "".join(f"{name}\n" for name in finder.classes))
    if form == "coco":
        text = json.dumps(labels.content()) + "\n"
        return text if output in (None, "-") else _write_text(coco_file(str(output)), text)
    return to_stdout


def _write_text(path: Path | None, text: str) -> str | None:
    """Write it, or return it where there is no file."""
    if path is None:
        return text
    make_folder(path.parent)
    write_text(path, text)
    return None


def _write_picture(path: Path, picture: Tensor) -> None:
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        pixels = Image.fromarray(picture.permute(1, 2, 0).numpy())
        pixels.save(temporary, PICTURE_ENDINGS[path.suffix.lower()], quality=92)


def _detect_video(finder: ObjectFinder, one: DetectInput, path: Path | None, say: Say) -> None:
    """Every frame of a video; with a path, also as a video with boxes."""
    try:
        from effcli.data.video.source import open_source
    except ImportError:
        raise UsageError("videos need PyAV", place=one.name, hint="pip install 'effcli[video]'") from None
    assert isinstance(one.source, Path)
    try:
        video = open_source(one.source)
    except EffcliError as error:
        finder.n_failed += 1
        say({"video": one.name, "error": error.message})
        return
    frames = _frames(finder, video, one.name, say, draws=path is not None)
    if path is None:
        for _ in frames:
            pass
    else:
        make_folder(path.parent)
        timed = ((Image.fromarray(picture), moment_s) for picture, moment_s in frames)
        write_timed_video(path, timed, float(video.facts.rate))
    if video.damage is not None:
        finder.n_failed += 1
        say({"video": one.name, "error": f"read up to where it is damaged: {video.damage}"})


def _frames(
    finder: ObjectFinder, video: InputVideo, name: str, say: Say, *, draws: bool
) -> Iterator[tuple[np.ndarray, float]]:
    for number, (pts, _, frame) in enumerate(video.frames()):
        image = (video.rgb(frame)[0] * 255).round().clamp(0, 255).to(torch.uint8)
        found, ms = finder(image)
        moment_s = float(pts * video.facts.time_base)
        say(
            {
                "video": name,
                "frame": number,
                "time_s": round(moment_s, 3),
                "ms": ms,
                "objects": objects_of(found, finder.classes),
            }
        )
        picture = finder.drawn(image, found) if draws else image
        yield picture.permute(1, 2, 0).numpy(), moment_s
