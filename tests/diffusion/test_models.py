"""Loading diffusion models: what is taken, and what each wrong thing is told."""

import json

import pytest
import torch

from effcli.core.errors import InputError
from effcli.diffusion.configs import check_unet_config
from effcli.diffusion.models import load_model, save_file
from tests.diffusion.tiny_models import SCHEDULER, save_pipeline, tiny_unet


def says(model, x, t):
    with torch.no_grad():
        return model.unet(x, t).sample


def test_a_folder_a_bare_unet_and_a_file_give_the_same_model(tmp_path):
    unet = tiny_unet()
    pipeline = save_pipeline(tmp_path / "pipeline", unet)
    save_file(tmp_path / "one.safetensors", unet, SCHEDULER)
    x = torch.randn(2, 1, 8, 8)
    expected = unet(x, 7).sample.detach()
    for source in (pipeline, pipeline / "unet", tmp_path / "one.safetensors"):
        model = load_model(str(source))
        assert torch.equal(says(model, x, 7), expected)
        assert model.sample_shape == (1, 8, 8)
        assert not any(p.requires_grad for p in model.unet.parameters())
    assert load_model(str(pipeline)).scheduler_config["prediction_type"] == "v_prediction"


def test_the_built_in_model_is_there():
    model = load_model("builtin:fashion-diffusion")
    assert model.sample_shape == (1, 16, 16)
    assert 1e6 < sum(p.numel() for p in model.unet.parameters()) < 2e6


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("no")
    no_unet = tmp_path / "no-unet"
    no_unet.mkdir()
    (no_unet / "model_index.json").write_text(json.dumps({"_class_name": "X", "vae": ["diffusers", "V"]}))
    vae = tmp_path / "vae"
    vae.mkdir()
    (vae / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    for source, message in (
        ("nowhere", "no such folder"),
        ("builtin:nothing", "is not in the package"),
        (tmp_path / "empty", "neither model_index.json nor config.json"),
        (tmp_path / "text.safetensors", "damaged or not a safetensors file"),
        (no_unet, "has no unet or transformer, only vae"),
        (vae, "holds a AutoencoderKL"),
    ):
        with pytest.raises(InputError, match=message):
            load_model(str(source))


def test_a_hub_id_without_a_network_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="the Hub did not provide it"):
        load_model("nobody/no-such-model-at-all")


def test_damaged_weights_are_refused(tmp_path):
    folder = save_pipeline(tmp_path / "p", tiny_unet())
    file = next((folder / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged or not a safetensors file"):
        load_model(str(folder))


@pytest.mark.parametrize("size", [[8], [8, 8, 8], [], [[8], 8], [8, None], 0, [8, 2**20]])
def test_a_sample_size_that_is_not_a_side_or_two_is_refused(size):
    from diffusers import UNet2DModel

    with pytest.raises(InputError, match=r"m: sample_size is [^,]+(, [^,]+)*, not a side"):
        check_unet_config(UNet2DModel, {"sample_size": size}, "m")
    check_unet_config(UNet2DModel, {"sample_size": [8, 16]}, "m")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_embedding_type": "x"}, "describes a network that cannot be built: .*timestep_input_dim"),
        ({"up_block_types": [["AttnUpBlock2D"], "UpBlock2D"]}, "describes a network that cannot be built"),
        ({"block_out_channels": [16, 2**20]}, "describes a network that is larger than its"),
    ],
)
def test_a_folder_whose_configuration_makes_no_network(tmp_path, changes, message):
    folder = save_pipeline(tmp_path / "p", tiny_unet())
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(InputError, match=message) as caught:
        load_model(str(folder))
    assert caught.value.place == str(folder / "unet")
