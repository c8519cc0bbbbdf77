"""safetensors files: the same bytes for the same content, readable by the library."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from effcli.core.tensor_file import save_tensors


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.rand(3, 5), "a.weight": torch.rand(2).half(), "empty": torch.zeros(0, 4)}
    metadata = {f"key {i}": "\u00fc" * i for i in range(12)}
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_tensors(first, tensors, metadata)
    save_tensors(second, dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    assert first.read_bytes() == second.read_bytes()
    with safe_open(first, framework="pt") as file:
        assert file.metadata() == metadata
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)
    plain = tmp_path / "plain"
    plain.touch()
    assert first.stat().st_mode == plain.stat().st_mode


def test_without_metadata(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x", {"a": torch.ones(2)}, {})
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert torch.equal(file.get_tensor("a"), torch.ones(2))


def test_files_are_those_of_safetensors_with_sorted_metadata(tmp_path):
    from safetensors.torch import load, save

    tensors = {
        f"{name}.{i}": torch.arange(6).view(2, 3).to(dtype)[: i + 1]
        for i, name in enumerate(("b", "a"))
        for dtype in (torch.float32,)
    }
    for dtype in (torch.int64, torch.float64, torch.int32, torch.bfloat16, torch.float16, torch.int16, torch.int8,
                  torch.uint8, torch.bool):  # fmt: skip
        tensors[f"z{dtype}"] = torch.tensor([1, 0, 1]).to(dtype)
    tensors |= {"none": torch.zeros(0), "one": torch.tensor(2.0)}
    save_tensors(tmp_path / "x.safetensors", tensors, {"b": "1"})
    ours, theirs = (tmp_path / "x.safetensors").read_bytes(), save(tensors, {"b": "1"})
    assert ours == theirs
    assert load(ours).keys() == tensors.keys()
