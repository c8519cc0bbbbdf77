"""Mixed-precision quantization of diffusion UNets with MPQ-DM (AAAI 2025).

After ``import effcli.quantize``, ``from_pretrained`` of diffusers reads packed models, alone or in a pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effcli.quantize.loaded.registration import register_with_diffusers

if TYPE_CHECKING:
    from effcli.quantize.packed_unet import load

__all__ = ["load"]

register_with_diffusers()


def __getattr__(name: str) -> Any:
    """Import :func:`load`, and torch with it, on first use only."""
    if name == "load":
        from effcli.quantize.packed_unet import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
