"""Weights in the order that oneDNN's kernels read, unpacked into memory that all layers share, just before a product.

oneDNN says the order of a layer's weight in a tensor whose memory it describes. Where each number goes is a sum of one
part for the output channel, one for the input channel and one for the kernel position; the parts are found by marking
them, and checked on random numbers. So packed rows are unpacked straight to their places, four input channels at a
time, and a tensor with that description is laid over the shared memory.
"""

from __future__ import annotations

import ctypes
import math
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effcli.quantize.integer.unpacking import run
from effcli.quantize.packed.rows import PackedRows

Place = tuple[tuple[int, int], ...]
"""Stride, padding and dilation of a convolution; empty for a linear layer."""

_BASE = 127
"""Marks are written in two digits of this base, each one more than it is, so that none is zero."""


@dataclass(frozen=True)
class Layout:
    """Where the numbers of a weight go in oneDNN's memory.

    Attributes:
        shape: that oneDNN gives the tensor.
        n_bytes: of the memory; more than the weight has numbers where it is padded.
        description: oneDNN's own, serialized, uint8.
        row_places: of each output channel, in words of four bytes, int64 ``[c_out]``.
        word_places: of four input channels at a kernel position, added to the row's, int32 ``[taps c_in / 4]``.
        sums_at: the word from which on oneDNN keeps minus the sum of each row, int32; None where it does not.
    """

    shape: tuple[int, ...]
    n_bytes: int
    description: Tensor
    row_places: np.ndarray
    word_places: np.ndarray
    sums_at: int | None

    def has_gaps(self, n_weights: int) -> bool:
        """Whether the weight is padded with zeros."""
        n_bytes = self.n_bytes if self.sums_at is None else 4 * self.sums_at
        return n_bytes > n_weights


def prepack(weight: Tensor, place: Place) -> Tensor:
    """A weight int8 ``[c_out, c_in(, kh, kw)]`` as oneDNN's kernels take it, in memory of its own."""
    ops: Any = torch.ops.onednn
    if not place:
        linear: Tensor = ops.qlinear_prepack(weight, None)
        return linear
    scale = torch.ones(len(weight))
    made: Tensor = ops.qconv_prepack(weight, scale, 1.0, 0, *(list(pair) for pair in place), 1, None)
    return made


@cache
def layout_of(shape: tuple[int, ...], place: Place) -> Layout | None:
    """The layout of a weight; None where it cannot be found, or PyTorch lacks what is needed to use it."""
    if shape[1] % 4 or sum(shape[:2]) + math.prod(shape[2:]) >= _BASE**2:
        return None
    try:
        layout = _find(shape, place)
        return layout if layout is not None and _is_right(layout, shape, place) else None
    except (AttributeError, RuntimeError, OSError, TypeError):
        return None


def _find(shape: tuple[int, ...], place: Place) -> Layout | None:
    c_out, c_in, taps = shape[0], shape[1], math.prod(shape[2:])
    marks = torch.full((c_out, c_in, taps), -1, dtype=torch.int64)
    marks[0, 0, :] = torch.arange(taps)
    marks[0, :, 0] = taps + torch.arange(c_in)
    marks[:, 0, 0] = taps + c_in + torch.arange(c_out)
    digits = [torch.where(marks >= 0, 1 + part, 0) for part in (marks % _BASE, marks // _BASE)]
    first, second = (prepack(digit.to(torch.int8).view(shape), place) for digit in digits)
    low, high = _memory(first), _memory(second)
    n_bytes, sums_at = len(low), None
    if len(low.nonzero()[0]) != c_out + c_in + taps - 2:
        sums_at = _find_sums(low.view(np.int32), -digits[0].sum((1, 2)).numpy(), marks.numel() // 4)
        low, high = low[: 4 * sums_at], high[: 4 * sums_at]
    used = low.nonzero()[0]
    if len(used) != c_out + c_in + taps - 2:
        return None
    found = np.full(taps + c_in + c_out, -1)
    found[low[used].astype(int) - 1 + _BASE * (high[used].astype(int) - 1)] = used
    origin = found[taps + c_in]
    found[0] = found[taps] = origin
    by_tap, by_input, by_row = (part - origin for part in np.split(found, [taps, taps + c_in]))
    in_fours = by_input.reshape(-1, 4) - by_input[::4, None]
    if (found < 0).any() or (in_fours != np.arange(4)).any():
        return None
    words = by_tap[:, None] + by_input[None, ::4] + origin
    if (words % 4).any() or (by_row % 4).any():
        return None
    description = torch.ops.mkldnn._get_mkldnn_serialized_md(first)
    places = (by_row // 4, (words // 4).astype(np.int32).flatten())
    return Layout(tuple(first.shape), n_bytes, description, *places, sums_at)


def _find_sums(words: np.ndarray, sums: np.ndarray, first: int) -> int:
    """Where ``sums`` are, from the word ``first`` on; the end where they are not."""
    for at in range(first, len(words) - len(sums) + 1):
        if words[at] == sums[0] and (words[at : at + len(sums)] == sums).all():
            return at
    return len(words)


def _is_right(layout: Layout, shape: tuple[int, ...], place: Place) -> bool:
    """Whether unpacking gives byte for byte what oneDNN makes of random numbers."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (shape[0], math.prod(shape[1:])), generator=generator, dtype=torch.uint8)
    rows = PackedRows.of_codes(codes, torch.full((shape[0],), 4, dtype=torch.uint8), shape)
    offset = torch.randint(0, 16, (shape[0],), generator=generator)
    weight = (codes.short() - offset[:, None].short()).to(torch.int8)
    wanted = prepack(weight.view(shape), place)
    made = unpacked(layout, rows, offset, weight.sum(1, dtype=torch.int32))
    return bool((_memory(wanted) == _memory(made)).all())


def unpacked(layout: Layout, rows: PackedRows, offset: Tensor, sums: Tensor | None) -> Tensor:
    """Codes less the offset of each row, as oneDNN takes them: good until this thread calls this again.

    Args:
        layout: of the weight.
        rows: of at most 8 bits, such that each difference fits in int8.
        offset: int64 ``[c_out]``; of codes that are looked up where the rows have a table.
        sums: of those differences in each row, int32 ``[c_out]``; needed where the layout has ``sums_at``.
    """
    made, words = _shared.tensor(layout)
    if layout.has_gaps(rows.n_weights):
        words[: layout.n_bytes // 4] = 0
    if layout.sums_at is not None and sums is not None:
        words[layout.sums_at : layout.n_bytes // 4] = 0
        words[layout.sums_at : layout.sums_at + len(sums)] = -sums.numpy()
    places = (layout.row_places, layout.word_places, words)
    for bits, packed in rows.by_bits.items():
        numbers = rows.rows_of(bits).numpy()
        if rows.table is not None:
            levels = (rows.table.short() - offset[:, None].short()).to(torch.int8)
            run("place_levels", packed.numpy(), bits, numbers, levels.numpy(), *places)
            continue
        run("place", packed.numpy(), bits, numbers, offset.numpy(), *places)
    return made


class _Shared(threading.local):
    """Memory for one weight at a time, and the tensors that oneDNN sees it through; of each thread its own."""

    def __init__(self) -> None:
        self.words = torch.empty(0, dtype=torch.int32)
        self.tensors: dict[int, tuple[Layout, Tensor]] = {}

    def tensor(self, layout: Layout) -> tuple[Tensor, np.ndarray]:
        """A tensor of this layout over the memory, and the memory as int32."""
        n_words = -(-layout.n_bytes // 4)
        if len(self.words) < n_words:
            self.tensors.clear()
            self.words = torch.empty(n_words, dtype=torch.int32)
        if id(layout) not in self.tensors:
            self.tensors[id(layout)] = (layout, _tensor_over(self.words.data_ptr(), layout))
        return self.tensors[id(layout)][1], self.words.numpy()


_shared = _Shared()


def _memory(tensor: Tensor) -> np.ndarray:
    """A copy of the bytes of a tensor of oneDNN's, int8."""
    n_bytes = torch.ops.mkldnn._nbytes(tensor)
    pointer = ctypes.cast(torch.ops.mkldnn.data_ptr(tensor), ctypes.POINTER(ctypes.c_int8))
    return np.ctypeslib.as_array(pointer, (n_bytes,)).copy()


@cache
def _library() -> ctypes.CDLL:
    """PyTorch's functions for compiled models, whose binary form is stable."""
    folder = Path(torch.__file__).parent / "lib"
    return ctypes.CDLL(str(next(path for path in folder.glob("*torch_cpu*") if path.suffix != ".lib")))


def _tensor_over(address: int, layout: Layout) -> Tensor:
    """A tensor of oneDNN's over memory that is there; the memory must outlive it."""
    library, n = _library(), len(layout.shape)
    numbers = ctypes.c_int64 * n
    handle, description = ctypes.c_void_p(), layout.description
    failed = library.aoti_torch_create_tensor_from_blob_v2(
        ctypes.c_void_p(address), ctypes.c_int64(n), numbers(*layout.shape), numbers(*[0] * n), ctypes.c_int64(0),
        library.aoti_torch_dtype_int8(), library.aoti_torch_device_type_cpu(), 0, ctypes.byref(handle),
        library.aoti_torch_layout__mkldnn(), ctypes.c_void_p(description.data_ptr()),
        ctypes.c_int64(description.numel()),
    )  # fmt: skip
    if failed:
        raise RuntimeError("PyTorch cannot lay a tensor over memory")
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object
    new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    made: Tensor = torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr(new_capsule(handle, None, None))
    return made
