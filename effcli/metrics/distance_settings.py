"""The recipe keys of Frechet distances; no torch here, so that recipes load fast."""

from __future__ import annotations

from pydantic import Field

from effcli.core.recipe import Section


class DistanceSettings(Section):
    """What is measured at the end."""

    n_images: int = Field(
        512,
        ge=2,
        description="Images that each model samples from the same noise, 2 or more. More make distances more reliable.",
    )
    batch_size: int = Field(
        64, ge=1, description="Images sampled at a time, 1 or more; more is faster and needs more memory."
    )
    features: str = Field(
        "auto",
        description="Feature space of the Frechet distances: pixels, efficientnet-lite0, builtin:NAME, "
        "inception:FILE (Inception-v3's weights, for figures like published ones), or a classifier file; auto takes "
        "builtin:fashion-features for grey 16x16 images, else pixels.",
    )
    data: str | None = Field(
        None,
        description="Real images for the Frechet distance fd: a folder of pictures, a folder of IDX files, or an "
        ".npz; null takes the statistics of the feature space itself, where it has any.",
    )
