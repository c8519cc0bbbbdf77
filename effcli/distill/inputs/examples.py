"""Examples of what a teacher denoises, images or latents, with the condition of each.

They come from images with or without classes, from images with captions, or from the teacher itself. A batch is a pure
function of (seed, step), so that a resumed or distributed run sees the same ones as an uninterrupted one of a single
process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from effcli.core.runtime import Runtime
from effcli.data.epochs import draws_of, item_of
from effcli.data.image_sets import ImageSet, mirrored_rows, square, to_range
from effcli.diffusion.autoencoders import Autoencoder
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.denoisers.classes import Condition
from effcli.diffusion.denoisers.prompts import PromptEmbedder
from effcli.distill.clip_kd.captions.caption_set import CaptionSet

_ORDER_STREAM = 6


class Examples(Protocol):
    """What students learn from."""

    def __len__(self) -> int: ...

    def batch(
        self, step: int, batch_size: int, runtime: Runtime, *, seed: int, flip: float = 0.0
    ) -> tuple[Tensor, Condition]:
        """This rank's examples of optimiser step ``step``: ``[B, C, H, W]``, and the condition of each, on its device.

        A share ``flip`` of them, 0..1, is mirrored.
        """


@dataclass(frozen=True)
class ImageExamples:
    """Images; a class-conditional teacher is told their classes.

    Attributes:
        images: of the teacher's size.
        guided: the teacher.
        autoencoder: of a latent teacher.
    """

    images: ImageSet
    guided: Guided
    autoencoder: Autoencoder | None = None

    def __len__(self) -> int:
        return len(self.images)

    def batch(
        self, step: int, batch_size: int, runtime: Runtime, *, seed: int, flip: float = 0.0
    ) -> tuple[Tensor, Condition]:
        """See :class:`Examples`."""
        x, labels = self.images.batch(step, batch_size, runtime, seed=seed, flip=flip)
        given = {"class_labels": labels.to(runtime.device)} if self.guided.has_classes else {}
        return _encoded(x.to(runtime.device), self.autoencoder), self.guided.given_condition(len(x), **given)


@dataclass(frozen=True)
class CaptionedExamples:
    """Images with captions, for a text-conditional teacher; of several captions each epoch takes the next.

    Attributes:
        pairs: images of any size, decoded when their turn comes.
        side: of the squares that the teacher, or its encoder, takes.
        channels: of them.
        guided: the teacher.
        embedder: its text encoders.
        autoencoder: of a latent teacher.
    """

    pairs: CaptionSet
    side: int
    channels: Literal[1, 3]
    guided: Guided
    embedder: PromptEmbedder
    autoencoder: Autoencoder | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(
        self, step: int, batch_size: int, runtime: Runtime, *, seed: int, flip: float = 0.0
    ) -> tuple[Tensor, Condition]:
        """See :class:`Examples`."""
        draws = draws_of(step, batch_size, rank=runtime.rank, world=runtime.world)
        items = [item_of(draw, len(self), _ORDER_STREAM, seed) for draw in draws]
        x = to_range(torch.cat([self._square(row) for _, row in items]))
        x = mirrored_rows(x, step, batch_size, runtime, seed=seed, share=flip)
        texts = [self.pairs.captions[row][epoch % len(self.pairs.captions[row])] for epoch, row in items]
        rows, _ = self.embedder(texts)
        given = {name: value.to(runtime.device) for name, value in rows.items()}
        x = _encoded(x.to(runtime.device), self.autoencoder)
        return x, self.guided.given_condition(len(x), **given)

    def _square(self, row: int) -> Tensor:
        pixels = torch.from_numpy(np.array(self.pairs.image(row))).permute(2, 0, 1)[None]
        return square(pixels, self.side, self.channels)


@dataclass(frozen=True)
class SampledExamples:
    """What the teacher sampled itself, guided as students are to be.

    Attributes:
        x: images or latents ``[N, C, H, W]``, on the CPU.
        condition: of each, with N rows.
    """

    x: Tensor
    condition: Condition

    def __len__(self) -> int:
        return len(self.x)

    def batch(
        self, step: int, batch_size: int, runtime: Runtime, *, seed: int, flip: float = 0.0
    ) -> tuple[Tensor, Condition]:
        """See :class:`Examples`; none is mirrored."""
        draws = draws_of(step, batch_size, rank=runtime.rank, world=runtime.world)
        rows = torch.tensor([item_of(draw, len(self), _ORDER_STREAM, seed)[1] for draw in draws])
        condition = {name: value[rows].to(runtime.device) for name, value in self.condition.items()}
        return self.x[rows].to(runtime.device), condition


def _encoded(images: Tensor, autoencoder: Autoencoder | None) -> Tensor:
    return images if autoencoder is None else autoencoder.encode(images)
