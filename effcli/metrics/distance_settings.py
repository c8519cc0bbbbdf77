"""What Frechet distances are measured on, as recipes say it; no torch here, so that recipes load at once."""

from __future__ import annotations

from pydantic import Field

from effcli.core.recipe import Section


class DistanceSettings(Section):
    """What is measured at the end."""

    n_images: int = Field(512, ge=2, description="Images drawn by each model, from the same noise.")
    batch_size: int = Field(64, ge=1, description="Images drawn at a time.")
    features: str = Field(
        "auto",
        description="Feature space of the Frechet distances: pixels, efficientnet-lite0, builtin:NAME, a classifier "
        "file, or auto.",
    )
    data: str | None = Field(
        None,
        description="Real images for fd: a folder, a folder of IDX files, an .npz; null: what the features come with.",
    )
