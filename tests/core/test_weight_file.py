"""The reader of weight files: what a header may say, what a network may allocate, what tensors must be."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from pydantic import Json
from safetensors.torch import save_file
from torch import Tensor, nn

from effcli.core.errors import InputError
from effcli.core.weight_file import Count, Header, build_network, read_weights


class LayerHeader(Header):
    """Of a format with one linear layer."""

    FORMAT: ClassVar[str] = "test.layer"
    VERSION: ClassVar[str] = "1"

    n_out: Json[Count]
    note: str = ""


GOOD = {"format": "test.layer", "version": "1", "n_out": "3"}


def read(file: Path, tensors: dict[str, Tensor], **metadata: str) -> nn.Linear:
    save_file(tensors, file, {**GOOD, **metadata})
    header, found = read_weights(file, "here", LayerHeader)
    return build_network(lambda: nn.Linear(4, header.n_out), found, "here")


def weights() -> dict[str, Tensor]:
    return {"weight": torch.arange(12.0).view(3, 4), "bias": torch.ones(3)}


def test_a_whole_file_is_read_bit_for_bit(tmp_path: Path) -> None:
    network = read(tmp_path / "f", weights(), another="kept by someone else")
    assert all(torch.equal(value, weights()[name]) for name, value in network.state_dict().items())
    assert not network.training
    half = read(tmp_path / "f", {name: value.half() for name, value in weights().items()})
    assert half.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "other"}, "is not a file of the format test.layer"),
        ({"version": "2"}, "has format version 2, this effcli reads 1"),
        ({"version": "\n1\x1b[2J"}, r"has format version \\n1\\x1b\[2J, this effcli reads 1"),
        ({"n_out": "three"}, "its metadata are damaged: n_out: Invalid JSON"),
        ({"n_out": '"3"'}, "n_out: Input should be a valid integer, not '3'"),
        ({"n_out": "true"}, "n_out: Input should be a valid integer, not True"),
        ({"n_out": "0"}, "n_out: Input should be greater than or equal to 1, not 0"),
        ({"n_out": "9" * 400}, "n_out: .*, not 9999.*[.]{3}$"),
        ({"n_out": "[" * 100_000}, "n_out: Invalid JSON"),
        ({"n_out": "16000000"}, "describes a network that is larger than its 15 weights"),
        ({"n_out": "5"}, r"bias has shape \(3,\), the network needs \(5,\)|weight has shape"),
    ],
)
def test_metadata_that_are_not_what_they_should_be(
    tmp_path: Path, metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path / "f", weights(), **metadata)
    assert error.value.place == "here"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.full((3, 4), torch.nan)}, "weight is not finite: 12 of its 12 numbers"),
        ({"bias": torch.tensor([1.0, torch.inf, 0.0])}, "bias is not finite: 1 of its 3 numbers"),
        ({"bias": torch.ones(3, dtype=torch.int64)}, "bias is of type int64, the network needs float32"),
        ({"bias": torch.ones(3, dtype=torch.complex64)}, "bias is of type complex64"),
        ({"bias": torch.ones(3).to(torch.float8_e4m3fn)}, "bias is of type float8_e4m3fn"),
        ({"bais": torch.ones(3)}, "has 1 unknown keys: bais"),
        ({"a\nb": torch.ones(3)}, r"has 1 unknown keys: a\\nb"),
    ],
)
def test_tensors_that_are_not_the_networks(tmp_path: Path, change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path / "f", weights() | change)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lacks 1 keys: bias"):
        read(tmp_path / "f", {"weight": weights()["weight"]})


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(2**20, 2**20),
        lambda: nn.Sequential(*(nn.Linear(4, 64) for _ in range(100_000))),
        lambda: nn.Sequential(*(nn.Linear(1, 1) for _ in range(10**12))),
        lambda: nn.ParameterList([torch.zeros(2**40)]),
        lambda: nn.ParameterList([torch.arange(2**40).float()]),
        lambda: nn.ParameterList([torch.zeros(4).repeat(2**20, 2**10)]),
        lambda: nn.ParameterList([torch.full((2**20, 2**20), 0.5)]),
        lambda: nn.ParameterList([torch.zeros(1).expand(2**40) + 1]),
        lambda: nn.ParameterList([torch.linspace(0, 1, 2**40)]),
    ],
)
def test_nothing_larger_than_the_file_is_allocated(make) -> None:
    with pytest.raises(InputError, match="describes a network that is larger than its 15 weights"):
        build_network(make, weights(), "here")


def test_what_is_too_large_is_not_caught_on_the_way() -> None:
    def make() -> nn.Module:
        try:
            return nn.Linear(2**20, 2**20)
        except Exception:
            return nn.Linear(4, 3)

    with pytest.raises(InputError, match="describes a network that is larger than its 15 weights"):
        build_network(make, weights(), "here")


def test_sizes_that_do_not_fit_together_are_one_line() -> None:
    def make() -> nn.Module:
        raise ZeroDivisionError("integer modulo\nby zero")

    with pytest.raises(
        InputError, match="here: describes a network that cannot be built: integer modulo by zero"
    ):
        build_network(make, weights(), "here")
