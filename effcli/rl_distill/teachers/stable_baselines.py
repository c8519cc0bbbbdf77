"""Policies of Stable-Baselines3 and its zoo: weights and spaces of a zip, of which nothing is unpickled.

``policy.pth`` is read with ``weights_only``, and of ``data`` only the readable text beside the pickled values.
"""

from __future__ import annotations

import io
import json
import logging
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effcli.core.errors import InputError, UsageError
from effcli.core.weight_file import one_line
from effcli.rl_distill.environments.copies import Environments
from effcli.rl_distill.network.policies import allowed
from effcli.rl_distill.teachers.baselines_layers import (
    BaselinesSettings,
    linear_layer,
    linear_layers,
    reader,
    settings_of,
)

log = logging.getLogger(__name__)

_LARGEST_BYTES = 2**31
_SDE_EPSILON = 1e-6
_READ = re.compile(
    r"(pi_|vf_|)features_extractor\.|mlp_extractor\.(shared_net|policy_net|value_net)\.|(action|value)_net\.|log_std$"
    r"|q_net(_target)?\.|actor\.(features_extractor|latent_pi|mu|log_std)\.|critic(_target)?\."
)
"""Names of weights that a policy may have: those of the critic and of the target network are not needed."""


class BaselinesNetwork(nn.Module):
    """A policy of Stable-Baselines3 as ours: features and decisions.

    Args:
        body: observations to features.
        head: features to decisions.
        log_std: of continuous actions, in units of the environment, ``[K]``, or ``[F, K]`` or ``[F, 1]`` of
            state-dependent exploration; None of choices.
        span: middle and half of the range of each action, so that decisions are in -1..1.
        mask: where in an observation the allowed actions are.
    """

    def __init__(
        self,
        body: nn.Sequential,
        head: nn.Linear,
        log_std: Tensor | None,
        span: tuple[Tensor, Tensor] | None,
        mask: slice | None = None,
    ) -> None:
        super().__init__()
        self.body, self.head, self.n_features = body, head, head.in_features
        self._log_std, self._span, self._mask = log_std, span, mask

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[B, F]`` and decisions ``[B, D]`` of observations ``[B, ...]``."""
        features = self.body(observations)
        decisions = self.head(features)
        if self._log_std is None or self._span is None:
            return features, allowed(decisions, observations, self._mask)
        middle, half = (one.to(decisions) for one in self._span)
        mean, log_std = (decisions - middle) / half, self._log_std_at(features) - half.log()
        return features, torch.cat([mean, log_std.expand_as(mean)], -1)

    def _log_std_at(self, features: Tensor) -> Tensor:
        """The logarithm of the standard deviation, ``[K]`` or ``[B, K]``."""
        assert self._log_std is not None
        log_std = self._log_std.to(features)
        if log_std.ndim == 1:
            return log_std
        return (features.square() @ log_std.exp().square() + _SDE_EPSILON).log() / 2


def read_stable_baselines(file: str, env: Environments) -> tuple[BaselinesNetwork, str]:
    """The policy of a zip, and its algorithm, ``ppo`` (also A2C, SAC and others with an actor) or ``dqn``.

    Observations must be those of the environment: statistics of ``VecNormalize`` are in a pickle of their own, which is
    not read; where it lies beside the zip, a warning says so.

    Args:
        file: the zip.
        env: in which it is to teach.

    Raises:
        InputError: it cannot be read, or has a part or setting that is not known.
        UsageError: its observations or actions are not those of the environment.
    """
    data, weights = _contents(file)
    settings = settings_of(data, file)
    _warn_of_statistics(file)
    is_dqn = any(name.startswith("q_net.q_net.") for name in weights)
    is_squashed = "actor.mu.weight" in weights
    if "actor.mu.0.weight" in weights:
        raise InputError(
            "is a policy of TD3, DDPG, or SAC with use_sde; supported: PPO, A2C, DQN, SAC and TQC without "
            "settings that change the distribution of actions", place=file,
        )  # fmt: skip
    if not (is_dqn or is_squashed or "action_net.weight" in weights):
        raise InputError("has no known network: none of action_net, q_net and actor.mu", place=file)
    unread = next((name for name in weights if not _READ.match(name)), None)
    if unread is not None:
        raise InputError(f"has weights that are not understood: {unread[:80]}", place=file)
    if is_dqn:
        return _q_network(weights, settings, env, file), "dqn"
    if is_squashed:
        return _squashed_actor(weights, settings, env, file), "ppo"
    return _actor(weights, settings, env, file), "ppo"


def _q_network(
    weights: Mapping[str, Tensor], settings: BaselinesSettings, env: Environments, file: str
) -> BaselinesNetwork:
    read = reader(weights, "q_net.features_extractor", env.observed, settings, file)
    *hidden, head = linear_layers(weights, "q_net.q_net", file)
    body = _body(read, hidden, settings.activation or nn.ReLU)
    _check(body, head, "choices", head.out_features, env, file)
    return BaselinesNetwork(body, head, None, None, env.observed.mask)


def _squashed_actor(
    weights: Mapping[str, Tensor], settings: BaselinesSettings, env: Environments, file: str
) -> BaselinesNetwork:
    """The actor of SAC and TQC: means and logarithms of standard deviations before tanh, which are our decisions."""
    read = reader(weights, "actor.features_extractor", env.observed, settings, file)
    body = _body(read, linear_layers(weights, "actor.latent_pi", file), settings.activation or nn.ReLU)
    mean, log_std = (linear_layer(weights, f"actor.{name}", file) for name in ("mu", "log_std"))
    if mean.weight.shape != log_std.weight.shape:
        raise InputError("its layers mu and log_std have different shapes", place=file)
    head = nn.Linear(mean.in_features, 2 * mean.out_features).requires_grad_(False)
    head.load_state_dict(
        {name: torch.cat([getattr(one, name) for one in (mean, log_std)]) for name in ("weight", "bias")}
    )
    _check(body, head, "numbers", mean.out_features, env, file)
    if env.actions.bounds != "squash":
        raise UsageError(
            "its actions are squashed, not clipped", place=file, hint="add -s env.action_bounds=squash"
        )
    if None in (*env.actions.low, *env.actions.high):
        raise UsageError(
            "its actions have bounds, but the environment has an action without bounds", place=file
        )
    return BaselinesNetwork(body, head, None, None)


def _actor(
    weights: Mapping[str, Tensor], settings: BaselinesSettings, env: Environments, file: str
) -> BaselinesNetwork:
    own = any(name.startswith("pi_features_extractor.") for name in weights)
    extractor = "pi_features_extractor" if own else "features_extractor"
    read = reader(weights, extractor, env.observed, settings, file)
    layers = [
        one
        for name in ("shared_net", "policy_net")
        for one in linear_layers(weights, f"mlp_extractor.{name}", file)
    ]
    body = _body(read, layers, settings.activation or nn.Tanh)
    head, log_std = linear_layer(weights, "action_net", file), weights.get("log_std")
    _check(body, head, "choices" if log_std is None else "numbers", head.out_features, env, file)
    span = None if log_std is None else _span(env, file)
    n_features, n = head.in_features, head.out_features
    if log_std is not None and tuple(log_std.shape) not in ((n,), (n_features, n), (n_features, 1)):
        raise InputError(f"its log_std has shape {list(log_std.shape)}", place=file)
    return BaselinesNetwork(body, head, log_std, span, env.observed.mask)


def _body(read: nn.Module, layers: list[nn.Linear], activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(read, *(module for layer in layers for module in (layer, activation())))


def _check(
    body: nn.Sequential, head: nn.Linear, kind: str, n_decided: int, env: Environments, file: str
) -> None:
    """That a policy reads the observations of the environment and decides on its actions."""
    try:
        with torch.no_grad():
            n_features = body(torch.zeros(1, *env.shape)).shape[-1]
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"does not read observations {list(env.shape)} of the environment: {one_line(error)}", place=file
        ) from None
    if n_features != head.in_features:
        raise InputError(
            f"its last layer has {n_features} features, the layer of decisions reads {head.in_features}",
            place=file,
        )
    actions = env.actions
    wanted = actions.n_numbers if actions.kind == "numbers" else actions.n_decisions
    if (kind, n_decided) != (actions.kind, wanted):
        raise UsageError(
            f"decides on {n_decided} {kind}, the environment has {wanted} {actions.kind}", place=file
        )


def _warn_of_statistics(file: str) -> None:
    """Say that statistics lie beside a zip, or in a folder of its name as the zoo puts them, and are not read."""
    path = Path(file)
    folders = [one for one in (path.parent, path.with_suffix("")) if one.is_dir()]
    found = [one for folder in folders for one in sorted(folder.iterdir()) if _holds_statistics(one)]
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        log.warning(
            "%s: statistics for normalisation are in a pickle, which is not read: %s%s", file, found[0], more
        )


def _holds_statistics(file: Path) -> bool:
    """Whether a pickle is a VecNormalize: by its name, or by that of the class, which is text at its beginning."""
    if file.suffix not in (".pkl", ".pickle"):
        return False
    if "vecnormalize" in file.name.lower().replace("_", "").replace("-", ""):
        return True
    try:
        with file.open("rb") as opened:
            return b"VecNormalize" in opened.read(4096)
    except OSError:
        return False


def _contents(file: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if "policy.pth" not in names:
                raise InputError("is not a policy of Stable-Baselines3: it has no policy.pth", place=file)
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
        raise InputError("its policy.pth is not a state dict", place=file)
    if not all(bool(torch.isfinite(one).all()) for one in content.values()):
        raise InputError("a weight is not finite", place=file)
    return data if isinstance(data, dict) else {}, {str(k): v.float() for k, v in content.items()}


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
