"""`torch.compile` of a loaded network: graphs break at packed layers, and nothing fails."""

import pytest
import torch

from effcli.quantize.packed_unet import load
from effcli.quantize.pipeline import pack
from effcli.quantize.weights import save_packed
from tests.quantize.quantized_tiny import calibrated, full_precision, recipe_of


@pytest.mark.slow
def test_a_compiled_network_computes_the_same(tmp_path):
    recipe = recipe_of("w4a8")
    student, _ = calibrated(recipe)
    save_packed(tmp_path, pack(student, full_precision()[0], recipe))
    network = load(tmp_path)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = [network(x, t).sample for t in (63, 15)]
        compiled = torch.compile(network, backend="eager")
        for t, wanted in zip((63, 15), expected, strict=True):
            assert torch.equal(compiled(x, t).sample, wanted)
    torch._dynamo.reset()
