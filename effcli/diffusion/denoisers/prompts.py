"""From prompts to the conditions that a network is given, by the text encoders in a model's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.files import read_json, read_text
from effcli.core.text import cut_texts
from effcli.core.weight_file import one_line
from effcli.diffusion.denoisers.classes import Condition, denoiser_class
from effcli.diffusion.folders import BESIDE, refuse_absent
from effcli.diffusion.notices import quiet_diffusers, say_once
from effcli.diffusion.weight_files import find_weights

PROMPTS = (
    "a photo of a dog in a park",
    "a red car on a city street",
    "a bowl of fruit on a wooden table",
    "a mountain lake at sunrise",
    "a portrait of an old sailor, oil painting",
    "a cat sleeping on a sofa",
    "an astronaut riding a horse",
    "a bicycle leaning against a brick wall",
)

_ENCODERS = {
    "clip_text_model": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "t5": ("T5EncoderModel",),
    "umt5": ("UMT5EncoderModel",),
}
"""``model_type`` -> classes of transformers; the one that ``architectures`` names is taken, else the first."""

_NEEDED = {
    "StableDiffusionXLPipeline": ("_2",),
    "StableDiffusion3Pipeline": ("", "_2"),
    "FluxPipeline": ("", "_2"),
}
"""Pipeline -> numbers of the text encoders without which it makes no conditions; of others the first."""


@dataclass(frozen=True)
class PromptEmbedder:
    """What makes a network's conditions of prompts.

    Attributes:
        encoders: the text encoders, on one device.
        embed: from prompts to their conditions, one row per prompt, and those of the empty prompt, without rows.
        tokenizers: by name, each with the number of tokens behind which it cuts.
    """

    encoders: tuple[nn.Module, ...]
    embed: Callable[[list[str]], tuple[Condition, Condition]]
    tokenizers: Mapping[str, tuple[Any, int]] = field(default_factory=dict)

    def __call__(self, prompts: list[str]) -> tuple[Condition, Condition]:
        """See :attr:`embed`; the conditions are on the encoders' device."""
        return self.embed(prompts)

    def embed_file(self, prompts: str | None) -> tuple[Condition, Condition]:
        """The same for a file with one prompt per line; None: eight general ones.

        Raises:
            InputError: the file cannot be read, or holds none.
        """
        if prompts is None:
            return self.embed(list(PROMPTS))
        texts = read_prompts(Path(prompts))
        self.say_cut(texts, prompts, "prompt")
        return self.embed(texts)

    def say_cut(self, texts: Sequence[str], place: str, thing: str) -> None:
        """Say how many of ``texts``, each a ``thing`` of ``place``, a text encoder does not read to their end."""
        for name, (tokenizer, most) in self.tokenizers.items():
            with quiet_diffusers():
                said = cut_texts(texts, most, partial(_n_longer, tokenizer, most), thing, f"its {name}")
            if said is not None:
                say_once(place, said)

    def to(self, device: torch.device) -> PromptEmbedder:
        """The same, with the encoders on ``device``."""
        for encoder in self.encoders:
            encoder.to(device)
        return self


def _n_longer(tokenizer: Any, most: int, texts: list[str]) -> int:
    return sum(len(one) > most for one in tokenizer(texts).input_ids)


def load_embedder(network: nn.Module, folder: Path | None, source: str) -> PromptEmbedder:
    """The text encoders of a model, on the CPU.

    Args:
        network: what the conditions are for.
        folder: of its pipeline.
        source: its name in messages.

    Raises:
        InputError: there is no text encoder, it cannot be loaded, or the package transformers is missing.
    """
    name = None if folder is None else pipeline_of(network, folder)
    folder = _check_parts(name, folder, source)
    if find_spec("transformers") is None:
        raise InputError(
            "is a text-conditional model, which needs the package transformers",
            place=source,
            hint="pip install 'effcli[text]'",
        )
    if name is None:
        return _plain_embedder(folder)
    pipeline = _text_pipeline(name, network, folder)
    return PromptEmbedder(
        _encoders_of(pipeline), partial(_PIPELINES[name], pipeline), _tokenizers_of(pipeline)
    )


def _check_parts(pipeline: str | None, folder: Path | None, source: str) -> Path:
    """The folder, if it has what the pipeline needs of text encoders and tokenizers, and what it says it has."""
    hint = "-s condition.inputs=FILE gives embeddings that were computed before"
    if folder is not None:
        refuse_absent(folder, [part for part in BESIDE if part.startswith(("text_encoder", "tokenizer"))])
        if pipeline == "StableDiffusionXLPipeline" and _index_of(folder).get("requires_aesthetics_score"):
            raise InputError("is SDXL's refiner, which does not start from noise", place=source, hint=hint)
    parts = [
        f"{kind}{n}" for n in _NEEDED.get(pipeline or "", ("",)) for kind in ("tokenizer", "text_encoder")
    ]
    lacking = [part for part in parts if folder is None or not (folder / part).is_dir()]
    if folder is None or lacking:
        listed = " and ".join(f"{part}/" for part in lacking)
        raise InputError(f"is a text-conditional model without {listed}", place=source, hint=hint)
    return folder


def _index_of(folder: Path) -> dict[str, Any]:
    file = folder / "model_index.json"
    return read_json(file) if file.is_file() else {}


def pipeline_of(network: nn.Module, folder: Path) -> str | None:
    """The pipeline of diffusers whose ``encode_prompt`` makes the conditions; None: a CLIP text model's last states."""
    own = str(_index_of(folder).get("_class_name"))
    if own in _PIPELINES:
        return own
    if (folder / "text_encoder_2").is_dir() and type(network).__name__ == "UNet2DConditionModel":
        return "StableDiffusionXLPipeline"
    return denoiser_class(network).pipeline


def read_prompts(file: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        InputError: it cannot be read, or has none.
    """
    texts = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not texts:
        raise InputError("holds no prompts", place=str(file))
    return texts


def _plain_embedder(folder: Path) -> PromptEmbedder:
    encoder = load_text_encoder(folder / "text_encoder", clip_alone=True)
    tokenizer = _load_tokenizer(folder / "tokenizer")

    def embed(texts: list[str]) -> tuple[Condition, Condition]:
        tokens = tokenizer(
            [*texts, ""],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            device = next(encoder.parameters()).device
            embeddings = encoder(tokens.input_ids.to(device))[0].float()
        return {"encoder_hidden_states": embeddings[:-1]}, {"encoder_hidden_states": embeddings[-1]}

    return PromptEmbedder((encoder,), embed, {"tokenizer": (tokenizer, int(tokenizer.model_max_length))})


def _encoders_of(pipeline: Any) -> tuple[nn.Module, ...]:
    parts = (part for name, part in pipeline.components.items() if name.startswith("text_encoder"))
    return tuple(part for part in parts if part is not None)


def _tokenizers_of(pipeline: Any) -> dict[str, tuple[Any, int]]:
    """A pipeline's, with the tokens it is asked for: all that CLIP takes, else what the pipeline says."""
    import inspect

    said = inspect.signature(pipeline.encode_prompt).parameters.get("max_sequence_length")
    found = {
        name: part for name, part in pipeline.components.items() if name.startswith("tokenizer") and part
    }
    return {
        name: (
            part,
            int(part.model_max_length)
            if said is None or "CLIP" in type(part).__name__
            else int(said.default),
        )
        for name, part in found.items()
    }


def _text_pipeline(name: str, network: nn.Module, folder: Path) -> Any:
    """A pipeline of diffusers with its text parts alone."""
    import inspect

    import diffusers

    pipeline_class = getattr(diffusers, name)
    parameters = inspect.signature(pipeline_class.__init__).parameters
    parts: dict[str, Any] = {
        part: None
        for part, one in parameters.items()
        if part not in ("self", "kwargs") and one.default is one.empty
    }
    for part in [part for part in parameters if part.startswith("text_encoder")]:
        place = folder / part
        parts[part] = load_text_encoder(place) if place.is_dir() else None
    for part in [part for part in parameters if part.startswith("tokenizer")]:
        place = folder / part
        parts[part] = _load_tokenizer(place) if place.is_dir() else None
    if name == "StableDiffusionXLPipeline":
        zeros = _index_of(folder).get("force_zeros_for_empty_prompt", True)
        parts["force_zeros_for_empty_prompt"] = bool(zeros)
        parts["add_watermarker"] = False
    if name == "StableDiffusion3Pipeline":
        parts["transformer"] = network  # without a T5 it says how wide zeros are
    return pipeline_class(**parts)


def _of_sdxl(pipeline: Any, texts: list[str]) -> tuple[Condition, Condition]:
    return _rows_and_null(
        ("encoder_hidden_states", "added_cond_kwargs.text_embeds"), _encode(pipeline, texts), (0, 2), (1, 3)
    )


def _of_pixart(pipeline: Any, texts: list[str]) -> tuple[Condition, Condition]:
    return _rows_and_null(
        ("encoder_hidden_states", "encoder_attention_mask"), _encode(pipeline, texts), (0, 1), (2, 3)
    )


def _of_aura_flow(pipeline: Any, texts: list[str]) -> tuple[Condition, Condition]:
    return _rows_and_null(("encoder_hidden_states",), _encode(pipeline, texts), (0,), (2,))


def _of_sd3(pipeline: Any, texts: list[str]) -> tuple[Condition, Condition]:
    outputs = _encode(pipeline, texts, prompt_2=None, prompt_3=None)
    return _rows_and_null(("encoder_hidden_states", "pooled_projections"), outputs, (0, 2), (1, 3))


def _of_flux(pipeline: Any, texts: list[str]) -> tuple[Condition, Condition]:
    outputs = _encode(pipeline, [*texts, ""])
    names = ("encoder_hidden_states", "pooled_projections")
    values = {name: outputs[i].float() for i, name in enumerate(names)}
    return {name: value[:-1] for name, value in values.items()}, {name: v[-1] for name, v in values.items()}


@torch.no_grad()
def _encode(pipeline: Any, texts: list[str], **others: Any) -> tuple[Tensor, ...]:
    device = next(_encoders_of(pipeline)[0].parameters()).device
    with quiet_diffusers():
        outputs: tuple[Tensor, ...] = pipeline.encode_prompt(texts, **others, device=device)
    return outputs


def _rows_and_null(
    names: tuple[str, ...], outputs: tuple[Tensor, ...], rows: tuple[int, ...], null: tuple[int, ...]
) -> tuple[Condition, Condition]:
    return (
        {name: outputs[i].float() for name, i in zip(names, rows, strict=True)},
        {name: outputs[i][0].float() for name, i in zip(names, null, strict=True)},
    )


_PIPELINES: dict[str, Callable[[Any, list[str]], tuple[Condition, Condition]]] = {
    "StableDiffusionXLPipeline": _of_sdxl,
    "PixArtAlphaPipeline": _of_pixart,
    "PixArtSigmaPipeline": _of_pixart,
    "StableDiffusion3Pipeline": _of_sd3,
    "FluxPipeline": _of_flux,
    "AuraFlowPipeline": _of_aura_flow,
}


def load_text_encoder(folder: Path, *, clip_alone: bool = False) -> nn.Module:
    """A text encoder in float32, all of it; with ``clip_alone`` it must be a CLIP text model.

    Raises:
        InputError: it is of a kind that is not read, or its weights are incomplete, damaged or an adapter's.
    """
    import transformers

    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in _ENCODERS or (clip_alone and kind != "clip_text_model"):
        wanted = "a CLIP text model" if clip_alone else f"one of {' and '.join(_ENCODERS)}"
        raise InputError(f"is of the model_type {kind!r}, not {wanted}", place=str(folder))
    named = [name for name in config.get("architectures") or [] if name in _ENCODERS[kind]]
    encoder_class = getattr(transformers, (named or list(_ENCODERS[kind]))[0])
    weights = find_weights(folder, of_diffusers=False)
    weights.check()
    try:
        with quiet_diffusers():
            encoder, info = encoder_class.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                variant=weights.variant,
                use_safetensors=weights.kind == "safetensors",
                output_loading_info=True,
            )
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"the text encoder cannot be loaded: {one_line(error)}", place=str(folder)) from None
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise InputError(
            f"the text encoder cannot be loaded: its weights lack {lacking[0]}", place=str(folder)
        )
    network: nn.Module = encoder.eval()
    return network


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"the tokenizer cannot be loaded: {one_line(error)}", place=str(folder)) from None
