"""safetensors files: the same bytes for the same content, readable by the library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from effcli.core.errors import InputError
from effcli.core.tensor_file import read_tensors, save_tensors


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


def test_files_are_those_of_safetensors_with_sorted_metadata(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.onnx", b"\x08\x07\x12\x07pytorch", "is an ONNX file, not a safetensors file"),
        ("m.safetensors", b"PK\x03\x04 and more", "is a zip archive, such as a checkpoint of PyTorch"),
        ("m.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("m.safetensors", b"<!DOCTYPE html><html>404", "is a web page"),
        ("m.safetensors", b"\x80\x02}q\x00.", "is a pickle"),
        ("m.safetensors", b"\x80\x04\x95\x0f", "is a pickle"),
        ("m.safetensors", b"no", "is damaged or not a safetensors file"),
    ],
)
def test_other_files_are_refused_by_what_they_are(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_tensors(file, name)
