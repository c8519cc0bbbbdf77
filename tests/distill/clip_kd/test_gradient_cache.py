"""The gradient of a batch that passes in parts is that of the whole batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effcli.distill.clip_kd.batches import BatchRows, PairBatch
from effcli.distill.clip_kd.losses import ClipKdLoss, Embeddings, siglip_loss
from effcli.distill.clip_kd.pipeline import embed_batch
from effcli.distill.clip_kd.recipe import ClipLossSection
from effcli.distill.clip_kd.training import Towers
from tests.distill.clip.tiny_clips import STUDENT, tiny_clip
from tests.distill.clip_kd.small_run import CPU

pytestmark = pytest.mark.usefixtures("one_thread")
N, D = 12, 24


def a_batch() -> PairBatch:
    torch.manual_seed(0)
    rows = BatchRows(*(torch.arange(N).numpy(),) * 3)
    return PairBatch(rows, torch.randn(N, 3, 16, 16), torch.randint(1, 400, (N, 8)))


def teacher() -> Embeddings:
    unit = nn.functional.normalize
    return Embeddings(unit(torch.randn(N, D), dim=1), unit(torch.randn(N, D), dim=1), torch.tensor(50.0))


def gradients(
    network: nn.Module, loss: ClipKdLoss, n_parts: int | None, ratio: float | None
) -> dict[str, Tensor]:
    network, loss = copy.deepcopy(network), copy.deepcopy(loss)
    batch, theirs = a_batch(), teacher()
    embedded, masked, pass_on = embed_batch(Towers(network, ratio), batch, n_parts, CPU)
    loss.total(loss(embedded, theirs, masked)).backward()
    pass_on()
    named = [*network.named_parameters(), *loss.named_parameters()]
    return {name: p.grad for name, p in named if p.grad is not None}


@pytest.mark.parametrize("n_parts", [1, 5, 6])
@pytest.mark.parametrize("contrast", ["softmax", "sigmoid"])
def test_all_losses_in_parts(tmp_path: Path, n_parts: int, contrast: str) -> None:
    config = STUDENT | ({"init_logit_bias": -10.0} if contrast == "sigmoid" else {})
    network = tiny_clip(tmp_path, config).network.train()
    weights: dict[str, Any] = {"fd": 4.0, "gd": 0.5, "icl": 1.0, "afd": 1.0, "cross": 0.5, "mfd": 2.0}
    loss = ClipKdLoss(ClipLossSection(contrast=contrast, **weights), 16, D)
    whole = gradients(network, loss, None, 0.0)
    parts = gradients(network, loss, n_parts, 0.0)
    assert whole.keys() == parts.keys()
    assert ("logit_bias" in whole) == (contrast == "sigmoid")
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_random_masks_are_the_same_in_both_passes(tmp_path: Path) -> None:
    network = tiny_clip(tmp_path, STUDENT).network.train()
    seen: list[Tensor] = []
    towers = Towers(network, 0.5)
    kept = towers.forward

    def forward(images: Tensor, tokens: Tensor) -> Any:
        found = kept(images, tokens)
        assert found[1] is not None
        seen.append(found[1].detach())
        return found

    towers.forward = forward  # type: ignore[method-assign]
    embedded, masked, pass_on = embed_batch(towers, a_batch(), 5, CPU)
    assert masked is not None
    (embedded.images.sum() + masked.sum()).backward()
    pass_on()
    assert len(seen) == 6 and all(torch.equal(seen[i], seen[i + 3]) for i in range(3))


def test_statistics_of_batchnorm_change_once() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, images: Tensor, tokens: Tensor) -> tuple[Embeddings, None]:
            return Embeddings(self.norm(images), tokens.float(), self.norm.weight.sum()), None

    towers = Small()
    batch = PairBatch(a_batch().rows, torch.randn(N, 3), torch.ones(N, 3))
    embedded, _, pass_on = embed_batch(towers, batch, 6, CPU)
    assert towers.norm.num_batches_tracked == 0
    embedded.images.sum().backward()
    pass_on()
    assert towers.norm.num_batches_tracked == 2


def test_siglips_loss_is_open_clips() -> None:
    from open_clip.loss import SigLipLoss

    unit = nn.functional.normalize
    torch.manual_seed(0)
    v, s = unit(torch.randn(N, D), dim=1), unit(torch.randn(N, D), dim=1)
    scale, bias = torch.tensor(10.0), torch.tensor(-9.0)
    theirs = SigLipLoss()(v, s, scale, bias)
    torch.testing.assert_close(siglip_loss(v, s, scale, bias), theirs)
