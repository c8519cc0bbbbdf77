"""Networks of one architecture that are computed together, with their weights in one array.

The time of small networks goes into operator calls, so three at once cost little more than one; and with all weights in
one array, clipping takes one norm and Adam one step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from effcli.core.runtime import Runtime
from effcli.rl_distill.network.encoders import Normaliser, OneHot, normalised
from effcli.rl_distill.network.policies import ActorCritic, QNetwork

_VECTOR = 64


class NetworkStack:
    """T networks with a leading dimension T; their parameters become views of rows of :attr:`weights`.

    Args:
        networks: of one architecture; more than one only where :func:`stacks_of` would stack them.
        members: their indices in the group.
        runtime: its precision is that of the layers.

    Attributes:
        weights: ``[T, P]``, which an optimiser steps: the parameters of each, padded with zeros to a whole number of
            SIMD vectors, so that the step of a network does not depend on the others.
    """

    def __init__(
        self, networks: Sequence[ActorCritic | QNetwork], members: Sequence[int], runtime: Runtime
    ) -> None:
        self.networks, self.members, self.runtime = tuple(networks), tuple(members), runtime
        rows = torch.stack([nn.utils.parameters_to_vector(one.parameters()).detach() for one in networks])
        self._rest = rows.new_zeros(len(rows), -rows.shape[1] % _VECTOR)
        self.weights = nn.Parameter(torch.cat([rows, self._rest], 1))
        self._layers: dict[str, Tensor] = {}
        first = 0
        for name, like in networks[0].named_parameters():
            columns = slice(first, first + like.numel())
            first = columns.stop
            layer = self.weights.detach()[:, columns].view(len(rows), *like.shape)
            self._layers[name] = layer.requires_grad_()
            for row, network in enumerate(networks):
                network.get_parameter(name).data = layer.detach()[row]
        self._reads_vectors = reads_vectors(networks[0])
        self._leaves = list(self._layers.values()) if self._reads_vectors else list(networks[0].parameters())

    def __len__(self) -> int:
        return len(self.networks)

    def __call__(self, observations: Tensor) -> tuple[Tensor, ...]:
        """Outputs of the networks for observations ``[T, B, ...]``, float32, each with a leading T."""
        with self.runtime.autocast():
            seen = self._together(observations) if self._reads_vectors else self.networks[0](observations[0])
        return tuple(part.float() if self._reads_vectors else part[None].float() for part in seen)

    def _together(self, observations: Tensor) -> tuple[Tensor, ...]:
        features = self._encoded("encoder", observations)
        network = self.networks[0]
        if isinstance(network, QNetwork):
            return features, self._linear("q", features)
        own = network.critic_encoder is not None
        seen = self._encoded("critic_encoder", observations) if own else features
        decisions = self._linear("actor", features)
        if network.log_std is not None:
            spread = self._layers["log_std"][:, None].expand_as(decisions)
            decisions = torch.cat([decisions, spread], -1)
        return features, decisions, self._linear("critic", seen)[..., 0]

    def _encoded(self, name: str, x: Tensor) -> Tensor:
        for i, layer in enumerate(getattr(self.networks[0], name)):
            if isinstance(layer, Normaliser):
                own = [getattr(network, name)[i] for network in self.networks]
                means, variances = (
                    torch.stack([getattr(one, of) for one in own]) for of in ("mean", "variance")
                )
                x = normalised(x, means[:, None], variances[:, None])
            else:
                x = self._linear(f"{name}.{i}", x) if isinstance(layer, nn.Linear) else layer(x)
        return x

    def _linear(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self._layers[f"{name}.weight"], self._layers[f"{name}.bias"]
        if weight.shape[1] == 1:  # a batched product of one column rounds differently with T
            return (x * weight).sum(-1, keepdim=True) + bias[:, None]
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))

    def take_gradient(
        self, largest: float | None = None, add_up: Callable[[Tensor], Tensor] = lambda gradient: gradient
    ) -> None:
        """Move the gradients of a backward pass to :attr:`weights`.

        Args:
            largest: norm that the gradient of each network is clipped to; None does not clip.
            add_up: changes the gradients of all before, in place, to their sum over several processes.
        """
        grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in self._leaves]
        grad = torch.cat([*(one.reshape(len(self), -1) for one in grads), self._rest], 1)
        for leaf in self._leaves:
            leaf.grad = None
        add_up(grad)
        if largest is not None:
            grad *= (largest / (grad.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)
        self.weights.grad = grad

    @torch.no_grad()
    def copy_weights(self, other: Tensor) -> None:
        """Copy weights ``[T, P]`` into this stack."""
        self.weights.copy_(other)


def reads_vectors(network: ActorCritic | QNetwork) -> bool:
    """Whether its encoder has only linear layers and pointwise functions."""
    known = nn.Linear | nn.Tanh | nn.ReLU | OneHot | Normaliser
    return all(isinstance(layer, known) or _flattens(layer) for layer in network.encoder)


def _flattens(layer: nn.Module) -> bool:
    """Whether it flattens from the end, and so leaves leading axes alone."""
    return isinstance(layer, nn.Flatten) and layer.start_dim < 0


def stacks_of(
    networks: Sequence[ActorCritic | QNetwork], runtime: Runtime, *, together: bool = True
) -> list[NetworkStack]:
    """All networks in one stack if they have one shape and read vectors; else one stack per network.

    Convolutions gain nothing from stacking on a CPU.

    Args:
        networks: of the group, in order.
        runtime: device and precision.
        together: False gives one stack per network in any case, which is slower.
    """
    alike = len({tuple(p.shape for p in one.parameters()) for one in networks}) == 1
    if together and alike and reads_vectors(networks[0]):
        return [NetworkStack(networks, range(len(networks)), runtime)]
    return [NetworkStack([one], [m], runtime) for m, one in enumerate(networks)]
