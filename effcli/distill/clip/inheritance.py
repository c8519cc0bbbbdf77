"""Weight inheritance: a student's tower starts from the largest weights of its teacher's, in fewer and narrower layers.

As the manual inheritance of TinyCLIP (Wu et al., ICCV 2023): layers are taken at equal distances, and of channels,
heads and hidden units those of the largest weights. All matrices that read or write a channel keep the same ones, so
the student computes with a part of the teacher.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.core.errors import InputError
from effcli.distill.clip.clip_model import ClipModel

Part = Literal["image", "text"]

_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")


def is_of_image(name: str) -> bool:
    """Whether a weight of a CLIP is of its image tower."""
    return name.startswith("visual.")


def inherit(student: ClipModel, teacher: ClipModel, part: Part) -> None:
    """Set the weights of a tower of ``student``, in place, from those of ``teacher``'s.

    Raises:
        InputError: the towers are not of one kind, or the student's is larger.
    """
    ours, theirs = _tower(student, part), _tower(teacher, part)
    if {name: one.shape for name, one in ours.items()} == {name: one.shape for name, one in theirs.items()}:
        chosen: Mapping[str, Tensor] = theirs
    else:
        chosen = _chosen(ours, theirs, _heads(student, part), _heads(teacher, part), part)
    with torch.no_grad():
        for name, weight in ours.items():
            weight.copy_(chosen[name])


def _tower(model: ClipModel, part: Part) -> dict[str, Tensor]:
    """The weights of a tower, by names that are the same for open_clip's two classes."""
    state = model.network.state_dict()
    if part == "image":
        return {name: one for name, one in state.items() if is_of_image(name)}
    return {
        name.removeprefix("text."): one
        for name, one in state.items()
        if not is_of_image(name) and not name.startswith(("logit_", "text_decoder."))
    }


def _heads(model: ClipModel, part: Part) -> int:
    """Attention heads of a tower's layers."""
    if part == "text":
        return int(model.config["text_cfg"].get("heads", 8))
    vision = model.config["vision_cfg"]
    return int(vision.get("width", 768)) // int(vision.get("head_width", 64))


@dataclass(frozen=True)
class _Kept:
    """What a student keeps of its teacher's tower.

    Attributes:
        channels: of the residual stream.
        embedding: of the embeddings.
        layers: the teacher's layer for each of the student's.
        heads: for each of these, the channels of the kept heads.
        hidden: for each of these, the kept hidden units.
    """

    channels: Tensor
    embedding: Tensor
    layers: list[int]
    heads: list[Tensor]
    hidden: list[Tensor]


def _chosen(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], our_heads: int, their_heads: int, part: Part
) -> dict[str, Tensor]:
    n_ours, n_theirs = _n_layers(ours), _n_layers(theirs)
    if not n_ours or not n_theirs:
        raise InputError(
            f"the {part} towers of student and teacher are of different kinds",
            place=f"init.{part}",
            hint="weights are inherited between ViTs and between text transformers of open_clip, or by equal towers",
        )
    prefix = "visual." if part == "image" else ""
    norm = f"{prefix}transformer.resblocks.0.ln_1.weight"
    width, their_width = len(ours[norm]), len(theirs[norm])
    if width > their_width or n_ours > n_theirs:
        raise InputError(
            f"has {n_ours} layers of width {width}, more than the teacher's {n_theirs} of {their_width}",
            place=f"init.{part}",
        )
    if width // our_heads != their_width // their_heads:
        raise InputError(
            f"has heads of width {width // our_heads}, the teacher's have {their_width // their_heads}",
            place=f"init.{part}",
            hint="choose heads or head_width of the student so that they are equal",
        )
    layers = torch.linspace(0, n_theirs - 1, n_ours).round().long().tolist()
    kept = _kept(ours, theirs, layers, prefix, our_heads, their_heads)
    found = {}
    for name, weight in ours.items():
        match = _BLOCK.search(name)
        source = (
            name
            if match is None
            else name.replace(match[0], f"transformer.resblocks.{layers[int(match[1])]}.", 1)
        )
        if source not in theirs:
            raise InputError(f"has {name}, which the teacher's lacks", place=f"init.{part}")
        at = None if match is None else int(match[1])
        found[name] = _cut(name, theirs[source], weight, kept, at)
    return found


def _n_layers(tower: Mapping[str, Tensor]) -> int:
    return 1 + max((int(match[1]) for name in tower if (match := _BLOCK.search(name))), default=-1)


def _kept(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    layers: list[int],
    prefix: str,
    our_heads: int,
    their_heads: int,
) -> _Kept:
    block = f"{prefix}transformer.resblocks.{{}}.{{}}".format
    width = len(ours[block(0, "ln_1.weight")])
    writes = [theirs[block(i, f"{one}.weight")] for i in layers for one in ("attn.out_proj", "mlp.c_proj")]
    channels = _largest(torch.stack([one.float().square().sum(1) for one in writes]).sum(0), width)
    heads, hidden = [], []
    for i in layers:
        out = theirs[block(i, "attn.out_proj.weight")].float()
        by_head = out.square().sum(0).view(their_heads, -1)
        numbers = torch.arange(by_head.numel()).view(their_heads, -1)
        heads.append(numbers[_largest(by_head.sum(1), our_heads)].flatten())
        strength = theirs[block(i, "mlp.c_proj.weight")].float().square().sum(0)
        strength = strength * theirs[block(i, "mlp.c_fc.weight")].float().square().sum(1)
        hidden.append(_largest(strength, len(ours[block(0, "mlp.c_fc.bias")])))
    dim, their_dim = _embedding_width(ours), _embedding_width(theirs)
    embedding = (
        torch.linspace(0, their_dim - 1, dim).round().long() if dim <= their_dim else torch.empty(0).long()
    )
    return _Kept(channels, embedding, layers, heads, hidden)


def _largest(strength: Tensor, n: int) -> Tensor:
    """The indices of the ``n`` largest, in order; all that there are, and no more."""
    return strength.topk(min(n, len(strength))).indices.sort().values


def _embedding_width(tower: Mapping[str, Tensor]) -> int:
    """Width of the embeddings, by the projection at the end."""
    for name in ("visual.proj", "text_projection"):
        if name in tower:
            return tower[name].shape[1]
    linear = tower.get("text_projection.weight")
    return 0 if linear is None else len(linear)


def _cut(name: str, theirs: Tensor, ours: Tensor, kept: _Kept, layer: int | None) -> Tensor:
    """The part of a weight that the student keeps, in the shape of its own."""
    if theirs.shape == ours.shape and layer is None and theirs.ndim < 2 and theirs.numel() <= 1:
        return theirs
    rows, columns = _axes(name, theirs, kept, layer)
    found = theirs if rows is None else theirs[rows]
    found = found if columns is None else found[:, columns]
    if name.endswith("positional_embedding") and len(found) != len(ours):
        found = _positions(found, len(ours), is_grid="visual" in name)
    if name.endswith("conv1.weight") and found.shape != ours.shape:
        found = F.interpolate(found.float(), size=ours.shape[2:], mode="bicubic", antialias=True)
    if found.shape != ours.shape:
        raise InputError(
            f"{name} of shape {tuple(ours.shape)} cannot be a part of the teacher's {tuple(theirs.shape)}",
            place="init",
        )
    return found


def _axes(name: str, theirs: Tensor, kept: _Kept, layer: int | None) -> tuple[Tensor | None, Tensor | None]:
    """The kept indices of the first and the second axis; None for all."""
    channels = kept.channels
    if layer is not None:
        heads, hidden = kept.heads[layer], kept.hidden[layer]
        if "in_proj" in name:
            width = len(theirs) // 3
            thirds = torch.cat([heads + i * width for i in range(3)])
            return thirds, channels if theirs.ndim == 2 else None
        by_name = {
            "out_proj.weight": (channels, heads),
            "c_fc.weight": (hidden, channels),
            "c_fc.bias": (hidden, None),
            "c_proj.weight": (channels, hidden),
        }
        return next((axes for end, axes in by_name.items() if name.endswith(end)), (channels, None))
    if name.endswith(("token_embedding.weight", "positional_embedding")):
        return None, channels
    if name in ("visual.proj", "text_projection"):
        return channels, kept.embedding
    if name == "text_projection.weight":
        return kept.embedding, channels
    if name == "text_projection.bias":
        return kept.embedding, None
    return channels, None


def _positions(table: Tensor, n: int, is_grid: bool) -> Tensor:
    """Position embeddings for another number of positions: the first ones of a text, a resized grid of an image."""
    if not is_grid:
        return table[:n]
    side, new_side = round((len(table) - 1) ** 0.5), round((n - 1) ** 0.5)
    grid = table[1:].float().view(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new_side, new_side), mode="bicubic", antialias=True)
    return torch.cat([table[:1].float(), grid.permute(0, 2, 3, 1).reshape(new_side**2, -1)])
