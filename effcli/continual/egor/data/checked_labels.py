"""Labels held against the pictures: sizes, and whether boxes are inside; what does not fit is said or refused."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effcli.continual.class_names import outline_of
from effcli.continual.egor.data.box_forms import MOST_WRONG, check_form, corners_of
from effcli.continual.egor.data.detection_sets import DetectionSet, ObjectBoxes
from effcli.continual.egor.data.labels.labelled_images import BoxForm, LabelledImage, Labels
from effcli.core.errors import InputError
from effcli.core.text import counted
from effcli.data.images import read_image, read_sizes
from effcli.data.stored_files import Split, StoredFile
from effcli.data.unreadable_pictures import MOST_CHECKED, allow_unreadable, find_unreadable

log = logging.getLogger(__name__)

_MOST_NAMED = 3


def checked(labels: Labels, split: Split) -> DetectionSet:
    """The set that labels describe, once they fit the pictures.

    Images that are missing or have another size than the labels say, annotations that cannot be used, and boxes that
    lie outside their image are left out, up to a tenth of each; classes without any box are dropped.

    Raises:
        InputError: more of them are wrong; the likely cause is named.
    """
    place, notes = labels.place, list(labels.notes)
    if not labels.images:
        raise InputError("lists no images", place=place)
    _refuse_many("annotations", "cannot be used", labels.mistakes, labels.n_annotations, place, notes)
    present = _present(labels, split, notes)
    whole, sizes = _of_true_size(_without_repeats(present, notes), place, notes)
    fitting = _without_classes_of_crowds(whole, notes)
    boxes, mended = _boxes(fitting, sizes, labels.form, place, notes)
    if mended:
        was = "was empty or extended beyond its" if mended == 1 else "were empty or extended beyond their"
        notes.append(f"{counted(mended, 'box', 'boxes')} {was} image: clipped or left out")
    used = {box.name for image in fitting for box in image.boxes}
    notes += _nearly_equal(used)
    classes = tuple(name for name in labels.classes if name in used)
    shown = {box.name for image in whole for box in image.boxes}
    if unused := [name for name in labels.classes if name not in shown]:
        notes.append(f"{_classes_are(unused, 'without any box')} dropped: {_some(unused)}")
    for note in notes:
        log.warning("%s: %s", place, note)
    return _as_set(labels, fitting, sizes, boxes, classes, mended, notes)


def _classes_are(names: Sequence[str], what: str) -> str:
    return f"{counted(len(names), 'class', 'classes')} {what} {'is' if len(names) == 1 else 'are'}"


def _nearly_equal(classes: Iterable[str]) -> list[str]:
    """Classes that differ only in case, separators or leading zeros."""
    alike = defaultdict(list)
    for name in sorted(classes):
        alike[outline_of(name)].append(repr(name))
    return [
        f"classes whose names are nearly the same are kept apart: {', '.join(names)}"
        for names in alike.values()
        if len(names) > 1
    ]


def _without_repeats(images: Sequence[LabelledImage], notes: list[str]) -> list[LabelledImage]:
    """Without boxes that are there already, of the same class and with the same numbers, as in files joined twice."""
    single = [replace(one, boxes=list(dict.fromkeys(one.boxes))) for one in images]
    n_repeats = sum(len(one.boxes) - len(other.boxes) for one, other in zip(images, single, strict=True))
    if n_repeats:
        are = "is there twice and taken" if n_repeats == 1 else "are there more than once and taken"
        notes.append(f"{counted(n_repeats, 'box', 'boxes')} {are} once")
    return single


def _without_classes_of_crowds(images: Sequence[LabelledImage], notes: list[str]) -> list[LabelledImage]:
    """Without the boxes of classes that are crowds, or ``difficult``, everywhere: nothing can be learned from these."""
    single = {box.name for image in images for box in image.boxes if not box.crowd}
    crowds = sorted({box.name for image in images for box in image.boxes} - single)
    if not crowds:
        return list(images)
    what = _classes_are(crowds, "with crowds or difficult objects alone")
    notes.append(f"{what} dropped: {_some(crowds)}")
    return [replace(one, boxes=[box for box in one.boxes if box.name in single]) for one in images]


def _as_set(
    labels: Labels,
    images: Sequence[LabelledImage],
    sizes: Sequence[tuple[int, int]],
    boxes: Sequence[NDArray[np.float32]],
    classes: tuple[str, ...],
    mended: int,
    notes: Sequence[str],
) -> DetectionSet:
    number = {name: place for place, name in enumerate(classes)}
    objects = tuple(
        _objects(one, [number[box.name] for box in image.boxes], [box.crowd for box in image.boxes])
        for one, image in zip(boxes, images, strict=True)
    )
    files = [image.file for image in images]

    def read(i: int) -> Tensor:
        file = files[i]
        assert file is not None
        image = read_image(file)
        if tuple(image.shape[1:]) != sizes[i]:
            said, true = f"{sizes[i][1]}x{sizes[i][0]}", f"{image.shape[2]}x{image.shape[1]}"
            raise InputError(f"is {true} pixels, the labels are of {said}", place=file.place)
        return image

    names = tuple(image.name for image in images)
    missing = tuple(image.name for image in labels.images if image.file is None)
    return DetectionSet(
        read, tuple(sizes), objects, classes, names, missing, mended, labels.kind, tuple(notes)
    )


def _objects(boxes: NDArray[np.float32], labels: list[int], crowd: list[bool]) -> ObjectBoxes:
    found = ObjectBoxes(
        torch.from_numpy(boxes), torch.tensor(labels, dtype=torch.long), torch.tensor(crowd, dtype=torch.bool)
    )
    return found.rows((found.boxes[:, 2:] > found.boxes[:, :2]).all(1))


def _present(labels: Labels, split: Split, notes: list[str]) -> list[LabelledImage]:
    """The images that are there and can be read."""
    n = len(labels.images)
    missing = [image.name for image in labels.images if image.file is None]
    if len(missing) > MOST_WRONG * n:
        raise InputError(
            f"{len(missing)} of {n} images are missing, the first is {missing[0]}",
            place=labels.place,
            hint="name their folder with -s data.images=DIR",
        )
    if missing:
        notes.append(f"{len(missing)} of {n} images are missing: {_some(missing)}")
    found = [(image, image.file) for image in labels.images if image.file is not None]
    errors = find_unreadable([file for _, file in found])
    allow_unreadable(list(errors.values()), len(found), labels.place, decides=split == "eval")
    return [image for number, (image, _) in enumerate(found) if number not in errors]


def _of_true_size(
    images: list[LabelledImage], place: str, notes: list[str]
) -> tuple[list[LabelledImage], list[tuple[int, int]]]:
    """The images whose labels give their size or none, and their heights and widths.

    Of sets of more than 20,000 images with sizes, as many are compared before work begins, and all as they are read.
    """
    step = -(-len(images) // MOST_CHECKED)
    kept, sizes, wrong, causes, n_turned = [], [], [], Counter[str](), 0
    for number, image in enumerate(images):
        if image.size is not None and number % step:
            kept.append(image)
            sizes.append(image.size)
            continue
        assert isinstance(image.file, StoredFile)
        stored, upright = read_sizes(image.file)
        n_turned += image.size is None and stored != upright and bool(image.boxes)
        if image.size in (None, upright):
            kept.append(image)
            sizes.append(upright)
            continue
        cause = _why(image.size, stored, upright)
        causes[cause] += 1
        said, true = (f"{size[1]}x{size[0]}" for size in (image.size, upright))
        wrong.append(f"{image.name} is {true}, its labels say {said}: {cause}")
    if n_turned:
        notes.append(
            f"{n_turned} photos are turned by their EXIF data; their boxes are taken as those of the upright photo"
        )
    hint = _HINTS.get(causes.most_common(1)[0][0]) if causes else None
    _refuse_many("images", "have another size than their labels say", wrong, len(images), place, notes, hint)
    return kept, sizes


_TURNED = "labelled as the file stores it, before its EXIF data turn it upright"
_EXCHANGED = "width and height are exchanged"
_OTHER_SCALE = "labelled at another scale"
_OTHER = "another picture, or a cropped one"
_HINTS = {
    _TURNED: "write the photos upright (mogrify -auto-orient), and label them as they are then",
    _EXCHANGED: "exchange width and height in the labels",
    _OTHER_SCALE: "give the pictures that were labelled, or export the labels again",
}


def _why(said: tuple[int, int] | None, stored: tuple[int, int], upright: tuple[int, int]) -> str:
    """The likely cause of a size in labels that is not the picture's."""
    assert said is not None
    if said == stored:
        return _TURNED
    if said == (upright[1], upright[0]):
        return _EXCHANGED
    is_same_shape = abs(said[0] * upright[1] - said[1] * upright[0]) <= max(*said, *upright)
    return _OTHER_SCALE if is_same_shape else _OTHER


def _boxes(
    images: Sequence[LabelledImage],
    sizes: Sequence[tuple[int, int]],
    form: BoxForm,
    place: str,
    notes: list[str],
) -> tuple[list[NDArray[np.float32]], int]:
    """Corners in pixels of every image, clipped to it, and how many were clipped by a pixel or more, or are empty."""
    numbers = [np.array([box.numbers for box in image.boxes], np.float64).reshape(-1, 4) for image in images]
    flat = np.concatenate([np.zeros((0, 4)), *numbers])
    if not len(flat):
        return [one.astype(np.float32) for one in numbers], 0
    counts = [len(one) for one in numbers]
    sides = np.repeat(np.array([(width, height) for height, width in sizes], np.float64), counts, axis=0)
    with np.errstate(over="ignore", invalid="ignore"):  # numbers may be of any size
        notes += check_form(flat, sides, form, place)
        corners = corners_of(flat.astype(np.float32), sides.astype(np.float32), form)
        clipped = np.clip(corners, 0, np.concatenate([sides, sides], 1).astype(np.float32))
        is_empty = (clipped[:, 2:] <= clipped[:, :2]).any(1)
        is_mended = is_empty | (np.abs(clipped - corners) > 1).any(1)
    return np.split(clipped, np.cumsum(counts)[:-1]), int(is_mended.sum())


def _refuse_many(
    things: str,
    what: str,
    wrong: Sequence[str],
    n: int,
    place: str,
    notes: list[str],
    hint: str | None = None,
) -> None:
    """Note what is left out, or refuse more than a tenth of all; one may always be wrong, unless it is the only one."""
    if not wrong:
        return
    text = f"{len(wrong)} of {n} {things} {what}, the first: {wrong[0]}"
    if len(wrong) > max(1, MOST_WRONG * n) or len(wrong) == n:
        raise InputError(text, place=place, hint=hint)
    notes += [f"left out: {one}" for one in wrong[:_MOST_NAMED]]
    if len(wrong) > _MOST_NAMED:
        notes.append(f"left out: {len(wrong) - _MOST_NAMED} more {things} that {what}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
