"""Learning new classes without forgetting old ones: classifiers, and detectors in ``egor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effcli.continual.prediction.predictor import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import :func:`load`, and torch with it, on first use only."""
    if name == "load":
        from effcli.continual.prediction.predictor import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
