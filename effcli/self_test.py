"""A few seconds of each task's real computation with a known answer: ``effcli doctor --self-test``.

What is in the package is used, on one machine in float32, so an answer that differs is a fault of the installation: a
library that computes wrongly, a damaged file, a kernel that does not compile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from effcli.core.runtime import create_runtime


@dataclass(frozen=True)
class KnownAnswer:
    """What came out, and the range in which it should be."""

    what: str
    value: float
    low: float
    high: float

    @property
    def is_right(self) -> bool:
        """Whether the value is in its range; NaN is not."""
        return self.low <= self.value <= self.high


@dataclass(frozen=True)
class Checked:
    """How the self-test of a task ended; ``seconds`` are of the wall clock."""

    is_right: bool
    found: str
    seconds: float


def self_test() -> dict[str, Checked]:
    """Compute every task's answer; an exception is a wrong answer with its text."""
    return {task: _checked(compute) for task, compute in _ANSWERS.items()}


def _checked(compute: Callable[[], KnownAnswer]) -> Checked:
    started = time.perf_counter()
    try:
        answer = compute()
    except Exception as error:  # a report of what is broken must not break
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Checked(False, text, time.perf_counter() - started)
    found = f"{answer.what} {answer.value:.4g}, expected {answer.low:g} to {answer.high:g}"
    return Checked(answer.is_right, found, time.perf_counter() - started)


def _enhance() -> KnownAnswer:
    from effcli.enhance import Enhancer

    across, down = np.linspace(0.5, 1, 64)[None, :, None], np.linspace(0, 60, 64)[:, None, None]
    dark = (down * across * np.array([1.0, 0.8, 0.6])).astype(np.uint8)
    bright = Enhancer(device="cpu", precision="fp32").enhance(dark)
    return KnownAnswer("mean grey level of a brightened gradient", float(bright.mean()), 127, 132)


def _quantize() -> KnownAnswer:
    from effcli.quantize.fake_quantization.layers import StepClock
    from effcli.quantize.integer.layer import IntegerLayer
    from effcli.quantize.packed.layer import LayerCodes, PackedLayer
    from effcli.quantize.packed.rows import PackedRows

    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (12, 16 * 9), generator=generator, dtype=torch.uint8)
    layer = LayerCodes(
        kind="conv2d",
        rows=PackedRows.of_codes(codes, torch.full((12,), 4, dtype=torch.uint8), (12, 16, 3, 3), None),
        scale=torch.rand(12, generator=generator) * 0.1 + 0.01,
        zero=torch.full((12,), 8.0),
        in_scale=torch.ones(16),
        activation_bits=8,
        act_scale=torch.tensor([0.02]),
        act_zero=torch.tensor([128.0]),
        bias=None,
        geometry={"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)},
    )
    clock = StepClock([10])
    clock.set_to(10)
    x = torch.randn(2, 16, 8, 8, generator=generator)
    expected = PackedLayer(layer, clock)(x)
    error = (IntegerLayer(layer, clock)(x) - expected).norm() / expected.norm()
    return KnownAnswer("error of an integer convolution against its simulation", float(error), 0, 1e-5)


def _distill() -> KnownAnswer:
    from effcli.diffusion.conditioning import Guided
    from effcli.diffusion.models import load_model
    from effcli.diffusion.sampler_settings import SamplerSettings
    from effcli.diffusion.sampling import sample_images

    model = load_model("builtin:fashion-diffusion")
    runtime = create_runtime(device="cpu", precision="fp32")
    images = sample_images(Guided(model, model.unet), SamplerSettings(steps=4), 8, 8, runtime)
    return KnownAnswer("deviation of 8 images sampled in 4 steps", float(images.std()), 0.56, 0.60)


@torch.inference_mode()
def _continual() -> KnownAnswer:
    from effcli.data.image_sets import load_images
    from effcli.metrics.features import load_features

    space = load_features("builtin:fashion-features")
    known = load_images("builtin:fashion-images", "train", side=16, channels=1)
    new = load_images("builtin:fashion-images", "eval", side=16, channels=1)
    features, labels = space.features(known.images[:500]), known.labels[:500]
    means = torch.stack([features[labels == label].mean(0) for label in range(10)])
    guesses = torch.cdist(space.features(new.images[:200]), means).argmin(1)
    right = float((guesses == new.labels[:200]).float().mean())
    return KnownAnswer("share of 200 images that class means name rightly", right, 0.7, 1.0)


@torch.inference_mode()
def _detect_stream() -> KnownAnswer:
    from effcli.detect_stream.data.synthetic_drives import Drive
    from effcli.detect_stream.network.box_decoding import Limits
    from effcli.detect_stream.sources.frame_source import SequenceSource
    from effcli.detect_stream.stream.stream_detector import StreamDetector
    from effcli.detect_stream.weights import load_detector

    drive = Drive(0, 3)
    source = SequenceSource(drive)
    frames = list(source.frames())
    assert frames[0].frame is not None
    height, width = frames[0].frame.left.shape[:2]
    runtime = create_runtime(device="cpu", precision="fp32")
    detector = StreamDetector(
        load_detector("builtin:street-tiny"),
        source.calibration,
        (height, width),
        runtime,
        source.fps,
        Limits(),
    )
    found = [detector.detect(detector.prepare(frame)) for frame in frames][-1].objects
    true = drive.objects(2).boxes[:, :2]
    distances = np.linalg.norm(found.boxes[:, None, :2] - true[None], axis=-1)
    return KnownAnswer("metres from a true object to the nearest found box", float(distances.min()), 0, 2)


def _rl_distill() -> KnownAnswer:
    import gymnasium

    from effcli.rl_distill.losses import decision_divergence

    z = torch.tensor([[[0.5, -1.0]]])
    assert float(decision_divergence(z, z, 1.0)) == 0.0, "a policy differs from itself"
    env = gymnasium.make("CartPole-v1")
    state, _ = env.reset(seed=0)
    total = 0.0
    for _ in range(200):
        state, reward, is_over, _, _ = env.step(int(state[2] + 0.5 * state[3] > 0))
        total += float(reward)
        if is_over:
            break
    return KnownAnswer("steps that a fixed policy balances CartPole", total, 200, 200)


_ANSWERS: dict[str, Callable[[], KnownAnswer]] = {
    "enhance": _enhance,
    "quantize": _quantize,
    "distill": _distill,
    "continual": _continual,
    "detect-stream": _detect_stream,
    "rl-distill": _rl_distill,
}
