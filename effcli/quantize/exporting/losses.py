"""What an export keeps of a packed model, in numbers: one line per kind of layer and the format it got."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from effcli.core.errors import InputError

NOT_QUANTIZED = "not quantized"
"""The kind of what the packed model holds in floating point."""


@dataclass(frozen=True)
class Stored:
    """A layer, or a tensor that is not quantized, as another format stores it.

    Attributes:
        kind: ``linear``, ``conv2d`` or ``not quantized``.
        format: of the weight.
        n_bytes: in the exported file, with the bias.
        n_bytes_packed: in the packed file, with scales and bias.
        error: ||exported - packed|| / ||packed|| of the weight.
    """

    kind: str
    format: str
    n_bytes: int
    n_bytes_packed: int
    error: float


def relative_error(stored: Tensor, packed: Tensor) -> float:
    """||stored - packed|| / ||packed|| of two tensors of one shape; 0 where both are zero."""
    difference = float((stored.float() - packed.float()).norm())
    return difference / max(float(packed.float().norm()), 1e-30) if difference else 0.0


def rounded(value: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Floating-point numbers as ``dtype``; others as they are.

    Raises:
        InputError: one is too large for it.
    """
    if not value.is_floating_point():
        return value
    out = value.to(dtype)
    if not bool(torch.isfinite(out).all()):
        raise InputError(
            f"{name} has numbers up to {float(value.abs().max()):.4g}, which {short_name(dtype)} cannot hold",
            place="--dtype",
            hint="--dtype bf16 or fp32",
        )
    return out


def short_name(dtype: torch.dtype) -> str:
    """``fp16`` and so on, as options say it."""
    return {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]


def summarise(stored: Iterable[Stored]) -> list[dict[str, Any]]:
    """A row per kind and format, in the order they first occur.

    Returns:
        Rows of ``kind``, ``format``, ``count``, ``mean_relative_error``, ``max_relative_error``, ``size_bytes`` and
        ``size_packed_bytes``; errors of single layers, not of single numbers.
    """
    groups: dict[tuple[str, str], list[Stored]] = {}
    for one in stored:
        groups.setdefault((one.kind, one.format), []).append(one)
    return [
        {
            "kind": kind,
            "format": format,
            "count": len(group),
            "mean_relative_error": sum(one.error for one in group) / len(group),
            "max_relative_error": max(one.error for one in group),
            "size_bytes": sum(one.n_bytes for one in group),
            "size_packed_bytes": sum(one.n_bytes_packed for one in group),
        }
        for (kind, format), group in groups.items()
    ]


def sentences(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The rows of :func:`summarise`, one line each, for people."""
    return [
        f"{row['kind']} as {row['format']}: {row['count']} {'tensors' if row['kind'] == NOT_QUANTIZED else 'layers'}, "
        f"relative error {row['mean_relative_error']:.2g} on average, {row['max_relative_error']:.2g} at most; "
        f"{row['size_bytes'] / 1e6:.3g} MB, {row['size_packed_bytes'] / 1e6:.3g} MB packed"
        for row in rows
    ]
