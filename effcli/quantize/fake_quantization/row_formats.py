"""What the rows of a weight are quantized to, whichever codes the recipe chose: found, used, and mixed over widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from effcli.quantize.fake_quantization.codebooks import (
    MIDDLE,
    find_codebook,
    nearest_places,
    quantize_by_table,
)
from effcli.quantize.fake_quantization.quantizer import (
    RangeMethod,
    codes_of,
    fake_quantize,
    find_range,
    top_code,
)

Codes = Literal["affine", "codebook"]


@dataclass(frozen=True)
class RowFormat:
    """Scale, zero-point and codebook of each row.

    Attributes:
        scale, zero: d and z, ``[R]``.
        top: the largest code, ``[R]``.
        table: uint8 ``[R, 2^b]`` with the largest b of all rows; None for affine codes.
    """

    scale: Tensor
    zero: Tensor
    top: Tensor
    table: Tensor | None = None

    def codes(self, rows: Tensor) -> Tensor:
        """q(x) of rows ``[R, K]``, uint8; with a table, places in it."""
        if self.table is not None:
            return nearest_places(rows, self.scale, self.table, self.top).to(torch.uint8)
        return codes_of(rows, self.scale[:, None], self.zero[:, None], self.top[:, None]).to(torch.uint8)

    def quantized(self, rows: Tensor) -> Tensor:
        """Q(x) of rows ``[R, K]``."""
        if self.table is not None:
            return quantize_by_table(rows, self.scale, self.table, self.top)
        return fake_quantize(rows, self.scale[:, None], self.zero[:, None], self.top[:, None])


def find_format(
    rows: Tensor, bits: int, codes: Codes, method: RangeMethod, importance: Tensor | None = None
) -> RowFormat:
    """The format of rows ``[R, K]`` at one width.

    Args:
        rows: the weights.
        bits: of all rows.
        codes: equal steps, or a codebook for each row.
        method: how the ranges of equal steps are found.
        importance: of the input channels, for codebooks; see :func:`find_codebook`.
    """
    top = top_code(bits).expand(len(rows)).to(rows.device)
    if codes == "affine":
        return RowFormat(*find_range(rows, top, method), top)
    table, scale = find_codebook(rows, bits, importance)
    return RowFormat(scale, torch.full_like(scale, MIDDLE), top, table)


def mixed(formats: Mapping[int, RowFormat], row_bits: Tensor) -> RowFormat:
    """The format in which each row has its own width, ``row_bits`` ``[R]``, of those in ``formats``."""
    widths = sorted(formats)
    chosen = torch.stack([row_bits == bits for bits in widths]).to(torch.uint8).argmax(0)
    chosen = chosen.to(formats[widths[0]].scale.device)

    def of_rows(part: list[Tensor]) -> Tensor:
        return torch.stack(part)[chosen, torch.arange(len(chosen), device=chosen.device)]

    parts = [formats[bits] for bits in widths]
    tables = [part.table for part in parts if part.table is not None]
    table = None
    if tables:
        n_entries = 2 ** int(row_bits.max())
        table = of_rows([padded(one, n_entries) for one in tables])
    scale, zero, top = (of_rows([getattr(part, name) for part in parts]) for name in ("scale", "zero", "top"))
    return RowFormat(scale, zero, top, table)


def padded(table: Tensor, n_entries: int) -> Tensor:
    """A table ``[R, n]`` with ``n_entries`` entries: cut, or its last one repeated."""
    if table.shape[1] >= n_entries:
        return table[:, :n_entries]
    return F.pad(table.float(), (0, n_entries - table.shape[1]), mode="replicate").to(table.dtype)
