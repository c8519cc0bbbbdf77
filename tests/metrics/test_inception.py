"""Inception's features from a file are those of torch-fidelity's network with these weights."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from effcli.core.errors import InputError, UsageError
from effcli.metrics.features import load_features

needs_fidelity = pytest.mark.skipif(
    find_spec("torch_fidelity") is None,
    reason="torch-fidelity is not installed (it is in no extra of the tests: it installs a package called tests)",
)


@needs_fidelity
@pytest.mark.slow
def test_features_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    with monkeypatch.context() as patched:  # new weights, where the library loads some
        patched.setattr(torch, "load", lambda *args, **kwargs: {})
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network: Any = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path="x"
        )
    file = tmp_path / "inception.pth"
    torch.save(network.state_dict(), file)
    space = load_features(f"inception:{file}")
    colour = torch.randint(256, (2, 3, 20, 20), dtype=torch.uint8)
    assert torch.equal(space.features(colour), network(colour)[0])
    grey = colour[:, :1]
    assert torch.equal(space.features(grey), network(grey.repeat(1, 3, 1, 1))[0])
    assert space.features(colour).shape == (2, 2048) and space.reference is None


@needs_fidelity
def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_features("inception:no.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="not those of Inception-v3 of 2015"):
        load_features(f"inception:{tmp_path / 'a.pth'}")
    torch.save(load_features, tmp_path / "code.pth")
    with pytest.raises(InputError, match="checkpoint of tensors only"):
        load_features(f"inception:{tmp_path / 'code.pth'}")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from effcli.metrics import inception

    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="torch-fidelity") as caught:
        load_features("inception:a.pth")
    assert caught.value.hint == "pip install 'effcli[fid]'"
