from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise

import pytest
import torch
from torch import Tensor

pytest.importorskip("av", reason="videos need PyAV")

from effcli.core.runtime import create_runtime
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.exposure import level
from effcli.enhance.network.walmafa_net import WalMaFa
from effcli.enhance.video.steady import FrameLevels, SteadyEnhancer, summary

RUNTIME = create_runtime(device="cpu", precision="fp32")


def scene(seed: int, light: float = 0.1) -> Tensor:
    cells = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return cells.repeat_interleave(4, 2).repeat_interleave(4, 3) * light


def enhancer(brighten: Callable[[Tensor], Tensor] | WalMaFa, strength: float = 1.0) -> Enhancer:
    return Enhancer(brighten, runtime=RUNTIME, strength=strength)


def tripled(x: Tensor) -> Tensor:
    return (3 * x).clamp(0, 1)


def run(steady: SteadyEnhancer, frames: list[Tensor], first: int = 0) -> list[FrameLevels]:
    return [steady.enhance(x, (first + number) / 25)[1] for number, x in enumerate(frames)]


def flicker(n_frames: int) -> list[Tensor]:
    return [scene(0) * (1 + 0.3 * (-1) ** number) for number in range(n_frames)]


def change(values: list[float]) -> float:
    return sum(abs(one - other) for one, other in pairwise(values)) / (len(values) - 1)


def test_the_level_of_a_flickering_video_is_steady() -> None:
    levels = run(SteadyEnhancer(enhancer(tripled)), flicker(30))
    said = summary(levels)["level_change"]
    assert said["input"] == pytest.approx(change([one.input for one in levels]), abs=1e-5)
    assert said["unsmoothed"] == pytest.approx(3 * said["input"], rel=0.01)
    assert said["output"] == pytest.approx(change([one.output for one in levels]), abs=1e-5)
    assert said["output"] < 0.2 * said["input"]


def test_a_network_that_lights_by_a_level_gets_the_smoothed_one() -> None:
    torch.manual_seed(0)
    network = WalMaFa(WalMaFaConfig(dim=4, blocks=(1, 1, 1), d_state=4)).eval()
    torch.nn.init.zeros_(network.output.conv.weight)  # the common curve alone lights the picture
    levels = run(SteadyEnhancer(enhancer(network)), flicker(6))
    said = summary(levels)["level_change"]
    assert said["output"] < 0.5 * said["unsmoothed"] < 0.1 * said["input"]
    assert levels[-1].output == pytest.approx(levels[-1].followed, rel=0.002)


def test_a_cut_starts_anew_and_does_not_count_as_flicker() -> None:
    frames = [scene(0, 0.1)] * 5 + [scene(1, 0.15)] * 5
    levels = run(SteadyEnhancer(enhancer(tripled)), frames)
    assert [number for number, one in enumerate(levels) if one.is_cut] == [0, 5]
    assert levels[5].output == pytest.approx(3 * levels[5].input, rel=0.01)
    assert summary(levels)["cuts"] == 1
    assert summary(levels)["level_change"]["output"] == pytest.approx(0, abs=1e-4)


def test_a_light_that_goes_on_is_followed_at_once_and_flicker_is_not() -> None:
    levels = run(SteadyEnhancer(enhancer(tripled)), [scene(0, 0.05)] * 3 + [scene(0, 0.3)] * 3)
    assert [one.is_cut for one in levels] == [True, False, False, True, False, False]
    assert not any(one.is_cut for one in run(SteadyEnhancer(enhancer(tripled)), flicker(10))[1:])


def test_slow_changes_are_followed_by_time_not_by_frames() -> None:
    ends = []
    for n_frames in (10, 40):
        steady = SteadyEnhancer(enhancer(tripled))
        for number in range(n_frames):
            share = number / (n_frames - 1)
            _, levels = steady.enhance(scene(0, 0.1 + 0.08 * share), share)
        ends.append(levels.output)
    assert ends[0] == pytest.approx(ends[1], rel=0.03)
    assert 0.1 * 1.5 < ends[0] < 0.18 * 1.5


def test_work_that_is_taken_up_goes_on_as_if_it_had_not_stopped() -> None:
    frames = [*flicker(4), *[scene(1, 0.12)] * 4]
    whole = run(SteadyEnhancer(enhancer(tripled)), frames)
    for n_done in (1, 3, 4, 6):
        steady = SteadyEnhancer(enhancer(tripled))
        kept = FrameLevels(**asdict(whole[n_done - 1]))
        steady.resume(frames[n_done - 1], (n_done - 1) / 25, kept)
        assert run(steady, frames[n_done:], n_done) == whole[n_done:]


def test_strength_blends_with_the_frame_as_it_is() -> None:
    x = scene(0)
    assert torch.equal(SteadyEnhancer(enhancer(tripled, 0)).enhance(x, 0)[0], x)
    half, levels = SteadyEnhancer(enhancer(tripled, 0.5)).enhance(x, 0)
    assert float(level(half)) == pytest.approx(2 * levels.input, rel=0.01)
    assert levels.unsmoothed == pytest.approx(2 * levels.input, rel=0.01)


def test_a_video_of_one_frame_has_no_changes() -> None:
    levels = run(SteadyEnhancer(enhancer(tripled)), [scene(0)])
    assert summary(levels)["level_change"] == dict.fromkeys(("input", "unsmoothed", "output"))
