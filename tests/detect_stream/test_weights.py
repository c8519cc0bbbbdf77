"""A detector comes back as the network of the method that it was saved with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from effcli.core.errors import InputError
from effcli.detect_stream import weights
from effcli.detect_stream.network.config import TINY
from effcli.detect_stream.network.streamdsgn import StreamDsgn
from effcli.detect_stream.weights import load_detector, save_detector, starting_weights


class Previous(StreamDsgn):
    """Another method's network, with the same weights."""


def test_a_detector_of_another_method_is_of_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_detector(tmp_path / "d.safetensors", Previous(TINY), "now", method="previous")
    with pytest.raises(InputError, match="no method 'previous'"):
        load_detector(str(tmp_path / "d.safetensors"))
    monkeypatch.setattr(weights, "method_module", lambda task, name: SimpleNamespace(create=Previous))
    found = load_detector(str(tmp_path / "d.safetensors"))
    assert (type(found.network), found.target, found.method) == (Previous, "now", "previous")


def test_a_file_of_the_first_version_names_no_method() -> None:
    found = load_detector("builtin:street-tiny")
    assert (type(found.network), found.method) == (StreamDsgn, "streamdsgn")


def test_heads_of_further_horizons_are_saved_and_start_as_the_last_one(tmp_path: Path) -> None:
    known = load_detector("builtin:street-tiny")
    assert known.horizons == (1,)
    network = StreamDsgn(TINY.model_copy(update={"horizons": (1, 2, 3)}))
    network.load_state_dict(starting_weights(network, known.network, "known"))
    for head in network.heads:
        for name, value in known.network.head.state_dict().items():
            assert value.equal(head.state_dict()[name])
    with torch.no_grad():
        network.state_dict()["later_heads.0.scores.bias"].add_(1)
    save_detector(tmp_path / "d.safetensors", network, "next")
    found = load_detector(str(tmp_path / "d.safetensors"))
    assert found.horizons == (1, 2, 3)
    changed = network.state_dict()["later_heads.0.scores.bias"]
    assert found.network.state_dict()["later_heads.0.scores.bias"].equal(changed)
    again = starting_weights(
        StreamDsgn(TINY.model_copy(update={"horizons": (1, 2, 3, 5)})), found.network, "d"
    )
    assert again["later_heads.2.scores.bias"].equal(network.state_dict()["later_heads.1.scores.bias"])
