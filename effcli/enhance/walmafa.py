"""WalMaFa as a method of `effcli enhance`: how it is trained and how its network brightens a picture.

The network is in `network/`, the loss in `losses.py`, the training loop in `training.py`, the files in `weights.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.files import sha256
from effcli.core.run import Run
from effcli.core.runtime import Runtime
from effcli.enhance.brightness import AUTO, Brightness, Target
from effcli.enhance.data.pairs import PairSet
from effcli.enhance.network.exposure import at_level, level, log_gain_for_level, thumbnail
from effcli.enhance.network.fast_detail import SMALL_PIXELS, render_from_small, small_size
from effcli.enhance.network.strips import Memory, forward_in_strips
from effcli.enhance.network.walmafa_net import SIDE_MULTIPLE, WalMaFa, add_border, pad_to_multiple
from effcli.enhance.recipe import Detail, WalMaFaRecipe
from effcli.enhance.training import build_network, learn_levels, optimize
from effcli.enhance.weights import load_weights, save_weights

WEIGHTS_FILE = "model/walmafa.safetensors"

_LEFT_ALONE = (1.08, 1.35)
"""Predicted over own level: up to the first a picture stays as it is, from the second on the result is used whole."""

_LEVEL_TOLERANCE = 0.01
_MOST_SETTLED = 0.35
"""Half a stop: the largest log gain by which a result is brought from about the wanted level to it."""

_FAST_MB_PER_CHANNEL = 40
"""Memory for a small form, by the base width of the network: strips of about 200 rows."""

FAST_FROM_PIXELS = 8_000_000
"""Pictures with more pixels than this get fast detail, unless the recipe says ``detail: full``."""

_MARGIN = 8
"""Pixels by which a picture is extended on every side: without them the outermost two or three pixels of a result are
discoloured, because the network sees zeros beyond the border (docs/methods/walmafa.md, Deviations without a switch)."""


class Brightener:
    """A network that brightens single pictures of any size, in strips where memory is short.

    Args:
        network: fused for inference here.
        runtime: device and precision.
        max_memory_mb: memory for one picture in MB; None takes up to half of what is free, and on a
            CPU computes what needs more than 1 GB in strips.
        brightness: the level to reach.
        detail: how large pictures are computed: ``full``, ``fast`` (from a small form, see `fast_detail.py`), or
            ``auto``, which is fast where it is worth it.

    Raises:
        InputError: a level or fast detail is asked for, and the network says the picture itself.
    """

    def __init__(
        self,
        network: WalMaFa,
        runtime: Runtime,
        max_memory_mb: int | None = None,
        brightness: Brightness = AUTO,
        detail: Detail = "auto",
    ) -> None:
        if network.level is None and brightness != AUTO:
            raise InputError(
                "these weights have no exposure head, so the level cannot be chosen",
                place="brightness",
                hint="leave it at auto",
            )
        if network.level is None and detail == "fast":
            raise InputError(
                "these weights have no exposure head, so pictures are computed in full detail only",
                place="detail",
                hint="leave it at auto",
            )
        self.runtime = runtime
        self.network = network.to(runtime.device).fuse()
        self.max_memory_mb = max_memory_mb
        self.brightness = brightness
        self.fast_from_pixels = {"full": None, "fast": SMALL_PIXELS, "auto": FAST_FROM_PIXELS}[detail]

    def __call__(self, x: Tensor) -> Tensor:
        """Brighten ``[1, 3, H, W]`` in 0..1; the same shape, float32 on the CPU."""
        return self.render(x, self.target(x))

    def target(self, x: Tensor) -> Target:
        """What a picture [1, 3, H, W] is to become; without a level where the network chooses it while it paints."""
        if self.network.level is None:
            return Target()
        small = thumbnail(x).to(self.runtime.device)
        own = float(level(small))
        if self.brightness.level is not None:
            return Target(self.brightness.level)
        predicted = float(self.network.level(small))
        low, high = _LEFT_ALONE
        rise = min(1.0, max(0.0, (predicted / max(own, 1e-6) - low) / (high - low)))
        share = rise * rise * (3 - 2 * rise)
        if self.brightness.stops == 0:
            return Target(predicted, share)
        return Target(self.brightness.beyond(own + share * (predicted - own)))

    def render(self, x: Tensor, target: Target, tolerance: float = _LEVEL_TOLERANCE) -> Tensor:
        """Make of a picture what it is to become.

        Args:
            x: [1, 3, H, W] in 0..1.
            target: of this picture, or, of a frame of a video, one that follows from those before it.
            tolerance: relative difference from the level of the target that may remain.

        Returns:
            [1, 3, H, W] in 0..1, float32 on the CPU.
        """
        if target.level is None:
            return self._forward(x, None).clamp_(0, 1)
        if target.share == 0:
            return x.float().cpu()
        log_gain = log_gain_for_level(thumbnail(x), torch.tensor([target.level]))
        if self._is_fast(*x.shape[-2:]):
            bright = render_from_small(x.float().cpu(), log_gain, lambda piece: self._maps(piece, log_gain))
        else:
            bright = self._forward(x, log_gain)
        bright = at_level(bright, target.level, tolerance=tolerance, most_log_gain=_MOST_SETTLED, out=bright)
        return bright if target.share == 1 else bright.lerp_(x.float().cpu(), 1 - target.share)

    def check_memory(self, height: int, width: int) -> None:
        """Make sure that a picture of this size can be computed under the memory bound.

        Raises:
            RunError: it does not; the message says what it needs.
        """
        bound = self.max_memory_mb
        if self._is_fast(height, width):
            (height, width), bound = small_size(height, width), self._fast_memory_mb
        margin = 2 * self._margin
        size = [side + -side % SIDE_MULTIPLE for side in (height + margin, width + margin)]
        Memory.plan(self.network.config, size, bound, self.runtime.device)

    def _is_fast(self, height: int, width: int) -> bool:
        has_maps = self.network.level is not None
        return has_maps and self.fast_from_pixels is not None and height * width > self.fast_from_pixels

    @property
    def _fast_memory_mb(self) -> int:
        """For the network, where it sees a small form and tiles."""
        enough = _FAST_MB_PER_CHANNEL * self.network.config.dim
        return enough if self.max_memory_mb is None else min(self.max_memory_mb, enough)

    @property
    def _margin(self) -> int:
        return 0 if self.network.config.token_order == "reshape" else _MARGIN  # the released code has none

    def _forward(self, x: Tensor, log_gain: Tensor | None) -> Tensor:
        return self._evaluate(x, log_gain, self.max_memory_mb, maps_alone=False)

    def _maps(self, x: Tensor, log_gain: Tensor) -> Tensor:
        """What the exposure head says of a picture, [1, N_MAPS, H, W]."""
        return self._evaluate(x, log_gain, self._fast_memory_mb, maps_alone=True)

    def _evaluate(
        self, x: Tensor, log_gain: Tensor | None, bound_mb: int | None, *, maps_alone: bool
    ) -> Tensor:
        """The network on a picture with a border, in strips where memory asks for it."""
        network, device = self.network, self.runtime.device
        margin = self._margin
        height, width = x.shape[-2:]
        padded, _ = pad_to_multiple(add_border(x, margin))
        memory = Memory.plan(network.config, padded.shape[-2:], bound_mb, device)
        log_gain = None if log_gain is None else log_gain.to(device)
        with self.runtime.autocast():
            if not memory.whole_fits:
                out = forward_in_strips(network, padded, memory, device, log_gain, maps_alone=maps_alone)
            elif maps_alone and log_gain is not None:
                out = network.decode(network.embed_exposed(padded.to(device), log_gain))
            else:
                out = network(padded.to(device), log_gain)
        return out[..., margin : margin + height, margin : margin + width].float().cpu()


def load(recipe: WalMaFaRecipe, runtime: Runtime) -> Brightener:
    """The brightener with the recipe's weights.

    Raises:
        InputError: they cannot be read.
    """
    network = load_weights(recipe.weights)
    return Brightener(network, runtime, recipe.max_memory_mb, recipe.brightness, recipe.detail)


def plan(recipe: WalMaFaRecipe, n_pairs: int) -> dict[str, Any]:
    """What :func:`fit` would do."""
    return {
        "parameters": sum(parameter.numel() for parameter in WalMaFa(recipe.network).parameters()),
        "steps": recipe.train.steps,
        "epochs": round(recipe.train.steps * recipe.train.batch_size / n_pairs, 1),
    }


def fit(recipe: WalMaFaRecipe, pairs: PairSet, run: Run) -> tuple[Brightener, dict[str, Any]]:
    """Train a network, write its weights, and return it with numbers about it."""
    network = build_network(recipe, run.runtime)
    optimize(network, pairs, recipe, run)
    if network.level is not None:
        learn_levels(network.level, pairs, recipe, run)
    metrics: dict[str, Any] = {"parameters": sum(p.numel() for p in network.parameters())}
    if run.runtime.is_main:
        weights = run.file(WEIGHTS_FILE)
        save_weights(weights, network)
        metrics["weights_sha256"] = sha256(weights)
    return Brightener(network, run.runtime, recipe.max_memory_mb), metrics
