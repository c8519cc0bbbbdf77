"""SDXL's folder in the layouts in which people have it: read whole, or what is missing is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from effcli.core.errors import InputError
from effcli.diffusion.autoencoders import load_decoder
from effcli.diffusion.checking import check_forward
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.folders import copy_parts, name_parts
from effcli.diffusion.models import load_model, save_folder
from effcli.quantize.loaded.source import checksums
from tests.diffusion.tiny_checkpoints import save_sdxl

pytest.importorskip("transformers", reason="the text encoders are in the extra `text`")
CPU = torch.device("cpu")
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sdxl(tmp_path_factory.mktemp("sdxl") / "model")


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "model")


def results(source: str) -> list[torch.Tensor]:
    """What a model's network predicts under its own prompts, and a decoded picture."""
    model = load_model(source)
    guided = Guided(model, model.unet, guidance=2.0)
    condition = guided.random_condition(2, torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return [guided.predictor(condition)(x, 9.0), load_decoder(model, CPU)(x)]


def save_again(folder: Path, **how: Any) -> None:
    """Every network once more, with other arguments of ``save_pretrained``."""
    import diffusers
    import transformers

    index = json.loads((folder / "model_index.json").read_text())
    for name in NETWORKS:
        library, kind = index[name]
        network = getattr(diffusers if library == "diffusers" else transformers, kind).from_pretrained(
            folder / name
        )
        for file in (folder / name).glob("*.safetensors"):
            file.unlink()
        network.save_pretrained(folder / name, **how)


def as_pickles(folder: Path) -> None:
    for name in NETWORKS:
        file = next((folder / name).glob("*.safetensors"))
        stem = "pytorch_model" if name.startswith("text") else "diffusion_pytorch_model"
        torch.save(load_file(file), folder / name / f"{stem}.bin")
        file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["shards", "shards of a variant", "pickles", "hub cache"])
def test_every_layout_is_the_same_model(layout: str, made: Path, place: Path, monkeypatch: Any) -> None:
    source = str(place)
    if layout.startswith("shards"):
        save_again(place, max_shard_size="20KB", variant="fp16" if "variant" in layout else None)
    elif layout == "pickles":
        as_pickles(place)
    else:
        source = as_hub_cache(place, monkeypatch)
    for ours, theirs in zip(results(source), results(str(made)), strict=True):
        assert torch.equal(ours, theirs)


def as_hub_cache(folder: Path, monkeypatch: Any) -> str:
    """Move a folder into a hub's cache; the id that it has there."""
    cache = folder.parent / "hub" / "models--someone--sdxl"
    snapshot = cache / "snapshots" / ("a" * 40)
    (cache / "blobs").mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(snapshot.name)
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, cache / "blobs" / str(number))
        link.symlink_to(os.path.relpath(cache / "blobs" / str(number), link.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as caught:
        load_model(str(cache))
    assert caught.value.hint == f"name a folder in it: snapshots/{snapshot.name}"
    return "someone/sdxl"


@pytest.mark.slow
def test_copies_of_a_variant_are_read_without_naming_it(place: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionXLPipeline

    save_again(place, max_shard_size="20KB", variant="fp16")
    model = load_model(str(place))
    save_folder(tmp_path / "copy", model.unet, model.scheduler_config)
    copy_parts(place, tmp_path / "copy")
    name_parts(place, tmp_path / "copy")
    pipeline: Any = StableDiffusionXLPipeline.from_pretrained(tmp_path / "copy")
    assert pipeline.text_encoder_2 is not None
    assert not list((tmp_path / "copy").glob("*/*fp16*"))
    assert checksums(tmp_path / "copy") == checksums(place)
    for ours, theirs in zip(results(str(tmp_path / "copy")), results(str(place)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["text_encoder_2", "tokenizer_2", "tokenizer", "text_encoder"])
def test_a_text_part_that_is_named_and_not_there_is_missed(name: str, place: Path) -> None:
    shutil.rmtree(place / name)
    model = load_model(str(place))
    with pytest.raises(InputError, match=f"has no {name}/, which its model_index.json names"):
        Guided(model, model.unet)


def test_a_decoder_that_is_named_and_not_there_is_missed(place: Path, tmp_path: Path) -> None:
    shutil.rmtree(place / "vae")
    scheduler = place / "scheduler" / "scheduler_config.json"
    settings = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps({key: settings[key] for key in settings if key != "clip_sample"}))
    model = load_model(str(place))
    assert model.scheduler_config["clip_sample"] is False  # latents all the same
    with pytest.raises(InputError, match=r"has no vae/, which its model_index\.json names") as caught:
        load_decoder(model, CPU)
    assert "[null, null]" in str(caught.value.hint)
    save_folder(tmp_path / "copy", model.unet, model.scheduler_config)
    name_parts(place, tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "model_index.json").read_text())["vae"] == [None, None]


def nulled(folder: Path, *names: str, **more: Any) -> str:
    index = json.loads((folder / "model_index.json").read_text())
    for name in names:
        shutil.rmtree(folder / name)
        index[name] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index | more))
    return str(folder)


def test_parts_that_are_null_and_needed_are_named(place: Path) -> None:
    model = load_model(nulled(place, "text_encoder_2"))
    with pytest.raises(InputError, match="is a text-conditional model without text_encoder_2/"):
        Guided(model, model.unet)


def test_embeddings_that_do_not_fit_the_network_are_refused(place: Path) -> None:
    model = load_model(nulled(place, "text_encoder", "tokenizer"))
    with pytest.raises(
        InputError, match=r"give encoder_hidden_states \[6, 16\] per image, its network needs"
    ) as caught:
        Guided(model, model.unet)
    assert "are all text encoders" in str(caught.value.hint)
    model = load_model(nulled(place, requires_aesthetics_score=True))
    with pytest.raises(InputError, match="is SDXL's refiner"):
        Guided(model, model.unet)


def test_the_plain_layout_is_called_and_guided(made: Path) -> None:
    model = load_model(str(made))
    check_forward(model, Guided(model, model.unet, guidance=2.0), decode=load_decoder(model, CPU))
