"""The codes of a layer's weight as they are kept in memory: packed, whatever the layer computes with.

Codes of convolutions are kept kernel position by kernel position (``[taps, c_in]``, PyTorch's channels-last order), so
that neighbours in memory are neighbours for matrix products; the packed file has them in the weight's own order.

Rows with a codebook hold places in a table of 8-bit codes: what computes looks them up while it unpacks, and sees a
layer of 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from effcli.quantize.integer.bit_packing import look_up, pack_rows, unpack_into


@dataclass(frozen=True)
class PackedRows:
    """The codes of a weight ``[c_out, c_in, ...]``, each row (output channel) with a width of its own.

    Attributes:
        shape: of the weight.
        row_bits: uint8 ``[c_out]``.
        by_bits: bits -> uint8 ``[n_b, row_bytes(K, bits)]``, the rows of that width in increasing row number.
        table: the codebook of each row, uint8 ``[c_out, 2^b]`` with the largest b of all rows; a row of fewer bits
            repeats its last entry. None: the packed codes are the codes.
    """

    shape: tuple[int, ...]
    row_bits: Tensor
    by_bits: Mapping[int, Tensor]
    table: Tensor | None = None

    @classmethod
    def of_codes(
        cls, codes: Tensor, row_bits: Tensor, shape: tuple[int, ...], table: Tensor | None = None
    ) -> PackedRows:
        """Pack codes, uint8 ``[c_out, K]``; with ``table``, places in it.

        Raises:
            ValueError: a code does not fit its row's width.
        """
        by_bits = {
            int(bits): torch.from_numpy(
                pack_rows(codes[row_bits == bits].numpy(), int(bits), math.prod(shape[2:]))
            )
            for bits in row_bits.unique()
        }
        return cls(tuple(shape), row_bits, by_bits, table)

    @property
    def n_codes(self) -> int:
        """K, codes in a row."""
        return math.prod(self.shape[1:])

    @property
    def n_taps(self) -> int:
        """Kernel positions; 1 for a linear layer."""
        return math.prod(self.shape[2:])

    @property
    def n_weights(self) -> int:
        """Weights in all."""
        return math.prod(self.shape)

    @property
    def n_bits(self) -> int:
        """Bits of all codes."""
        return int(self.row_bits.long().sum()) * self.n_codes

    def counts(self) -> dict[int, int]:
        """bits -> number of rows of that width, in increasing bits."""
        return {bits: len(self.by_bits[bits]) for bits in sorted(self.by_bits)}

    def rows_of(self, bits: int) -> Tensor:
        """The numbers of the rows of a width, int64 ``[n_b]``."""
        return self._numbers[bits]

    @cached_property
    def _numbers(self) -> dict[int, Tensor]:
        return {bits: (self.row_bits == bits).nonzero().flatten() for bits in self.by_bits}

    def codes(self) -> Tensor:
        """All codes in the weight's own order, looked up, uint8 ``[c_out, K]``; new memory at each call."""
        codes = self.packed_codes()
        if self.table is None:
            return codes
        if codes.device.type == "cpu":
            look_up(codes.numpy(), self.table.numpy())
            return codes
        return self.table.gather(1, codes.long())

    def packed_codes(self) -> Tensor:
        """The same as they are packed: where there is a table, places in it."""
        device = next(iter(self.by_bits.values())).device
        codes = torch.empty(self.shape[0], self.n_codes, dtype=torch.uint8, device=device)
        for bits, packed in self.by_bits.items():
            rows = self.rows_of(bits)
            if device.type == "cpu":
                unpack_into(codes.numpy(), packed.numpy(), bits, rows.numpy(), self.n_taps)
            else:
                kept = _unpacked_by_shifts(packed, bits, self.n_codes)
                turned = kept.view(len(rows), self.n_taps, -1).mT.flatten(1)
                codes[rows.to(device)] = turned
        return codes

    def put_on(self, module: nn.Module) -> None:
        """Make the packed rows buffers of a module, which moves them with it; :meth:`of` takes them from there."""
        for bits, packed in self.by_bits.items():
            module.register_buffer(f"packed{bits}", packed, persistent=False)
        if self.table is not None:
            module.register_buffer("table", self.table, persistent=False)

    def of(self, module: nn.Module) -> PackedRows:
        """These rows, on the device of the module that they were put on."""
        by_bits = {bits: getattr(module, f"packed{bits}") for bits in self.by_bits}
        table: Tensor | None = getattr(module, "table", None)
        return replace(self, by_bits=by_bits, table=table)

    def in_file_order(self) -> dict[int, Tensor]:
        """bits -> packed rows, with the codes in the weight's own order, as the packed file has them."""
        if self.n_taps == 1:
            return dict(self.by_bits)
        codes = self.packed_codes()
        return {
            bits: torch.from_numpy(pack_rows(codes[self.rows_of(bits)].numpy(), bits))
            for bits in self.by_bits
        }


def _unpacked_by_shifts(packed: Tensor, bits: int, n_codes: int) -> Tensor:
    """Codes ``[R, K]`` of packed rows on any device, in the order they are packed in."""
    first_bit = torch.arange(n_codes, device=packed.device) * bits
    byte, shift = first_bit // 8, first_bit % 8
    padded = torch.nn.functional.pad(packed, (0, 1)).int()
    words = padded[:, byte] | (padded[:, byte + 1] << 8)
    return ((words >> shift) & ((1 << bits) - 1)).to(torch.uint8)


def codes_of_file(by_bits: Mapping[int, Tensor], row_bits: Tensor, n_codes: int) -> Tensor:
    """Codes in the weight's own order, uint8 ``[c_out, K]``, from rows in the file's.

    Raises:
        ValueError: rows have another length than K codes need.
    """
    codes = torch.empty(len(row_bits), n_codes, dtype=torch.uint8)
    for bits, packed in by_bits.items():
        rows = (row_bits == bits).nonzero().flatten()
        unpack_into(codes.numpy(), packed.numpy(), bits, rows.numpy())
    return codes
