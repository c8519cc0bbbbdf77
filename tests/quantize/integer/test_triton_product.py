"""Triton's product of packed rows, in its interpreter on the CPU; no GPU is needed, and no speed is claimed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from effcli.quantize.integer import gpu_product
from effcli.quantize.packed.rows import PackedRows

CHECK = """
import torch
from effcli.quantize.integer.triton_product import multiply_packed
from effcli.quantize.packed.rows import PackedRows

generator = torch.Generator().manual_seed(0)
for widths, shape in (((2, 3, 4), (70, 12, 3, 3)), ((3,), (9, 77)), ((1, 5), (20, 64))):
    row_bits = torch.tensor(widths, dtype=torch.uint8)[torch.randint(len(widths), (shape[0],), generator=generator)]
    codes = torch.randint(0, 256, (shape[0], torch.Size(shape[1:]).numel()), generator=generator)
    codes = (codes % 2 ** row_bits.long()[:, None]).to(torch.uint8)
    offset = torch.randint(0, 5, (shape[0],), generator=generator)
    rows = PackedRows.of_codes(codes, row_bits, shape)
    turned = codes.view(shape[0], shape[1], -1).mT.flatten(1).long() - offset[:, None]
    x = torch.randint(-128, 128, (37, codes.shape[1]), generator=generator)
    assert torch.equal(multiply_packed(x.to(torch.int8), rows, offset).long(), x @ turned.T), widths
    y = torch.randn(5, codes.shape[1], generator=generator).bfloat16()
    wanted = y.float() @ turned.float().T
    error = (multiply_packed(y, rows, offset) - wanted).norm() / wanted.norm()
    assert error < 1e-2, (widths, error)
print("agrees")
"""


@pytest.mark.slow
def test_the_kernel_gives_the_reference_in_the_interpreter():
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed: PyTorch's builds for CPUs come without it")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stdout == "agrees\n", done.stderr


ROWS = PackedRows.of_codes(
    torch.arange(12, dtype=torch.uint8).view(3, 4) % 4, torch.full((3,), 2, dtype=torch.uint8), (3, 4)
)
X = torch.arange(8, dtype=torch.int8).view(2, 4)


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (lambda x, rows, offset: torch.zeros(2, 3, dtype=torch.int32), "its first result was wrong"),
        (lambda x, rows, offset: 1 / 0, "division by zero"),
    ],
    ids=["wrong", "failing"],
)
def test_a_kernel_that_does_not_agree_is_left_alone(kernel, said, monkeypatch, caplog):
    monkeypatch.setattr(gpu_product, "_verdicts", {})
    monkeypatch.setattr(gpu_product, "find_spec", lambda name: True)
    monkeypatch.setattr(gpu_product, "_multiply", kernel)
    wanted = X.int() @ ROWS.codes().int().T
    for _ in range(2):
        assert torch.equal(gpu_product.product_of(X, ROWS, torch.zeros(3).long(), lambda: wanted), wanted)
    assert caplog.text.count(said) == 1


def test_a_kernel_that_agrees_computes_from_then_on(monkeypatch):
    monkeypatch.setattr(gpu_product, "_verdicts", {})
    monkeypatch.setattr(gpu_product, "find_spec", lambda name: True)
    wanted, calls = X.int() @ ROWS.codes().int().T, []

    def multiply(*args):
        calls.append(1)
        return wanted.clone()

    monkeypatch.setattr(gpu_product, "_multiply", multiply)
    gpu_product.product_of(X, ROWS, torch.zeros(3).long(), lambda: wanted)
    out = gpu_product.product_of(X, ROWS, torch.zeros(3).long(), lambda: torch.zeros(0))
    assert torch.equal(out, wanted)
    assert len(calls) == 2
