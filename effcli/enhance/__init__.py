"""Low-light enhancement with WalMaFa (ACCV 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effcli.enhance.enhancer import Enhancer

__all__ = ["Enhancer"]


def __getattr__(name: str) -> Any:
    """Import :class:`Enhancer`, and torch with it, on first use only."""
    if name == "Enhancer":
        from effcli.enhance.enhancer import Enhancer

        return Enhancer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
