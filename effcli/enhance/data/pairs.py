"""Low/normal-light image pairs: loading them, and sampling training patches from them.

A source is a folder or an uncompressed tar (read in place, never extracted) with ``low/`` and ``high/``, with
``train/{low,high}`` and ``eval/{low,high}``, or with a folder per scene (`exposure_stacks.py`), or the generated set
``builtin:scenes``. A pair is two
images of one size and one name (or stem). A training batch is a pure function of (seed, step), so a resumed
or distributed run sees the same patches as an uninterrupted one of a single process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import torch

from effcli.core.errors import InputError, UsageError
from effcli.core.tensor_file import BUILTIN_PREFIX
from effcli.data.epochs import draws_of, item_of
from effcli.data.images import check_picture, read_image
from effcli.data.picture_folders import say_once
from effcli.data.stored_files import SPLITS, Split, StoredFile
from effcli.data.unreadable_pictures import allow_unreadable
from effcli.enhance.data.pair_sources import find_pairs, index_images, is_held_out, top_folders
from effcli.enhance.data.synthetic_lowlight import builtin_scenes

DECODED_BYTES_LIMIT = 2 * 1024**3
BUILTIN_SETS = ("scenes",)
N_AUGMENTATIONS = 9

T = TypeVar("T")

StoredImage: TypeAlias = StoredFile | torch.Tensor
StoredPair: TypeAlias = tuple[StoredImage, StoredImage]

_ORDER_STREAM, _PATCH_STREAM = 1, 2


class UnequalSizesError(InputError):
    """The two images of a pair differ in size: the set is wrong, not one file."""


@dataclass(frozen=True)
class PairSet:
    """Pairs of a low-light and a normal-light image; ``pairs[i]`` is (low, high), uint8 ``[3, H, W]`` each.

    Attributes:
        names: one name per pair, sorted within a source; with several sources prefixed with the stem of the source.
        stored: the decoded images, or the files to decode at each access when the set is too big to hold.
        unmatched: places of images that have no partner and were left out; for the caller to report.
        held_out: names of pairs that are kept from training.
    """

    names: tuple[str, ...]
    stored: tuple[StoredPair, ...]
    unmatched: tuple[str, ...] = ()
    held_out: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return _decoded(self.stored[index])

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return map(_decoded, self.stored)

    def select(self, indices: Sequence[int]) -> PairSet:
        """The pairs at ``indices``, in that order; to limit a set or to hold some of it out."""
        return PairSet(tuple(self.names[i] for i in indices), tuple(self.stored[i] for i in indices))

    def batch(
        self,
        step: int,
        *,
        batch_size: int,
        patch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        gamma_jitter: float = 0.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rank ``rank``'s rows of the training batch of step ``step``.

        The pairs are permuted once an epoch and each step takes the next ``batch_size`` of them. A batch may
        reach over the end of an epoch into the next permutation, so every batch is full and a step has one
        place in the epochs (the released loader instead ends each epoch with a smaller batch). The rows of
        all ranks, joined in rank order, are the batch of a single process.

        Args:
            step: number of the step, from 0.
            batch_size: rows over all ranks; a multiple of ``world``.
            patch: side of the square patches, in pixels.
            seed: seed of the order, crops and augmentation; not negative.
            rank: this process, from 0.
            world: number of processes.
            gamma_jitter: see :func:`sample_patch`.

        Returns:
            low and high, float32 ``[batch_size / world, 3, patch, patch]`` in 0..1.

        Raises:
            UsageError: ``batch_size`` cannot be shared out evenly, or ``gamma_jitter`` is out of range.
            InputError: an image that is decoded on demand turns out to be unreadable.
        """
        draws = draws_of(step, batch_size, rank=rank, world=world)
        samples = [self._sample(draw, patch, seed, gamma_jitter) for draw in draws]
        low, high = zip(*samples, strict=True)
        return torch.stack(low), torch.stack(high)

    def _sample(
        self, draw: int, patch: int, seed: int, gamma_jitter: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The patch of the ``draw``-th sample since the start of training."""
        epoch, index = item_of(draw, len(self), _ORDER_STREAM, seed)
        rng = np.random.default_rng((_PATCH_STREAM, seed, epoch, draw % len(self)))
        low, high = self[index]
        return sample_patch(low, high, patch, rng, gamma_jitter)


def sample_patch(
    low: torch.Tensor, high: torch.Tensor, patch: int, rng: np.random.Generator, gamma_jitter: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """One random crop of both images with the same augmentation, as WalMaFa's released training loader does.

    An image smaller than the patch is continued at its right and bottom by reflection.

    Args:
        low: uint8 ``[3, H, W]``.
        high: uint8 ``[3, H, W]``.
        patch: side of the patch in pixels.
        rng: samples crop, augmentation and gamma.
        gamma_jitter: j in [0, 1): the low image is raised to a power sampled from U(1-j, 1+j), after
            HVI-CIDNet's random gamma; WalMaFa itself has none (0).

    Returns:
        low and high, float32 ``[3, patch, patch]`` in 0..1.

    Raises:
        UsageError: ``gamma_jitter`` is out of range.
    """
    if not 0.0 <= gamma_jitter < 1.0:
        raise UsageError(f"gamma jitter must be in 0..1 (1 excluded), not {gamma_jitter}")
    low, high = (image.float() / 255.0 for image in same_patch(low, high, patch, rng))
    gamma = float(rng.uniform(1.0 - gamma_jitter, 1.0 + gamma_jitter))
    return (low**gamma if gamma_jitter else low), high


def same_patch(
    low: torch.Tensor, high: torch.Tensor, patch: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One random square crop of both images [3, H, W] with the same augmentation; see :func:`sample_patch`."""
    height, width = low.shape[-2:]
    rows = _reflected(int(rng.integers(max(height - patch, 0) + 1)), patch, height)
    columns = _reflected(int(rng.integers(max(width - patch, 0) + 1)), patch, width)
    choice = int(rng.integers(N_AUGMENTATIONS))
    low, high = (augment(image[:, rows][:, :, columns], choice) for image in (low, high))
    return low, high


def augment(image: torch.Tensor, choice: int) -> torch.Tensor:
    """One of the nine augmentations of the released training loader; two of them are the identity.

    Args:
        image: ``[..., H, W]``.
        choice: 1 flips the rows, 2 the columns; 3, 4, 5 rotate by 90, 180, 270 degrees counter-clockwise; 6
            flips the rows and rotates by 90, 7 flips the columns and rotates by 90; 0 and 8 do nothing.

    Returns:
        ``[..., H, W]``, with H and W exchanged by a rotation of 90 or 270 degrees.
    """
    if choice in (1, 6):
        image = image.flip(-2)
    elif choice in (2, 7):
        image = image.flip(-1)
    quarter_turns = {3: 1, 4: 2, 5: 3, 6: 1, 7: 1}.get(choice, 0)
    return torch.rot90(image, quarter_turns, (-2, -1))


def _reflected(start: int, count: int, length: int) -> torch.Tensor:
    """``count`` indices from ``start`` on along an axis of ``length``, reflected at its ends."""
    period = max(2 * (length - 1), 1)
    indices = torch.arange(start, start + count) % period
    return torch.minimum(indices, period - indices)


def load_pairs(
    source: str | Path | Sequence[str | Path],
    split: Split | None,
    *,
    held_out: Collection[str] = (),
    decoded_bytes_limit: int = DECODED_BYTES_LIMIT,
) -> PairSet:
    """Read the pairs of one source, or of several one after the other.

    All images are decoded at once and kept as uint8 if that takes at most ``decoded_bytes_limit``; of a
    bigger set only headers and ends are checked, and each image is decoded when it is used. A few pairs of ``train``
    may be damaged: they are left out and named in the log.

    Args:
        source: a folder, a ``.tar``, ``builtin:scenes``, or a sequence of these.
        split: which half of a source with ``train/`` and ``eval/``. A source with ``low/`` and ``high/`` at
            its top has no halves and is used whole, whatever is asked: see :func:`splits_of`.
        held_out: names of pairs, or of the folders they are in, that are kept from training (see :func:`find_pairs`).
        decoded_bytes_limit: memory that the decoded images may take.

    Returns:
        the pairs, at least one.

    Raises:
        InputError: a missing or empty source, no such split, no match between the names, an unreadable image,
            or a pair of two sizes; the message names the file.
    """
    sources = [str(one) for one in ([source] if isinstance(source, str | Path) else source)]
    if not sources:
        raise InputError("no pairs given", hint="name a folder or a tar with low/ and high/")
    parts = [_read_source(one, split, held_out) for one in sources]
    if split == "train":
        _say_not_held_out(held_out, [name for part in parts for name in part.held_out], sources)
    names = parts[0].names
    if len(parts) > 1:
        stems = [Path(one.removeprefix(BUILTIN_PREFIX)).stem for one in sources]
        names = tuple(
            f"{stem}/{name}" for stem, part in zip(stems, parts, strict=True) for name in part.names
        )
    stored = [pair for part in parts for pair in part.stored]
    place, decides = ", ".join(sources), split != "train"
    sizes, wrong = _each(_decoded_bytes, stored)
    if sum(sizes.values()) <= decoded_bytes_limit:
        decoded, wrong_inside = _each(_decoded, stored, without=wrong)
        kept: dict[int, StoredPair] = dict(decoded)
        wrong |= wrong_inside
    else:
        kept = {number: stored[number] for number in sizes}
    allow_unreadable([wrong[number] for number in sorted(wrong)], len(stored), place, decides=decides)
    unmatched = tuple(place for part in parts for place in part.unmatched)
    return PairSet(tuple(names[number] for number in kept), tuple(kept.values()), unmatched)


def _each(
    of: Callable[[StoredPair], T], pairs: Sequence[StoredPair], without: Collection[int] = ()
) -> tuple[dict[int, T], dict[int, InputError]]:
    """By the numbers of the pairs: what a function says of them, and of which images cannot be read."""
    found: dict[int, T] = {}
    errors: dict[int, InputError] = {}
    for number, pair in enumerate(pairs):
        if number not in without:
            try:
                found[number] = of(pair)
            except UnequalSizesError:
                raise
            except InputError as error:
                errors[number] = error
    return found, errors


def splits_of(source: str | Path) -> tuple[Split, ...]:
    """The halves a source names: ``()`` for one that has ``low/`` and ``high/`` at its top.

    Raises:
        InputError: the source is missing or is not an uncompressed tar.
    """
    if str(source).startswith(BUILTIN_PREFIX):
        return SPLITS
    tops = top_folders(index_images(Path(source)))
    return tuple(split for split in SPLITS if split in tops)


def _read_source(source: str, split: Split | None, held_out: Collection[str]) -> PairSet:
    if source.startswith(BUILTIN_PREFIX):
        return _read_builtin(source, split)
    found = find_pairs(Path(source), split, held_out)
    unmatched = tuple(file.place for file in found.unmatched)
    return PairSet(tuple(found.pairs), tuple(found.pairs.values()), unmatched, found.held_out)


def _say_not_held_out(wanted: Collection[str], found: Sequence[str], sources: Sequence[str]) -> None:
    """Say which names to hold out no source without parts has: a slip there would train on what is measured."""
    if missing := [one for one in wanted if not any(is_held_out(name, [one]) for name in found)]:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        say_once(f"data.held_out: no pairs of these names in {', '.join(sources)}: {some}")


def _read_builtin(source: str, split: Split | None) -> PairSet:
    if source.removeprefix(BUILTIN_PREFIX) not in BUILTIN_SETS:
        known = ", ".join(f"{BUILTIN_PREFIX}{name}" for name in BUILTIN_SETS)
        raise InputError("unknown built-in pairs", place=source, hint=f"available: {known}")
    if split is None:
        raise InputError("has the splits train and eval; name one", place=source)
    scenes = builtin_scenes(split)
    return PairSet(tuple(f"{split}-{i:02d}" for i in range(len(scenes))), tuple(scenes))


def _decoded_bytes(pair: StoredPair) -> int:
    """Decoded size of a pair by its headers; an orientation tag may still exchange the sides of an image."""
    low, high = (
        tuple(one.shape[-2:]) if isinstance(one, torch.Tensor) else check_picture(one) for one in pair
    )
    if sorted(low) != sorted(high):
        raise _unequal_sizes(pair, low, high)
    return 2 * 3 * math.prod(low)


def _decoded(pair: StoredPair) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = (one if isinstance(one, torch.Tensor) else read_image(one) for one in pair)
    if low.shape != high.shape:
        raise _unequal_sizes(pair, tuple(low.shape[-2:]), tuple(high.shape[-2:]))
    return low, high


def _unequal_sizes(pair: StoredPair, low: tuple[int, ...], high: tuple[int, ...]) -> UnequalSizesError:
    message = f"the low-light image is {low[1]}x{low[0]} but its partner in high/ is {high[1]}x{high[0]}"
    return UnequalSizesError(message, place=pair[0].place if isinstance(pair[0], StoredFile) else None)
