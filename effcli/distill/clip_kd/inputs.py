"""What a run of CLIP-KD learns from and is measured on."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from effcli.core.errors import InputError
from effcli.core.registry import find_recipe
from effcli.data.unreadable_pictures import allow_unreadable, find_unreadable
from effcli.distill.clip_kd.captions.caption_set import CaptionSet, hold_out, part_of_set
from effcli.distill.clip_kd.captions.sources import has_split, load_captions
from effcli.distill.clip_kd.recipe import (
    STORED,
    ClipEvalSection,
    ClipKdRecipe,
    ClipPairsSection,
    ClipRecipe,
)

log = logging.getLogger(__name__)

_MOST_NAMED = 5
_STORED_HINT = (
    "`effcli distill reinforce DATA --teacher MODEL` stores them; a teacher in a folder called data is ./data"
)
_SHIPPED = {"clip-kd": "clip-kd", "lit": "twemoji-clip"}
_TUNED = ("epochs", "batch_size", "warmup_steps")


@dataclass(frozen=True)
class ClipInputs:
    """Pairs to learn from, pairs to measure retrieval on, and images with classes for zero-shot, if there are any."""

    train: CaptionSet
    eval: CaptionSet
    zero_shot: CaptionSet | None


def load_inputs(recipe: ClipRecipe) -> ClipInputs:
    """Read everything that a recipe names.

    Raises:
        InputError: something is not there, or too many of the listed images cannot be used.
    """
    settings = recipe.data
    train = load_pairs(settings)
    if uses_stored(recipe):
        if not train.stored:
            raise InputError("holds no teacher's embeddings", place=settings.source, hint=_STORED_HINT)
    else:
        train = replace(train, stored=())
    if recipe.eval.data is not None:
        held = load_eval(recipe.eval.data, settings)
    elif has_split(settings.source, "eval"):
        held = _load(settings, settings.source, "eval", decides=True)
    else:
        train, held = hold_out(train, recipe.eval.hold_out)
    if settings.part is not None:
        train = part_of_set(train, settings.part)
    if len(train) < recipe.train.batch_size:
        raise InputError(
            f"has {len(train)} images, fewer than a batch of {recipe.train.batch_size}",
            place=settings.source,
            hint="choose a smaller batch: -s train.batch_size=N",
        )
    return ClipInputs(train, held, load_zero_shot(recipe.eval, held))


def load_pairs(settings: ClipPairsSection) -> CaptionSet:
    """Pairs to learn from, or to embed; what is left out is said.

    Raises:
        InputError: nothing is there, or too much cannot be used.
    """
    pairs = _load(settings, settings.source, "train")
    check_left_out(pairs, settings)
    return pairs


def uses_stored(recipe: ClipRecipe) -> bool:
    """Whether the teacher's embeddings are those that reinforced data hold."""
    return isinstance(recipe, ClipKdRecipe) and recipe.model == STORED


def load_eval(source: str, settings: ClipPairsSection | None = None) -> CaptionSet:
    """Pairs to measure on: the eval part of a source that has one, else all of it."""
    settings = settings or ClipPairsSection()
    return _load(settings, source, "eval" if has_split(source, "eval") else "train", decides=True)


def load_zero_shot(settings: ClipEvalSection, pairs: CaptionSet) -> CaptionSet | None:
    """The recipe's images with classes, or the pairs' own; None where there are none."""
    if settings.zero_shot is None:
        return pairs if len(pairs.classes) > 1 else None
    found = load_eval(settings.zero_shot)
    if len(found.classes) < 2:
        raise InputError(
            "has fewer than two classes",
            place=settings.zero_shot,
            hint="give a folder with one sub-folder per class",
        )
    return found


def check_left_out(pairs: CaptionSet, settings: ClipPairsSection) -> None:
    """Say what is left out, and stop where it is too much.

    Raises:
        InputError: more than ``most_left_out`` of what is listed cannot be used.
    """
    n_out = len(pairs.left_out)
    if not n_out:
        return
    for line in pairs.left_out[:_MOST_NAMED]:
        log.warning("left out: %s", line)
    if n_out > _MOST_NAMED:
        log.warning("left out: %d more", n_out - _MOST_NAMED)
    listed = len(pairs) + n_out
    if n_out > settings.most_left_out * listed:
        raise InputError(
            f"{n_out} of {listed} are missing, damaged or without a caption, the first: {pairs.left_out[0]}",
            place=settings.source,
            hint="-s data.most_left_out=1 trains on the others",
        )


def say_what_was_tuned(recipe: ClipRecipe, n_images: int) -> None:
    """Where the data are others than the shipped recipe's, say which settings are still those chosen for its own."""
    tuned: Any = find_recipe("distill", _SHIPPED[recipe.method], [])
    if recipe.data.source == tuned.data.source:
        return
    same = [
        f"train.{key} {value:g}"
        for key in _TUNED
        if (value := getattr(recipe.train, key)) == getattr(tuned.train, key)
    ]
    if same:
        log.warning(
            "%s: as tuned for %s; %s has %d images: set them with -s",
            ", ".join(same),
            tuned.data.source,
            recipe.data.source,
            n_images,
        )


class UnreadableImages:
    """Images that turn out to be unreadable while they are read, in sets that are too large to open every file before.

    Args:
        pairs: the set.
        settings: how many may be.
    """

    def __init__(self, pairs: CaptionSet, settings: ClipPairsSection) -> None:
        self._most, self._place = settings.most_left_out * len(pairs), settings.source
        self.lines: dict[str, None] = {}

    def add(self, lines: Iterable[str]) -> None:
        """Count some, each once.

        Raises:
            InputError: they are too many.
        """
        for line in lines:
            if line not in self.lines and len(self.lines) < _MOST_NAMED:
                log.warning("left out: %s", line)
            self.lines[line] = None
        if len(self.lines) > self._most:
            raise InputError(
                f"{len(self.lines)} images cannot be read, the first: {next(iter(self.lines))}",
                place=self._place,
                hint="-s data.most_left_out=1 trains on the others",
            )


def _load(settings: ClipPairsSection, source: str, split: str, *, decides: bool = False) -> CaptionSet:
    """A set without the images that cannot be read; where it decides a result, none may be left out."""
    found = load_captions(
        source,
        "train" if split == "train" else "eval",
        image_column=settings.image_column,
        caption_column=settings.caption_column,
    )
    errors = find_unreadable(found.images)
    if decides or len(errors) == len(found):
        allow_unreadable(list(errors.values()), len(found), source, decides=True)
    kept = found.select([i for i in range(len(found)) if i not in errors]) if errors else found
    return replace(kept, left_out=(*found.left_out, *map(str, errors.values())))
