"""A CLIP as one small file: without its image trunk, which another package holds, and without the tokens its
training never had.

What the configuration may say is checked here, for such files and for folders of open_clip.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, ValidationError
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.tensor_file import save_tensors
from effcli.core.weight_file import Count, Header, Side, first_mistake, read_weights
from effcli.nn.efficientnet_lite import LITE, TIMM_NAME, lite_weights

if TYPE_CHECKING:
    from effcli.distill.clip.clip_model import ClipModel

FORMAT, VERSION = "effcli.clip", "1"

TRUNK = "visual.trunk."
"""Prefix of the weights of an image trunk of the timm library."""

WORDS = "text.token_embedding.weight"
_TRUNKS = {LITE: TIMM_NAME}
"""Image trunks to timm's names of them."""

_VOCABULARY = 49408
_SPARE_WORD_NUMBERS, _WORD_NUMBERS_PER_STORED = 2**22, 16
"""The table of all words may have this many numbers, and so many more for each number that the file holds.

Every text tower with a layer is within it; the words of a wide one without layers or words are not in its file.
"""

_Positive = Annotated[float, Field(gt=0)]


class TextConfig(BaseModel):
    """Of the text tower; what is not named here is open_clip's."""

    model_config = ConfigDict(strict=True, extra="allow")

    context_length: Annotated[int, Field(ge=1, le=2**14)] = 77
    vocab_size: Annotated[int, Field(ge=1, le=2**20)] = _VOCABULARY
    width: Count = 512
    layers: Annotated[int, Field(ge=0, le=2**10)] = 12
    tokenizer_kwargs: dict[str, Any] = Field(default_factory=dict)


class VisionConfig(BaseModel):
    """Of the image tower."""

    model_config = ConfigDict(strict=True, extra="allow")

    image_size: Side | Annotated[tuple[Side, Side], Field(strict=False)] = 224


class ClipConfig(BaseModel):
    """What is known of a configuration of open_clip before it is built."""

    model_config = ConfigDict(strict=True, extra="allow")

    embed_dim: Count
    vision_cfg: VisionConfig
    text_cfg: TextConfig


class PreprocessConfig(BaseModel):
    """What is read of open_clip's ``preprocess_cfg``; null is CLIP's own."""

    model_config = ConfigDict(allow_inf_nan=False)

    mean: tuple[float, float, float] | None = None
    std: tuple[_Positive, _Positive, _Positive] | None = None
    interpolation: Literal["bicubic", "bilinear", "random"] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None


def check_config(config: Any, place: str) -> None:
    """Refuse what is not a configuration of open_clip, or has sizes that nothing has.

    Raises:
        InputError: it is.
    """
    try:
        ClipConfig.model_validate(config)
    except ValidationError as error:
        raise InputError(f"not an open_clip configuration: {first_mistake(error)}", place=place) from None


def checked_preprocess(written: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The ``preprocess_cfg`` of what a folder says.

    Raises:
        InputError: it is not one.
    """
    settings = written.get("preprocess_cfg") or {}
    try:
        PreprocessConfig.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"preprocess_cfg.{first_mistake(error)}", place=place) from None
    return dict(settings)


def _config(value: dict[str, Any]) -> dict[str, Any]:
    try:
        ClipConfig.model_validate(value)
    except ValidationError as error:
        raise ValueError(first_mistake(error)) from None
    if any(key.startswith("hf_") for key in value["text_cfg"]):
        raise ValueError("a text tower of another library does not fit into one file")
    if value["text_cfg"].get("vocab_size", _VOCABULARY) > _VOCABULARY:
        raise ValueError(f"CLIP's tokenizer has {_VOCABULARY} tokens, not {value['text_cfg']['vocab_size']}")
    if value["vision_cfg"].get("timm_model_name") not in _TRUNKS.values():
        raise ValueError(f"the image tower is not one of {', '.join(_TRUNKS.values())}")
    return value


def _preprocess(value: dict[str, Any]) -> dict[str, Any]:
    try:
        PreprocessConfig.model_validate(value)
    except ValidationError as error:
        raise ValueError(first_mistake(error)) from None
    return value


class ClipHeader(Header):
    """What is in the metadata."""

    FORMAT: ClassVar[str] = FORMAT
    VERSION: ClassVar[str] = VERSION

    config: Json[Annotated[dict[str, Any], AfterValidator(_config)]]
    preprocess: Json[Annotated[dict[str, Any], AfterValidator(_preprocess)]]
    trunk: str


def save_compact(file: Path, model: ClipModel, trunk: str, words: Tensor) -> None:
    """Write a model whose image trunk is not its own as one small file in fp16.

    Args:
        file: where.
        model: with a CustomTextCLIP network.
        trunk: the name of its image trunk.
        words: the numbers of the tokens that it learned, int64 ``[n]``; the others are zero when it is loaded.

    Raises:
        RunError: the file cannot be written.
    """
    state = model.network.state_dict()
    tensors = {name: value.half() for name, value in state.items() if not name.startswith(TRUNK)}
    tensors[WORDS] = tensors[WORDS][words]
    tensors["words"] = words.int()
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(model.config),
        "preprocess": json.dumps(model.preprocess.as_dict()),
        "trunk": trunk,
    }
    save_tensors(file, {name: value.contiguous() for name, value in tensors.items()}, metadata)


def trunk_weights(name: str) -> dict[str, Tensor]:
    """The weights of a trained image trunk as the timm library names them.

    Raises:
        InputError: there is no such trunk, or its package is not installed.
    """
    if name != LITE:
        raise InputError("no such image trunk", place=name, hint=LITE)
    return lite_weights()


def read_compact(file: Path, place: str) -> tuple[ClipHeader, dict[str, Tensor]]:
    """What a file of :func:`save_compact` says, and the whole state dict: with its trunk and all words.

    Raises:
        InputError: it is another kind of file or damaged, or the trunk's package is not installed.
    """
    header, tensors = read_weights(file, place, ClipHeader)
    rows, learned = tensors.pop("words", None), tensors.get(WORDS)
    text = TextConfig.model_validate(header.config["text_cfg"])
    n_words = text.vocab_size
    if rows is None or learned is None or learned.shape != (rows.numel(), text.width) or rows.ndim != 1:
        raise InputError(f"lacks its words, or their numbers do not fit {WORDS}", place=place)
    if rows.is_floating_point() or not bool(((rows >= 0) & (rows < n_words)).all()):
        raise InputError(f"has words that are not numbers from 0 to {n_words - 1}", place=place)
    state = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    _check_table(n_words, text.width, sum(value.numel() for value in tensors.values()), place)
    words = learned.new_zeros(n_words, text.width, dtype=torch.float32)
    words[rows.long()] = learned.float()
    state[WORDS] = words
    return header, state | {TRUNK + name: value for name, value in trunk_weights(header.trunk).items()}


def _check_table(n_words: int, width: int, n_stored: int, place: str) -> None:
    """Refuse a table of all words that is far larger than what the file holds, before it is allocated."""
    if n_words * width > _SPARE_WORD_NUMBERS + _WORD_NUMBERS_PER_STORED * n_stored:
        raise InputError(
            f"describes {n_words:,} words of width {width:,}, too many for the {n_stored:,} numbers it holds",
            place=place,
        )
