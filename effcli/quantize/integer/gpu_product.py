"""Which product of packed rows a GPU computes: Triton's, where its first result is the reference's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from effcli.quantize.packed.rows import PackedRows

log = logging.getLogger(__name__)

_BFLOAT16_ERROR = 1e-2
_verdicts: dict[tuple[object, ...], bool] = {}
"""Device, type and widths -> whether the kernel's first result was right."""


def product_of(x: Tensor, rows: PackedRows, offset: Tensor, reference: Callable[[], Tensor]) -> Tensor:
    """x (codes - offset)^T on a GPU, from packed rows where the kernel is there and agreed with ``reference`` at first.

    Args:
        x, rows, offset: as of :func:`effcli.quantize.integer.triton_product.multiply_packed`.
        reference: computes the same without the kernel.
    """
    if rows.table is not None:  # the kernel looks nothing up
        return reference()
    key = (x.device, x.dtype, *sorted(rows.by_bits))
    if key in _verdicts:
        return _multiply(x, rows, offset) if _verdicts[key] else reference()
    wanted = reference()
    if find_spec("triton") is None:
        _verdicts[key] = False
        return wanted
    try:
        _verdicts[key] = _agree(_multiply(x, rows, offset), wanted)
        reason = "its first result was wrong"
    except Exception as error:  # Triton's compilers and drivers raise what they like
        _verdicts[key], reason = False, " ".join(str(error).split())[:200]
    if not _verdicts[key]:
        log.warning("products of packed weights on %s are computed without Triton: %s", x.device, reason)
    return wanted


def _multiply(x: Tensor, rows: PackedRows, offset: Tensor) -> Tensor:
    from effcli.quantize.integer.triton_product import multiply_packed

    return multiply_packed(x, rows, offset)


def _agree(found: Tensor, wanted: Tensor) -> bool:
    if found.dtype == torch.int32:
        return bool(torch.equal(found, wanted.to(torch.int32)))
    return bool((found - wanted).norm() <= _BFLOAT16_ERROR * wanted.norm())
