"""The networks of policies: an encoder of observations, and heads (docs/methods/opd-da.md, Networks)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from effcli.rl_distill.environments import SMALLEST_FRAME

SIZES = {"small": 0.5, "normal": 1.0, "large": 2.0}
"""Width relative to the usual network."""


def encoder(shape: tuple[int, ...], size: str) -> tuple[nn.Sequential, int]:
    """The usual network for observations of a shape, and its number of features.

    Vectors get two layers of 64 with tanh; small grids ``[H, W, C]`` (MinAtar) 16 3x3 filters and a layer of 128;
    frames ``[C, H, W]`` with sides of at least 36 pixels the network of Mnih et al. (Nature 2015).

    Raises:
        ValueError: no network reads this shape.
    """
    times = SIZES[size]
    if len(shape) == 1:
        width = round(64 * times)
        layers = [linear(shape[0], width), nn.Tanh(), linear(width, width), nn.Tanh()]
        return nn.Sequential(*layers), width
    if len(shape) == 3 and min(shape[1:]) >= SMALLEST_FRAME:
        channels, width = [round(c * times) for c in (32, 64, 64)], round(512 * times)
        convolutions = nn.Sequential(
            _orthogonal(nn.Conv2d(shape[0], channels[0], 8, 4)),
            nn.ReLU(),
            _orthogonal(nn.Conv2d(channels[0], channels[1], 4, 2)),
            nn.ReLU(),
            _orthogonal(nn.Conv2d(channels[1], channels[2], 3, 1)),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            flat = convolutions(torch.zeros(1, *shape)).shape[1]
        return nn.Sequential(UnitFrames(), convolutions, linear(flat, width), nn.ReLU()), width
    if len(shape) == 3:
        channels, width = [round(16 * times)], round(128 * times)
        height, wide, colours = shape
        conv = _orthogonal(nn.Conv2d(colours, channels[0], 3))
        flat = channels[0] * (height - 2) * (wide - 2)
        return nn.Sequential(
            ChannelsFirst(), conv, nn.ReLU(), nn.Flatten(), linear(flat, width), nn.ReLU()
        ), width
    raise ValueError(f"no network for observations of shape {list(shape)}")


def linear(n_in: int, n_out: int, gain: float = math.sqrt(2)) -> nn.Linear:
    """A linear layer with orthogonal weights of a gain and zero bias."""
    layer = nn.Linear(n_in, n_out)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _orthogonal(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.orthogonal_(conv.weight, math.sqrt(2))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class UnitFrames(nn.Module):
    """Frames of bytes ``[B, C, H, W]`` to values in 0..1, channels-last in memory."""

    def forward(self, x: Tensor) -> Tensor:
        """``x / 255``."""
        return x.contiguous(memory_format=torch.channels_last) / 255


class ChannelsFirst(nn.Module):
    """``[B, H, W, C]`` to ``[B, C, H, W]``."""

    def forward(self, x: Tensor) -> Tensor:
        """The same values."""
        return x.movedim(-1, 1)


class ActorCritic(nn.Module):
    """The network of a PPO policy: action logits and the value of a state.

    With vector observations the critic has its own encoder; with images both heads share one.

    Args:
        shape: of an observation.
        n_actions: number of actions.
        size: ``small``, ``normal`` or ``large``.
    """

    def __init__(self, shape: tuple[int, ...], n_actions: int, size: str) -> None:
        super().__init__()
        self.encoder, self.n_features = encoder(shape, size)
        self.actor = linear(self.n_features, n_actions, 0.01)
        self.critic_encoder = encoder(shape, size)[0] if len(shape) == 1 else None
        self.critic = linear(self.n_features, 1, 1.0)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``[B, F]``, logits ``[B, A]`` and values ``[B]`` of observations ``[B, ...]``."""
        features = self.encoder(observations)
        seen = features if self.critic_encoder is None else self.critic_encoder(observations)
        return features, self.actor(features), self.critic(seen)[:, 0]


class QNetwork(nn.Module):
    """The network of a DQN policy: the value of each action.

    Args:
        shape: of an observation.
        n_actions: number of actions.
        size: ``small``, ``normal`` or ``large``.
    """

    def __init__(self, shape: tuple[int, ...], n_actions: int, size: str) -> None:
        super().__init__()
        self.encoder, self.n_features = encoder(shape, size)
        self.q = nn.Linear(self.n_features, n_actions)
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()
            if isinstance(module, nn.Sequential):
                for i, layer in enumerate(module):
                    if isinstance(layer, nn.Tanh):
                        module[i] = nn.ReLU()

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[B, F]`` and Q-values ``[B, A]`` of observations ``[B, ...]``."""
        features = self.encoder(observations)
        return features, self.q(features)
