"""Policies of Stable-Baselines3 and its zoo: weights and spaces of a zip, of which nothing is unpickled.

``policy.pth`` is read with ``weights_only``, and of ``data`` only the readable text beside the pickled values.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effcli.core.errors import InputError, UsageError
from effcli.core.weight_file import one_line
from effcli.rl_distill.environments.copies import Environments
from effcli.rl_distill.network.encoders import OneHot, UnitPicture

_LARGEST_BYTES = 2**31
_ACTIVATIONS: dict[str, type[nn.Module]] = {"Tanh": nn.Tanh, "ReLU": nn.ReLU, "ELU": nn.ELU}


class BaselinesNetwork(nn.Module):
    """A policy of Stable-Baselines3 as ours: features and decisions.

    Args:
        body: observations to features.
        head: features to decisions.
        log_std: of continuous actions, in units of the environment; None of choices.
        span: middle and half of the range of each action, so that decisions are in -1..1.
    """

    def __init__(
        self, body: nn.Sequential, head: nn.Linear, log_std: Tensor | None, span: tuple[Tensor, Tensor] | None
    ) -> None:
        super().__init__()
        self.body, self.head, self.n_features = body, head, head.in_features
        self._log_std, self._span = log_std, span

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[B, F]`` and decisions ``[B, D]`` of observations ``[B, ...]``."""
        features = self.body(observations)
        decisions = self.head(features)
        if self._log_std is not None and self._span is not None:
            middle, half = (one.to(decisions) for one in self._span)
            mean, log_std = (decisions - middle) / half, self._log_std.to(decisions) - half.log()
            decisions = torch.cat([mean, log_std.expand_as(mean)], -1)
        return features, decisions


def read_stable_baselines(file: str, env: Environments) -> tuple[BaselinesNetwork, str]:
    """The policy of a zip, and its algorithm, ``ppo`` (also A2C and others with an actor) or ``dqn``.

    Observations must be those of the environment: statistics of ``VecNormalize`` are in a pickle of their own, which is
    not read.

    Args:
        file: the zip.
        env: in which it is to teach.

    Raises:
        InputError: it cannot be read, or is of a network that is not known.
        UsageError: its observations or actions are not those of the environment.
    """
    data, weights = _contents(file)
    if any(name.startswith("q_net.q_net.") for name in weights):
        weights = {
            name.removeprefix("q_net."): one for name, one in weights.items() if name.startswith("q_net.")
        }
        body = _body(weights, "q_net", _activation(data, "ReLU", file), env, file)
        linears = [module for module in body if isinstance(module, nn.Linear)]
        head = linears[-1]
        _check_actions(head, None, env, file)
        cut = list(body).index(head)
        return BaselinesNetwork(body[:cut], head, None, None), "dqn"
    if "action_net.weight" not in weights:
        raise InputError("has no network that is known: neither action_net nor q_net", place=file)
    body = _body(weights, "mlp_extractor.policy_net", _activation(data, "Tanh", file), env, file)
    head, log_std = _linear(weights, "action_net", file), weights.get("log_std")
    _check_actions(head, log_std, env, file)
    n_features = next((m.out_features for m in reversed(list(body)) if isinstance(m, nn.Linear)), None)
    if n_features not in (None, head.in_features):
        raise InputError(
            f"its last layer has {n_features} features, action_net reads {head.in_features}", place=file
        )
    return BaselinesNetwork(body, head, log_std, None if log_std is None else _span(env, file)), "ppo"


def _contents(file: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if "policy.pth" not in names:
                raise InputError("is no policy of Stable-Baselines3: it has no policy.pth", place=file)
            if sum(archive.getinfo(name).file_size for name in names) > _LARGEST_BYTES:
                raise InputError("is larger than 2 GiB", place=file)
            data = json.loads(archive.read("data")) if "data" in names else {}
            content = torch.load(
                io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True
            )
    except InputError:
        raise
    except Exception as error:  # of zipfile, json and torch, on damaged files
        raise InputError(f"cannot be read: {one_line(error)}", place=file) from None
    if not isinstance(content, Mapping) or not all(isinstance(one, Tensor) for one in content.values()):
        raise InputError("its policy.pth is no state dict", place=file)
    if not all(bool(torch.isfinite(one).all()) for one in content.values()):
        raise InputError("a weight is not finite", place=file)
    return data if isinstance(data, dict) else {}, {str(k): v.float() for k, v in content.items()}


def _activation(data: Mapping[str, Any], default: str, file: str) -> type[nn.Module]:
    settings = data.get("policy_kwargs")
    text = settings.get("activation_fn") if isinstance(settings, Mapping) else None
    found = default if text is None else re.sub(r".*\.(\w+)'>$", r"\1", str(text))
    if found not in _ACTIVATIONS:
        raise InputError(f"its activation {found[:60]!r} is not known", place=file)
    return _ACTIVATIONS[found]


def _linear(weights: Mapping[str, Tensor], name: str, file: str) -> nn.Linear:
    weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise InputError(f"{name} is not a linear layer with a bias", place=file)
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer.requires_grad_(False)


def _body(
    weights: Mapping[str, Tensor], layers: str, activation: type[nn.Module], env: Environments, file: str
) -> nn.Sequential:
    """Everything before the head (of DQN with it): reading, convolutions, linear layers."""
    part, is_single = env.observed.parts[0], env.observed.is_single
    if not is_single:
        raise UsageError("teaches where observations are one array, not several parts", place=file)
    found: list[nn.Module] = []
    extractor = next(
        (one for one in ("pi_features_extractor", "features_extractor") if f"{one}.cnn.0.weight" in weights),
        None,
    )
    if extractor is not None:
        if part.kind != "picture":
            raise UsageError("reads pictures, which the environment does not show", place=file)
        found += [UnitPicture(part), *_convolutions(weights, extractor, file)]
    else:
        if part.kind not in ("numbers", "choices"):
            raise UsageError(f"reads vectors, the environment shows a {part.kind}", place=file)
        found.append(OneHot(part) if part.kind == "choices" else nn.Flatten())
    pattern = re.compile(rf"^{re.escape(layers)}\.(\d+)\.weight$")
    numbers = sorted(int(match[1]) for match in map(pattern.match, weights) if match)
    for i, number in enumerate(numbers):
        found.append(_linear(weights, f"{layers}.{number}", file))
        if layers != "q_net" or i + 1 < len(numbers):
            found.append(activation())
    body = nn.Sequential(*found)
    _check_body(body, env, file)
    return body


def _convolutions(weights: Mapping[str, Tensor], extractor: str, file: str) -> list[nn.Module]:
    """NatureCNN: three convolutions of strides 4, 2 and 1, and a linear layer."""
    found: list[nn.Module] = []
    for number, stride in ((0, 4), (2, 2), (4, 1)):
        name = f"{extractor}.cnn.{number}"
        weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if weight is None or bias is None or weight.ndim != 4:
            raise InputError(f"{name} is not a convolution of NatureCNN", place=file)
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), stride)  # type: ignore[arg-type]
        layer.load_state_dict({"weight": weight, "bias": bias})
        found += [layer.requires_grad_(False), nn.ReLU()]
    return [*found, nn.Flatten(), _linear(weights, f"{extractor}.linear.0", file), nn.ReLU()]


def _check_body(body: nn.Sequential, env: Environments, file: str) -> None:
    try:
        with torch.no_grad():
            body(torch.zeros(1, *env.shape))
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"does not read observations {list(env.shape)} of the environment: {one_line(error)}", place=file
        ) from None


def _check_actions(head: nn.Linear, log_std: Tensor | None, env: Environments, file: str) -> None:
    actions = env.actions
    wanted = actions.n_numbers if actions.kind == "numbers" else actions.n_decisions
    kind = "choices" if log_std is None else "numbers"
    if (kind, head.out_features) != (actions.kind, wanted):
        raise UsageError(
            f"decides on {head.out_features} {kind}, the environment has {wanted} {actions.kind}", place=file
        )


def _span(env: Environments, file: str) -> tuple[Tensor, Tensor]:
    """Middle and half of the range of each action: theirs are in units of the environment, ours in -1..1."""
    if env.actions.bounds == "squash":
        raise UsageError(
            "its actions are clipped, not squashed", place=file, hint="add -s env.action_bounds=clip"
        )
    pairs = [
        (0.0, 1.0) if low is None or high is None else ((low + high) / 2, (high - low) / 2)
        for low, high in zip(env.actions.low, env.actions.high, strict=True)
    ]
    if any(half <= 0 or not math.isfinite(half) for _, half in pairs):
        raise UsageError("the environment has an action without a range", place=file)
    both = torch.from_numpy(np.array(pairs, np.float32))
    return both[:, 0], both[:, 1]
