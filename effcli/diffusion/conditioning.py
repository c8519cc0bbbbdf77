"""Conditions of conditional UNets, and classifier-free guidance.

A condition is a dictionary of the UNet's keyword arguments, with one row per image; it is empty for unconditional
models.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.files import read_json
from effcli.core.weight_file import one_line
from effcli.diffusion.configs import config_of
from effcli.diffusion.ddim import Predict
from effcli.diffusion.models import DiffusionModel
from effcli.diffusion.required_inputs import check_inputs
from effcli.diffusion.weight_files import find_weights

Condition = dict[str, Tensor]

_PROMPTS = (
    "a photo of a dog in a park",
    "a red car on a city street",
    "a bowl of fruit on a wooden table",
    "a mountain lake at sunrise",
    "a portrait of an old sailor, oil painting",
    "a cat sleeping on a sofa",
    "an astronaut riding a horse",
    "a bicycle leaning against a brick wall",
)


class Guided:
    """A UNet with its conditions.

    Args:
        model: the model.
        unet: its UNet, or a quantized one in its place.
        guidance: s of eps = eps_u + s (eps_c - eps_u); 1 calls the network once.
        prompts: file of prompts for text-conditional models.
        null_class: label that means no class.

    Attributes:
        sample_shape: (C, H, W).

    Raises:
        InputError: the model needs a condition that is not available, or cannot be guided.
    """

    def __init__(
        self,
        model: DiffusionModel,
        unet: nn.Module,
        *,
        guidance: float = 1.0,
        prompts: str | None = None,
        null_class: int | None = None,
    ) -> None:
        check_inputs(model)
        self.unet = unet
        self.scheduler_config = model.scheduler_config
        self.sample_shape = model.sample_shape
        self.guidance = guidance
        config = config_of(model.unet)
        self._n_classes = config.get("num_class_embeds")
        self._embeddings: Tensor | None = None
        self._null: Condition = {}
        if type(model.unet).__name__ == "UNet2DConditionModel":
            self._embeddings, null = _embed_prompts(model, prompts)
            self._null = {"encoder_hidden_states": null}
        if self._n_classes:
            self._null["class_labels"] = torch.tensor(-1 if null_class is None else null_class)
        if guidance != 1 and not self._null:
            raise InputError("an unconditional model cannot be guided", place="sampler.guidance")
        if guidance != 1 and self._n_classes and null_class is None:
            raise InputError(
                "guidance of a class-conditional model needs the label that means no class",
                place="condition.null_class",
            )

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device

    def with_unet(self, unet: nn.Module) -> Guided:
        """The same conditions for another UNet."""
        other = object.__new__(Guided)
        other.__dict__.update(self.__dict__)
        other.unet = unet
        return other

    def random_condition(self, n: int, generator: torch.Generator) -> Condition:
        """Random conditions for ``n`` images."""
        condition: Condition = {}
        if self._embeddings is not None:
            rows = torch.randint(len(self._embeddings), (n,), generator=generator)
            condition["encoder_hidden_states"] = self._embeddings[rows]
        if self._n_classes:
            condition["class_labels"] = torch.randint(self._n_classes, (n,), generator=generator)
        return condition

    def predictor(self, condition: Condition) -> Predict:
        """The UNet's prediction under ``condition``, guided."""
        device = self.device
        given = {name: value.to(device) for name, value in condition.items()}
        if self.guidance == 1:
            return lambda x, t: self.call(x, t, given)
        doubled = {
            name: torch.cat([self._null[name].to(device).expand_as(value), value])
            for name, value in given.items()
        }

        def predict(x: Tensor, t: int) -> Tensor:
            without, with_condition = self.call(torch.cat([x, x]), t, doubled).chunk(2)
            return without + self.guidance * (with_condition - without)

        return predict

    def call(self, x: Tensor, t: int | Tensor, condition: Condition) -> Tensor:
        """One pass of the UNet: ``[B, C, H, W]`` to the same shape, in float32."""
        out: Tensor = self.unet(x, t, **condition, return_dict=False)[0]
        return out.float()


def _embed_prompts(model: DiffusionModel, prompts: str | None) -> tuple[Tensor, Tensor]:
    """Embeddings of the prompts ``[P, L, D]`` and of the empty one ``[L, D]``, by the model's own text encoder."""
    folder = model.folder
    if folder is None or not (folder / "text_encoder").is_dir() or not (folder / "tokenizer").is_dir():
        raise InputError(
            "is a text-conditional model without tokenizer/ and text_encoder/", place=model.source
        )
    if find_spec("transformers") is None:
        raise InputError(
            "is a text-conditional model, which needs the package transformers",
            place=model.source,
            hint="pip install 'effcli[text]'",
        )
    texts = list(_PROMPTS) if prompts is None else _read_prompts(Path(prompts))
    from transformers import AutoTokenizer

    encoder = _load_text_encoder(folder / "text_encoder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"the tokenizer cannot be loaded: {one_line(error)}", place=str(folder / "tokenizer")
        ) from None
    tokens = tokenizer(
        [*texts, ""],
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        embeddings = encoder(tokens.input_ids)[0].float()
    return embeddings[:-1], embeddings[-1]


def _load_text_encoder(folder: Path) -> nn.Module:
    """The text encoder in float32, all of it.

    Raises:
        InputError: it is not a `CLIPTextModel`, or its weights are incomplete, damaged or an adapter's.
    """
    from transformers import CLIPTextModel

    kind = read_json(folder / "config.json").get("model_type")
    if kind != "clip_text_model":
        raise InputError(f"is of the model_type {kind!r}, not a CLIP text model", place=str(folder))
    weights = find_weights(folder, of_diffusers=False)
    weights.check()
    try:
        encoder, info = CLIPTextModel.from_pretrained(
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


def _read_prompts(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", place=str(file)) from None
    texts = [line for line in lines if line]
    if not texts:
        raise InputError("holds no prompts", place=str(file))
    return texts
