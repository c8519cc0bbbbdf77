"""The settings of the methods that keep images, and of CLFD around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from effcli.continual.recipe import SgdTrainedRecipe
from effcli.core.recipe import CompatRecipe, Section, Switch
from effcli.nn.wavelet_names import HAAR, WaveletName


class BufferSection(Section):
    """Images kept from earlier tasks, chosen by reservoir sampling."""

    size: int = Field(
        50,
        ge=2,
        description="Number of images to keep; in the frequency domain 4 times as many features are kept.",
    )
    batch_size: int = Field(32, ge=2, description="Kept images per step.")
    dtype: Literal["float32", "float16"] = Field(
        "float32",
        description="Number format of kept features; float16 halves their memory. Images are kept as bytes.",
    )


class FrequencySection(Section):
    """CLFD (docs/methods/clfd.md): frequency features of half the side, and a subset of the features per class."""

    enabled: bool = Field(False, description="true: learn in the frequency domain (CLFD).")
    encode: bool = Field(
        True,
        description="true: images are replaced by frequency features of half the side length (FFE); false: "
        "CFFS alone.",
    )
    select: bool = Field(
        True,
        description="true: each class uses its own subset of the features (CFFS); false: FFE alone.",
    )
    wavelet: WaveletName = Field(
        HAAR,
        description="Wavelet of the bands: haar (the paper), or another discrete wavelet by its name in "
        "PyWavelets, "
        "such as db2, sym4 or bior2.2. Longer filters look further, and around the image's ends.",
    )
    kept: float = Field(
        0.6, gt=0, le=1, description="k / N: share of the features that are kept per image; 1 keeps all."
    )
    similarity_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="lambda of equation 4, 0..1: with higher values frequency dropout weighs dissimilar "
        "classes more and similar ones less.",
    )
    concentration: float = Field(
        2.0,
        gt=0,
        description="beta_c of equation 5: with higher values semantic dropout is more likely to keep units "
        "that were used before.",
    )
    semantic_from: float = Field(
        0.4, ge=0, le=1, description="E: share of a task's epochs before semantic dropout begins."
    )
    alphas: Literal["shifted", "equation-4"] = Field(
        "shifted",
        description="Exponents of frequency dropout. equation-4: as in the paper; shifted: as in the "
        "released code, which keeps their sign.",
    )
    multiple: int = Field(
        4, ge=1, description="Number of features kept per image of buffer.size; they are a quarter as large."
    )


class BufferedRecipe(SgdTrainedRecipe):
    """Of the methods that keep images."""

    buffer: BufferSection = Field(BufferSection(), description="Images kept from earlier tasks.")


class RehearsalRecipe(BufferedRecipe, CompatRecipe):
    """Of the methods that CLFD can be put around."""

    switches: ClassVar = {"frequency.alphas": Switch("equation-4", "shifted", "shifted")}
    frequency: FrequencySection = Field(FrequencySection(), description="CLFD, which wraps the method.")

    @model_validator(mode="after")
    def _takes_what_the_encoder_gives(self) -> RehearsalRecipe:
        if self.is_encoded and self.network.backbone is not None:
            raise ValueError(
                "network.backbone: a trained network takes images, not frequency features; with "
                "frequency.encode: false each class uses its own units of its features (CFFS)"
            )
        return self

    @property
    def is_encoded(self) -> bool:
        """Whether the network takes frequency features instead of images."""
        return self.frequency.enabled and self.frequency.encode


class ErRecipe(RehearsalRecipe):
    """Experience replay."""

    method: Literal["er"] = Field("er", description="The method.")
    passes: Literal["auto", "joint", "separate"] = Field(
        "auto",
        description="joint: new and kept images go through the network in one batch, as in Mammoth; "
        "separate: one after "
        "the other, as in CLFD; auto: separate in the frequency domain, else joint.",
    )


class ClfdRecipe(ErRecipe):
    """CLFD around experience replay, the paper's CLFD-ER."""

    method: Literal["clfd"] = Field("clfd", description="The method.")  # type: ignore[assignment]
    frequency: FrequencySection = Field(FrequencySection(enabled=True), description="CLFD.")

    @model_validator(mode="before")
    @classmethod
    def _in_the_frequency_domain(cls, data: Any) -> Any:
        section = data.get("frequency") if isinstance(data, Mapping) else None
        if not isinstance(section, Mapping):
            return data
        return {**data, "frequency": {"enabled": True, **section}}

    @model_validator(mode="after")
    def _is_clfd(self) -> ClfdRecipe:
        if not self.frequency.enabled:
            raise ValueError("frequency.enabled: cannot be false here; without CLFD the method is er")
        return self


class DerppRecipe(RehearsalRecipe):
    """Dark experience replay++."""

    method: Literal["derpp"] = Field("derpp", description="The method.")
    alpha: float = Field(
        0.1,
        ge=0,
        description="Weight of the squared distance from the logits that were kept with old images.",
    )
    beta: float = Field(0.5, ge=0, description="Weight of the cross-entropy of kept images.")


class ErAceRecipe(RehearsalRecipe):
    """ER with asymmetric cross-entropy."""

    method: Literal["er-ace"] = Field("er-ace", description="The method.")


class ClsErRecipe(RehearsalRecipe):
    """Two averaged models beside the network."""

    method: Literal["cls-er"] = Field("cls-er", description="The method.")
    passes: Literal["auto", "joint", "separate"] = Field(
        "auto",
        description="joint: new and kept images go through the network in one batch; separate: one "
        "after the other; "
        "auto: separate in the frequency domain, else joint.",
    )
    stable_rate: float = Field(
        0.05, ge=0, le=1, description="r_S: probability per step that the stable model is updated."
    )
    plastic_rate: float = Field(
        0.2, ge=0, le=1, description="r_P: probability per step that the plastic model is updated."
    )
    regularisation: float = Field(
        0.15, ge=0, description="Weight of the squared distance from the averaged models' logits."
    )
    decay: float = Field(0.999, ge=0, lt=1, description="Upper bound of the decay of both averages.")
