"""Conditions of conditional networks, and classifier-free guidance.

A condition is a dictionary of the network's keyword arguments, with one row per image; it is empty for unconditional
models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.files import read_json
from effcli.diffusion.configs import config_of
from effcli.diffusion.denoisers.classes import Condition, denoiser_class, predicts_variances
from effcli.diffusion.denoisers.given_inputs import read_inputs
from effcli.diffusion.denoisers.needs import NeededInput, n_classes_of, needs_of
from effcli.diffusion.denoisers.prompts import PromptEmbedder, load_embedder
from effcli.diffusion.models import DiffusionModel
from effcli.diffusion.processes import process_of
from effcli.diffusion.schedulers import LEARNED_VARIANCES, NULL_CLASS

_EMBEDDED_GUIDANCE = ("timestep_cond", "guidance")
"""Inputs that the guidance scale itself is: the network is then called once."""


class Guided:
    """A network with its conditions.

    Args:
        model: the model.
        unet: its network, or a quantized one in its place.
        guidance: s of eps = eps_u + s (eps_c - eps_u); 1 calls the network once. A network that is told the scale
            (LCM, Flux) is called once with it.
        prompts: file of prompts for text-conditional models.
        null_class: label that means no class.
        inputs: file of inputs that neither prompts nor labels give; see :mod:`effcli.diffusion.denoisers.given_inputs`.
        embedder: the model's, where it is loaded already.

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
        inputs: str | None = None,
        embedder: PromptEmbedder | None = None,
    ) -> None:
        check_time(model)
        check_variance(model)
        needs = needs_of(model.unet, model.source)
        self.unet = unet
        self.scheduler_config = model.scheduler_config
        self.sample_shape = model.sample_shape
        self._call = denoiser_class(model.unet).call
        self._time_scale = denoiser_class(model.unet).time_scale
        self._time_offset = denoiser_class(model.unet).time_offset
        self._n_classes = n_classes_of(model.unet)
        self._fixed = _computed(model, needs, guidance)
        self.guidance = 1.0 if any(name in self._fixed for name in _EMBEDDED_GUIDANCE) else guidance
        given, self._null = read_inputs(inputs, needs, model.source)
        self._pools: list[Condition] = [given] if given else []
        if any(need.source == "text" and need.name not in given for need in needs):
            embedder = embedder or load_embedder(model.unet, model.folder, model.source)
            rows, null = embedder.embed_file(prompts)
            wanted = {need.name for need in needs} - given.keys()
            self._pools.insert(0, {name: value for name, value in rows.items() if name in wanted})
            _check_embeddings(self._pools[0], needs, model.source)
            self._null = {name: value for name, value in null.items() if name in wanted} | self._null
        self._lacks_null_class = False
        if self._n_classes and "class_labels" not in given:
            own = _null_label(model, self._n_classes) if null_class is None else null_class
            self._lacks_null_class = own is None
            self._null["class_labels"] = torch.tensor(-1 if own is None else own)
        self._check_guidance()

    def _check_guidance(self) -> None:
        if self.guidance == 1:
            return
        if not self._null:
            given = any(self._pools)
            raise InputError(
                "an unconditional model cannot be guided" if not given
                else "guidance needs the inputs that mean no condition",
                place="sampler.guidance",
                hint="null.NAME in the file of condition.inputs" if given else None,
            )  # fmt: skip
        if self._lacks_null_class:
            raise InputError(
                "guidance of a class-conditional model needs the label that means no class",
                place="condition.null_class",
            )

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(chain(self.unet.parameters(), self.unet.buffers())).device

    def with_unet(self, unet: nn.Module) -> Guided:
        """The same conditions for another network."""
        other = object.__new__(Guided)
        other.__dict__.update(self.__dict__)
        other.unet = unet
        return other

    def student(self, unet: nn.Module, scheduler_config: Mapping[str, Any]) -> Guided:
        """The same conditions for a network with a scheduler of its own, which is not guided."""
        other = self.with_unet(unet)
        other.scheduler_config, other.guidance = dict(scheduler_config), 1.0
        return other

    def at(self, scheduler_config: Mapping[str, Any]) -> Guided:
        """The same network with another scheduler."""
        other = self.with_unet(self.unet)
        other.scheduler_config = dict(scheduler_config)
        return other

    @property
    def null_class(self) -> int | None:
        """The label that means no class; None: there is none, or it is not known."""
        label = self._null.get("class_labels")
        return None if label is None or self._lacks_null_class else int(label)

    @property
    def has_classes(self) -> bool:
        """Whether the network is told labels."""
        return bool(self._n_classes)

    def given_condition(self, n: int, **given: Tensor) -> Condition:
        """A condition for ``n`` images of what is ``given``, one row per image, and of what follows from the size."""
        return {**given, **{name: value.expand(n, *value.shape) for name, value in self._fixed.items()}}

    def no_condition(self, n: int) -> Condition:
        """The condition that stands for none, for ``n`` images; where nothing does, the first one there is."""
        pools = {name: value[0] for pool in self._pools for name, value in pool.items()}
        values = {**pools, **self._null, **self._fixed}
        if self._lacks_null_class:
            values["class_labels"] = torch.tensor(0)
        return {name: value.expand(n, *value.shape) for name, value in values.items()}

    def random_condition(self, n: int, generator: torch.Generator) -> Condition:
        """Random conditions for ``n`` images."""
        condition: Condition = {}
        for pool in self._pools:
            rows = torch.randint(len(next(iter(pool.values()))), (n,), generator=generator)
            condition |= {name: value[rows] for name, value in pool.items()}
        if self._n_classes and "class_labels" not in condition:
            condition["class_labels"] = self._random_labels(n, generator)
        return condition | {name: value.repeat(n, *([1] * value.ndim)) for name, value in self._fixed.items()}

    def _random_labels(self, n: int, generator: torch.Generator) -> Tensor:
        """Classes ``[n]`` without the one that means no class, if that is in the table (it may be the one after it)."""
        n_classes, null = self._n_classes or 0, int(self._null["class_labels"])
        if n_classes < 2 or not 0 <= null < n_classes:
            return torch.randint(n_classes, (n,), generator=generator)
        labels = torch.randint(n_classes - 1, (n,), generator=generator)
        return labels + (labels >= null).long()

    def with_labels(self, condition: Condition, labels: Tensor) -> Condition:
        """A condition for as many images with these classes, int64 ``[n]``.

        Raises:
            InputError: the model has no classes, or not these.
        """
        if not self._n_classes:
            raise InputError("the model is not class-conditional", place="class")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self._n_classes:
            raise InputError(
                f"{low if low < 0 else high} is not in 0..{self._n_classes - 1}, the classes of the model",
                place="class",
            )
        return condition | {"class_labels": labels}

    def predictor(self, condition: Condition) -> Callable[[Tensor, Any], Tensor]:
        """The network's prediction under ``condition``, guided, at (x, one timestep or one per image)."""
        device = self.device
        given = {name: value.to(device) for name, value in condition.items()}
        if self.guidance == 1:
            return lambda x, t: self.call(x, t, given)
        doubled = {
            name: torch.cat([self._null.get(name, value).to(device).expand_as(value), value])
            for name, value in given.items()
        }

        def predict(x: Tensor, t: Any) -> Tensor:
            times = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim else t
            without, with_condition = self.call(torch.cat([x, x]), times, doubled).chunk(2)
            return without + self.guidance * (with_condition - without)

        return predict

    def call(self, x: Tensor, t: float | Tensor, condition: Condition) -> Tensor:
        """One pass of the network: ``[B, C, H, W]`` to the same shape, in float32; t as the scheduler has it."""
        time: Any = t
        if self._time_scale != 1:
            time = t * self._time_scale + self._time_offset
        if isinstance(time, float):
            time = torch.tensor(time, device=x.device)
        return self._call(self.unet, x, time, condition).float()


def _check_embeddings(rows: Condition, needs: list[NeededInput], source: str) -> None:
    """Refuse a network that is given what other text encoders make than it was trained with."""
    for need in needs:
        value = rows.get(need.name)
        if value is not None and not need.fits(tuple(value.shape[1:])):
            raise InputError(
                f"its text encoders give {need.name} {list(value.shape[1:])} per image, its network needs {need}",
                place=source,
                hint="are all text encoders of the model there?",
            )


def check_time(model: DiffusionModel) -> None:
    """Refuse a network that is told noise levels where its scheduler has timesteps.

    Raises:
        InputError: it is one.
    """
    process = process_of(model.scheduler_config)
    is_told_levels = process is not None and process.kind == "score"
    if config_of(model.unet).get("time_embedding_type") == "fourier" and not is_told_levels:
        raise InputError(
            "the UNet's time_embedding_type is 'fourier': it takes noise levels, not timesteps",
            place=model.source,
        )


def check_variance(model: DiffusionModel) -> None:
    """Refuse a scheduler that reads variances from a network of which it is not clear where they are.

    Raises:
        InputError: it is one.
    """
    kind = model.scheduler_config.get("variance_type")
    if kind in LEARNED_VARIANCES and not predicts_variances(model.unet):
        config = config_of(model.unet)
        raise InputError(
            f"its scheduler's variance_type is {kind!r}, but its network's out_channels is "
            f"{config.get('out_channels')} for in_channels {config.get('in_channels')}: which of them are "
            "variances is not known",
            place=model.source,
        )


def _null_label(model: DiffusionModel, n_classes: int) -> int | None:
    """The label that means no class, where the class of the network or the model's own file says so."""
    return n_classes if denoiser_class(model.unet).labels else model.scheduler_config.get(NULL_CLASS)


def _computed(model: DiffusionModel, needs: list[NeededInput], guidance: float) -> Condition:
    """Inputs that follow from the guidance scale and from the size of the picture, without rows."""
    values: Condition = {}
    for name in [need.name for need in needs if need.source == "computed"]:
        if name == "timestep_cond":
            width = config_of(model.unet)["time_cond_proj_dim"]
            values[name] = guidance_embedding(guidance - 1, width)
        elif name == "guidance":
            values[name] = torch.tensor(float(guidance))
        else:
            _, height, width = model.sample_shape
            scale = _picture_scale(model)
            height, width = height * scale, width * scale
            sizes = {
                "time_ids": [height, width, 0, 0, height, width],
                "resolution": [height, width],
                "aspect_ratio": [height / width],
            }
            values[name] = torch.tensor(sizes[name.rpartition(".")[2]], dtype=torch.float32)
    return values


def _picture_scale(model: DiffusionModel) -> int:
    """How much larger a picture is than its latents; 8 where no decoder says so, as the pipelines have it."""
    config = (model.folder / "vae" / "config.json") if model.folder is not None else None
    if config is None or not config.is_file():
        return 8
    widths = read_json(config).get("block_out_channels")
    return int(2 ** (len(widths) - 1)) if isinstance(widths, list) else 8


def guidance_embedding(scale: float, width: int) -> Tensor:
    """The embedding ``[width]`` of a guidance scale above 1 that networks distilled for it are given (LCM)."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = 1000.0 * scale * frequencies
    embedding = torch.cat([angles.sin(), angles.cos()])
    return torch.nn.functional.pad(embedding, (0, width % 2))
