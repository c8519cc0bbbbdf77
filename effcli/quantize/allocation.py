"""How many bits each output channel of a layer gets: OMQ of MPQ-DM, and the error-driven alternative.

Of a layer's c_out rows (output channels) equally many get N+1 and N-1 bits, so the mean stays exactly N. MPQ-DM
ranks the rows by kurtosis and searches how many to move (docs/methods/mpq-dm.md, Bit allocation); the error-driven
split moves the rows for which it lowers the error (Error-driven allocation, there).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

GROUPS_PER_LAYER = 10
SMALLEST_MAXIMUM = 1e-5
SEARCHES: Mapping[str, tuple[int, ...]] = {"half": (0, 1, 2, 3, 4, 5), "tenth": (0, 1)}
"""Group counts g that are tried: up to half of the rows on each side, or none and a tenth."""


def smoothing(weight_maxima: Tensor, input_maxima: Tensor) -> Tensor:
    """delta_i = sqrt(max|W_:,i| / max|X_:,i|), by which inputs are multiplied and weights divided.

    Args:
        weight_maxima, input_maxima: largest absolute values of each input channel, ``[c_in]``.

    Returns:
        ``[c_in]``; 1 for a channel that is dead in either, whose delta would be 0 or infinite.
    """
    dead = (weight_maxima < SMALLEST_MAXIMUM) | (input_maxima < SMALLEST_MAXIMUM)
    ratio = weight_maxima.clamp(min=SMALLEST_MAXIMUM) / input_maxima.clamp(min=SMALLEST_MAXIMUM)
    return torch.where(dead, torch.ones_like(ratio), ratio.sqrt())


def kurtosis(rows: Tensor) -> Tensor:
    """mean((w - mean)^4) / std^4 of each row, not excess, with the unbiased standard deviation.

    Args:
        rows: ``[c_out, K]``, K at least 2.

    Returns:
        ``[c_out]``; 0 for a constant row.
    """
    centred = rows - rows.mean(1, keepdim=True)
    variance = centred.square().sum(1) / (rows.shape[1] - 1)
    fourth = centred.square().square().mean(1)
    return torch.where(variance > 0, fourth / variance.square().clamp(min=torch.finfo(rows.dtype).tiny), 0)


def uniform_bits(n_rows: int, bits: int) -> Tensor:
    """N bits for every row: uint8 ``[n_rows]``."""
    return torch.full((n_rows,), bits, dtype=torch.uint8)


def split_by_rank(ranking: Tensor, bits: int, n_moved: int) -> Tensor:
    """The ``n_moved`` rows that rank highest get N+1 bits, as many at the other end N-1.

    Args:
        ranking: ``[c_out]``; ties are broken by the row's number.
        bits: N.
        n_moved: at most half of the rows.

    Returns:
        uint8 ``[c_out]``.
    """
    row_bits = uniform_bits(ranking.shape[0], bits)
    if n_moved:
        order = ranking.argsort(descending=True, stable=True)
        row_bits[order[:n_moved]] = bits + 1
        row_bits[order[-n_moved:]] = bits - 1
    return row_bits


def allocate_by_kurtosis(
    ranking: Tensor, errors: Mapping[int, Tensor], bits: int, groups: Iterable[int] = SEARCHES["half"]
) -> Tensor:
    """OMQ: the split by kurtosis whose layer output is closest to the full-precision one.

    The squared error of a layer's output is a sum over its rows, so the errors of every row at N-1, N and N+1 bits
    decide between all splits.

    Args:
        ranking: the kurtosis of each row, ``[c_out]``.
        errors: bits -> squared output error of each row, ``[c_out]``, for N-1, N and N+1.
        bits: N, at least 2.
        groups: the group counts g to try; with k = c_out // 10, g k rows move on each side. 0 is always tried.

    Returns:
        uint8 ``[c_out]``, of mean exactly N.
    """
    group_size = ranking.shape[0] // GROUPS_PER_LAYER
    counts = sorted({0, *(g * group_size for g in groups if 2 * g * group_size <= ranking.shape[0])})
    splits = [split_by_rank(ranking, bits, n_moved) for n_moved in counts]
    return min(splits, key=lambda split: total_error(split, errors))


def allocate_by_error(errors: Mapping[int, Tensor], bits: int) -> Tensor:
    """Pair the row that gains most from a bit with the row that loses least, as long as the pair gains.

    Args:
        errors: as in :func:`allocate_by_kurtosis`.
        bits: N, at least 2.

    Returns:
        uint8 ``[c_out]``, of mean exactly N.
    """
    gains, costs = errors[bits] - errors[bits + 1], errors[bits - 1] - errors[bits]
    receivers, donors = gains.argsort(descending=True, stable=True), costs.argsort(stable=True)
    row_bits = uniform_bits(gains.shape[0], bits)
    taken: set[int] = set()
    position = 0
    for receiver in receivers.tolist():
        if receiver in taken:
            continue
        while position < len(donors) and (
            int(donors[position]) in taken or int(donors[position]) == receiver
        ):
            position += 1
        if position == len(donors):
            break
        donor = int(donors[position])
        if gains[receiver] <= costs[donor]:
            break
        row_bits[receiver], row_bits[donor] = bits + 1, bits - 1
        taken |= {receiver, donor}
    return row_bits


def raise_tenth(ranking: Tensor, bits: int) -> Tensor:
    """MPQ-DM+: a tenth of the rows, those of highest kurtosis, get N+1 bits and none fewer; uint8 ``[c_out]``."""
    row_bits = uniform_bits(ranking.shape[0], bits)
    row_bits[ranking.argsort(descending=True, stable=True)[: ranking.shape[0] // GROUPS_PER_LAYER]] = bits + 1
    return row_bits


def total_error(row_bits: Tensor, errors: Mapping[int, Tensor]) -> float:
    """The squared error of a layer's output when its rows have these bits."""
    return float(sum(error[row_bits == bits].sum() for bits, error in errors.items()))
