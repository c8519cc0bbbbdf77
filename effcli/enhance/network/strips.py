"""Pictures of any size under a memory bound: WalMaFa evaluated exactly in overlapping horizontal strips.

Every layer but two is local, so a strip with a few rows of halo gives the rows that the whole picture gives; wavelets
longer than Haar are periodic, so at the picture's top and bottom their halo is taken from the other end. The
scan runs over pixels in raster order ("transpose"), so strips are consecutive pieces of its sequence and its state is
carried from one to the next. The Fourier block works at 1/8 of the resolution, where the whole picture fits. Hence no
seams: results differ from those of the whole picture by rounding alone. In "reshape" order the sequence depends on the
size of the picture, and only the whole picture gives the right result.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from effcli.core.errors import RunError
from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.exposure_head import HALO_ROWS, apply_maps
from effcli.enhance.network.walmafa_net import SIDE_MULTIPLE, WalMaFa
from effcli.enhance.network.wavelet_mamba_block import (
    HALO_AFTER_SCAN_ROWS,
    HALO_BEFORE_SCAN_ROWS,
    Bands,
    WaveletMambaBlock,
)
from effcli.nn.wavelet_names import reach_of

_STEM_HALO_ROWS = 4
"""A 5x5 and two 3x3 convolutions."""
_CONV_HALO_ROWS = 2
"""One 3x3 convolution; even, so that pixel-unshuffle sees whole cells."""

# Peak bytes per pixel and channel of the base width, measured on pictures of 1 and 4 megapixels, with a margin.
_WHOLE_BYTES = {"ll": 115, "high": 150}
"""One evaluation of the whole picture, or of a strip."""
_MAPS_BYTES = 16
"""In strips: the feature maps between the layers."""
_FOURIER_BYTES = 8
"""In strips: the Fourier block, which sees the whole picture at 1/8 of the resolution."""
_FIXED_BYTES = 32 << 20
_ENOUGH_BYTES = 1 << 30
"""On a CPU where no bound is given: larger pictures are computed in strips of half of it, whatever is free."""


@dataclass(frozen=True)
class Memory:
    """How one picture is evaluated under a memory bound.

    Attributes:
        whole_fits: the whole picture at once stays under the bound.
        strip_rows: else, rows of a strip at every level of the network.
        on_disk: the feature maps themselves exceed the bound and go to temporary files.
    """

    whole_fits: bool
    strip_rows: int = 0
    on_disk: bool = False

    @classmethod
    def plan(
        cls, config: WalMaFaConfig, size: Sequence[int], max_memory_mb: int | None, device: torch.device
    ) -> Self:
        """Plan for a picture of ``size`` (H, W), both multiples of 16.

        Raises:
            RunError: even in strips the picture exceeds the bound, or the network's token order rules strips out.
        """
        height, width = size
        bound = max_memory_mb << 20 if max_memory_mb is not None else free_memory_bytes(device) // 2
        row_bytes = width * config.dim * _WHOLE_BYTES[config.mamba_band]
        needed = height * row_bytes + _FIXED_BYTES
        is_indivisible = config.token_order == "reshape" and config.mamba
        enough = _ENOUGH_BYTES if max_memory_mb is None and device.type == "cpu" else bound
        if needed <= (bound if is_indivisible else min(bound, enough)):
            return cls(whole_fits=True)
        if is_indivisible:
            raise RunError(
                f"weights with token_order reshape need the whole picture in memory: {needed >> 20} MB, and "
                f"{bound >> 20} MB are allowed",
                hint=f"--max-memory {(needed >> 20) + 1}, or weights with token_order transpose (builtin:walmafa)",
            )
        pixels = height * width * config.dim
        halo = 4 * reach_of(config.wavelet)  # on both sides, of the transform and of its inverse
        least_rows = SIDE_MULTIPLE + halo
        least = pixels * _FOURIER_BYTES + least_rows * row_bytes + _FIXED_BYTES
        if least > bound:
            raise RunError(
                f"this picture needs at least {least >> 20} MB, and {bound >> 20} MB are allowed",
                hint=f"--max-memory {(least >> 20) + 1}",
            )
        left = bound - _FIXED_BYTES - pixels * _MAPS_BYTES
        on_disk = left < least_rows * row_bytes
        for_strips = min(bound - _FIXED_BYTES if on_disk else left, enough)
        rows = (for_strips // 2 // row_bytes - halo) // SIDE_MULTIPLE * SIDE_MULTIPLE
        return cls(False, min(max(rows, SIDE_MULTIPLE), height), on_disk)


def free_memory_bytes(device: torch.device) -> int:
    """Memory that can be used now on ``device``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(text.split("MemAvailable:")[1].split()[0]) << 10
    except (OSError, IndexError, ValueError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (ValueError, OSError, AttributeError):
            return 4 << 30


def forward_in_strips(
    network: WalMaFa,
    x: Tensor,
    memory: Memory,
    device: torch.device,
    log_gain: Tensor | None = None,
    *,
    maps_alone: bool = False,
) -> Tensor:
    """The result of ``network(x, log_gain)``, up to rounding, in bounded memory.

    Args:
        network: in its fused inference form, on ``device``, in "transpose" order.
        x: [1, 3, H, W] on the CPU, sides multiples of 16.
        memory: rows per strip, and whether the feature maps are on the disk.
        device: computes the strips.
        log_gain: [1], of a network with an exposure head.
        maps_alone: return what the exposure head says, not the picture.

    Returns:
        [1, 3, H, W] on the CPU, not clamped; [1, N_MAPS, H, W] of the maps.
    """

    def embed(piece: Tensor) -> Tensor:
        return network.embed_picture(piece) if log_gain is None else network.embed_exposed(piece, log_gain)

    def output(final: Tensor, d_0: Tensor, piece: Tensor) -> Tensor:
        assert log_gain is not None
        return apply_maps(piece, log_gain, network.output(final, d_0))

    with tempfile.TemporaryDirectory(prefix="effcli-") as folder:
        strips = Strips(memory.strip_rows, device, Path(folder) if memory.on_disk else None)
        e_1 = strips.map(
            lambda piece: network.down_1(embed(piece)),
            [x],
            _STEM_HALO_ROWS,
            rows_out=(1, 2),
        )
        e_1 = strips.blocks(network.encoder_1, e_1)
        e_2 = strips.blocks(
            network.encoder_2, strips.map(network.down_2, [e_1], _CONV_HALO_ROWS, rows_out=(1, 2))
        )
        e_3 = strips.blocks(
            network.encoder_3, strips.map(network.down_3, [e_2], _CONV_HALO_ROWS, rows_out=(1, 2))
        )
        latent = network.fourier(e_3.to(device)).cpu()
        del e_3
        up = strips.map(network.up_3, [latent], _CONV_HALO_ROWS, rows_out=(2, 1))
        d_2 = strips.blocks(network.decoder_2, strips.map(network.skip_2, [e_2, up], 0))
        del latent, e_2
        up = strips.map(network.up_2, [d_2], _CONV_HALO_ROWS, rows_out=(2, 1))
        d_1 = strips.blocks(network.decoder_1, strips.map(network.skip_1, [e_1, up], 0))
        del d_2, e_1, up
        d_0 = strips.map(network.up_1, [d_1], _CONV_HALO_ROWS, rows_out=(2, 1))
        del d_1
        last = strips.blocks(network.decoder_0[:-1], d_0)
        final = strips.block_rows(network.decoder_0[-1], last)
        if log_gain is None or maps_alone:
            return strips.map_rows(network.output, final, [d_0], _CONV_HALO_ROWS)
        return strips.map_rows(output, final, [d_0, x], HALO_ROWS)


class Strips:
    """Evaluates parts of a network strip by strip, maps on the CPU (or in files), strips on the device.

    Args:
        rows: rows of a strip, even.
        device: where strips are computed.
        folder: for maps in files; None keeps them in memory.
    """

    def __init__(self, rows: int, device: torch.device, folder: Path | None) -> None:
        self.rows = rows
        self.device = device
        self.folder = folder
        self._n_files = 0

    def map(
        self,
        layer: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        halo: int,
        rows_out: tuple[int, int] = (1, 1),
    ) -> Tensor:
        """Apply a local ``layer`` to maps [1, c, h, w] of one size.

        Args:
            layer: takes strips of the inputs; its output has ``rows_out[0] / rows_out[1]`` rows for each input row.
            inputs: feature maps on the CPU.
            halo: rows beyond a strip that its output depends on, even.
            rows_out: output rows per input row, as a fraction.
        """
        height = inputs[0].shape[-2]
        times, over = rows_out
        out: Tensor | None = None
        for first, last, low, high in self._cuts(height, halo):
            piece = layer(*(m[..., low:high, :].to(self.device) for m in inputs))
            start, stop = first * times // over, last * times // over
            offset = (first - low) * times // over
            piece = piece[..., offset : offset + stop - start, :].cpu()
            if out is None:
                out = self._new((*piece.shape[:2], height * times // over, piece.shape[-1]), piece.dtype)
            out[..., start:stop, :] = piece
        assert out is not None
        return out

    def map_rows(
        self, layer: Callable[..., Tensor], rows: Iterator[Tensor], others: Sequence[Tensor], halo: int
    ) -> Tensor:
        """As :meth:`map` with as many rows out as in, where the first input is never there as a whole.

        Args:
            layer: takes strips of the first input and of the others.
            rows: the first input, consecutive rows of it, on the CPU.
            others: feature maps of the same size on the CPU.
            halo: rows beyond a strip that its output depends on.
        """
        height = others[0].shape[-2]
        out: Tensor | None = None
        held, above = next(rows), 0
        for first, last, low, high in self._cuts(height, halo):
            held, above = held[..., low - above :, :], low
            while above + held.shape[-2] < high:
                held = torch.cat((held, next(rows)), -2)
            pieces = (held[..., : high - low, :], *(m[..., low:high, :] for m in others))
            piece = layer(*(part.to(self.device) for part in pieces))
            if out is None:
                out = self._new((*piece.shape[:2], height, piece.shape[-1]), piece.dtype)
            out[..., first:last, :] = piece[..., first - low : last - low, :].cpu()
        assert out is not None
        return out

    def blocks(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        """Apply wavelet Mamba blocks to a map [1, c, h, w], one after the other."""
        for block in blocks:
            out = self._new(tuple(x.shape), x.dtype)
            first = 0
            for piece in self.block_rows(block, x):
                out[..., first : first + piece.shape[-2], :] = piece
                first += piece.shape[-2]
            x = out
        return x

    def block_rows(self, block: nn.Module, x: Tensor) -> Iterator[Tensor]:
        """What a wavelet Mamba block makes of a map [1, c, h, w], strip by strip, on the CPU."""
        assert isinstance(block, WaveletMambaBlock)
        scanned = self._scan(block, x)
        return self._after_scan(block, x, scanned)

    def _scan(self, block: WaveletMambaBlock, x: Tensor) -> Tensor:
        """The scanned maps [B', h/2, w/2, c], the scan's state carried from strip to strip."""
        height, out, carry = x.shape[-2], None, None
        for first, last, low, high in self._cuts(height, HALO_BEFORE_SCAN_ROWS):
            to_scan = self._split(block, x, low, high).to_scan
            tokens = block.wavelet_mamba.before_scan(to_scan)
            rows = tokens.unflatten(1, ((high - low) // 2, -1))
            rows = rows[:, (first - low) // 2 : (last - low) // 2]
            piece, carry = block.wavelet_mamba.scan_piece(rows.flatten(1, 2), carry)
            piece = piece.unflatten(1, (rows.shape[1], -1)).cpu()
            if out is None:
                out = self._new((piece.shape[0], height // 2, *piece.shape[2:]), piece.dtype)
            out[:, first // 2 : last // 2] = piece
        assert out is not None
        return out

    def _after_scan(self, block: WaveletMambaBlock, x: Tensor, scanned: Tensor) -> Iterator[Tensor]:
        """The block's output, strip by strip."""
        height = x.shape[-2]
        ends = self._lit_ends(block, x, scanned) if block.reach else None
        for first, last, low, high in self._cuts(height, HALO_AFTER_SCAN_ROWS + block.reach):
            z, *bands = self._lit(block, x, scanned, low, high)
            above = 0
            if ends is not None and low == 0:
                above, bands = block.reach, _joined(ends[1], bands)
            if ends is not None and high == height:
                bands = _joined(bands, ends[0])
            merged = block.merge(*bands)[..., above : above + high - low, :]
            yield block.finish(z, merged)[..., first - low : last - low, :].cpu()

    def _lit_ends(
        self, block: WaveletMambaBlock, x: Tensor, scanned: Tensor
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The first and the last rows of LL' and the details', as many as the inverse transform reaches beyond an end.

        Where the map has fewer they are repeated.
        """
        height, half = x.shape[-2], block.reach // 2
        rows = min(half, height // 2)
        end = min(2 * rows + HALO_AFTER_SCAN_ROWS, height)
        _, *first = self._lit(block, x, scanned, 0, end)
        _, *last = self._lit(block, x, scanned, height - end, height)
        beyond = torch.arange(half) % rows
        before = (torch.arange(half) - half) % rows - rows
        return [b[..., beyond, :] for b in first], [b[..., before, :] for b in last]

    def _lit(
        self, block: WaveletMambaBlock, x: Tensor, scanned: Tensor, low: int, high: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """z, LL' and the details' of the rows low..high, of which the outermost lack what lies beyond."""
        z, _, direct = self._split(block, x, low, high)
        rows = scanned[:, low // 2 : high // 2].to(self.device)
        return z, *block.lit_bands(direct, rows.flatten(1, 2))

    def _split(self, block: WaveletMambaBlock, x: Tensor, low: int, high: int) -> Bands:
        """The bands of the rows low..high, exact: the wavelet reaches beyond them, and around the ends of the map."""
        first, last = low - block.reach, high + block.reach
        if first >= 0 and last <= x.shape[-2]:
            piece = x[..., first:last, :]
        else:
            piece = x[..., torch.arange(first, last) % x.shape[-2], :]
        return block.split(piece.to(self.device)).inner(block.reach)

    def _cuts(self, height: int, halo: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (first, last, low, high): the rows of a strip, and the rows with halo that decide them."""
        for first in range(0, height, self.rows):
            last = min(first + self.rows, height)
            yield first, last, max(first - halo, 0), min(last + halo, height)

    def _new(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if self.folder is None:
            return torch.empty(shape, dtype=dtype)
        self._n_files += 1
        n_values = int(torch.Size(shape).numel())
        file = self.folder / f"map-{self._n_files}"
        return torch.from_file(str(file), shared=True, size=n_values, dtype=dtype).view(shape)


def _joined(upper: Sequence[Tensor], lower: Sequence[Tensor]) -> list[Tensor]:
    """Maps of rows that follow each other as one, each of ``upper`` with its counterpart."""
    return [torch.cat(pair, -2) for pair in zip(upper, lower, strict=True)]
