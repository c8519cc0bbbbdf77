"""The settings of E2Net."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from effcli.continual.recipes.rehearsal import BufferedRecipe, BufferSection
from effcli.core.recipe import CompatRecipe, Section, Switch


class E2NetSection(Section):
    """E2Net (docs/methods/e2net.md): the search for a representative subnet, and its uses."""

    ratios: tuple[float, ...] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        min_length=1,
        description="Shares of channels that a subnet may have, 0..1, ascending.",
    )
    candidates: int = Field(
        500,
        ge=1,
        description="Number of subnets sampled before each task; more take longer and may find a better one.",
    )
    shortlist: int = Field(30, ge=1, description="Number of best candidates among which the choice is made.")
    most_parameters: float = Field(
        0.95, gt=0, le=1, description="Upper bound of a subnet's share of the network's parameters."
    )
    growth: float | Literal["auto"] = Field(
        "auto",
        description="r: ratios that become available per task are proportional to it; auto: all are "
        "available for the last "
        "task.",
    )
    size_bonus: bool = Field(
        True,
        description="true: a candidate's score, of which the lowest wins, is multiplied by exp(-share of "
        "the parameters), which favours larger subnets.",
    )
    distillation: float = Field(
        0.05, ge=0, description="Weight of representative network distillation (RND); 0: off."
    )
    gate: float = Field(
        0.75,
        ge=0,
        description="g: a batch is offered to the buffer with probability exp(-g * share of the "
        "parameters) (SCER); 0: always.",
    )
    statistics: Literal["kept", "updated"] = Field(
        "kept",
        description="Running statistics of batch norm. kept: subnets do not change them; updated: they do.",
    )


class E2NetRecipe(BufferedRecipe, CompatRecipe):
    """E2Net: DER++ with a representative subnet."""

    switches: ClassVar = {
        "subnets.statistics": Switch("kept", "updated", "kept"),
        "subnets.growth": Switch("auto", 4.0, "auto"),
    }
    method: Literal["e2net"] = Field("e2net", description="The method.")
    buffer: BufferSection = Field(BufferSection(size=200), description="Images kept from earlier tasks.")
    alpha: float = Field(
        0.1,
        ge=0,
        description="Weight of the squared distance from the logits that were kept with old images.",
    )
    beta: float = Field(0.5, ge=0, description="Weight of the cross-entropy of kept images.")
    subnets: E2NetSection = Field(E2NetSection(), description="The representative subnet.")

    @model_validator(mode="after")
    def _cuts_a_resnet(self) -> E2NetRecipe:
        if self.network.backbone is not None:
            raise ValueError(
                "network.backbone: subnets are cut out of the channels of a ResNet-18, which other networks do not "
                "have; derpp is the same method without them"
            )
        return self
