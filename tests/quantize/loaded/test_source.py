"""What a packed model needs of its full-precision model: found, checked, and named where it is not there."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from effcli.core.errors import InputError, NonFiniteError
from effcli.core.runtime import create_runtime
from effcli.diffusion.models import load_model
from effcli.metrics.distance_settings import DistanceSettings
from effcli.quantize import pipeline
from effcli.quantize.exporting.export import export
from effcli.quantize.packed_unet import load
from effcli.quantize.weights import load_packed, save_packed
from tests.diffusion.tiny_models import save_pipeline, tiny_unet
from tests.quantize.quantized_tiny import rounded


def latent_pipeline(folder: Path) -> Path:
    """An unconditional latent model: 8x8x3 latents that a decoder makes 16x16 pictures of."""
    from diffusers import VQModel

    save_pipeline(folder, tiny_unet(in_channels=3, out_channels=3))
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    decoder = VQModel(**blocks, block_out_channels=(8, 8), norm_num_groups=4, num_vq_embeddings=16)
    decoder.save_pretrained(folder / "vqvae")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "LDMPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index | {"vqvae": ["diffusers", "VQModel"]}))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, a pipeline that was named by a relative path, and `packed`, made from it."""
    place = tmp_path_factory.mktemp("latent")
    latent_pipeline(place / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        save_packed(place / "packed", rounded("w8a8", model=load_model("model")))
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of the same, elsewhere; the recorded place is that of the original."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def sample(place: Path, **settings: Any) -> Any:
    return pipeline.sample(place, 2, create_runtime(device="cpu", precision="fp32"), **settings)


def test_samples_are_pictures_wherever_one_is(made: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    images = sample(made / "packed")
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.uint8
    source = load_packed(made / "packed").about["source"]
    assert (source["id"], source["place"]) == ("model", str(made / "model"))
    assert source["parts"].keys() == {"vqvae"}


def test_a_source_that_moved_is_named_with_the_option(place: Path, made: Path) -> None:
    packed = load_packed(place / "packed")
    packed.about["source"]["place"] = str(place / "gone")
    save_packed(place / "packed", packed)
    with pytest.raises(InputError, match="vqvae of the full-precision model is missing") as caught:
        sample(place / "packed")
    assert "--model" in str(caught.value.hint)
    assert torch.equal(sample(place / "packed", full_precision=str(place / "model")), sample(made / "packed"))
    with pytest.raises(InputError, match="the full-precision model is no longer here"):
        pipeline.evaluate(place / "packed", None, DistanceSettings(n_images=2), create_runtime(device="cpu"))


def test_another_decoder_is_refused(place: Path) -> None:
    config = place / "model" / "vqvae" / "config.json"
    config.write_text(config.read_text().replace('"scaling_factor": 0.18215', '"scaling_factor": 0.2'))
    with pytest.raises(InputError, match="has changed since the model was quantized"):
        sample(place / "packed", full_precision=str(place / "model"))


def test_decoded_images_that_are_not_finite_are_refused(made: Path, monkeypatch: Any) -> None:
    def decoder(*_: Any) -> Any:
        return lambda latents: latents * torch.nan

    monkeypatch.setattr(pipeline, "load_decoder", decoder)
    with pytest.raises(NonFiniteError, match="the decoded images are NaN"):
        sample(made / "packed")


def test_a_file_that_does_not_say_its_parts_is_still_decoded(
    place: Path, made: Path, monkeypatch: Any
) -> None:
    packed = load_packed(place / "packed")
    source = {key: value for key, value in packed.about["source"].items() if key not in {"parts", "place"}}
    save_packed(place / "packed", dataclasses.replace(packed, about=packed.about | {"source": source}))
    monkeypatch.chdir(made)
    assert torch.equal(sample(place / "packed"), sample(made / "packed"))


def test_export_is_the_whole_pipeline(made: Path, tmp_path: Path) -> None:
    from diffusers import LDMPipeline

    export(made / "packed", tmp_path, "fp32")
    whole: Any = LDMPipeline.from_pretrained(tmp_path)
    whole.set_progress_bar_config(disable=True)
    images = whole(batch_size=1, num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 16, 16, 3)
    assert (tmp_path / "vqvae" / "config.json").read_bytes() == (
        made / "model" / "vqvae" / "config.json"
    ).read_bytes()


def test_parts_beside_the_file_are_taken(made: Path, tmp_path: Path) -> None:
    from diffusers import LDMPipeline

    whole: Any = LDMPipeline.from_pretrained(made / "model", unet=load(made / "packed"))
    whole.save_pretrained(tmp_path / "whole")
    packed = load_packed(tmp_path / "whole")
    packed.about["source"]["place"] = str(tmp_path / "gone")
    save_packed(tmp_path / "whole" / "unet", packed)
    assert torch.equal(sample(tmp_path / "whole"), sample(made / "packed"))


def test_the_full_precision_network_is_not_read(place: Path, made: Path) -> None:
    shutil.rmtree(place / "model" / "unet")
    (place / "model" / "unet").mkdir()
    images = sample(place / "packed", full_precision=str(place / "model"))
    assert torch.equal(images, sample(made / "packed"))
