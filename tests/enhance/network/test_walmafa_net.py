"""WalMaFa: sizes, shapes, the wiring of a block, the fused form, gradients, cost."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from effcli.enhance.enhancer import Enhancer
from effcli.enhance.losses import walmafa_loss
from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.feed_forward import FusedGatedFeedForward, GatedFeedForward
from effcli.enhance.network.illumination import IlluminationEstimator
from effcli.enhance.network.walmafa_net import WalMaFa, add_border, pad_to_multiple
from effcli.enhance.network.wavelet_mamba_block import (
    HALO_AFTER_SCAN_ROWS,
    HALO_BEFORE_SCAN_ROWS,
    PixelNorm,
    WaveletMamba,
    WaveletMambaBlock,
)
from effcli.nn.wavelet import dwt, iwt

BANDS_AND_ORDERS = [("ll", "transpose"), ("ll", "reshape"), ("high", "transpose"), ("high", "reshape")]

# width: (WMB, Mamba in use, unused second Mamba, convb, smooth, FFN, estimator, of which unused, blocks)
RELEASED_COUNTS = {
    16: (41_894, 4_896, 22_032, 9_264, 2_320, 2_310, 976, 272, 2),
    32: (128_227, 12_992, 58_464, 36_960, 9_248, 7_395, 2_976, 1_056, 4),
    64: (433_990, 38_784, 174_528, 147_648, 36_928, 25_670, 10_048, 4_160, 6),
    128: (1_578_124, 128_768, 579_456, 590_208, 147_584, 94_860, 36_480, 16_512, 4),
}


def small(**changes: object) -> WalMaFaConfig:
    return WalMaFaConfig.model_validate(
        {"dim": 4, "blocks": (1, 1, 1), "d_state": 4, "head": "picture", **changes}
    )


def with_random_statistics(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network.eval()


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize("channels", RELEASED_COUNTS)
def test_parameters_of_a_block(channels):
    whole, mamba, second_mamba, convb, smooth, ffn, estimator, unused, _ = RELEASED_COUNTS[channels]
    block = WaveletMambaBlock(channels, WalMaFaConfig())
    scan = block.wavelet_mamba
    assert scan.mamba is not None and count(scan.mamba) == mamba
    assert count(scan.widen, scan.narrow) == convb
    assert count(scan.smooth) == smooth
    assert count(block.ffn) == ffn
    assert count(block.estimator) == estimator - unused
    assert count(block) == whole - second_mamba - unused


def test_parameters_of_the_published_network():
    network = WalMaFa(WalMaFaConfig(head="picture"))
    assert count(network) == 7_888_207
    unused_in_blocks = sum((row[2] + row[7]) * row[8] for row in RELEASED_COUNTS.values())
    coefficient, skip_2_1, patch_embed_mask = 4 * 2 * 128, 32 * 32, 1 * 16 * 9
    assert count(network) + unused_in_blocks + coefficient + skip_2_1 + patch_embed_mask == 11_629_087
    assert sum(buffer.numel() for buffer in network.buffers()) == 11_248


def test_ablations_remove_their_module():
    full = count(WalMaFa(small()))
    assert full - count(WalMaFa(small(fourier=False))) == count(WalMaFa(small()).fourier)
    without = WalMaFa(small(mamba=False))
    assert not any("mamba.mamba" in name for name, _ in without.named_parameters())
    assert count(without) < full


@pytest.mark.parametrize(("band", "order"), BANDS_AND_ORDERS)
@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
def test_output_has_the_shape_of_the_input(band, order, size):
    network = WalMaFa(small(mamba_band=band, token_order=order)).eval()
    with torch.no_grad():
        assert network(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_sides_must_be_multiples_of_16():
    with pytest.raises(ValueError, match="multiples of 16, not 16x24"):
        WalMaFa(small())(torch.rand(1, 3, 16, 24))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 9), (8, 16), (9, 17), (16, 32), (400, 600)])
def test_padding(size):
    x = torch.rand(1, 3, *size)
    padded, original = pad_to_multiple(x)
    assert original == size
    assert padded.shape[-2:] == tuple(-(-side // 16) * 16 for side in size)
    assert torch.equal(padded[..., : size[0], : size[1]], x)
    if padded.shape == x.shape:
        assert padded is x


def test_padding_reflects_where_it_can():
    x = torch.rand(1, 3, 9, 8)
    padded, _ = pad_to_multiple(x)
    assert torch.equal(padded[:, :, 9:, :8], x[:, :, 1:8].flip(2))  # 7 rows missing, 9 there
    assert torch.equal(padded[:, :, :9, 8:], x[..., -1:].expand(-1, -1, -1, 8))  # 8 columns missing, 8 there
    both = torch.rand(1, 3, 24, 30)
    assert torch.equal(pad_to_multiple(both)[0], F.pad(both, (0, 2, 0, 8), mode="reflect"))


@pytest.mark.parametrize("size", [(1, 1), (4, 40), (40, 9)])
def test_a_border_reflects_where_it_can(size):
    x = torch.rand(1, 3, *size)
    bordered = add_border(x, 8)
    assert torch.equal(bordered[..., 8:-8, 8:-8], x)
    rows = F.pad(x, (0, 0, 8, 8), mode="reflect" if size[0] > 8 else "replicate")
    assert torch.equal(bordered, F.pad(rows, (8, 8, 0, 0), mode="reflect" if size[1] > 8 else "replicate"))
    assert add_border(x, 0) is x


@pytest.mark.parametrize("order", ["transpose", "reshape"])
def test_the_enhancer_adds_a_border_except_to_what_was_released_without(order):
    torch.manual_seed(0)
    network = WalMaFa(
        WalMaFaConfig(dim=4, blocks=(1, 1, 1), d_state=4, token_order=order, head="picture")
    ).eval()
    x = torch.rand(3, 20, 30)
    margin = 8 if order == "transpose" else 0
    with torch.inference_mode():
        whole = network(pad_to_multiple(add_border(x[None], margin))[0])[0]
    expected = whole[:, margin : margin + 20, margin : margin + 30].clamp(0, 1)
    found = Enhancer(network, device="cpu", precision="fp32").enhance(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("band", "order"), BANDS_AND_ORDERS)
def test_sequence_lengths(band, order):
    network = WalMaFa(small(mamba_band=band, token_order=order)).eval()
    shapes = {}

    def note_shape(level):
        return lambda _module, inputs, _output: shapes.update({level: inputs[0].shape})

    for level in ("decoder_0", "encoder_1", "decoder_2", "encoder_3"):
        getattr(network, level)[0].wavelet_mamba.mamba.register_forward_hook(note_shape(level))
    with torch.no_grad():
        network(torch.rand(1, 3, 32, 64))
    n_sequences = 1 if band == "ll" else 3
    for level, k in (("decoder_0", 0), ("encoder_1", 1), ("decoder_2", 2), ("encoder_3", 3)):
        assert shapes[level] == (n_sequences, (32 >> k + 1) * (64 >> k + 1), 4 << k)


def test_token_orders_with_everything_else_the_identity():
    x = torch.randn(2, 4, 6, 8)
    for order in ("reshape", "transpose"):
        branch = WaveletMamba(4, small(token_order=order))
        branch.narrow.weight.data.zero_()
        branch.narrow.bias.data.zero_()
        branch.norm, branch.mamba, branch.smooth = nn.Identity(), nn.Identity(), nn.Identity()  # type: ignore[assignment]
        out = branch(x.contiguous(memory_format=torch.channels_last))
        if order == "transpose":
            assert torch.equal(out, x)
        else:
            t, j = torch.arange(48), torch.arange(4)
            expected = x.flatten(1)[:, t[None, :] * 4 + j[:, None]]
            assert torch.equal(out, expected.view(2, 4, 6, 8))


def test_estimator_is_affine_and_equals_the_concatenated_form():
    estimator = IlluminationEstimator(4, 5)
    x, y = torch.randn(2, 1, 4, 8, 8)
    middle = estimator(0.3 * x + 0.7 * y)
    torch.testing.assert_close(middle, 0.3 * estimator(x) + 0.7 * estimator(y), rtol=1e-4, atol=1e-5)
    concatenated = torch.cat([x, x.mean(1, keepdim=True)], dim=1)
    torch.testing.assert_close(estimator(x), estimator.depthwise(estimator.mix(concatenated)))


def test_channel_norm():
    x = torch.randn(2, 16, 5, 6) * 3 + 1
    normalised = PixelNorm(16)(x)
    torch.testing.assert_close(normalised.mean(1), torch.zeros(2, 5, 6), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalised.var(1, unbiased=False), torch.ones(2, 5, 6), rtol=0, atol=1e-4)
    norm = PixelNorm(16, gain=2.0, offset=-1.0)
    torch.testing.assert_close(norm(x), 2 * normalised - 1)
    norm.bias.data.fill_(0.25)
    torch.testing.assert_close(norm(x), 2 * normalised - 0.5)


@pytest.mark.parametrize("band", ["ll", "high"])
@pytest.mark.parametrize("wavelet", ["haar", "sym4"])
def test_block_is_its_formula(band, wavelet):
    block = with_random_statistics(WaveletMambaBlock(8, small(mamba_band=band, wavelet=wavelet)))
    x = torch.randn(2, 8, 8, 12)
    z = 2 * F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2) - 1
    ll, details = dwt(z, wavelet)
    if band == "ll":
        ll, details = block.wavelet_mamba(ll), block.estimator(details)
    else:
        ll, details = block.estimator(ll), block.wavelet_mamba(details)
    y = z + torch.clamp((iwt(ll, details, wavelet) + 1) / 2, 0, 1)
    v = F.layer_norm(y.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)
    torch.testing.assert_close(block(x), y + block.ffn(v), rtol=1e-4, atol=1e-5)


def test_block_in_strips_with_a_carry_is_the_block():
    """Strips of rows with the declared halos, the scan carried from one to the next, give the whole block."""
    block = with_random_statistics(WaveletMambaBlock(8, small(d_state=8)))
    x = torch.randn(1, 8, 48, 20)
    carry, scanned = None, []
    with torch.no_grad():
        for top in range(0, 48, 16):
            first, last = max(0, top - HALO_BEFORE_SCAN_ROWS), min(48, top + 16 + HALO_BEFORE_SCAN_ROWS)
            tokens = block.wavelet_mamba.before_scan(block.split(x[:, :, first:last]).to_scan)
            tokens = tokens.view(1, (last - first) // 2, 10, 8)
            inner = tokens[:, (top - first) // 2 : (top - first) // 2 + 8].reshape(1, -1, 8)
            piece, carry = block.wavelet_mamba.mamba.forward_piece(inner, carry)
            scanned.append(piece)
        rows = torch.cat(scanned, dim=1).view(1, 24, 10, 8)
        out = []
        for top in range(0, 48, 16):
            first, last = max(0, top - HALO_AFTER_SCAN_ROWS), min(48, top + 16 + HALO_AFTER_SCAN_ROWS)
            z, _, direct = block.split(x[:, :, first:last])
            bands = block.lit_bands(direct, rows[:, first // 2 : last // 2].flatten(1, 2))
            strip = block.finish(z, block.merge(*bands))
            out.append(strip[:, :, top - first : top - first + 16])
        torch.testing.assert_close(torch.cat(out, dim=2), block(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "hidden"), [(16, 42), (32, 85), (64, 170), (128, 340)])
def test_fused_feed_forward(channels, hidden):
    trained = with_random_statistics(GatedFeedForward(channels))
    assert trained.depthwise.weight.shape[0] == hidden
    v = torch.randn(2, channels, 6, 7)
    with torch.no_grad():
        torch.testing.assert_close(FusedGatedFeedForward(trained)(v), trained(v), rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


def test_feed_forward_is_its_formula():
    ffn = with_random_statistics(GatedFeedForward(8))
    v = torch.randn(1, 8, 5, 6)
    a = ffn.project_in(v)
    q = ffn.depthwise(a)
    p = a
    for branch in (ffn.branch_3x3, ffn.branch_1x1):
        norm = branch.norm
        scale = (norm.weight / torch.sqrt(norm.running_var + 1e-5))[:, None, None]  # type: ignore[arg-type]
        p = p + (branch.conv(a) - norm.running_mean[:, None, None]) * scale + norm.bias[:, None, None]
    normal = torch.distributions.Normal(0.0, 1.0)
    gated = q * normal.cdf(q) * p + p * normal.cdf(p) * q
    torch.testing.assert_close(ffn(v), ffn.project_out(gated) + v, rtol=1e-4, atol=1e-5)


def test_the_wavelet_changes_the_result_and_no_parameter():
    torch.manual_seed(0)
    haar, db2, db1 = (WalMaFa(small(wavelet=name)).eval() for name in ("haar", "db2", "db1"))
    for other in (db2, db1):
        other.load_state_dict(haar.state_dict())
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(db1(x), haar(x), rtol=1e-4, atol=1e-4)  # the same filters
        assert (db2(x) - haar(x)).norm() > 1e-2 * haar(x).norm()


@pytest.mark.parametrize(("band", "order"), [("ll", "transpose"), ("high", "reshape")])
def test_fused_network_is_an_equal_copy(band, order):
    network = with_random_statistics(WalMaFa(small(mamba_band=band, token_order=order)))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused = network.train().fuse()
    assert network.training and not fused.training
    assert not any(p.requires_grad for p in fused.parameters())
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), network.eval()(x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(("band", "order"), BANDS_AND_ORDERS)
def test_batch_of_two_is_two_single_pictures(band, order):
    network = with_random_statistics(WalMaFa(small(mamba_band=band, token_order=order)))
    x = torch.rand(2, 3, 32, 16)
    with torch.no_grad():
        together, apart = network(x), torch.cat([network(x[:1]), network(x[1:])])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("band", "order", "wavelet"),
    [(*both, "haar") for both in BANDS_AND_ORDERS] + [("ll", "transpose", "bior2.2")],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_every_parameter_gets_a_finite_gradient(band, order, wavelet, bf16):
    torch.manual_seed(0)
    network = WalMaFa(small(mamba_band=band, token_order=order, wavelet=wavelet)).train()
    x, y = torch.rand(2, 2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        prediction = network(x)
    walmafa_loss(prediction, y).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_every_parameter_of_an_exposure_head_gets_a_finite_gradient():
    torch.manual_seed(0)
    network = WalMaFa(small(head="exposure")).train()
    x, y = torch.rand(2, 2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = network(0.2 * x, torch.tensor([0.7, 1.5]))
    assert network.level is not None
    (walmafa_loss(prediction, y) + network.level(x).sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("head", ["picture", "exposure"])
def test_bf16_autocast_stays_close(head):
    torch.manual_seed(0)
    network = WalMaFa(small(dim=8, head=head)).eval().fuse()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(x).float()
    error = (rounded - exact).square().mean() / exact.var()
    assert error < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("band", "giga_macs"), [("high", 15.356), ("ll", 8.400)])
def test_cost_at_256(band, giga_macs):
    """Multiply-accumulates of convolutions and matrix products: the released network's, less what it wastes.

    That is the 1x1 convolution to an unused map and the mean channel of the estimators. (Whether the counter
    sees the causal convolution of Mamba depends on how it is computed: 0.3 % at most.)
    """
    network = WalMaFa(WalMaFaConfig(mamba_band=band, head="picture")).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.rand(1, 3, 256, 256))
    n_direct = 3 if band == "ll" else 1
    saved = 16 * 256**2
    for k, (c, row) in enumerate(RELEASED_COUNTS.items()):
        saved += row[8] * (128 >> k) ** 2 * n_direct * (c * c + c)
    assert counter.get_total_flops() / 2e9 + saved / 1e9 == pytest.approx(giga_macs, rel=0.004)
