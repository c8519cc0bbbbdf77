"""Training batches of pairs: which images, in which view, with which of their captions.

A batch is a pure function of (seed, step). A view depends on the image and the number of the view only, so that all
students of a teacher are trained on the same views.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from effcli.core.errors import InputError
from effcli.core.runtime import Runtime
from effcli.data.epochs import draws_of, item_of
from effcli.distill.clip.clip_model import Tokenizer
from effcli.distill.clip.views import Preprocess, crop_box
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.reinforced.reading import box_of

_ORDER_STREAM, _CAPTION_STREAM = 7, 8
_TEXTS_KEPT = 1 << 18


class BatchRows(NamedTuple):
    """Which images, views and captions a step has.

    Attributes:
        images: indices of images ``[B]``.
        views: the view of each, ``[B]``.
        captions: indices of captions in the order of :meth:`CaptionSet.texts`, ``[B]``.
    """

    images: np.ndarray
    views: np.ndarray
    captions: np.ndarray


class PairBatch(NamedTuple):
    """ClipInputs of a step.

    Attributes:
        rows: where they come from.
        images: for the student ``[B, 3, H, W]``; empty where it takes no images.
        tokens: for the student, int64 ``[B, L]``.
        for_teachers: images and tokens for each teacher that runs in every step.
        unreadable: images that cannot be read, for which the next ones stand, and why; one line each.
    """

    rows: BatchRows
    images: Tensor
    tokens: Tensor
    for_teachers: tuple[tuple[Tensor, Tensor], ...] = ()
    unreadable: tuple[str, ...] = ()


class ImageViews:
    """The inputs of networks from one view of an image.

    Args:
        pairs: the images.
        whole: whether there is one view, of the whole image, or crops.
    """

    def __init__(self, pairs: CaptionSet, whole: bool) -> None:
        self.pairs, self.whole = pairs, whole

    def __call__(self, image: int, view: int, preprocesses: tuple[Preprocess, ...]) -> list[Tensor]:
        """The same part of the image for each network.

        Raises:
            InputError: the image cannot be read.
        """
        picture = self.pairs.image(image)
        stored = self.pairs.stored[image] if self.pairs.stored else None
        if self.whole:
            return [one.whole(picture) for one in preprocesses]
        box = crop_box(picture, image, view) if stored is None else box_of(stored, view)
        if box is None:
            return [one.whole(picture) for one in preprocesses]
        return [one.crop(picture, box) for one in preprocesses]


class PairBatches(Dataset[PairBatch]):
    """PairBatch ``step`` of this rank at index ``step``.

    Args:
        pairs: the set.
        n_views: fixed views of each image; 1 is the whole image; None is a new crop each epoch.
        batch_size: pairs a step, over all ranks.
        runtime: seed and ranks.
        student: its preprocessing of images (None: no images) and its tokenizer.
        teachers: the same of those that run in every step; none where their embeddings are cached.
    """

    def __init__(
        self,
        pairs: CaptionSet,
        n_views: int | None,
        batch_size: int,
        runtime: Runtime,
        student: tuple[Preprocess | None, Tokenizer],
        teachers: Sequence[tuple[Preprocess, Tokenizer]] = (),
    ) -> None:
        self._pairs, self._n_views, self._batch_size = pairs, n_views, batch_size
        self._seed, self._rank, self._world = runtime.seed, runtime.rank, runtime.world
        self._texts, self._first = pairs.texts()
        self._view = ImageViews(pairs, whole=n_views == 1)
        self._networks = [student, *teachers]
        self._preprocesses = tuple(dict.fromkeys(one for one, _ in self._networks if one is not None))
        self._tokenizers = [_CachingTokenizer(tokenize) for _, tokenize in self._networks]

    def rows(self, step: int) -> BatchRows:
        """Images, views and captions of step ``step``; of several captions of an image one at random in each epoch."""
        numbers, views, captions = [], [], []
        for draw in draws_of(step, self._batch_size, rank=self._rank, world=self._world):
            epoch, image = item_of(draw, len(self._pairs), _ORDER_STREAM, self._seed)
            numbers.append(image)
            views.append(epoch if self._n_views is None else epoch % self._n_views)
            captions.append(self._caption(epoch, image))
        return BatchRows(*(np.array(one, np.int64) for one in (numbers, views, captions)))

    def _caption(self, epoch: int, image: int) -> int:
        first, end = self._first[image : image + 2]
        draw = np.random.default_rng((_CAPTION_STREAM, self._seed, epoch, image)).integers(end - first)
        return int(first + draw)

    def __getitem__(self, step: int) -> PairBatch:
        """The inputs of a step."""
        rows = self.rows(step)
        prepared, unreadable = self._see(rows) if self._preprocesses else ([], ())
        images = dict(zip(self._preprocesses, map(torch.stack, zip(*prepared, strict=True)), strict=True))
        texts = [self._texts[number] for number in rows.captions]
        tokens = [tokenize(texts) for tokenize in self._tokenizers]
        seen = [torch.empty(0) if one is None else images[one] for one, _ in self._networks]
        for_teachers = tuple(zip(seen[1:], tokens[1:], strict=True))
        return PairBatch(rows, seen[0], tokens[0], for_teachers, unreadable)

    def _see(self, rows: BatchRows) -> tuple[list[list[Tensor]], tuple[str, ...]]:
        """The inputs of all networks by image; in ``rows``, the next image stands for one that cannot be read."""
        prepared, unreadable = [], []
        for place, (image, view) in enumerate(zip(rows.images.tolist(), rows.views.tolist(), strict=True)):
            for number in [*range(image, len(self._pairs)), *range(image)]:
                try:
                    prepared.append(self._view(number, view, self._preprocesses))
                except InputError as error:
                    unreadable.append(str(error))
                    continue
                if number != image:
                    rows.images[place], rows.captions[place] = number, self._first[number]
                break
            else:
                raise InputError(f"no image can be read, the first: {unreadable[0]}")
        return prepared, tuple(unreadable)

    def from_step(self, first: int, total_steps: int, workers: int) -> Iterator[PairBatch]:
        """The batches of the steps from ``first`` on, decoded by ``workers`` processes ahead of time."""
        loader = DataLoader(self, batch_size=None, sampler=range(first, total_steps), num_workers=workers)
        return iter(loader)


class _CachingTokenizer:
    """A tokenizer that keeps the tokens of recent texts."""

    def __init__(self, tokenize: Tokenizer) -> None:
        self._tokenize = tokenize
        self._seen: dict[str, Tensor] = {}

    def __call__(self, texts: list[str]) -> Tensor:
        new = list(dict.fromkeys(text for text in texts if text not in self._seen))
        if new:
            if len(self._seen) > _TEXTS_KEPT:
                self._seen.clear()
                new = list(dict.fromkeys(texts))
            self._seen |= zip(new, self._tokenize(new), strict=True)
        return torch.stack([self._seen[text] for text in texts])
