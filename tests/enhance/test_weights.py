"""Weight files in our format, and files that are no weights."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from effcli.core.errors import InputError
from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.walmafa_net import WalMaFa
from effcli.enhance.weights import load_weights, save_weights

SMALL = WalMaFaConfig(dim=4, blocks=(1, 1, 2), d_state=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"mamba_band": "high"}, {"mamba": False}, {"fourier": False}, {"wavelet": "db2"}]
)
def test_saved_weights_load_unchanged(tmp_path, changes):
    network = WalMaFa(SMALL.model_copy(update=changes)).eval()
    path = tmp_path / "w.safetensors"
    save_weights(path, network, {"dataset": "night"})
    loaded = load_weights(path)
    assert loaded.config == network.config and not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(loaded(x), network(x), rtol=1e-4, atol=1e-5)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert (
        metadata["format"] == "effcli.walmafa"
        and metadata["version"] == "1"
        and metadata["dataset"] == "night"
    )
    assert json.loads(metadata["config"])["mamba_band"] == network.config.mamba_band


def test_fused_networks_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="fused"):
        save_weights(tmp_path / "w.safetensors", WalMaFa(SMALL).fuse())
    assert not list(tmp_path.iterdir())


def test_half_precision_files_become_float32(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, WalMaFa(SMALL).to(torch.bfloat16))
    loaded = load_weights(path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.slow
def test_kernels_in_half_precision_halve_the_file_and_keep_the_result(tmp_path):
    network = WalMaFa(SMALL).eval()
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_weights(whole, network)
    save_weights(half, network, kernel_dtype=torch.float16)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    with safe_open(half, framework="pt") as file:
        for name, tensor in network.state_dict().items():
            assert file.get_tensor(name).dtype == (torch.float16 if tensor.ndim > 1 else tensor.dtype), name
    for name, tensor in load_weights(half).state_dict().items():
        torch.testing.assert_close(tensor, network.state_dict()[name], rtol=1e-3, atol=1e-6)


def test_files_from_before_there_was_a_choice_of_wavelet_are_haar(tmp_path):
    config = json.loads(SMALL.model_dump_json())
    del config["wavelet"]
    assert load_weights(ours(tmp_path, config=json.dumps(config))).config == SMALL
    assert load_weights("builtin:walmafa").config.wavelet == "haar"


def ours(tmp_path: Path, **metadata: str) -> Path:
    network = WalMaFa(SMALL)
    full = {
        "format": "effcli.walmafa",
        "version": "1",
        "config": network.config.model_dump_json(),
        **metadata,
    }
    path = tmp_path / "w.safetensors"
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, path, metadata=full)
    return path


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"version": "2"}, "format version 2"),
        ({"config": "{"}, "metadata are damaged: config: Invalid JSON"),
        ({"config": '{"dim": 3}'}, "config.dim: Input should be a multiple of 2, not 3"),
        ({"config": SMALL.model_copy(update={"blocks": (2, 1, 2)}).model_dump_json()}, "lacks .* keys"),
        ({"config": SMALL.model_copy(update={"fourier": False}).model_dump_json()}, "unknown keys: fourier"),
        ({"config": SMALL.model_copy(update={"d_state": 5}).model_dump_json()}, "has shape"),
        (
            {"config": SMALL.model_copy(update={"wavelet": "db0"}).model_dump_json()},
            "config.wavelet: .*unknown wavelet 'db0'",
        ),
    ],
)
def test_wrong_metadata_is_refused(tmp_path, metadata, message):
    with pytest.raises(InputError, match=message):
        load_weights(ours(tmp_path, **metadata))


@pytest.mark.parametrize("length", [0, 5, 100, 20_000])
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_truncated_files_are_refused(tmp_path, kind, length):
    path = tmp_path / "w"
    if kind == "safetensors":
        save_weights(path, WalMaFa(SMALL))
    else:
        torch.save(WalMaFa(SMALL).state_dict(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError) as error:
        load_weights(path)
    assert error.value.place == str(path) and "\n" not in str(error.value)


class Evil:
    def __reduce__(self):
        return (print, ("unpickled!",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [Evil(), {"state_dict": Evil()}, [1, 2], {"a": 1}, {}])
def test_foreign_pickles_are_refused_and_not_executed(tmp_path, capsys, content):
    path = tmp_path / "model.pth"
    torch.save(content, path)
    with pytest.raises(InputError):
        load_weights(path)
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError):
        load_weights(path)
    assert "unpickled!" not in capsys.readouterr().out


def test_missing_files_and_unknown_builtins(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_weights(tmp_path / "absent.pth")
    with pytest.raises(InputError, match="cannot be read"):
        load_weights(tmp_path)
    with pytest.raises(InputError, match="is not in the package") as error:
        load_weights("builtin:../secret")
    assert error.value.place == "builtin:../secret"


def test_builtin_weights_are_found_by_name():
    assert load_weights("builtin:walmafa").config.mamba_band == "ll"
    with pytest.raises(InputError) as error:
        load_weights("builtin:walmofa")
    assert error.value.hint == "available: builtin:walmafa"  # and not what other tasks have in the package
