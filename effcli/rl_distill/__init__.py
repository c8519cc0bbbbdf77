"""A group of policies that teach each other while they learn: OPD-DA (IJCNN 2024, arXiv 2406.05488).

policy = effcli.rl_distill.load("policy.safetensors")
action = policy.predict(observation)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effcli.rl_distill.weights import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import :func:`load`, and torch with it, on first use only."""
    if name == "load":
        from effcli.rl_distill.weights import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
