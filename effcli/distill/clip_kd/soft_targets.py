"""How much the teacher's softmax over a batch says beyond which text belongs to which image."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from effcli.core.run import Run
from effcli.distill.clip_kd.losses import Embeddings, soft_target_entropy
from effcli.distill.clip_kd.recipe import ClipLossSection
from effcli.nn.gathering import gather_rows

log = logging.getLogger(__name__)

LEAST_SHARE = 0.1
"""Below this share of ln N, the targets are warned of: CRD then teaches little that the labels do not."""


class SoftTargets:
    """The entropy of CRD's targets over a training.

    Args:
        settings: whether any loss has such targets.
        run: says it once.
    """

    def __init__(self, settings: ClipLossSection, run: Run) -> None:
        self._is_used = bool(settings.crd or settings.cross)
        self._run, self._sum, self._n = run, 0.0, 0
        self._most = 0.0

    def measure(self, teachers: Sequence[Embeddings]) -> dict[str, float]:
        """The mean entropy in nats of the targets of a batch, of all its rows on all ranks, to be logged."""
        if not self._is_used or not teachers:
            return {}
        gathered = [(gather_rows(one.images), gather_rows(one.texts), one.scale) for one in teachers]
        entropies = [float(soft_target_entropy(v.float(), s.float(), a.float())) for v, s, a in gathered]
        entropy = sum(entropies) / len(entropies)
        self._most = math.log(len(gathered[0][0]))
        if not self._n:
            self._say(entropy)
        self._sum, self._n = self._sum + entropy, self._n + 1
        return {"target_entropy": entropy}

    def metrics(self) -> dict[str, float]:
        """The mean over all measured batches, and its share of ln N, the most that it can be."""
        if not self._n:
            return {}
        mean = self._sum / self._n
        return {"target_entropy": mean, "target_entropy_share": mean / self._most}

    def _say(self, entropy: float) -> None:
        text = f"soft targets: entropy {entropy:.2f} of at most {self._most:.2f} nats"
        if entropy >= LEAST_SHARE * self._most:
            self._run.say(text)
        elif self._run.runtime.is_main:
            log.warning(
                "%s, %.0f %%: the teacher knows these pairs so well that crd teaches little beyond the labels; "
                "a teacher that was not trained on them, or a larger batch, teaches more",
                text,
                100 * entropy / self._most,
            )
