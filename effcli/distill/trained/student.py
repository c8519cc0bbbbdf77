"""A network for students other than the teacher's: narrower, shallower, or of a configuration of one's own.

It is new, so it first learns at the teacher's number of steps what the teacher sees, and then takes its place.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effcli.core.errors import InputError, UsageError
from effcli.core.files import read_json
from effcli.core.runtime import derive_seed
from effcli.diffusion.checking import check_forward
from effcli.diffusion.configs import config_of
from effcli.diffusion.models import DiffusionModel, build_unet

_SAME = (
    "sample_size",
    "in_channels",
    "out_channels",
    "num_class_embeds",
    "class_embed_type",
    "time_embedding_type",
)
"""Keys of the configuration that a student's network shares with its teacher's."""

_HINT = "width=SHARE, layers=N, both with a comma, or a config.json of a UNet2DModel"


def starting_network(student: str | None, teacher: DiffusionModel, seed: int) -> nn.Module:
    """Where students begin: a copy of the teacher's network, or a new one, on its device, with gradients.

    Args:
        student: of the recipe; see :class:`effcli.distill.recipe.StudentsRecipe`.
        teacher: whose network it is, or is measured by.
        seed: of the weights of a new one; no global generator is moved.

    Raises:
        UsageError: ``student`` is not understood.
        InputError: it does not fit the teacher, or is not a network.
    """
    if student is None:
        return copy.deepcopy(teacher.unet).requires_grad_(True).eval()
    if type(teacher.unet).__name__ != "UNet2DModel":
        raise UsageError(
            f"the teacher is a {type(teacher.unet).__name__}: students of their own network are UNet2DModels",
            place="student", hint="-s student=null takes the teacher's network",
        )  # fmt: skip
    config = student_network_config(student, teacher)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "student"))
        unet = build_unet("UNet2DModel", config)
    device = next(teacher.unet.parameters()).device
    return unet.to(device).requires_grad_(True).eval()


def check_student(student: str | None, teacher: DiffusionModel) -> None:
    """Build the network and call it once.

    Raises:
        UsageError, InputError: as of :func:`starting_network`; or it cannot be called as the teacher's is.
    """
    if student is not None:
        unet = starting_network(student, teacher, 0)
        check_forward(DiffusionModel(unet, teacher.scheduler_config, student))


def student_network_config(student: str, teacher: DiffusionModel) -> dict[str, Any]:
    """The configuration of a new network; see :func:`starting_network`."""
    own = config_of(teacher.unet)
    if Path(student).is_file():
        config = read_json(Path(student))
        _check_network(config, student)
        different = [key for key in _SAME if config.get(key, own.get(key)) != own.get(key)]
        if different:
            key = different[0]
            raise InputError(f"its {key} is {config[key]}, the teacher's {own.get(key)}", place=student)
        return config | {key: own.get(key) for key in _SAME if key in own}
    config, given = dict(own), set[str]()
    for part in student.split(","):
        key, _, value = part.partition("=")
        if key in given:
            raise UsageError(f"{key} is given twice", place="student", hint=_HINT)
        given.add(key)
        if key == "width":
            config |= _narrower(own, _share(value))
        elif key == "layers" and value.isdecimal() and int(value) > 0:
            config["layers_per_block"] = int(value)
        else:
            raise UsageError(f"{part!r} is not understood", place="student", hint=_HINT)
    return config


def _check_network(config: Mapping[str, Any], place: str) -> None:
    """Refuse a file that is the configuration of something else, or has keys that would not be used."""
    from diffusers import UNet2DModel

    name = config.get("_class_name", "UNet2DModel")
    if name != "UNet2DModel":
        raise InputError(f"is of a {str(name)[:60]}, not of a UNet2DModel", place=place)
    known = inspect.signature(UNet2DModel.__init__).parameters
    unknown = [key for key in config if key not in known and not key.startswith("_")]
    if unknown:
        near = get_close_matches(unknown[0], known, n=1)
        raise InputError(
            f"{unknown[0][:60]!r} is not a key of a UNet2DModel",
            place=place,
            hint=f"did you mean {near[0]!r}?" if near else None,
        )


def _share(value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"width is {value!r}, not a number above 0 and up to 1", place="student", hint=_HINT)
    return share


def _narrower(config: dict[str, Any], share: float) -> dict[str, Any]:
    """Channels times ``share``, rounded to whole groups of the norms, at least one."""
    groups = config["norm_num_groups"] or 1
    channels = [max(1, round(share * n / groups)) * groups for n in config["block_out_channels"]]
    head = config["attention_head_dim"]
    return {
        "block_out_channels": channels,
        "attention_head_dim": None if head is None else min(head, *channels),
    }
