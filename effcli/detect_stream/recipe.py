"""The settings of `effcli detect-stream`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from effcli.core.recipe import Recipe, Section
from effcli.detect_stream.network.config import NETWORKS, NetworkConfig


class NetworkSection(Section):
    """The network."""

    size: Literal["tiny", "base", "full"] = Field(
        "tiny", description="Two CPU cores, one GPU, or the paper's."
    )
    fusion: Literal["flow", "concat", "none"] = Field(
        "flow", description="FFF; two frames side by side without motion; or one frame alone."
    )
    bev: Literal["large-kernel", "hourglass"] = Field(
        "large-kernel", description="LKBB, or the 3x3 hourglass of the paper's baseline."
    )
    ego_motion: bool = Field(
        False, description="Take the cameras' own motion out before FFF looks for motion (ours)."
    )
    compat: bool | None = Field(
        None, description="The released code's own ways (spec sheet 3.5-3.9); null: in size full alone."
    )

    def config(self) -> NetworkConfig:
        """The architecture."""
        chosen = NETWORKS[self.size]
        update: dict[str, Any] = {"fusion": self.fusion, "bev": self.bev, "ego_motion": self.ego_motion}
        if self.compat is not None:
            update["compat"] = self.compat
        return chosen.model_copy(update=update)


class DataSection(Section):
    """Sequences with labels."""

    source: str = Field(
        "synthetic:64",
        description="Folder of KITTI Tracking, or synthetic:N or synthetic:N:PRESET+PRESET for N drives.",
    )
    split: Literal["paper", "sequences", "all"] = Field(
        "sequences",
        description="KITTI: clips of 40 frames in turn (the paper's), whole sequences held out, or all.",
    )
    eval: str | None = Field(
        "synthetic:8",
        description="Measured at the end: a source as above; null: the split's other part, or nothing.",
    )
    truncation: Literal["graded", "released"] = Field(
        "graded",
        description="KITTI Tracking's truncation 0, 1, 2 as 0, 0.3, 0.6, or as shares (released: 1 and 2 go).",
    )


class AugmentSection(Section):
    """Chance in training."""

    mirror: float = Field(0.5, ge=0, le=1, description="Share of the samples that are mirrored.")
    turn: bool = Field(True, description="Volumes are turned by up to 0.1 rad and scaled by up to 3 %.")
    paste: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the samples that get objects of another moment (released 0.9); costs another frame each.",
    )
    forget: float = Field(
        0.1, ge=0, le=1, description="Share of the samples that are learnt as the first frame of a scene."
    )


class LossSection(Section):
    """Weights of the losses."""

    target: Literal["next", "now"] = Field(
        "next", description="Learn the boxes of the next frame, or of this one."
    )
    box: float = Field(0.5, ge=0, description="Of codes.")
    overlap: float = Field(1.0, ge=0, description="Of 3D overlap.")
    direction: float = Field(0.2, ge=0, description="Of half turns.")
    depth: float = Field(1.0, ge=0, description="Of depth.")
    motion: float = Field(0.2, ge=0, description="Of motion consistency (MCL); 0: without.")
    motion_by: Literal["track", "overlap"] = Field(
        "track", description="How an object is found again for MCL: by its track, or by its place (released)."
    )


class TrainSection(Section):
    """The optimisation: Adam on one cycle."""

    steps: int = Field(3000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(4, ge=1, description="Frames a step.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak, at two fifths of the steps.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled.")
    grad_clip: float = Field(10.0, gt=0, description="Largest norm of the gradient.")


class StreamSection(Section):
    """How a stream is run."""

    weights: str = Field(
        "builtin:street-tiny", description="The detector: a run of train, its file, or builtin:NAME."
    )
    clock: Literal["wall", "sim"] = Field("wall", description="Real time, or a virtual clock.")
    score: float = Field(0.3, ge=0, le=1, description="Least score of a box.")
    horizon: float | Literal["auto"] | None = Field(
        None,
        description="Boxes for so many milliseconds after the capture, for when they are there (auto), or for the "
        "next frame (null).",
    )
    ego_motion: bool | Literal["pictures"] | None = Field(
        None,
        description="Use the cameras' own motion or do not: from poses, or from the pictures where there are none; "
        "always from the pictures; null: as the detector was trained.",
    )


class StreamDsgnRecipe(Recipe):
    """A streaming detector: its training, and how it is run."""

    task: Literal["detect-stream"] = Field("detect-stream", description="The command this recipe is for.")
    method: Literal["streamdsgn"] = Field("streamdsgn", description="The method.")
    weights: str | None = Field(
        None, description="Go on from these: a file, a run or builtin:NAME; null: random."
    )
    stereo_weights: str | None = Field(
        None,
        description="Take the parts up to the map seen from above from these and keep them; learn only what follows.",
    )
    network: NetworkSection = Field(NetworkSection(), description="The network.")
    data: DataSection = Field(DataSection(), description="What is learnt from.")
    augment: AugmentSection = Field(AugmentSection(), description="Chance.")
    loss: LossSection = Field(LossSection(), description="What is minimised.")
    train: TrainSection = Field(TrainSection(), description="The optimisation.")
    stream: StreamSection = Field(StreamSection(), description="How a stream is run.")

    @model_validator(mode="after")
    def _fits_together(self) -> StreamDsgnRecipe:
        if self.loss.motion and self.loss.target == "now":
            raise ValueError(
                "loss.motion: compares the next frame with the last ones, so it needs target next"
            )
        return self
