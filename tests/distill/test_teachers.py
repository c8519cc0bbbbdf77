"""Latent and text-conditional teachers: what students learn, and that diffusers' own pipelines sample them alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from effcli.core.errors import InputError, UsageError
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.diffusion.autoencoders import load_autoencoder
from effcli.diffusion.models import load_model, save_folder
from effcli.distill import progressive
from effcli.distill.any_steps import consistency, shortcut
from effcli.distill.any_steps.recipe import CdRecipe, ShortcutRecipe
from effcli.distill.feature_networks import load_feature_network
from effcli.distill.inputs.examples import CaptionedExamples
from effcli.distill.inputs.teacher import load_examples, load_teacher
from effcli.distill.recipe import CLOTHES, PdRecipe
from effcli.distill.rounds import Round
from effcli.distill.sampling import Sampler
from effcli.distill.targets import ddim_step
from effcli.distill.time_grid import TimeGrid
from effcli.distill.training import make_batch, target_of
from effcli.distill.weights import load_student
from tests.diffusion.tiny_denoisers import save_inputs, tiny_denoiser
from tests.diffusion.tiny_models import SCHEDULER, save_pipeline, tiny_conditional_unet, tiny_unet
from tests.diffusion.tiny_text import save_clip

LATENTS = SCHEDULER | {"clip_sample": False, "prediction_type": "epsilon", "set_alpha_to_one": False}
FEW = {"teacher_steps": 4, "student_steps": 2}
SHORT = {"steps": 1, "conversion_steps": 1, "batch_size": 2}


def save_vae(folder: Path) -> None:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, scaling_factor=0.5,
    ).save_pretrained(folder / "vae")  # fmt: skip


def name_pipeline(folder: Path, name: str, **parts: Any) -> None:
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": name} | parts))


@pytest.fixture
def text_model(tmp_path: Path) -> Path:
    """A Stable Diffusion of 8x8 latents, 16x16 pictures and 6 tokens."""
    folder = save_pipeline(tmp_path / "sd", tiny_conditional_unet(), LATENTS)
    save_vae(folder)
    save_clip(folder, width=8)
    parts: dict[str, Any] = {
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    name_pipeline(folder, "StableDiffusionPipeline", **parts)
    return folder


@pytest.fixture
def latent_model(tmp_path: Path) -> Path:
    """An unconditional LDM with a VQ autoencoder."""
    from diffusers import VQModel

    folder = save_pipeline(tmp_path / "ldm", tiny_unet(in_channels=3, out_channels=3), LATENTS)
    torch.manual_seed(0)
    VQModel(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, num_vq_embeddings=16,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=3, scaling_factor=0.5,
    ).save_pretrained(folder / "vqvae")  # fmt: skip
    name_pipeline(folder, "LDMPipeline", vqvae=["diffusers", "VQModel"])
    return folder


def save_pictures(folder: Path, *, captions: bool = False) -> str:
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (20, 16), (60 * number, 30, 200)).save(folder / f"{number}.png")
        if captions:
            (folder / f"{number}.txt").write_text(f"a b {'cdef'[number]}")
    return str(folder)


def run_of(method: Any, recipe: Any, folder: Path) -> dict[str, Any]:
    inputs = method.plan(recipe).inputs
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    with open_run(folder, recipe, runtime, verb="run", recipe_name="test") as run:
        metrics: dict[str, Any] = method.distill(recipe, inputs, run).metrics
        return metrics


def test_encoding_is_what_decoding_undoes_the_scale_of(latent_model: Path, text_model: Path) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for folder in (latent_model, text_model):
        autoencoder = load_autoencoder(load_model(str(folder)), torch.device("cpu"))
        assert autoencoder is not None
        latents = autoencoder.encode(images)
        out = autoencoder.network.encode(images)
        plain = out.latents if hasattr(out, "latents") else out.latent_dist.mean
        torch.testing.assert_close(latents, plain * 0.5)
        torch.testing.assert_close(autoencoder.decode(latents), autoencoder.network.decode(plain).sample)
    assert load_autoencoder(load_model("builtin:fashion-diffusion"), torch.device("cpu")) is None


@pytest.mark.slow
def test_an_ldm_learns_from_pictures_and_its_pipeline_samples_its_student(
    latent_model: Path, tmp_path: Path
) -> None:
    from diffusers import LDMPipeline

    data = {"source": save_pictures(tmp_path / "pictures")}
    settings: dict[str, Any] = {"model": str(latent_model), "data": data, "eval": {"n_images": 4}, **FEW}
    recipe = PdRecipe.model_validate({**settings, "train": {**SHORT, "last_rounds_steps": 1}})
    metrics = run_of(progressive, recipe, tmp_path / "run")
    assert metrics["eval_images"] == 4
    for place in ("model", "students/2"):
        pipeline = LDMPipeline.from_pretrained(tmp_path / "run" / place)
        generator = torch.Generator().manual_seed(5)
        theirs = pipeline(1, generator, num_inference_steps=2, output_type="np").images[0]
        ours = Sampler(tmp_path / "run" / place)(1, generator=torch.Generator().manual_seed(5))[0]
        assert abs(torch.tensor(theirs) * 255 - torch.tensor(list(ours.tobytes())).view(16, 16, 3)).max() <= 1
    assert load_student(tmp_path / "run", 2).scheduler_config["clip_sample"] is False
    for method, one in ((consistency, CdRecipe), (shortcut, ShortcutRecipe)):
        found = run_of(method, one.model_validate({**settings, "train": SHORT}), tmp_path / one.__name__)
        assert set(found["fd_by_steps"]) == {"2"}


def test_guidance_is_what_students_of_a_text_model_learn(text_model: Path, tmp_path: Path) -> None:
    data = {"source": save_pictures(tmp_path / "pictures", captions=True)}
    recipe = PdRecipe.model_validate(
        {"model": str(text_model), "data": data, "guidance": 3.0, "train": {"batch_size": 2}, **FEW}
    )
    teacher = load_teacher(recipe)
    examples = load_examples(recipe, teacher)
    assert isinstance(examples, CaptionedExamples) and len(examples) == 4
    assert examples.embedder is teacher.embedder  # loaded once, and goes where the teacher goes
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    grid = TimeGrid(LATENTS, torch.device("cpu"))
    with open_run(tmp_path / "run", recipe, runtime, verb="run", recipe_name="test") as run:
        batch = make_batch("4-to-2", 2, 0, examples, recipe, run)
    assert batch.x.shape == (2, 4, 8, 8)
    now, middle, end = grid.at(batch.k, 2), grid.at(2 * batch.k - 1, 4), grid.at(batch.k - 1, 2)
    z = now.alpha * batch.x + now.sigma * batch.noise
    no_text = teacher.guided.no_condition(2)["encoder_hidden_states"]
    text = batch.condition["encoder_hidden_states"]
    assert not torch.equal(text[0], text[1]) and torch.equal(no_text[0], no_text[1])

    def clean(x: Tensor, point: Any) -> Tensor:
        network: Any = teacher.model.unet
        without, with_text = (network(x, point.t, one).sample for one in (no_text, text))
        eps = without + 3.0 * (with_text - without)
        return (x - point.sigma * eps) / point.alpha

    with torch.no_grad():
        target = target_of(Round(4, 2, 1), teacher.guided, z, batch, grid)
        two = z
        for a, b in ((now, middle), (middle, end)):
            two = ddim_step(clean(two, a), two, a, b)
    torch.testing.assert_close(ddim_step(target, z, now, end), two, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_text_model_learns_from_its_own_samples_and_its_pipeline_takes_the_student(
    text_model: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    settings: dict[str, Any] = {
        "model": str(text_model), "data": {"source": "teacher", "sampled": 3}, "guidance": 2.0,
        "condition": {"prompts": str(tmp_path / "prompts.txt")}, "eval": {"n_images": 4}, **FEW,
    }  # fmt: skip
    recipe = PdRecipe.model_validate({**settings, "train": {**SHORT, "last_rounds_steps": 1}})
    metrics = run_of(progressive, recipe, tmp_path / "run")
    assert set(metrics["fd_by_steps"].values()) == {None}  # nothing to compare with
    assert metrics["mse_to_teacher_by_steps"]["2"] >= 0
    pipeline: Any = StableDiffusionPipeline.from_pretrained(tmp_path / "run" / "students" / "2")
    sampler = Sampler(tmp_path / "run", 2, prompts=str(tmp_path / "prompts.txt"))
    ours = sampler(1, generator=torch.Generator().manual_seed(5))[0]
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    prompt = ["a cat", "a dog"][int(torch.randint(2, (1,), generator=generator))]
    theirs = pipeline(
        prompt, latents=latents, guidance_scale=1.0, num_inference_steps=2, output_type="np"
    ).images[0]
    assert abs(torch.tensor(theirs) * 255 - torch.tensor(list(ours.tobytes())).view(16, 16, 3)).max() <= 1
    run_of(
        consistency,
        CdRecipe.model_validate({**settings, "train": SHORT, "features": "unet"}),
        tmp_path / "cd",
    )


def test_the_middle_of_a_text_model_and_decoded_features(text_model: Path) -> None:
    teacher = load_teacher(PdRecipe.model_validate({"model": str(text_model), **FEW}))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    maps = load_feature_network("unet", teacher).feature_maps(x)
    network: Any = teacher.model.unet
    kept: list[Tensor] = []
    hook = network.mid_block.register_forward_hook(lambda module, inputs, output: kept.append(output))
    network(x, 0, teacher.guided.no_condition(2)["encoder_hidden_states"])
    hook.remove()
    assert len(maps) == 3
    assert torch.equal(maps[-1], kept[0])
    maps[-1].sum().backward()
    assert x.grad is not None and bool(x.grad.any())
    with pytest.raises(InputError, match="is for images of 1x16x16, the teacher's are 3x16x16"):
        load_feature_network("builtin", teacher)


def test_what_a_teacher_lacks_is_said(text_model: Path, latent_model: Path, tmp_path: Path) -> None:
    text = {"model": str(text_model), **FEW}
    with pytest.raises(
        InputError, match="is conditioned on text, so its students learn from images with captions"
    ) as caught:
        progressive.plan(
            PdRecipe.model_validate({**text, "data": {"source": save_pictures(tmp_path / "plain")}})
        )
    assert "data.source=teacher" in str(caught.value.hint)
    with pytest.raises(InputError, match="is conditioned on text, and no images with captions are named"):
        progressive.plan(PdRecipe.model_validate(text))
    sampled = {"source": "teacher"}
    with pytest.raises(UsageError, match="are not mirrored"):
        progressive.plan(PdRecipe.model_validate({**text, "data": sampled, "augment": {"flip": 0.5}}))
    with pytest.raises(UsageError, match="students of their own network are UNet2DModels"):
        progressive.plan(PdRecipe.model_validate({**text, "data": sampled, "student": "width=0.5"}))
    with pytest.raises(InputError, match="only a UNet2DModel can take the size of its steps as an input"):
        shortcut.plan(ShortcutRecipe.model_validate({**text, "data": sampled}))
    with pytest.raises(InputError, match="an unconditional model cannot be guided"):
        load_teacher(PdRecipe.model_validate({"model": str(latent_model), "guidance": 2.0, **FEW}))


def test_classes_beside_the_one_that_means_none(tmp_path: Path) -> None:
    folder = save_pipeline(tmp_path / "model", tiny_unet(num_class_embeds=11))
    settings = {"model": str(folder), "guidance": 2.0, "condition": {"null_class": 10}, **FEW}
    recipe = PdRecipe.model_validate(settings | {"data": {"source": CLOTHES}})
    teacher = load_teacher(recipe)
    assert load_examples(recipe, teacher) is not None
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([3, 50]), torch.tensor([1, 4])
    network: Any = teacher.model.unet
    with torch.no_grad():
        guided = teacher.guided.predictor({"class_labels": labels})(x, t)
        plain, none = (network(x, t, one).sample for one in (labels, torch.tensor([10, 10])))
    torch.testing.assert_close(guided, none + 2 * (plain - none))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd3", "pixart"])
def test_transformers_learn_from_their_own_samples(tmp_path: Path, name: str) -> None:
    network = tiny_denoiser(name)
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    save_folder(tmp_path / "model", network, flow if name == "sd3" else LATENTS)
    save_vae(tmp_path / "model")
    inputs = save_inputs(tmp_path / "inputs.safetensors", network)
    settings: dict[str, Any] = {
        "model": str(tmp_path / "model"), "data": {"source": "teacher", "sampled": 3}, "guidance": 2.0,
        "condition": {"inputs": str(inputs)}, "eval": {"n_images": 2}, **FEW,
    }  # fmt: skip
    metrics = run_of(consistency, CdRecipe.model_validate({**settings, "train": SHORT}), tmp_path / "run")
    assert metrics["network_calls"] == 2
    student = load_student(tmp_path / "run")
    assert type(student.unet) is type(network) and student.folder is not None
    with pytest.raises(InputError, match="which has no middle block"):
        consistency.plan(CdRecipe.model_validate({**settings, "features": "unet"}))
    settings["data"] = {"source": save_pictures(tmp_path / "pictures")}
    with pytest.raises(InputError, match="images come without the other inputs"):
        consistency.plan(CdRecipe.model_validate(settings))
