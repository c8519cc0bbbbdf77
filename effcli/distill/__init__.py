"""Few-step students of diffusion models (RDD, ACM Multimedia 2024), and the models that distillation starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effcli.distill.sampling import Sampler

__all__ = ["Sampler"]


def __getattr__(name: str) -> Any:
    """Import :class:`Sampler`, and torch with it, on first use only."""
    if name == "Sampler":
        from effcli.distill.sampling import Sampler

        return Sampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
