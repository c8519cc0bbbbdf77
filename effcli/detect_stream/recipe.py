"""The settings of `effcli detect-stream`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from effcli.core.recipe import CompatRecipe, Section, Switch
from effcli.core.recipe_changes import Renamed
from effcli.detect_stream.frame_ranges import parse_frames
from effcli.detect_stream.network.config import (
    FARTHEST_HORIZON,
    NETWORKS,
    NetworkConfig,
    are_horizons,
    folds_into_map,
)

DEFAULT_WEIGHTS = "builtin:street-tiny"

Split = Literal["sequences", "clips", "all"]
"""How a folder of KITTI Tracking is divided into what is learned from and what is measured on."""

Truncation = Literal["graded", "fraction"]
"""How KITTI Tracking's truncation 0, 1 and 2 is read: as 0, 0.3 and 0.6, or as it stands."""

Target = Literal["next", "now"]
"""Whose boxes a detector gives: those of the next frame or of this one."""


def _are_frames(text: str) -> str:
    parse_frames(text)
    return text


Frames = Annotated[str, AfterValidator(_are_frames)]
"""Frames by the numbers of their names, as of :func:`~effcli.detect_stream.frame_ranges.parse_frames`."""


class StreamNetworkSection(Section):
    """The network."""

    size: Literal["tiny", "base", "full"] = Field(
        "tiny",
        description="tiny: 0.35 million parameters, for two CPU cores; base: 1.4 million, for one GPU; full: the "
        "released architecture, 3.6 million.",
    )
    fusion: Literal["flow", "concat", "none"] = Field(
        "flow",
        description="How the last frame is used. flow: feature-flow fusion (FFF); concat: two maps side by side, "
        "without motion; none: one frame alone.",
    )
    bev: Literal["large-kernel", "hourglass"] = Field(
        "large-kernel",
        description="The network on the bird's-eye-view map. large-kernel: LKBB; hourglass: the 3x3 convolutions of "
        "the paper's baseline.",
    )
    ego_motion: bool = Field(
        False,
        description="true: the cameras' own motion is removed before FFF estimates motion, and added again (ours).",
    )
    quirks: bool | None = Field(
        None,
        description="true: compute as the released code does: a constant 1 instead of the hourglass's skips, depth off "
        "by half a plane, a drifting warp, the first shift among equals, anchors from edge to edge; false: none of "
        "these; null: true for size full, which does not run without them, else false.",
    )

    def config(self) -> NetworkConfig:
        """The architecture."""
        chosen = NETWORKS[self.size]
        update: dict[str, Any] = {"fusion": self.fusion, "bev": self.bev, "ego_motion": self.ego_motion}
        if self.quirks is not None:
            update["compat"] = self.quirks
        return chosen.model_copy(update=update)


class StreamDataSection(Section):
    """Labelled sequences to train on."""

    source: str = Field(
        "synthetic:64",
        description="Training data: a folder of KITTI Tracking, or N synthetic drives as synthetic:N or "
        "synthetic:N:PRESET+PRESET.",
    )
    split: Split = Field(
        "sequences",
        description="How a folder of KITTI Tracking is divided. sequences: whole sequences are held out; clips: every "
        "second clip of 40 frames is held out, so both parts show the same streets; all: nothing is held out.",
    )
    frames: Frames | None = Field(
        None,
        description="Frames of a folder to train on, by the numbers in their names, both ends included: "
        "49-127; separate several ranges by commas; SEQUENCE:FROM-TO where there are several "
        "sequences. Replaces the split; null: as data.split says.",
    )
    truncation: Truncation = Field(
        "graded",
        description="How KITTI Tracking's truncation 0, 1 or 2 is read. graded: as 0, 0.3 and 0.6 of the object; "
        "fraction: literally, so that objects with 1 or 2 are neither learned nor counted.",
    )


class StreamAugmentSection(Section):
    """Random changes of the training samples."""

    flip: float = Field(
        0.5, ge=0, le=1, description="Share of the training samples that are mirrored, 0 to 1."
    )
    turn: bool = Field(
        True, description="true: scenes are rotated by up to 0.1 rad and scaled by up to 3 %, at random."
    )
    paste: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the training samples, 0 to 1, into which tracks of another moment of the same cameras "
        "are pasted; each costs reading one more sample.",
    )
    forget: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the training samples, 0 to 1, that are treated as the first frame of a scene.",
    )


class StreamLossSection(Section):
    """Weights of the loss terms; that of the scores is 1."""

    target: Target = Field(
        "next",
        description="Which boxes are learned. next: those of the next frame; now: those of the current frame.",
    )
    horizons: tuple[PositiveInt, ...] = Field(
        (1,),
        min_length=1,
        description="Frames after the current one whose boxes are learned, increasing from 1; the stream "
        "uses those of the first frame due once the result is ready. More than [1] needs target "
        "next.",
    )
    box: float = Field(0.5, ge=0, description="Weight of the box codes (smooth L1).")
    overlap: float = Field(1.0, ge=0, description="Weight of 1 - 3D intersection over union.")
    direction: float = Field(
        0.2, ge=0, description="Weight of the direction, front or back, that a box faces (cross-entropy)."
    )
    depth: float = Field(1.0, ge=0, description="Weight of the pixels' depth (cross-entropy).")
    motion: float = Field(
        0.2, ge=0, description="Weight of motion consistency (MCL); 0 leaves it out; needs target next."
    )
    motion_by: Literal["track", "overlap"] = Field(
        "track",
        description="How MCL finds an object in earlier frames. track: by its track id; overlap: by the box that "
        "overlaps it most, which loses small fast objects.",
    )


class StreamTrainSection(Section):
    """The optimisation: Adam on one cycle."""

    init: str | None = Field(
        None,
        description="Weights that training starts from: a run, a file or builtin:NAME; null: random weights.",
    )
    frozen_stereo: str | None = Field(
        None,
        description="A run, file or builtin:NAME whose parts up to the bird's-eye-view map are used and "
        "frozen, so that only the rest is trained; null: everything is trained.",
    )
    depth_steps: int = Field(
        0,
        ge=0,
        description="Initial steps that learn only the depth of single frames, with a learning rate cycle "
        "of their own; each takes about half the time of the others.",
    )
    steps: int = Field(3000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(4, ge=1, description="Frames per step, over all processes.")
    learning_rate: float = Field(
        2e-3, gt=0, description="Peak learning rate, reached after 40 % of the steps."
    )
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay (AdamW); 0: none.")
    grad_clip: float = Field(
        10.0, gt=0, description="Largest norm of the gradient; larger gradients are scaled down to it."
    )


class StreamEvalSection(Section):
    """The evaluation at the end of training."""

    data: str | None = Field(
        "synthetic:8",
        description="Evaluation data: a source as in data.source, of which the held-out part is used; null: "
        "nothing is measured.",
    )
    frames: Frames | None = Field(
        None,
        description="Frames of a folder to measure on, in the form of data.frames; null: as data.split says.",
    )


class StreamRunSection(Section):
    """How a stream is run."""

    clock: Literal["wall", "sim"] = Field(
        "wall",
        description="wall: frames arrive in real time, and those overtaken by newer ones are dropped; sim: the "
        "same on a virtual clock.",
    )
    score: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Lowest score of a box to report, 0 to 1; higher values report fewer boxes.",
    )
    horizon: float | Literal["auto"] | None = Field(
        None,
        description="Boxes are extrapolated at their velocities to this many milliseconds after the "
        "capture; auto: to the age that results currently have; null: they stay those of the "
        "detector's target.",
    )
    ego_motion: bool | Literal["pictures"] | None = Field(
        None,
        description="Whether the cameras' own motion is used. true: from poses, or from the pictures where there are "
        "none; pictures: always from the pictures; false: it is ignored; null: as the detector was trained.",
    )


class StreamDsgnRecipe(CompatRecipe):
    """A streaming detector: its training, and how it is run."""

    switches: ClassVar[Mapping[str, Switch]] = {
        "network.quirks": Switch(paper=True, released=True, ours=None),
        "data.split": Switch(paper="clips", released="clips", ours="sequences"),
        "data.truncation": Switch(paper="fraction", released="fraction", ours="graded"),
        "augment.paste": Switch(paper=0.9, released=0.9, ours=0.0),
        "augment.forget": Switch(paper=0.0, released=0.0, ours=0.1),
        "loss.motion_by": Switch(paper="overlap", released="overlap", ours="track"),
    }
    task: Literal["detect-stream"] = Field("detect-stream", description="The command this recipe is for.")
    method: Literal["streamdsgn"] = Field("streamdsgn", description="The method.")
    compat: Literal["paper", "released", "ours"] = Field(
        "ours",
        description="Which version the switches of the method follow where they are not set one by one. "
        "released: the released code; ours: what works best here; paper is refused, as the "
        "paper's full text was not available. docs/methods/streamdsgn.md lists them.",
    )
    weights: str = Field(
        DEFAULT_WEIGHTS,
        description="The detector that `run` uses: a run of `train`, its file, a .pth checkpoint of the released code, "
        "or builtin:NAME. `train` starts from train.init instead.",
    )
    network: StreamNetworkSection = Field(StreamNetworkSection(), description="The network.")
    data: StreamDataSection = Field(StreamDataSection(), description="Labelled sequences to train on.")
    augment: StreamAugmentSection = Field(
        StreamAugmentSection(), description="Random changes of the training samples."
    )
    loss: StreamLossSection = Field(StreamLossSection(), description="Weights of the loss terms.")
    train: StreamTrainSection = Field(StreamTrainSection(), description="The optimisation.")
    eval: StreamEvalSection = Field(StreamEvalSection(), description="The evaluation at the end of training.")
    stream: StreamRunSection = Field(StreamRunSection(), description="How a stream is run.")

    @model_validator(mode="after")
    def _fits_together(self) -> StreamDsgnRecipe:
        if self.compat == "paper":
            raise ValueError(
                "compat: paper: the full text of the paper was not available; use released or ours"
            )
        if self.loss.motion and self.loss.target == "now":
            raise ValueError(
                "loss.motion: compares the next frame with the last ones, so it needs target next"
            )
        if self.train.depth_steps and (self.loss.depth == 0 or self.train.frozen_stereo is not None):
            raise ValueError(
                "train.depth_steps: depth is not learned with loss.depth 0 or train.frozen_stereo"
            )
        if self.eval.frames is not None and self.eval.data is None:
            raise ValueError("eval.frames: nothing is measured, as eval.data is null")
        if not are_horizons(self.loss.horizons):
            raise ValueError(
                f"loss.horizons: {list(self.loss.horizons)}: frames increase from 1 to {FARTHEST_HORIZON} at most"
            )
        if self.loss.horizons != (1,) and self.loss.target == "now":
            raise ValueError(
                f"loss.horizons: {list(self.loss.horizons)}: later frames need target next, not now"
            )
        config = self.network.config()
        if not folds_into_map(config):
            raise ValueError(
                f"network.quirks: size {self.network.size} has {config.grid.cells[0]} layers, which only the released "
                "hourglass makes a multiple of 4; set true or null"
            )
        return self

    def architecture(self) -> NetworkConfig:
        """The network, with the horizons that are learned."""
        return self.network.config().model_copy(update={"horizons": self.loss.horizons})


RENAMED = (
    Renamed("data.eval", "eval.data"),
    Renamed("weights", "train.init", when="stream.weights"),
    Renamed("stream.weights", "weights"),
    Renamed("stereo_weights", "train.frozen_stereo"),
    Renamed("network.compat", "network.quirks"),
    Renamed("data.split", "data.split", {"paper": "clips"}),
    Renamed("data.truncation", "data.truncation", {"released": "fraction"}),
    Renamed("augment.mirror", "augment.flip"),
)
"""Keys and values of version 0.1 that are written differently now."""
