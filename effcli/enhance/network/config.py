"""What decides the shape of a WalMaFa network; no torch here, so that recipes and help pages stay light."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from effcli.core.recipe import Section
from effcli.nn.wavelet_names import HAAR, WaveletName


class WalMaFaConfig(Section):
    """The architecture of a WalMaFa network; the defaults are the published size (released `train.py:69`).

    Wavelet, band and token order do not change the parameters: any weights load in any of them, but are useful only in
    those that they were trained in, which is why the weight file records this configuration (docs/methods/walmafa.md).
    """

    dim: int = Field(
        default=16,
        ge=2,
        multiple_of=2,
        description="Channels at full resolution, an even number from 2; each level below has twice as many.",
    )
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        default=(2, 3, 4),
        description="Wavelet Mamba blocks, 1 or more each: at 1/2 (and full), 1/4 and 1/8 of the resolution.",
    )
    d_state: PositiveInt = Field(
        default=32, description="States per channel of the selective scan, 1 or more."
    )
    wavelet: WaveletName = Field(
        default=HAAR,
        description="Wavelet of the blocks: haar (the paper), or another discrete wavelet by its name in PyWavelets, "
        "such as db2, sym4 or bior2.2. Longer filters look further and take longer.",
    )
    mamba_band: Literal["ll", "high"] = Field(
        default="ll",
        description="Wavelet band that goes through Mamba: ll is the low-frequency band (the paper's abstract), high "
        "the three detail bands (the released code).",
    )
    token_order: Literal["transpose", "reshape"] = Field(
        default="transpose",
        description="How feature maps become tokens: transpose makes each pixel a token (the paper's figure), reshape "
        "takes consecutive values of memory (the released code), which needs the whole picture in memory.",
    )
    head: Literal["picture", "exposure"] = Field(
        default="exposure",
        description="What the network predicts: picture is the bright picture itself (the paper and the "
        "released code), exposure is how to expose each pixel, so that colours keep their hue "
        "and the level to reach can be chosen.",
    )
    mamba: bool = Field(
        default=True,
        description="true uses Mamba in the wavelet branch; false keeps only its convolutions (ablation).",
    )
    fourier: bool = Field(
        default=True,
        description="true uses the Fourier block at the bottleneck; false leaves it out (ablation).",
    )
