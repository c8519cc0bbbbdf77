"""Very small pipelines of Stable Diffusion and SDXL, as folders and as one file in the names of their first release."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.diffusion.tiny_denoisers import tiny_denoiser
from tests.diffusion.tiny_models import SCHEDULER, save_pipeline, tiny_conditional_unet
from tests.diffusion.tiny_text import save_clip

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj", "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token": "token", "final_layer_norm": "ln_final", "encoder.layers": "transformer.resblocks",
}  # fmt: skip
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def save_stable_diffusion(folder: Path) -> Path:
    """A pipeline folder of diffusers."""
    save_pipeline(folder, tiny_conditional_unet(), {**SCHEDULER, "clip_sample": False})
    save_clip(folder, width=8)
    return _with_decoder(folder, "StableDiffusionPipeline", text_encoder="CLIPTextModel")


def save_sdxl(folder: Path) -> Path:
    """The same of SDXL."""
    save_pipeline(folder, tiny_denoiser("sdxl"), {**SCHEDULER, "clip_sample": False})
    save_clip(folder, width=8)
    save_clip(folder, "_2", width=16, projection=16)
    kinds = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
    return _with_decoder(folder, "StableDiffusionXLPipeline", **kinds)


def _with_decoder(folder: Path, pipeline: str, **text_encoders: str) -> Path:
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8
    ).save_pretrained(folder / "vae")  # fmt: skip
    index = {
        "_class_name": pipeline, "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"], "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None], "feature_extractor": [None, None], "image_encoder": [None, None],
    }  # fmt: skip
    for name, kind in text_encoders.items():
        index[name] = ["transformers", kind]
        index[name.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def strip_weights(folder: Path) -> None:
    """Leave the configuration alone."""
    for file in [*folder.glob("*/*.safetensors")]:
        file.unlink()


def save_checkpoint(file: Path, folder: Path, *, without: str = "nothing", **changes: Any) -> Path:
    """The same as one file; ``without`` is the start of the names that are left out."""
    names = ("unet", "vae", "text_encoder", "text_encoder_2")
    parts = {p: load_file(next((folder / p).glob("*.safetensors"))) for p in names if (folder / p).is_dir()}
    tensors = {f"model.diffusion_model.{_of_unet(k)}": v for k, v in parts["unet"].items()}
    tensors |= {f"first_stage_model.{_of_decoder(k)}": _like_conv(k, v) for k, v in parts["vae"].items()}
    text = {k.removeprefix("text_model."): v for k, v in parts["text_encoder"].items()}
    is_sdxl = "text_encoder_2" in parts
    place = "conditioner.embedders.0" if is_sdxl else "cond_stage_model"
    tensors |= {f"{place}.transformer.text_model.{k}": v for k, v in text.items()}
    if is_sdxl:
        second = _as_open_clip(parts["text_encoder_2"])
        tensors |= {f"conditioner.embedders.1.model.{k}": v for k, v in second.items()}
    tensors = {k: v.contiguous() for k, v in tensors.items() if not k.startswith(without)} | changes
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save({"state_dict": tensors, "global_step": 3}, file)
    return file


def _as_open_clip(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A text model with its projection in the names of OpenCLIP, where three projections are one tensor."""
    found: dict[str, torch.Tensor] = {"logit_scale": torch.tensor(4.6)}
    for name, value in tensors.items():
        short = name.removeprefix("text_model.")
        for theirs, own in _OPEN_CLIP.items():
            short = short.replace(theirs, own)
        if name == "text_projection.weight":
            found["text_projection"] = value.T
        elif ".q_proj." in short:
            three = [tensors[name.replace("q_proj", one)] for one in ("q_proj", "k_proj", "v_proj")]
            found[short.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat(three)
        elif ".k_proj." not in short and ".v_proj." not in short:
            found[short] = value
    return found


def _of_unet(name: str) -> str:
    name, _, last = name.rpartition(".")
    if name in _OUTSIDE:
        return f"{_OUTSIDE[name]}.{last}"
    if (found := re.fullmatch(r"down_blocks\.(\d)\.downsamplers\.0\.conv", name)) is not None:
        return f"input_blocks.{2 * int(found[1]) + 2}.0.op.{last}"
    if (found := re.fullmatch(r"up_blocks\.(\d)\.upsamplers\.0\.conv", name)) is not None:
        return f"output_blocks.{2 * int(found[1]) + 1}.2.conv.{last}"
    if (found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name)) is not None:
        place = f"middle_block.{1 if found[1] == 'attentions' else 2 * int(found[2])}"
    else:
        found = re.fullmatch(r"(?:down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name)
        assert found is not None
        number = 2 * int(found[1]) + int(found[3])
        place = f"input_blocks.{number + 1}" if name.startswith("down") else f"output_blocks.{number}"
        place += f".{int(found[2] == 'attentions')}"
    rest = found[found.re.groups]
    return f"{place}.{_RESNET.get(rest, rest)}.{last}"


def _of_decoder(name: str) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"(down|up)_blocks\.0\.resnets", r"\1.0.block", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        before, _, rest = name.partition("mid_block.attentions.0.")
        layer, _, last = rest.rpartition(".")
        return f"{before}mid.attn_1.{_ATTENTION[layer]}.{last}"
    return name


def _like_conv(name: str, value: torch.Tensor) -> torch.Tensor:
    return value[:, :, None, None] if "attentions" in name and value.ndim == 2 else value
