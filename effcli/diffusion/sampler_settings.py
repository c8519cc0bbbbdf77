"""How a diffusion model samples, and under which conditions, as recipes say it.

No torch here, so that recipes load fast.
"""

from __future__ import annotations

from pydantic import Field

from effcli.core.recipe import Section


class SamplerSettings(Section):
    """How a diffusion model samples."""

    steps: int | None = Field(
        None,
        ge=1,
        description="DDIM sampling steps; null: the number that the model was distilled for, else 16.",
    )
    eta: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of fresh noise in each sampling step, 0 to 1: 0 is DDIM, 1 is DDPM.",
    )
    guidance: float = Field(
        1.0,
        ge=0,
        description="Classifier-free guidance scale; 1 is no guidance, larger follows the condition "
        "more closely.",
    )


class ConditionSection(Section):
    """What a conditional model is given beside noise."""

    prompts: str | None = Field(
        None,
        description="Text file with one prompt per line, for text-conditional models; null uses eight general prompts.",
    )
    null_class: int | None = Field(
        None,
        description="Class label that means no class; class-conditional models need it for sampler.guidance.",
    )
    inputs: str | None = Field(
        None,
        description="Safetensors file of network inputs that neither prompts nor labels provide, such as "
        "image latents or embeddings: one tensor per input, one row per image; null.NAME means "
        "no condition.",
    )
