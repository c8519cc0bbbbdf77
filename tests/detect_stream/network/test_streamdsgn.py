"""The network: counted parameters, sizes, and that what is fast gives what is slow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.network.anchors import anchors_of
from effcli.detect_stream.network.config import BASE, FULL, TINY, NetworkConfig
from effcli.detect_stream.network.convolution_3d import conv3d_as_2d
from effcli.detect_stream.network.cost_volume import cost_volume, matched_planes, plane_depths, window_starts
from effcli.detect_stream.network.feature_flow import feature_flow, shift_similarities, warp
from effcli.detect_stream.network.image_network import convolved_where_read
from effcli.detect_stream.network.inference_network import fast_network
from effcli.detect_stream.network.space_volume import Cells, SpaceVolume
from effcli.detect_stream.network.streamdsgn import DepthHead, Head, StreamDsgn, n_parameters

SMALL = TINY.model_copy(update={"width": 160, "n_planes": 8})


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_published_size_part_by_part() -> None:
    network = StreamDsgn(FULL)
    images = network.image_network
    body = count(images.stem) + count(images.stages)
    assert body == 1_864_768
    assert count(images) - body == 155_360
    assert count(network.match1) + count(network.match2) == 29_824
    assert count(network.space) == 554_752
    assert network.fusion is not None
    assert count(network.fusion) == 3_136
    assert count(network.bev) == 812_800
    assert count(network.head) == 183_368
    assert network.depth_head is not None
    assert count(network.depth_head) == 28_577
    assert (n_parameters(network, training=True), n_parameters(network, training=False)) == (
        3_632_585,
        3_604_008,
    )


def test_parameters_of_the_tiny_size() -> None:
    network = StreamDsgn(TINY)
    assert (n_parameters(network, training=True), n_parameters(network, training=False)) == (356_945, 349_568)


def test_sizes_of_the_published_one() -> None:
    space = SpaceVolume(FULL).eval()
    small = FULL.grid.model_copy(update={"cells": (10, 16, 12)})
    where = torch.zeros(1, *small.cells, 3)
    cells = Cells(where, None, (4, 8, 8), align_corners=True)
    volume = space(torch.randn(1, 4, 32, 8, 8), cells)
    assert volume.shape == (1, 12, 32, 16, 12)  # ten layers become twelve, so 96 channels from above
    assert StreamDsgn(FULL).bev_channels == 96
    assert len(anchors_of(FULL)) == 442_368
    outputs = Head(64, 64)(torch.randn(1, 64, 4, 3))
    assert outputs.scores.shape == (1, 72, 3)
    assert outputs.codes.shape == (1, 72, 7)
    assert outputs.directions.shape == (1, 72, 2)
    assert DepthHead(8)(torch.randn(1, 4, 8, 4, 4)).shape == (1, 4, 4, 4)


# --- plane sweep -----------------------------------------------------------------------------------------


def swept_slowly(left: Tensor, right: Tensor, focal_baseline: float, config: NetworkConfig) -> Tensor:
    """Value by value."""
    channels, height, width = left.shape
    window = config.window or channels
    depths = plane_depths(config)
    starts = np.zeros(config.n_planes, int)
    if config.window:
        starts = window_starts(focal_baseline / depths, channels, window)
    volume = torch.zeros(config.n_planes, 2 * window, height, width)
    for k, depth in enumerate(depths):
        for c in range(window):
            source = next(x for x in range(starts[k], starts[k] + window) if x % window == c)
            for j in range(width):
                volume[k, c, :, j] = left[source, :, j]
                at = 4 * j - focal_baseline / depth
                if 0 <= at <= right.shape[2] - 1:
                    low = int(np.floor(at))
                    share = at - low
                    high = min(low + 1, right.shape[2] - 1)
                    volume[k, window + c, :, j] = (1 - share) * right[source, :, low] + share * right[
                        source, :, high
                    ]
    return volume


@pytest.mark.parametrize("window", [None, 4])
def test_the_plane_sweep(window: int | None) -> None:
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"window": window, "stereo_channels": 6, "n_planes": 5})
    left, right = torch.randn(2, 6, 3, 10), torch.randn(2, 6, 3, 40)
    found = cost_volume(left, right, torch.tensor([60.0, 128.0]), config)
    for i, focal_baseline in enumerate((60.0, 128.0)):
        slow = swept_slowly(left[i], right[i], focal_baseline, config)
        torch.testing.assert_close(found[i], slow, rtol=1e-4, atol=1e-4)


def test_planes_are_matched_without_the_volume() -> None:
    """Values and gradients are those of a convolution of the volume."""
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"stereo_channels": 6, "n_planes": 5})
    left, right = torch.randn(2, 6, 3, 10, requires_grad=True), torch.randn(2, 6, 3, 40, requires_grad=True)
    weight, bias = torch.randn(4, 12, 1, 1, 1, requires_grad=True), torch.randn(4, requires_grad=True)
    focal_baseline = torch.tensor([60.0, 128.0])
    fast = matched_planes(left, right, focal_baseline, weight, bias, config)
    slow = conv3d_as_2d(cost_volume(left, right, focal_baseline, config), weight, bias)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
    upstream = torch.randn_like(slow)
    inputs = (left, right, weight, bias)
    found = torch.autograd.grad((fast * upstream).sum(), inputs)
    expected = torch.autograd.grad((slow * upstream).sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_windows_of_channels_as_published() -> None:
    starts = window_starts(384.38 / plane_depths(FULL), 96, 32)
    assert starts[:10].tolist() == [0, 6, 11, 16, 19, 22, 25, 27, 29, 31]
    assert starts[-1] == 64
    assert (np.diff(starts) >= 0).all()


def test_a_window_of_all_channels_is_the_plain_volume() -> None:
    torch.manual_seed(0)
    plain = SMALL.model_copy(update={"stereo_channels": 6})
    windowed = plain.model_copy(update={"window": 6})
    left, right = torch.randn(1, 6, 3, 10), torch.randn(1, 6, 3, 40)
    fast, slow = (cost_volume(left, right, torch.tensor([60.0]), one) for one in (plain, windowed))
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


def test_a_shifted_right_picture_matches_on_its_plane() -> None:
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"stereo_channels": 4})
    full = torch.randn(1, 4, 3, 160)
    k = 3
    focal_baseline = 8.0 * plane_depths(config)[k]  # a disparity of eight pixels on plane k
    volume = cost_volume(full[..., ::4], full.roll(-8, 3), torch.tensor([focal_baseline]), config)[0]
    torch.testing.assert_close(volume[k, :4, :, 4:-4], volume[k, 4:, :, 4:-4], rtol=1e-4, atol=1e-4)
    assert (volume[k + 1, :4, :, 4:-4] - volume[k + 1, 4:, :, 4:-4]).abs().mean() > 0.3


# --- feature flow ----------------------------------------------------------------------------------------


def test_nothing_moved() -> None:
    torch.manual_seed(0)
    now = torch.randn(1, 8, 16, 20)
    flow = feature_flow(now, now, 3)
    assert not flow.any()
    torch.testing.assert_close(warp(now, flow), now, rtol=0, atol=1e-5)


def test_a_map_that_moved_by_two_cells_moves_on() -> None:
    torch.manual_seed(0)
    before = torch.randn(1, 32, 12, 12).repeat_interleave(2, 2).repeat_interleave(2, 3)
    now = before.roll((2, -2), (2, 3))  # down and to the left
    flow = feature_flow(now, before, 3)
    inside = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    torch.testing.assert_close(
        flow[inside], torch.tensor([-2.0, 2.0])[None, :, None, None].expand_as(flow[inside])
    )
    torch.testing.assert_close(warp(now, flow)[inside], now.roll((2, -2), (2, 3))[inside], rtol=0, atol=1e-4)


def test_similarities_cell_by_cell() -> None:
    torch.manual_seed(0)
    now, before = torch.randn(1, 3, 4, 5), torch.randn(1, 3, 4, 5)
    found = shift_similarities(now, before, 1)
    for n, (down, right) in enumerate((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
        for i in range(4):
            for j in range(5):
                y, x = i - down, j - right
                inside = 0 <= y < 4 and 0 <= x < 5
                expected = (
                    F.cosine_similarity(now[0, :, i, j], before[0, :, y, x], 0)
                    if inside
                    else torch.tensor(0.0)
                )
                assert float(found[0, n, i, j]) == pytest.approx(float(expected), abs=1e-5)


def test_empty_maps_do_not_move() -> None:
    nothing = torch.zeros(1, 4, 8, 8)
    assert not feature_flow(nothing, nothing, 3).any()
    assert not feature_flow(nothing, nothing, 3, first_wins=True).any()  # 1 / 49 is not certain


def test_equal_cells_stay_where_they_are_unless_released() -> None:
    same = torch.ones(1, 4, 16, 16)
    same[..., :4] = -1  # beside this edge six of nine shifts are equally good
    assert not feature_flow(same, same, 1)[..., 4:12, 4:6].any()
    assert (feature_flow(same, same, 1, first_wins=True)[0, 0, 4:12, 4:6] < -0.5).all()


def test_the_released_warp_drifts() -> None:
    ramp = torch.arange(20.0)[None, None, None].expand(1, 1, 20, 20).contiguous()
    flow = torch.zeros(1, 2, 20, 20)
    torch.testing.assert_close(warp(ramp, flow), ramp, rtol=0, atol=1e-4)
    drift = (warp(ramp, flow, drifting=True) - ramp)[0, 0, 10]
    assert float(drift[2]) == pytest.approx(-(9.5 - 2) / 19, abs=1e-3)


# --- whole -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene() -> tuple[StreamDsgn, list[Tensor], list[Tensor], object]:
    torch.manual_seed(0)
    network = StreamDsgn(TINY)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    network.eval()
    drive = Drive(3, 3)
    sizes = torch.tensor([[128, 416]])
    matrices = torch.from_numpy(np.stack([drive.calibration.left, drive.calibration.right])).float()[None]
    frames = [drive.frame(i) for i in range(2)]
    left, right = (
        [network.normalise(torch.from_numpy(getattr(f, eye)).permute(2, 0, 1)[None], sizes) for f in frames]
        for eye in ("left", "right")
    )
    return network, left, right, network.view(matrices, sizes)


@torch.no_grad()
def test_folding_changes_nothing(scene: tuple[StreamDsgn, list[Tensor], list[Tensor], object]) -> None:
    network, left, right, view = scene
    fast = fast_network(network)
    assert n_parameters(fast, training=True) < n_parameters(network, training=False)
    slow, kept = network(left[0], right[0], view)
    quick, kept_too = fast(left[0], right[0], view)
    torch.testing.assert_close(quick.scores, slow.scores, rtol=1e-4, atol=1e-4)
    slow, _ = network(left[1], right[1], view, kept)
    quick, _ = fast(left[1], right[1], view, kept_too)
    torch.testing.assert_close(quick.codes, slow.codes, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_weights_in_bfloat16_are_those_that_autocast_makes(
    scene: tuple[StreamDsgn, list[Tensor], list[Tensor], object],
) -> None:
    network, left, right, view = scene
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        fast = fast_network(network, dtype)
        with torch.autocast("cpu", torch.bfloat16):
            _, before = fast(left[0], right[0], view)
            found.append(fast(left[1], right[1], view, before)[0])
    for name in ("scores", "codes", "directions"):
        torch.testing.assert_close(getattr(found[0], name), getattr(found[1], name), rtol=0, atol=0)


@torch.no_grad()
def test_strided_features_are_those_that_are_read(
    scene: tuple[StreamDsgn, list[Tensor], list[Tensor], object],
) -> None:
    network, left, _, _ = scene
    whole = network.image_network(left[0])
    for stride in ((4, 4), (4, 1)):
        part = network.image_network.read(network.image_network.neck(left[0]), stride)
        torch.testing.assert_close(part, whole[:, :, :: stride[0], :: stride[1]], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_without_history_it_is_a_detector_of_one_frame(
    scene: tuple[StreamDsgn, list[Tensor], list[Tensor], object],
) -> None:
    network, left, right, view = scene
    alone, now = network(left[0], right[0], view)
    torch.testing.assert_close(network.head(network.bev(now)).scores, alone.scores)
    forgetting = network.detect(now, now.roll(4, 3), forget=torch.tensor([True]))
    torch.testing.assert_close(forgetting.scores, alone.scores)


@pytest.mark.parametrize(("fusion", "bev"), [("none", "hourglass"), ("concat", "large-kernel")])
@torch.no_grad()
def test_other_forms_run(fusion: str, bev: str) -> None:
    config = TINY.model_copy(update={"fusion": fusion, "bev": bev})
    network = StreamDsgn(config).eval()
    now = torch.randn(1, network.bev_channels, 64, 64)
    assert network.detect(now, now).scores.shape == (1, 64 * 64 * 6, 3)


def test_the_middle_size_is_between() -> None:
    assert 500_000 < n_parameters(StreamDsgn(BASE), training=False) < 3_000_000


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("stride", [(4, 4), (4, 1)])
def test_a_convolution_where_it_is_read(stride: tuple[int, int], half: bool) -> None:
    """Of the size at which a library's own kernel was seen to write outside its memory."""
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 64, 3, padding=1)
    x = torch.randn(1, 16, 254, 416).contiguous(memory_format=torch.channels_last)
    whole = conv(x)[:, :, :: stride[0], :: stride[1]]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = convolved_where_read(x, conv, stride)
    assert found.shape == whole.shape
    torch.testing.assert_close(found.float(), whole, atol=0.05 if half else 1e-4, rtol=0)


def test_what_a_stream_has_kept_serves_a_training() -> None:
    with torch.inference_mode():
        kept = anchors_of(TINY.model_copy(update={"depth": (2.0, 41.0)}))
    assert not kept.is_inference()
