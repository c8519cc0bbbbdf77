"""Blocks of GGUF against the package's own reader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from effcli.quantize.exporting.gguf_blocks import Blocks, blocks_of, bytes_of, n_bytes, type_for
from effcli.quantize.packed.layer import LayerCodes, form_of
from effcli.quantize.packed.rows import PackedRows

gguf = pytest.importorskip("gguf")


def layer(*widths: int, inputs: int = 64) -> LayerCodes:
    """Random codes, a row of each width."""
    generator = np.random.default_rng(0)
    bits = torch.tensor(widths, dtype=torch.uint8)
    codes = np.stack([generator.integers(0, 2**b, inputs) for b in widths]).astype(np.uint8)
    return LayerCodes(
        **form_of(nn.Linear(inputs, len(widths))),
        rows=PackedRows.of_codes(torch.from_numpy(codes), bits, (len(widths), inputs)),
        scale=torch.from_numpy(generator.uniform(0.01, 0.1, len(widths))).float(),
        zero=torch.tensor([2.0 ** (b - 1) for b in widths]).floor(),
        in_scale=torch.ones(inputs),
        activation_bits=None,
        act_scale=torch.zeros(0),
        act_zero=torch.zeros(0),
        bias=None,
    )


def read(codes: LayerCodes, type: str) -> torch.Tensor:
    """What the package reads."""
    kind = gguf.GGMLQuantizationType[type]
    content = bytes_of(blocks_of(codes, type), type)
    assert content.nbytes == n_bytes(codes.shape, type)
    return torch.from_numpy(gguf.dequantize(content, kind))


@pytest.mark.parametrize(
    ("widths", "type"), [((1, 2, 3, 4), "Q4_1"), ((3, 4, 5), "Q5_1"), ((6, 4, 7), "Q8_0")]
)
def test_codes_are_kept_as_they_are(widths: tuple[int, ...], type: str) -> None:
    codes = layer(*widths)
    assert type_for(codes) == type
    assert torch.allclose(read(codes, type), codes.weight(), rtol=1e-3, atol=1e-3 * float(codes.scale.max()))


def test_codes_out_of_range_and_smoothed_weights_are_rounded_anew() -> None:
    codes = replace(layer(8, 8), zero=torch.tensor([0.0, 128.0]))
    weight = codes.weight()
    error = (read(codes, "Q8_0") - weight).abs()
    assert 0 < float(error[0].max()) <= 0.6 * float(weight[0].max()) / 127
    smoothed = replace(layer(4, 4), in_scale=torch.linspace(0.5, 2, 64))
    ranges = smoothed.weight().view(2, 2, 32)
    step = (ranges.amax(-1) - ranges.amin(-1)) / 15
    error = (read(smoothed, "Q4_1") - smoothed.weight()).abs().view(2, 2, 32)
    assert bool((error.amax(-1) <= 0.52 * step).all())


def test_one_factor_for_a_block_of_inputs_changes_no_code() -> None:
    codes = replace(layer(4), in_scale=torch.tensor([0.5, 3.0]).repeat_interleave(32))
    exact = layer(4)
    assert torch.equal(blocks_of(codes, "Q4_1").q, blocks_of(exact, "Q4_1").q)
    assert torch.allclose(read(codes, "Q4_1"), codes.weight(), rtol=1e-3, atol=1e-3)


def test_rows_that_are_no_whole_blocks_have_no_type() -> None:
    assert type_for(layer(4, inputs=48)) is None


def test_scales_that_fp16_loses_do_not_fit() -> None:
    for factor, fits in ((1.0, True), (1e-8, False), (1e8, False)):
        codes = layer(4)
        codes = replace(codes, scale=codes.scale * factor)
        blocks = blocks_of(codes, "Q4_1")
        assert isinstance(blocks, Blocks)
        assert blocks.fit_fp16(codes.weight().view(blocks.q.shape)) is fits
