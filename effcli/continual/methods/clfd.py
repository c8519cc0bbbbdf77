"""CLFD (Liu et al., Continual Learning in the Frequency Domain, NeurIPS 2024): a learner that sees wavelet features.

It stands around ER, DER++, ER-ACE and CLS-ER, which do not know of it. Two parts, each of which can be left out:

* FFE (docs/methods/clfd.md, Frequency encoder (FFE)): images become three maps of half the side before the network and
  in the buffer.
* CFFS (docs/methods/clfd.md, Feature selection (CFFS)): each class uses its own units of the features. For new images
  units are dropped at random, by ``P``; of what remains the k largest count for the class in ``F``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.continual.augmentation import random_crop_flip
from effcli.continual.class_splits import ClassTask
from effcli.continual.learner import EVAL_BATCH, Classifier, Learner
from effcli.continual.methods.buffer import Reservoir
from effcli.continual.methods.frequency_encoder import FrequencyEncoder, bands, top_units
from effcli.continual.recipe import ImageAugmentSection
from effcli.continual.recipes.rehearsal import FrequencySection

FIRST_TASK_UNITS = 1.1
"""In the first task this many times the kept share of the units is open to all its classes (released code)."""


class FrequencySelection(nn.Module):
    """CFFS: which units of the features each class uses.

    Args:
        n_classes: C.
        dim: N.
        settings: the share of kept units and the two dropouts.

    Attributes:
        counts: F, how often each unit was kept for each class, ``[C, N]``.
        keep: P, with which probability a unit is open to a class, ``[C, N]``.
    """

    counts: Tensor
    keep: Tensor

    def __init__(self, n_classes: int, dim: int, settings: FrequencySection) -> None:
        super().__init__()
        self.settings = settings
        self.n_kept = floor(settings.kept * dim)
        self.register_buffer("counts", torch.zeros(n_classes, dim))
        self.register_buffer("keep", torch.ones(n_classes, dim))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features ``[B, N]`` with all but the k largest set to 0; of new images (``labels``) counted."""
        z = z.float()  # in bf16 too many are equal
        if labels is not None:
            open_units = torch.rand(z.shape[1], device=z.device) < self.keep[labels]  # one draw for the batch
            z = z * open_units
        kept = top_units(z, self.n_kept)
        if labels is not None:
            self.counts.index_add_(0, labels, kept.to(self.counts.dtype))
        return z * kept

    def open_for(self, task: ClassTask) -> None:
        """Before a task: the first classes share a fixed part of the units, later ones get each with the same odds."""
        rows = slice(task.first_class, task.end_class)
        if task.number == 0:
            n_open = floor(self.keep.shape[1] * FIRST_TASK_UNITS * self.settings.kept)
            self.keep[rows] = (torch.arange(self.keep.shape[1], device=self.keep.device) < n_open).float()
        else:
            self.keep[rows] = self.settings.kept

    def frequency_dropout(self, new: Sequence[int], similarity: Tensor) -> None:
        """Equation 4: new classes get the units of dissimilar old ones rarely, those of similar ones often.

        Args:
            new: the classes.
            similarity: S, of each of them (rows) with each class before, ``[len(new), K]``.
        """
        weight = self.settings.similarity_weight
        average = similarity.mean(1)
        most, least = similarity.argmax(1), similarity.argmin(1)
        s_plus, s_minus = similarity.amax(1), similarity.amin(1)
        if self.settings.alphas == "shifted":
            average, s_plus, s_minus = average + 1, s_plus + 1, s_minus + 1
        a_minus, a_plus = average / s_minus, s_plus / average
        used = self.used_share()
        dissimilar = torch.exp(-used[least] * a_minus[:, None])
        similar = 1 - torch.exp(-used[most] * a_plus[:, None])
        self.keep[list(new)] = weight * dissimilar + (1 - weight) * similar

    def semantic_dropout(self) -> None:
        """Equation 5: every class keeps the units that it uses."""
        self.keep.copy_(1 - torch.exp(-self.used_share() * self.settings.concentration))

    def used_share(self) -> Tensor:
        """F over the largest count of its class, ``[C, N]`` in 0..1."""
        return self.counts / self.counts.amax(1, keepdim=True).clamp_min(1)

    def grow(self, n_new: int) -> None:
        """Rows for ``n_new`` more classes."""
        self.counts = F.pad(self.counts, (0, 0, 0, n_new))
        self.keep = F.pad(self.keep, (0, 0, 0, n_new), value=1.0)


class FrequencyLearner(Learner):
    """A learner in the frequency domain.

    Args:
        classifier: the network; with FFE it takes 3 maps of half the side.
        mean, std: of each channel of the images.
        augment: what happens to training images; with FFE crops move by even numbers of pixels.
        settings: the two parts and their numbers.
        buffer: of the method; emptied when the encoder is frozen.
    """

    encoder_is_frozen: Tensor
    low_bands: Tensor

    def __init__(
        self,
        classifier: Classifier,
        mean: Sequence[float],
        std: Sequence[float],
        augment: ImageAugmentSection,
        settings: FrequencySection,
        buffer: Reservoir,
    ) -> None:
        super().__init__(classifier, mean, std, augment)
        self.settings = settings
        self.buffer = buffer
        self.encoder = FrequencyEncoder(len(mean), settings.wavelet) if settings.encode else None
        n_classes, dim = classifier.head.out_features, classifier.backbone.dim
        self.selection = FrequencySelection(n_classes, dim, settings) if settings.select else None
        self.register_buffer("encoder_is_frozen", torch.tensor(False))
        self.register_buffer("low_bands", torch.zeros(n_classes, 0))

    # --- how images are seen --------------------------------------------------------------------------

    def see(self, images: Tensor) -> Tensor:
        """New images as maps of features."""
        return self._encoded(super().see(images))

    def augmented(self, images: Tensor) -> Tensor:
        """As pixels, but whole 2x2 cells are moved."""
        if self.encoder is None:
            return super().augmented(images)
        return random_crop_flip(images, self.augment.pad, flip=self.augment.flip, step=2)

    def keep(self, images: Tensor) -> Tensor:
        """Their features, not augmented."""
        return images if self.encoder is None else self.recognise(images)

    def recall(self, items: Tensor) -> Tensor:
        """Kept features; once the encoder is frozen they are cropped and mirrored themselves."""
        if self.encoder is None:
            return super().recall(items)
        if not self.is_frozen:
            return items
        return random_crop_flip(
            items, self.augment.pad // 2, flip=self.augment.flip, fill=self.features_of_black()
        )

    def recognise(self, images: Tensor) -> Tensor:
        """Images as maps of features."""
        return self._encoded(super().recognise(images))

    @torch.no_grad()
    def features_of_black(self) -> Tensor:
        """What the encoder makes of a black image, ``[3]``: what comes in at the border of a crop."""
        black = torch.zeros(1, len(self.mean), 2, 2, device=self.mean.device)
        return self.recognise(black)[0, :, 0, 0]

    @property
    def is_frozen(self) -> bool:
        """Whether the encoder has learned what it will learn."""
        return self.encoder is not None and not self.encoder.low.weight.requires_grad

    def _encoded(self, x: Tensor) -> Tensor:
        if self.encoder is None:
            return x
        with torch.autocast(x.device.type, enabled=False):  # a few weights, and what the buffer keeps
            maps: Tensor = self.encoder(x)
        return maps

    # --- how they are classified ----------------------------------------------------------------------

    def classify(self, x: Tensor, labels: Tensor | None = None, network: Classifier | None = None) -> Tensor:
        """Logits from the units that each class uses."""
        network = network or self.classifier
        if self.selection is None:
            return super().classify(x, network=network)
        features: Tensor = self.selection(network.backbone(x), labels)
        out: Tensor = network.head(features)
        return out

    # --- the course of the training -------------------------------------------------------------------

    def begin_task(self, task: ClassTask, n_epochs: int) -> None:
        """Compare the new classes with the old by their low bands, and open the units."""
        if self.selection is not None:
            self.low_bands = self._with_low_bands(task)
            self.selection.open_for(task)

    def begin_epoch(self, task: ClassTask, epoch: int, n_epochs: int) -> None:
        """Before the last epoch of the first task the encoder is frozen and the buffer is filled anew.

        With one epoch there is nothing to freeze before it: then it happens after it, in one more pass over the images.
        """
        if task.number == 0 and epoch == n_epochs > 1 and self.encoder is not None:
            self._freeze()

    def end_epoch(self, task: ClassTask, epoch: int, n_epochs: int) -> None:
        """Frequency dropout after the first epoch of a later task, semantic dropout after the later epochs."""
        if self.selection is not None:
            if epoch == 1 and task.number > 0 and task.classes:
                new = range(task.first_class, task.end_class)
                self.selection.frequency_dropout(new, similarity(self.low_bands, new))
            elif epoch > self.settings.semantic_from * n_epochs:
                self.selection.semantic_dropout()
        if task.number == 0 and epoch == n_epochs and self.encoder is not None:
            if n_epochs == 1:
                self._refill(task)
            # later images are admitted with the odds of a buffer that saw every epoch
            self.buffer.n_seen = len(task.train) * n_epochs

    @torch.no_grad()
    def _refill(self, task: ClassTask) -> None:
        """Freeze the encoder, and offer all images of the task to the empty buffer."""
        with_logits = self.buffer.has_logits
        self._freeze()
        for rows in torch.randperm(len(task.train)).split(EVAL_BATCH):
            images, labels = (x[rows].to(self.mean.device) for x in (task.train.images, task.train.labels))
            features = self.keep(images)
            self.buffer.offer(features, labels, self.classify(features) if with_logits else None)

    def _freeze(self) -> None:
        assert self.encoder is not None
        self.encoder.requires_grad_(False)
        self.encoder_is_frozen.fill_(True)
        self.buffer.clear()

    @torch.no_grad()
    def _with_low_bands(self, task: ClassTask) -> Tensor:
        """f_c: the sum of the LL bands of each class's images, not augmented, ``[C, channels H/2 W/2]``."""
        sums = self.low_bands
        for images, labels in zip(
            task.train.images.split(EVAL_BATCH), task.train.labels.split(EVAL_BATCH), strict=True
        ):
            ll = bands(self.normalised(images.to(self.mean.device)), self.settings.wavelet)[0].flatten(1)
            if not sums.shape[1]:
                sums = ll.new_zeros(len(sums), ll.shape[1])
            sums = sums.index_add(0, labels.to(sums.device), ll)
        return sums

    def grow(self, n_new: int) -> None:
        """Rows for the new classes in everything that has one a class."""
        super().grow(n_new)
        self.low_bands = F.pad(self.low_bands, (0, 0, 0, n_new))
        if self.selection is not None:
            self.selection.grow(n_new)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take the bands' shape from the checkpoint, and freeze the encoder again where it was frozen."""
        self.low_bands = torch.empty_like(state_dict[f"{prefix}low_bands"], device=self.mean.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if self.encoder is not None:
            self.encoder.requires_grad_(not bool(self.encoder_is_frozen))


def similarity(low_bands: Tensor, new: range) -> Tensor:
    """S (equation 2): cosines of the new classes' low bands with those of the classes before, ``[new, K]``."""
    unit = F.normalize(low_bands, dim=1)
    return unit[list(new)] @ unit[: new.start].T
