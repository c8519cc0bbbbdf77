"""Discrete wavelets by name: which there are, and their filters as PyWavelets has them.

No torch here, so that recipes stay light; PyWavelets is imported for other wavelets than Haar alone.
"""

from __future__ import annotations

from functools import cache
from itertools import groupby
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

HAAR = "haar"


class Filters(NamedTuple):
    """A low-pass and a high-pass filter of one even length."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def backwards(self) -> Filters:
        """Both reversed: the filters of the transposed transform."""
        return Filters(self.low[::-1], self.high[::-1])


def require_wavelet(name: str) -> str:
    """``name``, if it is that of a discrete wavelet.

    Raises:
        ValueError: it is not; the message has the names that exist.
    """
    if name != HAAR:
        import pywt

        names = pywt.wavelist(kind="discrete")
        if name not in names:
            raise ValueError(f"unknown wavelet {name!r}; available: {_listed(names)}")
    return name


WaveletName = Annotated[str, AfterValidator(require_wavelet)]
"""The name of a discrete wavelet of PyWavelets, as a field of a recipe."""


@cache
def filters_of(name: str) -> tuple[Filters, Filters]:
    """The filters of decomposition and of reconstruction.

    They are PyWavelets', but for the sign of the high-pass filters: details of a rising ramp are positive with Haar.

    Raises:
        ValueError: the name is not that of a discrete wavelet.
    """
    import pywt

    wavelet = pywt.Wavelet(require_wavelet(name))
    low_in, high_in, low_out, high_out = wavelet.filter_bank
    return (
        Filters(tuple(low_in), tuple(-tap for tap in high_in)),
        Filters(tuple(low_out), tuple(-tap for tap in high_out)),
    )


@cache
def reach_of(name: str) -> int:
    """Rows, an even number, that a level of the transform looks beyond whole 2x2 cells, on either side.

    The inverse transform looks half as many rows of the bands beyond those of the cell; Haar looks at the cell alone.
    """
    return 0 if name == HAAR else len(filters_of(name)[0].low) // 4 * 2


def _listed(names: list[str]) -> str:
    """The names by family: ``haar, db1-db38, ..., bior1.1/1.3/...``."""
    families = []
    for family, members in groupby(sorted(names), key=lambda name: name.rstrip("0123456789.")):
        orders = [name.removeprefix(family) for name in members]
        if all(order.isdecimal() for order in orders):
            numbers = sorted(map(int, orders))
            families.append(f"{family}{numbers[0]}-{family}{numbers[-1]}")
        else:
            families.append(family + "/".join(orders))
    return ", ".join(families)
