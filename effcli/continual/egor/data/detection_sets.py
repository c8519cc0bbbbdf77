"""Images with boxes: COCO annotations as files, in a folder or in a tar, and scenes in the package."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.continual.egor.data.garment_scenes import GARMENT_SCENES, garment_scenes
from effcli.core.errors import InputError
from effcli.data.images import read_image
from effcli.data.picture_folders import by_preference, is_hidden, part_in, part_of
from effcli.data.stored_files import Split, StoredFile, index_tar
from effcli.data.unreadable_pictures import allow_unreadable, find_unreadable

log = logging.getLogger(__name__)

_PARTS: dict[Split, tuple[str, ...]] = {"train": ("train",), "eval": ("eval", "val", "test")}
_MOST_MISSING = 0.1
_KEPT_BYTES = 2 * 1024**3
_HINT = (
    "give COCO annotations (a .json), a folder or an uncompressed tar with annotations/instances_train.json, "
    f"or {GARMENT_SCENES}"
)


@dataclass(frozen=True)
class ObjectBoxes:
    """What is annotated in one image.

    Attributes:
        boxes: left, top, right, bottom in pixels, float32 ``[G, 4]``.
        labels: numbers of the classes, int64 ``[G]``.
        crowd: whether a box stands for many objects, bool ``[G]``.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor

    def rows(self, chosen: Tensor) -> ObjectBoxes:
        """Some of them, by a mask or by numbers."""
        return ObjectBoxes(self.boxes[chosen], self.labels[chosen], self.crowd[chosen])

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class DetectionSet:
    """Images with objects.

    Attributes:
        read: the uint8 RGB image ``[3, H, W]`` of a number.
        sizes: height and width of each image, pixels.
        objects: of each image.
        classes: names; a label is a place here.
        names: of the images, for people.
        left_out: images that were named and are not there.
        mended: boxes that were clipped to their image, or dropped because nothing of them is inside.
    """

    read: Callable[[int], Tensor]
    sizes: tuple[tuple[int, int], ...]
    objects: tuple[ObjectBoxes, ...]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    mended: int = 0

    def __len__(self) -> int:
        return len(self.objects)

    def rows(self, chosen: Sequence[int]) -> DetectionSet:
        """Some of the images."""
        read, numbers = self.read, list(chosen)
        return replace(
            self,
            read=lambda i: read(numbers[i]),
            sizes=tuple(self.sizes[i] for i in numbers),
            objects=tuple(self.objects[i] for i in numbers),
            names=tuple(self.names[i] for i in numbers),
        )

    def of_classes(
        self, classes: Sequence[str], *, without: Collection[str] = (), with_empty: bool = False
    ) -> DetectionSet:
        """The images that show one of some classes, with the objects of these alone.

        Args:
            classes: their labels are their places here; the set need not have them all.
            without: images in which one of these is annotated are left out.
            with_empty: also images that show none of them.
        """
        number = torch.tensor([classes.index(c) if c in classes else -1 for c in self.classes])
        banned = torch.tensor([c in without for c in self.classes])
        kept, objects = [], []
        for i, found in enumerate(self.objects):
            labels = number[found.labels] if len(found) else found.labels
            own = ObjectBoxes(found.boxes, labels, found.crowd).rows(labels >= 0)
            if (with_empty or len(own)) and not (len(found) and bool(banned[found.labels].any())):
                kept.append(i)
                objects.append(own)
        return replace(self.rows(kept), objects=tuple(objects), classes=tuple(classes))

    def counts(self) -> dict[str, int]:
        """How many objects each class has, crowds apart."""
        labels = [found.labels[~found.crowd] for found in self.objects]
        n = torch.bincount(
            torch.cat([*labels, torch.zeros(0, dtype=torch.long)]), minlength=len(self.classes)
        )
        return dict(zip(self.classes, n.tolist(), strict=True))


def hold_out(whole: DetectionSet, share: float, seed: int) -> tuple[DetectionSet, DetectionSet]:
    """Cut a set that has no part to measure on: (train, eval), at least one image each where there are two."""
    order = np.random.default_rng((7, seed)).permutation(len(whole)).tolist()
    n = min(max(1, round(len(whole) * share)), len(whole) - 1)
    return whole.rows(sorted(order[n:])), whole.rows(sorted(order[:n]))


def load_detection(source: str, split: Split, images: str | None = None) -> DetectionSet:
    """Read a set.

    Args:
        source: a COCO ``.json``; a folder or an uncompressed tar with ``annotations/instances_<split>*.json`` and the
            images; or ``builtin:garment-scenes``.
        split: which part; a single ``.json`` is used whole.
        images: folder of the images of a ``.json``; None looks beside it and in the folder above.

    Raises:
        InputError: something is missing, or the annotations cannot be understood. Up to a tenth of the images may be
            missing; they are left out and named in the log.
    """
    if source == GARMENT_SCENES:
        scenes, boxes, classes = garment_scenes(split)
        objects = tuple(
            ObjectBoxes(one, labels, torch.zeros(len(one), dtype=torch.bool)) for one, labels in boxes
        )
        sizes = tuple((scene.shape[1], scene.shape[2]) for scene in scenes)
        return DetectionSet(
            lambda i: scenes[i], sizes, objects, classes, tuple(f"scene-{i}" for i in range(len(scenes)))
        )
    path = Path(source)
    if not path.exists():
        raise InputError("no such file or folder", place=source, hint=_HINT)
    if path.is_dir():
        annotations = _one_of(_annotations_in(path), split, source)
        find = _in_folders([path], annotations)
        return _from_coco(_parsed(annotations.read_bytes(), str(annotations)), find, source, split)
    if path.suffix.lower() == ".json":
        find = _in_folders([Path(images)] if images else [path.parent, path.parent.parent], path)
        return _from_coco(_parsed(path.read_bytes(), source), find, source, split)
    members = {str(file.member).removeprefix("./"): file for file in index_tar(path)}
    names = [
        Path(name)
        for name in sorted(members)
        if Path(name).suffix == ".json" and not any(map(is_hidden, Path(name).parts))
    ]
    annotations = _one_of(names, split, source)
    packed = members[str(annotations)]
    find = _in_members(members, annotations)
    return _from_coco(_parsed(packed.read(), packed.place), find, source, split)


def has_parts(source: str) -> bool:
    """Whether a source has a part of its own to measure on."""
    path = Path(source)
    if source == GARMENT_SCENES:
        return True
    if path.is_dir():
        names = [file.stem for file in _annotations_in(path)]
    elif path.is_file() and path.suffix.lower() != ".json":
        names = [Path(str(file.member)).stem for file in index_tar(path)]
    else:
        return False
    return any(part_in(name) in ("val", "test") or part in name for name in names for part in _PARTS["eval"])


def _annotations_in(folder: Path) -> list[Path]:
    return sorted(file for file in (folder / "annotations").glob("*.json") if not is_hidden(file.name))


def _one_of(files: Sequence[Path], split: Split, source: str) -> Path:
    """The annotations of a part: by a word of their name, then by any piece of it."""
    words = {word: file for file in reversed(files) for word in _words(file.stem) if part_of(word)}
    if preferred := by_preference(words, split):
        return words[preferred[0]]
    for part in _PARTS[split]:
        named = [file for file in files if part in file.stem]
        if named:
            return named[0]
    if len(files) == 1:
        return files[0]
    raise InputError(f"no annotations of a {split} part", place=source, hint=_HINT)


def _words(name: str) -> list[str]:
    return re.findall("[a-z]+", name.lower())


def _parsed(data: bytes, place: str) -> dict[str, Any]:
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON: {error}", place=place) from None
    names = ("images", "annotations", "categories")
    missing = [key for key in names if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"not a COCO file: there is no {missing[0]!r}", place=place)
    found: dict[str, Any] = content
    return found


def _is_of_part(folder: str, annotations: Path) -> bool:
    """Whether a folder's name begins like the part that annotations are of: train2017 for instances_train.json."""
    own = [part for parts in _PARTS.values() for part in parts if part in annotations.stem]
    same = part_in(folder) is not None and part_in(folder) == part_in(annotations.stem)
    return folder == "images" or same or any(folder.startswith(part) for part in own)


def _in_folders(roots: Sequence[Path], annotations: Path) -> Callable[[str], StoredFile | None]:
    """Images may be in a folder, or below it in those called images or like the part; not in another part's."""
    inside = [p for root in roots for p in (root, *sorted(root.glob("*/")), *sorted(root.glob("images/*/")))]
    places = [p for p in inside if p in roots or _is_of_part(p.name, annotations)]

    def find(name: str) -> StoredFile | None:
        files = (place / name for place in places)
        return next((StoredFile(file) for file in files if file.is_file()), None)

    return find


def _in_members(members: Mapping[str, StoredFile], annotations: Path) -> Callable[[str], StoredFile | None]:
    own = {
        str(Path(*Path(name).parts[1:])): file
        for name, file in members.items()
        if _is_of_part(Path(name).parts[0], annotations)
    }
    return lambda name: members.get(name) or own.get(name)


def _from_coco(
    content: dict[str, Any], find: Callable[[str], StoredFile | None], source: str, split: Split
) -> DetectionSet:
    """Categories in the order of their numbers, which may have gaps."""
    try:
        categories = sorted(content["categories"], key=lambda one: int(one["id"]))
        place_of = {int(one["id"]): place for place, one in enumerate(categories)}
        annotated: dict[int, list[dict[str, Any]]] = {int(one["id"]): [] for one in content["images"]}
        for one in content["annotations"]:
            if int(one["category_id"]) not in place_of:
                raise InputError(
                    f"annotation {one.get('id')} is of category {one['category_id']}, which is not listed",
                    place=source,
                )
            if int(one["image_id"]) in annotated:
                annotated[int(one["image_id"])].append(one)
        entries = [(one, str(one["file_name"]), find(str(one["file_name"]))) for one in content["images"]]
        missing = tuple(name for _, name, file in entries if file is None)
        _check_missing(missing, len(entries), source)
        present = _without_unreadable(entries, source, split)
        files = [file for _, _, file in present]
        sizes = tuple(
            (int(one["height"]), int(one["width"])) if "height" in one else _size_of(file)
            for one, _, file in present
        )
        mended, objects = 0, []
        for (one, _, _), size in zip(present, sizes, strict=True):
            found, n = _objects(annotated[int(one["id"])], place_of, size)
            objects.append(found)
            mended += n
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"not a COCO file: {error!r}", place=source, hint=_HINT) from None
    if mended:
        log.warning(
            "%s: %d boxes were empty or extended beyond their image: clipped or left out",
            source,
            mended,
        )
    names = tuple(name for _, name, _ in present)
    classes = tuple(str(one["name"]) for one in categories)
    return DetectionSet(
        lambda i: read_image(files[i]), sizes, tuple(objects), classes, names, missing, mended
    )


def _without_unreadable(
    entries: Sequence[tuple[dict[str, Any], str, StoredFile | None]], source: str, split: Split
) -> list[tuple[dict[str, Any], str, StoredFile]]:
    """The entries whose images can be read; of a part to measure on, all must be."""
    found = [(one, name, file) for one, name, file in entries if file is not None]
    errors = find_unreadable([file for _, _, file in found])
    allow_unreadable(list(errors.values()), len(found), source, decides=split == "eval")
    return [entry for number, entry in enumerate(found) if number not in errors]


def _check_missing(missing: Sequence[str], n: int, source: str) -> None:
    if not n:
        raise InputError("lists no images", place=source)
    if len(missing) > _MOST_MISSING * n:
        raise InputError(
            f"{len(missing)} of {n} images are missing, the first is {missing[0]}",
            place=source,
            hint="name their folder with -s data.images=DIR",
        )
    if missing:
        log.warning("%s: %d images are missing: %s", source, len(missing), ", ".join(missing[:5]))


def _size_of(file: StoredFile) -> tuple[int, int]:
    _, height, width = read_image(file).shape
    return height, width


def _objects(
    annotations: list[dict[str, Any]], place_of: Mapping[int, int], size: tuple[int, int]
) -> tuple[ObjectBoxes, int]:
    """The objects of an image, clipped to it, and how many of them were clipped by a pixel or more, or dropped."""
    xywh = np.array([one["bbox"] for one in annotations], np.float32).reshape(-1, 4)
    boxes = torch.from_numpy(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1))
    labels = torch.tensor([place_of[int(one["category_id"])] for one in annotations], dtype=torch.long)
    crowd = torch.tensor([bool(one.get("iscrowd", 0)) for one in annotations], dtype=torch.bool)
    height, width = size
    clipped = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
    is_there = ((clipped[:, 2:] - clipped[:, :2]) > 0).all(1) & boxes.isfinite().all(1)
    is_mended = ~is_there | ((clipped - boxes).abs() > 1).any(1)
    return ObjectBoxes(clipped, labels, crowd).rows(is_there), int(is_mended.sum())


def single_image(image: Tensor, longest: int | None, shortest: int | None) -> ScaledImages:
    """One uint8 image ``[3, H, W]`` without objects, as a set."""
    nothing = ObjectBoxes(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool)
    )
    size = (image.shape[1], image.shape[2])
    return ScaledImages(DetectionSet(lambda _: image, (size,), (nothing,), (), ("",)), longest, shortest)


class ScaledImages:
    """The images of a set as large as a detector sees them; those that fit into 2 GiB stay in memory.

    Args:
        images: the set.
        longest: most pixels of the longer side; None for any.
        shortest: most pixels of the shorter side; None for any. With both, the smaller scale counts.
    """

    def __init__(self, images: DetectionSet, longest: int | None, shortest: int | None) -> None:
        self.set = images
        self._longest, self._shortest = longest, shortest
        self._kept: dict[int, Tensor] = {}
        self._n_bytes = 0

    def __len__(self) -> int:
        return len(self.set)

    def with_objects(self, objects: Sequence[ObjectBoxes]) -> ScaledImages:
        """The same images with other objects."""
        return ScaledImages(replace(self.set, objects=tuple(objects)), self._longest, self._shortest)

    def __getitem__(self, i: int) -> tuple[Tensor, ObjectBoxes, float]:
        """uint8 ``[3, H, W]``, its objects in these pixels, and how many of these pixels one of the file has."""
        scale = self.scale(i)
        found = self.set.objects[i]
        image = self._kept.get(i)
        if image is None:
            image = resized(self.set.read(i), scale)
            if self._n_bytes + image.numel() <= _KEPT_BYTES:
                self._kept[i] = image
                self._n_bytes += image.numel()
        return image, replace(found, boxes=found.boxes * scale), scale

    def scale(self, i: int) -> float:
        """How many pixels one of the file's becomes."""
        size = self.set.sizes[i]
        limits = ((self._longest, max(size)), (self._shortest, min(size)))
        return min([limit / side for limit, side in limits if limit is not None], default=1.0)


def resized(image: Tensor, scale: float) -> Tensor:
    """uint8 ``[3, H, W]``, antialiased, at least a pixel a side."""
    height, width = (max(1, round(side * scale)) for side in image.shape[1:])
    if (height, width) == tuple(image.shape[1:]):
        return image
    small = F.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True)
    return small[0].round_().clamp_(0, 255).to(torch.uint8)
