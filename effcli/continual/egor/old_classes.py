"""What forgetting is measured on where the new data show no old classes."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from effcli.continual.egor.data.class_groups import ClassGroups, OldImages, load_parts
from effcli.continual.egor.data.detection_sets import DetectionSet, ObjectBoxes, ScaledImages
from effcli.continual.egor.data.sources import load_detection
from effcli.continual.egor.detectors.detector import Detector
from effcli.continual.egor.objects import generate_objects
from effcli.continual.egor.recipe import InversionSection
from effcli.continual.egor.weights import DetectorSpec
from effcli.core.errors import EffcliError, InputError
from effcli.core.registry import recipe_of_run
from effcli.core.run import Run

log = logging.getLogger(__name__)

PER_CLASS = 2
"""Objects of each old class that are synthesised to measure on; nothing is learned from these."""


def with_old_images(
    groups: ClassGroups, old_data: str | None, detector: str | None, known: Sequence[str]
) -> ClassGroups:
    """The groups, and images of old classes that their own images to measure on do not show.

    Args:
        groups: of the new data.
        old_data: images with boxes of old classes; None for those that the detector's own runs held out.
        detector: run or file of the old detector; None for none.
        known: its classes.

    Raises:
        InputError: ``old_data`` cannot be read, or shows no old class.
    """
    missing = [name for name in known if not groups.eval.counts().get(name)]
    if not missing or detector is None:
        return groups
    if old_data is not None:
        found = _covering(load_detection(old_data, "eval"), missing, old_data)
        if found is None:
            what = f"shows none of the old classes that are to be measured: {', '.join(missing[:5])}"
            raise InputError(what, place=old_data)
        return replace(groups, old=(found,))
    made: list[OldImages] = []
    for run, images in _held_out(detector):
        one = _covering(images, missing, f"the images that {run} held out")
        if one is not None:
            made.append(one)
            missing = [name for name in missing if name not in one.classes]
    return replace(groups, old=tuple(made))


def _held_out(place: str) -> Iterator[tuple[str, DetectionSet]]:
    """The images to measure on of a run, then of the run that its detector came from, and so on."""
    seen: set[Path] = set()
    while (Path(place) / "recipe.yaml").is_file() and Path(place).resolve() not in seen:
        seen.add(Path(place).resolve())
        try:
            recipe: Any = recipe_of_run("continual", place)
            yield place, load_parts(recipe)[1]
        except EffcliError as error:
            log.warning("the images that %s was measured on cannot be read again: %s", place, error.message)
            return
        place = getattr(recipe, "detector", None) or ""
        if not place:
            return


def _covering(images: DetectionSet, wanted: Collection[str], source: str) -> OldImages | None:
    classes = tuple(name for name, n in images.counts().items() if n and name in wanted)
    return OldImages(images, classes, source) if classes else None


def can_be_measured(groups: ClassGroups, known: Sequence[str]) -> bool:
    """Whether there is an image with a box of any old class."""
    return bool(groups.old) or any(groups.eval.counts().get(name) for name in known)


def with_synthesised(
    groups: ClassGroups, detector: Detector, about: DetectorSpec, settings: InversionSection, run: Run
) -> ClassGroups:
    """The groups, and objects that the old detector is sure of, synthesised by inverting it.

    They are others than those that are pasted.
    """
    few = settings.model_copy(update={"per_class": min(PER_CLASS, settings.per_class), "source": None})
    shown = ScaledImages(groups.groups[0].train, about.longest, about.shortest)
    made = generate_objects(detector, about, few, run, 0, shown)
    pictures, boxes, labels = made.pictures[made.kept], made.boxes[made.kept], made.labels[made.kept]
    side = pictures.shape[-1]
    objects = tuple(
        ObjectBoxes(box[None], label[None], torch.zeros(1, dtype=torch.bool))
        for box, label in zip(boxes, labels, strict=True)
    )
    names = tuple(f"object-{i}" for i in range(len(pictures)))
    images = DetectionSet(
        lambda i: pictures[i], ((side, side),) * len(pictures), objects, about.classes, names
    )
    old = OldImages(images, about.classes, "objects synthesised from the old detector")
    return replace(groups, old=(old,))


def describe(groups: ClassGroups, known: Sequence[str]) -> list[dict[str, Any]]:
    """What old classes are measured on: ``source``, ``images`` and ``classes`` (how many) of each."""
    own = sum(bool(groups.eval.counts().get(name)) for name in known)
    made = [{"source": "the data", "images": len(groups.eval), "classes": own}] if own else []
    return [
        *made,
        *(
            {"source": one.source, "images": len(one.images), "classes": len(one.classes)}
            for one in groups.old
        ),
    ]


def say_what_is_measured(groups: ClassGroups, known: Sequence[str], run: Run) -> None:
    """A line for the terminal where it is not the new data alone."""
    found = describe(groups, known)
    if not groups.old:
        return
    parts = ", ".join(f"{one['classes']} on {one['source']} ({one['images']} images)" for one in found)
    n = sum(one["classes"] for one in found)
    left = f"; {len(known) - n} of {len(known)} cannot be measured" if n < len(known) else ""
    run.say(f"old classes are measured on: {parts}{left}")
