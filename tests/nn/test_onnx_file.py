"""ONNX files: the same numbers from another program, for any batch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from effcli.core.errors import UsageError
from effcli.nn.onnx_file import save_onnx


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    ).eval()


def save(network: nn.Module, file: Path) -> None:
    names = {"input_name": "images", "output_name": "logits"}
    save_onnx(network, torch.zeros(2, 3, 4, 4), file, metadata={"classes": "a, b"}, **names)


@pytest.mark.slow
def test_another_program_computes_the_same(network: nn.Module, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    save(network, tmp_path / "n.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "n.onnx"))
    assert session.get_modelmeta().custom_metadata_map["classes"] == "a, b"
    assert session.get_inputs()[0].shape == ["batch", 3, 4, 4]
    for n in (1, 2, 5):
        x = torch.randn(n, 3, 4, 4)
        (found,) = session.run(["logits"], {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), network(x).detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match="needs the packages onnx and onnxscript") as caught:
        save(network, tmp_path / "n.onnx")
    assert caught.value.hint is not None and "effcli[onnx]" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
