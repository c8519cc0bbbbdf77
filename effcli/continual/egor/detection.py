"""`effcli continual detect`: a trained detector on image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from effcli.continual.egor.data.detection_sets import single_image
from effcli.continual.egor.drawing import draw_boxes
from effcli.continual.egor.evaluation import find
from effcli.continual.egor.weights import FILE_NAME, FORMAT, load_detector
from effcli.core.errors import EffcliError, InputError, UsageError
from effcli.core.files import atomic_path, check_writable, make_folder
from effcli.core.runtime import Runtime
from effcli.core.tensor_file import BUILTIN_PREFIX, has_format
from effcli.data.images import read_image
from effcli.data.picture_folders import left_out_text, list_pictures, say_left_out
from effcli.data.picture_grid import encode_png


def is_detector(place: str) -> bool:
    """Whether a run directory holds a detector, a file is one, or it is one in the package."""
    if place.startswith(BUILTIN_PREFIX):
        return True
    path = Path(place)
    return (path / FILE_NAME).is_file() if path.is_dir() else path.is_file() and has_format(path, FORMAT)


def image_files(places: Sequence[Path]) -> list[Path]:
    """The files among places, and the images in folders among them, in order.

    Raises:
        InputError: a place is not there, or a folder holds no images.
    """
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            found = list_pictures(place, recursive=False)
            if not found.files:
                text = left_out_text(found.left_out)
                raise InputError(
                    "no images in it" + (f" (left out: {text})" if text else ""), place=str(place)
                )
            say_left_out(found)
            files += found.files
        elif place.is_file():
            files.append(place)
        else:
            raise InputError("no such file or folder", place=str(place))
    return files


def drawn_path(folder: Path, file: Path) -> Path:
    """Where the image with drawn boxes goes."""
    return folder / f"{file.stem}.png"


def check_drawn(folder: Path, files: Sequence[Path], *, force: bool) -> None:
    """Make sure, before any work, that the drawn images can be written, each to its own file.

    Raises:
        UsageError: two images have the same name, one is there already, or would be overwritten itself.
    """
    check_writable(folder)
    taken: dict[Path, Path] = {}
    for file in files:
        drawn = drawn_path(folder, file)
        if drawn in taken:
            raise UsageError(f"{taken[drawn]} and {file} would have the same name", place=str(folder))
        taken[drawn] = file
        if drawn.exists() and (not force or drawn.samefile(file)):
            hint = "choose another folder" if force else "--force overwrites it"
            raise UsageError("already exists", place=str(drawn), hint=hint)
    make_folder(folder)


def detect_files(
    place: str, files: Sequence[Path], folder: Path | None, threshold: float, runtime: Runtime
) -> Iterator[dict[str, Any]]:
    """Find objects in image files, one after another.

    Args:
        place: run directory or file of the detector.
        files: the images.
        folder: where they go with boxes drawn on them; None for nowhere.
        threshold: least score.
        runtime: where.

    Yields:
        ``image``, ``objects`` with ``class``, ``score`` and ``box`` (left, top, right, bottom in pixels), and ``drawn``
        where there is a folder; or ``image`` and ``error`` for one that cannot be read.
    """
    detector, about = load_detector(place)
    detector.to(runtime.device)
    for file in files:
        try:
            image = read_image(file)
        except EffcliError as error:
            yield {"image": str(file), "error": error.message}
            continue
        scaled = single_image(image, about.longest, about.shortest)
        (found,) = find(detector, scaled, runtime, threshold=threshold)
        line: dict[str, Any] = {
            "image": str(file),
            "objects": [
                {"class": about.classes[label], "score": round(score, 4), "box": [round(v, 1) for v in box]}
                for box, score, label in zip(
                    found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
                )
            ],
        }
        if folder is not None:
            drawn = drawn_path(folder, file)
            with atomic_path(drawn) as temporary:
                temporary.write_bytes(encode_png(draw_boxes(image, found, about.classes)))
            line["drawn"] = str(drawn)
        yield line
