from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a very small network: what the command does is tested, not how good it looks."""
    from effcli.enhance.network.config import WalMaFaConfig
    from effcli.enhance.network.walmafa_net import WalMaFa
    from effcli.enhance.weights import save_weights

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, WalMaFa(WalMaFaConfig(dim=4, blocks=(1, 1, 1), d_state=4)))
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "night.png"
    values = np.random.default_rng(0).integers(0, 60, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Four pairs of 32x32 below train/, two below eval/."""
    draws = np.random.default_rng(1)
    for split, count in (("train", 4), ("eval", 2)):
        for number in range(count):
            high = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            for side, values in (("high", high), ("low", high // 6)):
                folder = tmp_path / "pairs" / split / side
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(folder / f"{number}.png")
    return tmp_path / "pairs"
