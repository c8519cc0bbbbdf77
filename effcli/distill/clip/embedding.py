"""Embedding sets of images and captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from effcli.core.runtime import Runtime
from effcli.core.tensor_file import require_finite_output
from effcli.distill.clip.clip_model import ClipModel
from effcli.distill.clip_kd.captions.caption_set import CaptionSet


@torch.inference_mode()
def embed_images(model: ClipModel, pairs: CaptionSet, numbers: Iterable[int], runtime: Runtime) -> Tensor:
    """Unit embeddings of whole images, float32 ``[n, D]`` on the CPU."""
    images = torch.stack([model.preprocess.whole(pairs.image(i)) for i in numbers])
    return encode_images(model, images, runtime)


@torch.inference_mode()
def encode_images(model: ClipModel, images: Tensor, runtime: Runtime) -> Tensor:
    """Unit embeddings of a network's inputs ``[n, 3, H, W]``, float32 ``[n, D]`` on the CPU."""
    with runtime.autocast():
        rows = model.network.encode_image(images.to(runtime.device))  # type: ignore[operator]
    return _unit(rows, "the embeddings of images")


@torch.inference_mode()
def embed_texts(model: ClipModel, texts: Sequence[str], runtime: Runtime) -> Tensor:
    """Unit embeddings of texts, float32 ``[n, D]`` on the CPU."""
    with runtime.autocast():
        rows = model.network.encode_text(model.tokenize(list(texts)).to(runtime.device))  # type: ignore[operator]
    return _unit(rows, "the embeddings of texts")


def _unit(rows: Tensor, what: str) -> Tensor:
    return torch.nn.functional.normalize(require_finite_output(rows, what).float(), dim=1).cpu()


def in_batches(
    embed: Callable[[Sequence[int]], Tensor], n: int, batch_size: int, check_stop: Callable[[], None]
) -> Tensor:
    """``embed`` of all indices below ``n``, ``batch_size`` at a time."""
    parts = []
    for start in range(0, n, batch_size):
        check_stop()
        parts.append(embed(range(start, min(start + batch_size, n))))
    return torch.cat(parts)
