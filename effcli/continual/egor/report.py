"""Pictures for the report: generated objects, scenes they are pasted into, and what is found at the end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from effcli.continual.egor.composition import Composer
from effcli.continual.egor.data.detection_sets import DetectionSet, ScaledImages
from effcli.continual.egor.detectors.detector import Detections, Detector
from effcli.continual.egor.drawing import draw_boxes
from effcli.continual.egor.evaluation import find
from effcli.continual.egor.objects import GeneratedObjects
from effcli.continual.egor.recipe import EgorRecipe
from effcli.continual.egor.training import stack
from effcli.continual.egor.weights import DetectorSpec
from effcli.core.run import Run
from effcli.data.picture_grid import save_grid

N_SCENES, MOST_OBJECTS, GOOD = 12, 100, 0.3
SHOWN_SIDE, OBJECT_SIDE = 240, 128  # small pictures become about as large as this


def draw_objects(objects: GeneratedObjects, run: Run, number: int) -> dict[str, str]:
    """A grid with one column per class, with the old detector's score on each."""
    zoom = max(1, OBJECT_SIDE // objects.pictures.shape[-1])
    shown = []
    for i in range(min(len(objects.pictures), MOST_OBJECTS)):
        box = Detections(objects.boxes[i : i + 1], objects.scores[i : i + 1], objects.labels[i : i + 1])
        shown.append(draw_boxes(objects.pictures[i], box, objects.classes, zoom))
    name = f"objects/objects-{number}.png"
    save_grid(torch.stack(shown), run.file(name), n_columns=min(len(objects.classes), 10), zoom=1, border=3)
    return {f"Generated objects {number}, with the old detector's score in percent": name}


def draw_scenes(
    objects: GeneratedObjects, images: ScaledImages, recipe: EgorRecipe, run: Run, number: int
) -> dict[str, str]:
    """New images with pasted objects in their boxes, as the first epoch sees them."""
    composer = Composer(objects.crops, recipe.composition, recipe.seed)
    scenes, pasted = [], []
    for item in range(min(N_SCENES, len(images))):
        image, found, _ = images[item]
        scene, new = composer(image, found.boxes, item, 0)
        scenes.append(scene)
        pasted.append(Detections(new.boxes, torch.ones(len(new.boxes)), new.labels))
    name = f"objects/scenes-{number}.png"
    _save(scenes, pasted, objects.classes, run, name)
    return {f"Objects pasted into new images {number}": name}


def draw_found(detector: Detector, about: DetectorSpec, images: DetectionSet, run: Run) -> dict[str, str]:
    """What is found in the first images to measure on."""
    some = ScaledImages(images.rows(range(min(N_SCENES, len(images)))), about.longest, about.shortest)
    found = find(detector, some, run.runtime, run=run, threshold=GOOD)
    pictures = [images.read(i) for i in range(len(some))]
    _save(pictures, found, about.classes, run, "pictures/found.png")
    return {"Found in evaluation images, with a score above 30 percent": "pictures/found.png"}


def _save(
    pictures: Sequence[Tensor], found: Sequence[Detections], classes: Sequence[str], run: Run, name: str
) -> None:
    zoom = max(1, SHOWN_SIDE // max(max(p.shape[1:]) for p in pictures))
    drawn = [draw_boxes(picture, one, classes, zoom) for picture, one in zip(pictures, found, strict=True)]
    save_grid(stack(drawn)[0], run.file(name), n_columns=4, zoom=1, border=3)
