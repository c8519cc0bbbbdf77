"""The settings of the methods that classify by the features of a frozen, trained backbone, and train nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from effcli.continual.recipe import BACKBONES, SIDE_OF_BACKBONE, ContinualRecipe
from effcli.core.recipe import Section


class BackboneSection(Section):
    """A trained network that is not changed."""

    backbone: str = Field(
        "efficientnet-lite0",
        description="Where features come from: " + BACKBONES + ".",
    )
    side: int | None = Field(None, ge=8, description=SIDE_OF_BACKBONE)
    features: str | None = Field(
        None, description="Folder in which features are cached; null: effcli/features in the user's cache."
    )


class FrozenFeaturesRecipe(ContinualRecipe):
    """Of the methods on frozen features."""

    network: BackboneSection = Field(BackboneSection(), description="The backbone.")  # type: ignore[assignment]

    def epochs_of(self, task: int) -> int:
        """None: nothing is trained by gradients."""
        return 0


class NcmRecipe(FrozenFeaturesRecipe):
    """The nearest class mean."""

    method: Literal["ncm"] = Field("ncm", description="The method.")
    distance: Literal["cosine", "euclidean"] = Field("cosine", description="Distance from a class mean.")


class ProjectionSection(Section):
    """Random features and ridge regression (docs/methods/ranpac.md)."""

    size: int | None = Field(
        4000,
        ge=1,
        description="M: number of random features that the backbone's features are projected to; null: no projection.",
    )
    ridge: float = Field(
        0.1,
        gt=0,
        description="lambda of the ridge regression, as a share of the mean of the diagonal of G.",
    )


class RanpacRecipe(FrozenFeaturesRecipe):
    """Ridge regression on random features."""

    method: Literal["ranpac"] = Field("ranpac", description="The method.")
    projection: ProjectionSection = Field(
        ProjectionSection(), description="Random features and their regression."
    )
