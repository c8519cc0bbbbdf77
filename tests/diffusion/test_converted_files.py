"""Single-file checkpoints of whole pipelines are read with a configuration from this machine, or refused by name."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from effcli.core.errors import InputError
from effcli.diffusion.autoencoders import load_decoder
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler
from effcli.diffusion.models import load_model
from tests.diffusion.tiny_checkpoints import (
    save_checkpoint,
    save_sdxl,
    save_stable_diffusion,
    strip_weights,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder with the configuration alone, and caches of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(made, tmp_path / "sd")
    strip_weights(tmp_path / "sd")
    return tmp_path / "sd"


def same(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_single_file_is_the_same_model(name: str, made: Path, place: Path, capfd: Any) -> None:
    file = save_checkpoint(place / name, made)
    capfd.readouterr()
    ours, theirs = load_model(str(file)), load_model(str(made))
    assert same(ours.unet, theirs.unet)
    assert ours.scheduler_config == theirs.scheduler_config
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    cpu = torch.device("cpu")
    assert torch.equal(load_decoder(ours, cpu)(latents), load_decoder(theirs, cpu)(latents))
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    conditions = [
        Guided(m, m.unet).random_condition(3, g) for m, g in zip((ours, theirs), generators, strict=True)
    ]
    assert torch.equal(conditions[0]["encoder_hidden_states"], conditions[1]["encoder_hidden_states"])
    assert capfd.readouterr().err == ""
    assert ours.folder is not None
    written = (ours.folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns
    assert load_model(str(file)).folder == ours.folder
    assert (ours.folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mtime_ns == written


def test_the_configuration_may_be_in_a_folder_of_the_files_name(
    made: Path, place: Path, tmp_path: Path
) -> None:
    file = save_checkpoint(tmp_path / "sd.safetensors", made)
    assert same(load_model(str(file)).unet, load_model(str(made)).unet)


def test_half_precision_stays_what_it_is(made: Path, place: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = save_checkpoint(place / "model.safetensors", made)
    save_file({name: value.half() for name, value in load_file(file).items()}, file)
    assert load_model(str(file)).weights_dtype == "float16"


def test_without_a_configuration_it_is_said_what_to_put_where(
    made: Path, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "alone").mkdir()
    file = save_checkpoint(tmp_path / "alone" / "model.safetensors", made)
    with pytest.raises(InputError, match=r"a whole model like .*, without its configuration") as caught:
        load_model(str(file))
    assert "model_index.json" in str(caught.value.hint)


def test_what_is_said_of_the_training_must_fit(made: Path, place: Path) -> None:
    file = save_checkpoint(place / "model.safetensors", made, v_pred=torch.zeros(0), ztsnr=torch.zeros(0))
    with pytest.raises(InputError, match="trained with rescale_betas_zero_snr True"):
        load_model(str(file))
    scheduler = place / "scheduler" / "scheduler_config.json"
    settings = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps(settings | {"prediction_type": "epsilon"}))
    with pytest.raises(InputError, match="trained with prediction_type v_prediction"):
        load_model(str(file))
    scheduler.write_text(json.dumps(settings | {"rescale_betas_zero_snr": True}))
    levels = ddim_scheduler(settings).alphas_cumprod
    save_checkpoint(file, made, v_pred=torch.zeros(0), alphas_cumprod=levels, betas=1 - levels)
    load_model(str(file))
    save_checkpoint(file, made, alphas_cumprod=torch.linspace(1, 0, 64))
    with pytest.raises(InputError, match="its alphas_cumprod are not those of the configuration's scheduler"):
        load_model(str(file))


def test_what_is_not_read_of_a_file_is_said(made: Path, place: Path, caplog: Any) -> None:
    more: dict[str, Any] = {
        "model_ema.x": torch.zeros(1),
        "control_model.y": torch.zeros(1),
        "betas": torch.zeros(1),
    }
    file = save_checkpoint(place / "model.safetensors", made, **more)
    with caplog.at_level(logging.INFO, "effcli"):
        load_model(str(file))
    assert f"{file}: has averaged weights too (model_ema), which are not read" in caplog.text
    assert f"{file}: its control_model.y is not read" in caplog.text
    assert "betas" not in caplog.text
    eighth: dict[str, Any] = {"model.diffusion_model.out.2.bias": torch.zeros(4).to(torch.float8_e4m3fn)}
    save_checkpoint(file, made, **eighth)
    with pytest.raises(
        InputError, match=r"holds float8_e4m3fn tensors \(model\.diffusion_model\.out\.2\.bias\)"
    ):
        load_model(str(file))


@pytest.mark.slow
def test_sdxl_as_a_single_file_is_the_same_model(place: Path, tmp_path: Path) -> None:
    made = save_sdxl(tmp_path / "sdxl")
    config = shutil.copytree(made, tmp_path / "one")
    strip_weights(config)
    file = save_checkpoint(tmp_path / "one.safetensors", made)
    ours, theirs = load_model(str(file)), load_model(str(made))
    assert same(ours.unet, theirs.unet)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    conditions = [
        Guided(m, m.unet).random_condition(3, g) for m, g in zip((ours, theirs), generators, strict=True)
    ]
    assert conditions[0].keys() == conditions[1].keys() == {
        "encoder_hidden_states", "added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids"
    }  # fmt: skip
    assert all(torch.equal(conditions[0][name], conditions[1][name]) for name in conditions[0])
    for without, message in (
        ("conditioner.embedders.1.", "holds no second text encoder"),
        (
            "conditioner.embedders.1.model.text_projection",
            "lacks weights of the text_encoder_2: text_projection",
        ),
        (
            "conditioner.embedders.0.transformer.text_model.encoder.layers.1",
            "lacks weights of the text_encoder:",
        ),
        ("model.diffusion_model.label_emb", "lacks 'label_emb.0.0.weight'"),
    ):
        save_checkpoint(file, made, without=without)
        with pytest.raises(InputError, match=message):
            load_model(str(file))


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("model.diffusion_model.middle_block.1", "lacks weights of unet: mid_block.attentions.0"),
        ("first_stage_model.", "holds no decoder"),
        ("first_stage_model.decoder.mid", "lacks weights of vae: decoder.mid_block"),
        ("cond_stage_model.", "Failed to load CLIPTextModel"),
        ("cond_stage_model.transformer.text_model.final_layer_norm", "lacks weights of the text_encoder"),
    ],
)
def test_what_is_missing_is_named(
    without: str, message: str, made: Path, place: Path, tmp_path: Path
) -> None:
    file = save_checkpoint(place / "model.safetensors", made, without=without)
    with pytest.raises(InputError, match=message):
        load_model(str(file))
    assert not list((tmp_path / "cache").glob("effcli/converted/*"))


def test_a_configuration_of_another_model_is_refused(made: Path, place: Path) -> None:
    file = save_checkpoint(place / "model.safetensors", made)
    config = json.loads((place / "unet" / "config.json").read_text())
    for changes, message in (
        ({"block_out_channels": [16, 64]}, "has another shape than unet: "),
        (
            {"down_block_types": ["DownBlock2D"] * 2},
            "has, unlike the configuration of unet: down_blocks.1.attent",
        ),
        ({"layers_per_block": 2}, "lacks weights of unet: "),
        ({"block_out_channels": "many"}, "block_out_channels is 'many'"),
    ):
        (place / "unet" / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(InputError, match=message):
            load_model(str(file))
    (place / "unet" / "config.json").write_text(json.dumps(config))
    shutil.rmtree(place / "tokenizer")
    with pytest.raises(InputError, match="has no tokenizer/"):
        load_model(str(file))
    index = json.loads((place / "model_index.json").read_text())
    (place / "model_index.json").write_text(json.dumps(index | {"_class_name": "DDIMPipeline"}))
    with pytest.raises(InputError, match="DDIMPipeline, which diffusers does not read from a single file"):
        load_model(str(file))


def test_a_decoder_beside_the_file_is_taken_where_it_has_none(made: Path, place: Path) -> None:
    file = save_checkpoint(place / "model.safetensors", made, without="first_stage_model.")
    shutil.copytree(made / "vae", place / "vae", dirs_exist_ok=True)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    cpu = torch.device("cpu")
    ours, theirs = (load_decoder(load_model(str(one)), cpu)(latents) for one in (file, made))
    assert torch.equal(ours, theirs)
