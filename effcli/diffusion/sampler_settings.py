"""How images are drawn, as recipes say it; no torch here, so that recipes load at once."""

from __future__ import annotations

from pydantic import Field

from effcli.core.recipe import Section


class SamplerSettings(Section):
    """How images are drawn."""

    steps: int | None = Field(
        None, ge=1, description="DDIM steps S; null: those that the model was distilled for, else 16."
    )
    eta: float = Field(
        0.0, ge=0, le=1, description="Share of fresh noise in each step: 0 is DDIM, 1 is DDPM."
    )
    guidance: float = Field(
        1.0, ge=0, description="Classifier-free guidance scale; 1 leaves the prediction as it is."
    )
