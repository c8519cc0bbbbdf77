"""The network that a training starts from."""

from pathlib import Path

import pytest
import torch

from effcli.core.errors import InputError
from effcli.core.runtime import create_runtime
from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.walmafa_net import WalMaFa
from effcli.enhance.recipe import EnhanceTrainSection, WalMaFaRecipe
from effcli.enhance.training import build_network
from effcli.enhance.weights import save_weights

TINY = WalMaFaConfig(dim=4, blocks=(1, 1, 1), d_state=4)


def test_weights_of_another_band_and_wavelet_are_a_start_those_of_another_size_are_not(
    tmp_path: Path,
) -> None:
    file, start = tmp_path / "w.safetensors", WalMaFa(TINY)
    save_weights(file, start)
    runtime = create_runtime(device="cpu", precision="fp32")

    def recipe(**changes: object) -> WalMaFaRecipe:
        train = EnhanceTrainSection(init=str(file))
        return WalMaFaRecipe(network=TINY.model_copy(update=changes), train=train)

    network = build_network(recipe(wavelet="db2", mamba_band="high"), runtime)
    assert (network.config.wavelet, network.config.mamba_band) == ("db2", "high")
    for name, tensor in start.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
    with pytest.raises(InputError, match="for another network"):
        build_network(recipe(wavelet="db2", d_state=8), runtime)
