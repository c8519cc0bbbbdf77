"""What decides the shape of a WalMaFa network; no torch here, so that recipes and help pages stay light."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from effcli.core.recipe import Section


class WalMaFaConfig(Section):
    """The architecture of a WalMaFa network; the defaults are the published size (released `train.py:69`).

    The bands and orders do not change parameters: any weights load in any of them, but mean something only in
    the one they were trained in, which is why the weight file records this configuration.
    """

    dim: int = Field(
        default=16, ge=2, multiple_of=2, description="Channels at full resolution; doubled at each level."
    )
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        default=(2, 3, 4),
        description="Wavelet Mamba blocks at 1/2 (and full), 1/4 and 1/8 of the resolution.",
    )
    d_state: PositiveInt = Field(default=32, description="States per channel of the selective scan.")
    mamba_band: Literal["ll", "high"] = Field(
        default="ll",
        description="Wavelet band that gets Mamba: ll as in the paper's text, high as in the released code.",
    )
    token_order: Literal["transpose", "reshape"] = Field(
        default="transpose",
        description="Tokens are pixels (transpose, the paper's figure) or runs of memory (reshape, the code)",
    )
    mamba: bool = Field(
        default=True, description="False: the wavelet branch keeps its convolutions only (ablation)."
    )
    fourier: bool = Field(default=True, description="False: no Fourier block at the bottleneck (ablation).")
