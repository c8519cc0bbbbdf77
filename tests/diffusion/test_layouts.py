"""Every layout of folders in which people have models, and what is said or refused."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from effcli.core.errors import InputError
from effcli.diffusion.autoencoders import load_decoder
from effcli.diffusion.hub import weights_to_fetch
from effcli.diffusion.models import load_model
from tests.diffusion.tiny_models import SCHEDULER, save_pipeline, tiny_conditional_unet, tiny_unet

X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def says(unet):
    with torch.no_grad():
        return unet(X, 7).sample


@pytest.fixture(scope="module")
def unet():
    return tiny_unet()


def saved(folder, unet, **how):
    """A pipeline whose UNet is saved with other arguments of ``save_pretrained``."""
    save_pipeline(folder, unet)
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", **how)
    return folder


def in_root(folder, unet):
    """The layout of `google/ddpm-*`."""
    unet.save_pretrained(folder)
    (folder / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(
    "how",
    [
        {"safe_serialization": False},
        {"max_shard_size": "100KB"},
        {"max_shard_size": "100KB", "safe_serialization": False},
        {"variant": "ema"},
        {"max_shard_size": "100KB", "variant": "ema"},
        {"variant": "ema", "safe_serialization": False},
    ],
    ids=["bin", "shards", "shards of bin", "variant", "shards of a variant", "variant as bin"],
)
def test_weights_in_every_form_are_the_same_model(how, tmp_path, unet):
    model = load_model(str(saved(tmp_path / "p", unet, **how)))
    assert torch.equal(says(model.unet), says(unet))
    assert model.weights_dtype == "float32"
    assert model.sha256 is not None and len(model.sha256) == 64


def test_parts_in_the_root(tmp_path, unet):
    model = load_model(str(in_root(tmp_path / "p", unet)))
    assert torch.equal(says(model.unet), says(unet))
    assert model.scheduler_config == SCHEDULER


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32_and_said(dtype, tmp_path):
    half = tiny_unet().to(dtype)
    folder = saved(tmp_path / "p", half, variant="fp16")
    model = load_model(str(folder))
    assert model.weights_dtype == str(dtype).removeprefix("torch.")
    assert {p.dtype for p in model.unet.parameters()} == {torch.float32}
    assert torch.equal(says(model.unet), says(half.float()))


def test_weights_without_a_variant_come_first(tmp_path, unet):
    folder = save_pipeline(tmp_path / "p", unet)
    tiny_unet(layers_per_block=1).half().save_pretrained(folder / "unet", variant="fp16")
    model = load_model(str(folder))
    assert model.weights_dtype == "float32"


def test_the_checksum_covers_every_shard(tmp_path, unet):
    folder = saved(tmp_path / "p", unet, max_shard_size="100KB")
    before = load_model(str(folder)).sha256
    last = sorted((folder / "unet").glob("*.safetensors"))[-1]
    tensors = load_file(last)
    next(iter(tensors.values())).add_(1)
    save_file(tensors, last, {"format": "pt"})
    assert load_model(str(folder)).sha256 != before


def test_a_unet_alone_has_an_assumed_scheduler_which_is_said_once(tmp_path, unet, caplog):
    unet.save_pretrained(tmp_path / "checkpoint-500" / "unet_ema")
    source = str(tmp_path / "checkpoint-500" / "unet_ema")
    with caplog.at_level(logging.INFO, "effcli"):
        first, _ = load_model(source), load_model(source)
    notices = [r.message for r in caplog.records if r.levelno > logging.INFO and "assumed" in r.message]
    assert notices == [
        f"{source}: has no scheduler_config.json: DDPM with 1000 linear levels that predicts noise is assumed; "
        "put the file beside its config.json if that is wrong"
    ]
    assert first.has_assumed_scheduler
    (tmp_path / "checkpoint-500" / "unet_ema" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    assert not load_model(source).has_assumed_scheduler


def test_a_unet_in_a_pipeline_has_the_scheduler_of_that(tmp_path, unet, caplog):
    folder = save_pipeline(tmp_path / "p", unet)
    with caplog.at_level(logging.INFO, "effcli"):
        model = load_model(str(folder / "unet"))
    assert model.scheduler_config == SCHEDULER
    assert "takes the scheduler of the pipeline around it" in caplog.text


def test_a_folder_of_checkpoints_names_what_is_in_it(tmp_path, unet):
    unet.save_pretrained(tmp_path / "unet")
    unet.save_pretrained(tmp_path / "unet_ema")
    with pytest.raises(InputError, match="neither model_index") as caught:
        load_model(str(tmp_path))
    assert caught.value.hint == "name a folder in it: unet, unet_ema"


def refusal(folder):
    with pytest.raises(InputError) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "P"), caught.value.hint


def test_adapters_are_never_left_out_in_silence(tmp_path, unet):
    folder = save_pipeline(tmp_path / "p", unet)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    plain = load_file(file)
    key = "mid_block.attentions.0.to_q"
    tensors = {name.replace(f"{key}.", f"{key}.base_layer."): value for name, value in plain.items()}
    tensors[f"{key}.lora_A.default.weight"] = torch.zeros(4, 32)
    save_file(tensors, file, {"format": "pt"})
    text, hint = refusal(folder)
    assert text == (
        "P/unet/diffusion_pytorch_model.safetensors: holds an adapter that is not merged into the weights: "
        "mid_block.attentions.0.to_q.base_layer.bias"
    )
    assert "fuse_lora" in hint
    save_file(plain, file, {"format": "pt"})
    for place, name in (("unet", "adapter_config.json"), (".", "pytorch_lora_weights.safetensors")):
        (folder / place / name).write_text("{}")
        assert f"{name} is an adapter, which is not read" in refusal(folder)[0]
        (folder / place / name).unlink()
    load_model(str(folder))


def test_incomplete_and_foreign_weights_are_refused(tmp_path, unet):
    folder = save_pipeline(tmp_path / "p", unet)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    plain = load_file(file)
    save_file({k: v for k, v in plain.items() if k != "conv_out.bias"}, file, {"format": "pt"})
    assert refusal(folder)[0] == "P/unet: the network cannot be loaded: its weights lack conv_out.bias"
    save_file(plain | {"more.weight": torch.zeros(2)}, file, {"format": "pt"})
    assert "unlike its config.json, more.weight" in refusal(folder)[0]
    save_file(plain | {"conv_out.bias": torch.zeros(2)}, file, {"format": "pt"})
    assert "the network cannot be loaded" in refusal(folder)[0] and "conv_out.bias" in refusal(folder)[0]
    save_file(plain | {"conv_out.weight": torch.zeros(4, dtype=torch.int8)}, file, {"format": "pt"})
    assert "holds I8 tensors: quantized weights are not read" in refusal(folder)[0]
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    assert refusal(folder) == (f"P/unet/{file.name}: is a Git LFS pointer, not the weights", "git lfs pull")
    file.rename(file.with_suffix(".gguf"))
    assert refusal(folder)[0] == (
        "P/unet: has no diffusion_pytorch_model.safetensors or .bin; diffusion_pytorch_model.gguf is not read"
    )


def test_a_missing_shard_is_named(tmp_path, unet):
    folder = saved(tmp_path / "p", unet, max_shard_size="100KB")
    shards = sorted((folder / "unet").glob("*-of-*.safetensors"))
    shards[0].unlink()
    text, _ = refusal(folder)
    assert f"names {len(shards)} shards, 1 are missing: {shards[0].name}" in text


def test_several_variants_alone_are_refused(tmp_path, unet):
    folder = saved(tmp_path / "p", unet, variant="fp16")
    unet.save_pretrained(folder / "unet", variant="non_ema")
    assert refusal(folder)[0] == "P/unet: has only variants, and several: fp16, non_ema"


def test_pickles_that_do_more_than_hold_tensors_are_refused(tmp_path, unet):
    folder = saved(tmp_path / "p", unet, safe_serialization=False)
    torch.save({"conv_in.weight": shutil.rmtree}, folder / "unet" / "diffusion_pytorch_model.bin")
    assert refusal(folder)[0] == (
        "P/unet/diffusion_pytorch_model.bin: cannot be read as a checkpoint of tensors only: it holds a "
        "shutil.rmtree, and objects are not opened"
    )


def test_parts_that_would_change_the_samples_are_refused(tmp_path, unet):
    folder = save_pipeline(tmp_path / "p", unet)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "_class_name": "StableDiffusionControlNetPipeline",
        "controlnet": ["diffusers", "ControlNetModel"],
    }
    index["safety_checker"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert refusal(folder)[0] == (
        "P: this StableDiffusionControlNetPipeline has a part that is not supported: controlnet"
    )
    (folder / "model_index.json").write_text(
        json.dumps(
            {"_class_name": "WuerstchenPipeline", "prior": ["diffusers", "X"], "vae": ["diffusers", "Y"]}
        )
    )
    assert refusal(folder)[0] == "P: this WuerstchenPipeline has no unet or transformer, only prior, vae"


def test_schedulers_are_refused_when_the_model_is_loaded(tmp_path, unet):
    folder = save_pipeline(tmp_path / "p", unet, {"_class_name": "CMStochasticIterativeScheduler"})
    assert "CMStochasticIterativeScheduler is not supported" in refusal(folder)[0]
    shutil.rmtree(folder / "scheduler")
    assert refusal(folder)[0] == "P: has no scheduler/scheduler_config.json"


def vae_of(**changes):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    settings = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 4}
    return AutoencoderKL(**(settings | changes))


def test_latents_are_clipped_only_where_the_configuration_asks_for_it(tmp_path, caplog):
    base = {"num_train_timesteps": 64, "beta_schedule": "squaredcos_cap_v2"}
    for name, config, clips in (
        ("a", {"_class_name": "PNDMScheduler"}, False),
        ("b", {"_class_name": "DDIMScheduler"}, False),
        ("c", {"_class_name": "DDIMScheduler", "clip_sample": True}, True),
    ):
        folder = save_pipeline(tmp_path / name, tiny_conditional_unet(), base | config)
        vae_of().save_pretrained(folder / "vae")
        with caplog.at_level(logging.INFO, "effcli"):
            model = load_model(str(folder))
        assert model.scheduler_config.get("clip_sample", False) is clips
        assert (f"{folder}: its scheduler's clip_sample is true: latents are clipped" in caplog.text) is clips


def test_decoders_in_half_precision_decode_in_float32(tmp_path):
    folder = save_pipeline(tmp_path / "p", tiny_conditional_unet())
    vae = vae_of()
    vae.half().save_pretrained(folder / "vae", variant="fp16")
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images = load_decoder(load_model(str(folder)), torch.device("cpu"))(latents)
    assert images.dtype == torch.float32
    with torch.no_grad():
        expected = vae.float().decode(latents / vae.config.scaling_factor).sample
    torch.testing.assert_close(images, expected.clamp(-1, 1))


@pytest.mark.parametrize(
    "changes",
    [{"shift_factor": 0.1}, {"latents_mean": [0.1, 0.0, -0.1, 0.2], "latents_std": [1.0, 2.0, 0.5, 1.0]}],
)
def test_latents_are_brought_to_the_decoders_scale(tmp_path, changes):
    folder = save_pipeline(tmp_path / "p", tiny_conditional_unet())
    vae = vae_of(scaling_factor=0.5, **changes).eval()
    vae.save_pretrained(folder / "vae")
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images = load_decoder(load_model(str(folder)), torch.device("cpu"))(latents)
    std, mean = (torch.tensor(changes.get(key, 1.0)) for key in ("latents_std", "latents_mean"))
    if "shift_factor" in changes:
        expected = latents / 0.5 + 0.1
    else:
        expected = latents * std.view(-1, 1, 1) / 0.5 + mean.view(-1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(images, vae.decode(expected).sample.clamp(-1, 1))


def test_decoders_that_are_not_understood_are_refused(tmp_path):
    folder = save_pipeline(tmp_path / "p", tiny_conditional_unet())
    vae_of(latents_mean=[0.0] * 3, latents_std=[1.0] * 4).save_pretrained(folder / "vae")
    model = load_model(str(folder))
    with pytest.raises(InputError, match=r"latents_mean and latents_std are not 4 numbers each"):
        load_decoder(model, torch.device("cpu"))
    (folder / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderOobleck"}))
    with pytest.raises(InputError, match="holds a AutoencoderOobleck, not one of AutoencoderKL"):
        load_decoder(model, torch.device("cpu"))


def test_keys_that_the_network_does_not_know_are_said(tmp_path, unet, caplog):
    folder = save_pipeline(tmp_path / "p", unet)
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fancy_blocks": 3}))
    with caplog.at_level(logging.INFO, "effcli"):
        load_model(str(folder))
    assert "keys of config.json that UNet2DModel does not know are not used: fancy_blocks" in caplog.text


def test_of_a_hub_repository_only_what_is_read_is_fetched():
    both = ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.safetensors"]
    assert weights_to_fetch(["config.json", "model_index.json", *both], "x/y") == [both[1]]
    names = [
        "model_index.json",
        "v1-5-pruned.safetensors",
        "safety_checker/model.safetensors",
        *(f"unet/{name}" for name in both),
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder/model.safetensors",
    ]
    assert weights_to_fetch(names, "x/y") == [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/model.safetensors",
    ]
    shards = [f"unet/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert weights_to_fetch([*shards, "unet/diffusion_pytorch_model.safetensors.index.json"], "x/y") == [
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model-*-of-*.safetensors",
    ]


def test_single_files_of_others_are_named(tmp_path, unet):
    unet.save_pretrained(tmp_path / "unet")
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    assert refusal(file) == ("P: is a weight file of a diffusers folder", "name the folder")
    (tmp_path / "sd.ckpt").write_bytes(b"")
    assert refusal(tmp_path / "sd.ckpt")[0] == (
        "P: cannot be read as a checkpoint of tensors only: it is damaged, or a file of another kind"
    )
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "sd.ckpt")
    text, hint = refusal(tmp_path / "sd.ckpt")
    assert (
        text == "P: is a file of pickled weights (.ckpt), not of a whole model: the configuration is missing"
    )
    assert "config.json" in hint
