"""Strips against the whole picture: the same result, under a bound, in memory or on disk."""

from __future__ import annotations

import pytest
import torch

from effcli.core.errors import RunError
from effcli.core.runtime import create_runtime
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.network import strips
from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.strips import Memory, Strips, forward_in_strips
from effcli.enhance.network.walmafa_net import WalMaFa
from effcli.enhance.network.wavelet_mamba_block import WaveletMambaBlock

CPU = torch.device("cpu")


def _network(**options: object) -> WalMaFa:
    torch.manual_seed(0)
    network = WalMaFa(WalMaFaConfig(dim=4, blocks=(1, 2, 1), d_state=4, **options))
    for module in network.modules():  # statistics that are not the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def _psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean() + 1e-20))


@pytest.mark.parametrize("band", ["ll", "high"])
@pytest.mark.parametrize(("rows", "on_disk"), [(16, False), (48, False), (32, True)])
@torch.inference_mode()
def test_strips_give_what_the_whole_picture_gives(band: str, rows: int, on_disk: bool) -> None:
    network = _network(mamba_band=band, head="picture").fuse()
    x = torch.rand(1, 3, 144, 80)
    whole = network(x)
    result = forward_in_strips(network, x, Memory(False, rows, on_disk), CPU)
    assert (result - whole).norm() < 2e-3 * whole.norm()  # random weights amplify rounding


@pytest.mark.parametrize("band", ["ll", "high"])
@pytest.mark.parametrize("wavelet", ["db2", "sym4", "bior2.2"])
@pytest.mark.parametrize("rows", [16, 48, 128])
@torch.inference_mode()
def test_strips_reach_around_the_ends_where_the_wavelet_does(wavelet: str, band: str, rows: int) -> None:
    network = _network(mamba_band=band, head="picture", wavelet=wavelet).fuse()
    x = torch.rand(1, 3, 128, 48)
    whole = network(x)
    result = forward_in_strips(network, x, Memory(False, rows), CPU)
    assert (result - whole).norm() < 2e-3 * whole.norm()
    x[..., -1, :] = 1 - x[..., -1, :]  # the other end of the picture
    assert (network(x) - whole)[..., 0, :].norm() > 1e-2 * whole[..., 0, :].norm()


@pytest.mark.parametrize("wavelet", ["haar", "db2", "sym4", "bior1.3", "rbio3.1", "db7", "db20"])
@pytest.mark.parametrize(("height", "rows"), [(2, 16), (8, 16), (26, 4), (64, 16), (64, 64)])
@torch.inference_mode()
def test_strips_of_blocks_are_exact_for_filters_of_any_length(wavelet: str, height: int, rows: int) -> None:
    torch.manual_seed(0)
    config = WalMaFaConfig(dim=4, wavelet=wavelet, mamba=False)  # the scan is not the wavelet's business
    blocks = torch.nn.Sequential(*(WaveletMambaBlock(4, config) for _ in range(2))).eval().double()
    x = torch.randn(1, 4, height, 10, dtype=torch.float64)
    result = Strips(rows, CPU, None).blocks(blocks, x)
    torch.testing.assert_close(result, blocks(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("rows", "on_disk"), [(16, False), (48, False), (32, True)])
@torch.inference_mode()
def test_strips_of_an_exposure_head_give_what_the_whole_picture_gives(rows: int, on_disk: bool) -> None:
    network = _network(head="exposure").fuse()
    x, log_gain = torch.rand(1, 3, 144, 80), torch.tensor([1.2])
    whole = network(x, log_gain)
    result = forward_in_strips(network, x, Memory(False, rows, on_disk), CPU, log_gain)
    assert (result - whole).norm() < 2e-3 * whole.norm()


def test_the_command_s_bound_switches_to_strips_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    network = _network()
    x = torch.rand(3, 150, 70)
    runtime = create_runtime(device="cpu", precision="fp32")
    whole = Enhancer(network, runtime=runtime).enhance(x)
    monkeypatch.setattr(Memory, "plan", classmethod(lambda cls, *a: Memory(False, 16)))
    assert _psnr(Enhancer(network, runtime=runtime).enhance(x), whole) > 60


def test_the_plan_goes_from_whole_to_strips_to_disk_as_the_bound_falls() -> None:
    config, size = WalMaFaConfig(dim=12), (4000, 6000)
    plans = [Memory.plan(config, size, bound, CPU) for bound in (60_000, 6_000, 3_000)]
    assert [plan.whole_fits for plan in plans] == [True, False, False]
    assert [plan.on_disk for plan in plans] == [False, False, True]
    assert all(plan.strip_rows % 16 == 0 and plan.strip_rows >= 16 for plan in plans[1:])


def test_without_a_bound_strips_are_of_moderate_height(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "free_memory_bytes", lambda device: 200 << 30)
    config = WalMaFaConfig(dim=12)
    assert Memory.plan(config, (400, 608), None, CPU).whole_fits
    plan = Memory.plan(config, (3008, 4016), None, CPU)
    assert not plan.whole_fits and not plan.on_disk
    assert 64 <= plan.strip_rows <= 128
    released = WalMaFaConfig(mamba_band="high", token_order="reshape")
    assert Memory.plan(released, (3008, 4016), None, CPU).whole_fits  # cannot be cut


def test_the_plan_counts_the_halo_of_long_filters() -> None:
    size = (4000, 6000)
    haar, db20 = (
        Memory.plan(WalMaFaConfig(dim=12, wavelet=name), size, 6_000, CPU) for name in ("haar", "db20")
    )
    assert 16 <= db20.strip_rows < haar.strip_rows
    assert Memory.plan(WalMaFaConfig(dim=12), size, 2_500, CPU).strip_rows >= 16
    with pytest.raises(RunError, match="needs at least"):
        Memory.plan(WalMaFaConfig(dim=12, wavelet="db20"), size, 2_500, CPU)


def test_a_bound_below_what_strips_need_is_refused_with_the_figure() -> None:
    with pytest.raises(RunError, match=r"needs at least \d+ MB, and 300 MB") as caught:
        Memory.plan(WalMaFaConfig(dim=12), (4000, 6000), 300, CPU)
    assert caught.value.hint is not None and caught.value.hint.startswith("--max-memory")


def test_released_token_order_cannot_be_cut_and_says_so() -> None:
    with pytest.raises(RunError, match="whole picture"):
        Memory.plan(WalMaFaConfig(mamba_band="high", token_order="reshape"), (4000, 6000), 1000, CPU)
