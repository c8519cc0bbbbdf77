"""What a picture is to become, apart from making it: the two steps of `Brightener`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.runtime import create_runtime
from effcli.enhance import walmafa
from effcli.enhance.brightness import AUTO, Brightness, Target
from effcli.enhance.network import fast_detail
from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.exposure import at_level, level
from effcli.enhance.network.walmafa_net import WalMaFa
from effcli.enhance.recipe import Detail
from effcli.enhance.walmafa import Brightener


def brightener(head: str, brightness: Brightness = AUTO, detail: Detail = "auto") -> Brightener:
    torch.manual_seed(0)
    network = WalMaFa(WalMaFaConfig(dim=4, blocks=(1, 1, 1), d_state=4, head=head)).eval()
    runtime = create_runtime(device="cpu", precision="fp32")
    return Brightener(network, runtime, brightness=brightness, detail=detail)


def dark(seed: int = 0) -> Tensor:
    return torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(seed)) * 0.2


def test_a_network_that_paints_names_no_level() -> None:
    assert brightener("picture").target(dark()) == Target(None, 1.0)


@torch.inference_mode()
def test_the_target_of_a_level_asked_for_is_that_level() -> None:
    assert brightener("exposure", Brightness(0.45)).target(dark()) == Target(0.45, 1.0)


@pytest.mark.parametrize("head", ["picture", "exposure"])
@torch.inference_mode()
def test_rendering_the_own_target_is_what_a_call_does(head: str) -> None:
    brighten = brightener(head)
    assert torch.equal(brighten(dark()), brighten.render(dark(), brighten.target(dark())))


@torch.inference_mode()
def test_another_target_gives_another_level_and_share_0_the_picture() -> None:
    brighten = brightener("exposure")
    levels = [float(level(brighten.render(dark(), Target(wanted), 0.0))) for wanted in (0.3, 0.5)]
    assert levels == pytest.approx([0.3, 0.5], abs=0.01)
    assert torch.equal(brighten.render(dark(), Target(0.5, 0.0)), dark())


def test_a_picture_within_the_tolerance_stays_and_no_gain_exceeds_the_bound() -> None:
    x = dark()
    own = float(level(x))
    assert at_level(x, own * 1.005, tolerance=0.01, most_log_gain=1) is x
    assert float(level(at_level(x, own * 1.3, most_log_gain=1))) == pytest.approx(own * 1.3, rel=0.01)
    assert torch.equal(at_level(x, 0.9, most_log_gain=0.2), at_level(x, 0.95, most_log_gain=0.2))


def test_fast_detail_needs_an_exposure_head() -> None:
    with pytest.raises(InputError, match="have no exposure head"):
        brightener("picture", detail="fast")


@torch.inference_mode()
def test_small_pictures_are_computed_in_full_and_large_ones_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    x, target = dark(), Target(0.4)
    full = brightener("exposure", detail="full").render(x, target)
    assert torch.equal(brightener("exposure", detail="fast").render(x, target), full)
    monkeypatch.setattr(walmafa, "SMALL_PIXELS", 500)
    monkeypatch.setattr(fast_detail, "SMALL_PIXELS", 500)
    fast = brightener("exposure", detail="fast").render(x, target)
    assert fast.shape == full.shape
    assert not torch.equal(fast, full)
    assert torch.equal(brightener("exposure", detail="auto").render(x, target), full)
    monkeypatch.setattr(walmafa, "FAST_FROM_PIXELS", 900)
    assert torch.equal(brightener("exposure", detail="auto").render(x, target), fast)
