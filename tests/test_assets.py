"""Every file of weights in the package opens with the reader of its format: they were written by version 0.1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

FOLDER = Path(__file__).resolve().parents[1] / "effcli" / "assets"
WEIGHTS = sorted(FOLDER.glob("*.safetensors"))
WORDS = "text.token_embedding.weight"


def _walmafa(source: str) -> nn.Module:
    from effcli.enhance.weights import load_weights

    return load_weights(source)


def _classifier(source: str) -> nn.Module:
    from effcli.metrics.features import load_classifier

    return load_classifier(_path(source), source)[0]


def _diffusion(source: str) -> nn.Module:
    from effcli.diffusion.models import load_model

    return load_model(source).unet


def _detector(source: str) -> nn.Module:
    from effcli.detect_stream.weights import load_detector

    return load_detector(source).network


def _egor(source: str) -> nn.Module:
    from effcli.continual.egor.weights import load_detector

    return load_detector(source)[0]


def _statistics(source: str) -> nn.Module:
    from effcli.continual.egor.detectors.feature_statistics import load_statistics

    found, module = load_statistics(_path(source), source), nn.Module()
    module.register_buffer("means", torch.cat(found.means))
    module.register_buffer("variances", torch.cat(found.variances))
    return module.eval()


def _clip(source: str) -> nn.Module:
    from effcli.distill.clip.models import load_clip

    return load_clip(source).network


READERS: dict[str, Callable[[str], nn.Module]] = {
    "effcli.walmafa": _walmafa,
    "effcli.classifier": _classifier,
    "effcli.diffusion": _diffusion,
    "effcli-streamdsgn": _detector,
    "effcli-detector": _egor,
    "effcli-feature-statistics": _statistics,
    "effcli.clip": _clip,
}


def _path(source: str) -> Path:
    return FOLDER / f"{source.removeprefix('builtin:')}.safetensors"


@pytest.mark.parametrize("file", WEIGHTS, ids=[file.stem for file in WEIGHTS])
def test_a_weight_file_opens_with_every_value_it_holds(file: Path) -> None:
    metadata, tensors = _read(file)
    network = READERS[metadata["format"]](f"builtin:{file.stem}")
    assert not network.training
    state: dict[str, Any] = network.state_dict()
    if metadata["format"] == "effcli.clip":
        rows = tensors.pop("words").long()
        assert torch.equal(state.pop(WORDS)[rows], tensors.pop(WORDS).float())
        state = {name: value for name, value in state.items() if not name.startswith("visual.trunk.")}
    if metadata["format"] == "effcli.classifier":
        tensors = {name.removeprefix("network."): tensors[name] for name in tensors if "moments." not in name}
    assert state.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(state[name], value.to(state[name].dtype)), name


def test_the_package_has_weights_of_every_format_here() -> None:
    assert {_read(file)[0]["format"] for file in WEIGHTS} == READERS.keys()


def _read(file: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    with safe_open(file, framework="pt") as opened:
        return opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
