"""Every kind of file that the package writes and reads again: the smallest one of each, and its reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.fuzz.damage import damage_bytes, damage_json, damage_safetensors, damage_text


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        write: writes one or several files into a folder and returns those that are damaged, one at a time.
        read: reads what is in the folder.
    """

    write: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]


def damage_of(file: Path) -> Callable[[Any, Any], Any]:
    """How a file is damaged, by its suffix; all from bytes to bytes."""
    if file.suffix == ".safetensors":
        return damage_safetensors
    if file.suffix == ".json":
        return _as_bytes(damage_json)
    return _as_bytes(damage_text) if file.suffix == ".yaml" else damage_bytes


def _as_bytes(damage: Callable[[str, Any], str]) -> Callable[[bytes, Any], bytes]:
    return lambda data, rng: damage(data.decode(), rng).encode("utf-8", "surrogatepass")


def _walmafa(folder: Path) -> list[Path]:
    from effcli.enhance.network.config import WalMaFaConfig
    from effcli.enhance.network.walmafa_net import WalMaFa
    from effcli.enhance.weights import save_weights

    save_weights(folder / "w.safetensors", WalMaFa(WalMaFaConfig(dim=2, blocks=(1, 1, 1), d_state=1)))
    return [folder / "w.safetensors"]


def _read_walmafa(folder: Path) -> Any:
    from effcli.enhance.weights import load_weights

    return load_weights(folder / "w.safetensors")


def _classifier(folder: Path) -> list[Path]:
    from effcli.metrics.features import save_classifier
    from effcli.nn.classifiers.small_classifier import SmallClassifier, SmallClassifierConfig

    network = SmallClassifier(SmallClassifierConfig(side=8, width=2, n_classes=3)).eval()
    save_classifier(
        folder / "c.safetensors", network, torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    )
    return [folder / "c.safetensors"]


def _read_classifier(folder: Path) -> Any:
    from effcli.metrics.features import load_features

    return load_features(str(folder / "c.safetensors"))


def _diffusion(folder: Path) -> list[Path]:
    from effcli.diffusion.models import save_file
    from tests.diffusion.tiny_models import SCHEDULER, tiny_unet

    unet = tiny_unet(block_out_channels=(8, 8), norm_num_groups=4, attention_head_dim=4)
    save_file(folder / "unet.safetensors", unet, SCHEDULER, dtype=torch.float16)
    return [folder / "unet.safetensors"]


def _read_diffusion(folder: Path) -> Any:
    from effcli.diffusion.models import load_model

    model = load_model(str(folder / "unet.safetensors"))
    return model.sample_shape


def _student(folder: Path) -> list[Path]:
    from effcli.diffusion.models import save_folder
    from effcli.diffusion.schedulers import DISTILLED_TIMESTEPS
    from tests.diffusion.tiny_models import SCHEDULER, tiny_unet

    unet = tiny_unet(block_out_channels=(8, 8), norm_num_groups=4, attention_head_dim=4)
    save_folder(folder, unet, {**SCHEDULER, DISTILLED_TIMESTEPS: [63, 31]})
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _read_student(folder: Path) -> Any:
    from effcli.diffusion.models import load_model

    return load_model(str(folder)).sample_shape


def _packed(folder: Path) -> list[Path]:
    from effcli.quantize.pipeline import pack
    from effcli.quantize.weights import save_packed
    from tests.diffusion.tiny_models import tiny_unet
    from tests.quantize.quantized_tiny import calibrated, full_precision, recipe_of

    unet = tiny_unet(block_out_channels=(8, 8), norm_num_groups=4, attention_head_dim=4)
    student, _ = calibrated(recipe_of("w2a4"), unet)
    model, _ = full_precision(tiny_unet(block_out_channels=(8, 8), norm_num_groups=4, attention_head_dim=4))
    file = save_packed(folder, pack(student, model, recipe_of("w2a4")))
    return [file, file, file, folder / "config.json", folder / "scheduler_config.json"]


def _read_packed(folder: Path) -> Any:
    from effcli.quantize.packed_unet import load

    return load(folder, "simulate")


def _detector_3d(folder: Path) -> list[Path]:
    from effcli.detect_stream.network.config import TINY
    from effcli.detect_stream.network.streamdsgn import StreamDsgn
    from effcli.detect_stream.weights import save_detector

    small: dict[str, Any] = {
        "height": 64,
        "width": 64,
        "widths": (2, 2, 2, 2),
        "pool_sides": (8, 4),
        "pool_channels": 2,
        "up_channels": (2, 2),
        "neck_channels": 2,
        "stereo_channels": 2,
        "n_planes": 4,
        "volume_channels": 2,
        "bev_stem": 2,
        "bev_widths": (2, 2),
        "bev_up": (2, 2),
        "fusion_channels": 2,
        "head_channels": 2,
    }
    network = StreamDsgn(TINY.model_copy(update=small))
    save_detector(folder / "d.safetensors", network, "next", kernel_dtype=torch.float16)
    return [folder / "d.safetensors"]


def _read_detector_3d(folder: Path) -> Any:
    from effcli.detect_stream.weights import load_detector

    return load_detector(str(folder / "d.safetensors"))


def _policy(folder: Path) -> list[Path]:
    from effcli.rl_distill.environments.actions import single_choice
    from effcli.rl_distill.environments.observations import observed_of_shape
    from effcli.rl_distill.network.policies import ActorCritic, QNetwork
    from effcli.rl_distill.weights import PolicyDescription, save_policy

    for i, (name, network) in enumerate((("ppo", ActorCritic), ("dqn", QNetwork)), 1):
        about = PolicyDescription(name, "CartPole-v1", (4,), 2, "small", i, i == 1, 9.5)
        save_policy(
            folder / "model" / f"policy-{i}.safetensors",
            network(observed_of_shape((4,)), single_choice(2), "small"),
            about,
        )
    return sorted((folder / "model").iterdir())


def _read_policies(folder: Path) -> Any:
    from effcli.rl_distill.weights import best_policy

    return best_policy(str(folder), None)


def _image_classifier(folder: Path) -> list[Path]:
    from effcli.continual.network import ClassifierSpec, ImageClassifier
    from effcli.continual.weights import save_classifier

    about = ClassifierSpec("er", (("a", "b"), ("c",)), 8, 1, (2, 2, 2, 2), (2,) * 8, True, 2)
    save_classifier(folder / "classifier.safetensors", ImageClassifier(about))
    return [folder / "classifier.safetensors"]


def _read_image_classifier(folder: Path) -> Any:
    from effcli.continual.weights import load_classifier

    return load_classifier(folder / "classifier.safetensors")


def _detector(folder: Path) -> list[Path]:
    from effcli.continual.egor.detectors.gfl import Gfl, GflConfig
    from effcli.continual.egor.inversion import AspectHistogram
    from effcli.continual.egor.weights import DetectorSpec, save_detector

    config = GflConfig("tiny", 2, channels=8, n_convs=1, reg_max=4, n_levels=3, anchor_scale=4)
    histogram = AspectHistogram((-1.5, 1.0), (2, 3))
    about = DetectorSpec(("cat", "dog"), (histogram, histogram), 96, None)
    save_detector(folder / "d.safetensors", Gfl(config), about)
    return [folder / "d.safetensors"]


def _read_detector(folder: Path) -> Any:
    from effcli.continual.egor.weights import load_detector

    return load_detector(str(folder / "d.safetensors"))


def _objects(folder: Path) -> list[Path]:
    from effcli.core.tensor_file import save_tensors

    pictures = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    content = {"pictures": pictures, "boxes": torch.ones(4, 4), "labels": torch.tensor([0, 1, 0, 1])}
    save_tensors(folder / "objects" / "objects-1.safetensors", content, {"classes": "cat\ndog"})
    return [folder / "objects" / "objects-1.safetensors"]


def _read_objects(folder: Path) -> Any:
    from effcli.continual.egor.objects import read_objects

    return read_objects(folder, 1, ("cat", "dog"))


def _clip(folder: Path) -> list[Path]:
    from effcli.distill.clip.compact import save_compact
    from tests.distill.clip.tiny_clips import tiny_clip

    config = {
        "embed_dim": 4,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 32,
        },
        "text_cfg": {"context_length": 4, "vocab_size": 49408, "width": 4, "heads": 2, "layers": 1},
    }
    model = tiny_clip(folder, config)
    (folder / "config.json").unlink()
    save_compact(folder / "clip.safetensors", model, "efficientnet-lite0", torch.arange(40))
    return [folder / "clip.safetensors"]


def _read_clip(folder: Path) -> Any:
    from effcli.distill.clip.models import load_clip

    return load_clip(str(folder / "clip.safetensors"))


def _clip_folder(folder: Path) -> list[Path]:
    from effcli.distill.clip.models import save_clip
    from tests.distill.clip.tiny_clips import STUDENT, tiny_clip

    text = {**STUDENT["text_cfg"], "vocab_size": 600, "width": 8}
    model = tiny_clip(folder, {**STUDENT, "text_cfg": text})
    (folder / "config.json").unlink()
    save_clip(folder, model)
    return sorted(file for file in folder.iterdir() if file.is_file())


def _read_clip_folder(folder: Path) -> Any:
    from effcli.distill.clip.models import load_clip

    return load_clip(str(folder))


def _teacher_cache(folder: Path) -> list[Path]:
    from effcli.distill.clip_kd.teacher_cache import TeacherCache

    cache = TeacherCache(folder, {"teacher": "x"}, 8)
    cache.folder.mkdir()
    np.save(cache.folder / "captions.npy", np.zeros((20, 8), np.float16))
    return [cache.folder / "captions.npy"]


def _read_teacher_cache(folder: Path) -> Any:
    from effcli.distill.clip_kd.teacher_cache import CachedItems, TeacherCache

    def nothing(rows: range) -> Tensor:
        raise AssertionError

    return TeacherCache(folder, {"teacher": "x"}, 8).is_there(CachedItems("captions", 20, nothing))


def _checkpoint(folder: Path) -> list[Path]:
    from effcli.core.resuming.checkpoint import CheckpointStore

    CheckpointStore(folder, "task: toy\n").save("train", {"step": 3, "state": {"w": torch.ones(4)}})
    return [folder / "train.pt"]


def _read_checkpoint(folder: Path) -> Any:
    from effcli.core.resuming.checkpoint import CheckpointStore

    return CheckpointStore(folder, "task: toy\n").load("train")


def _result(folder: Path) -> list[Path]:
    from effcli.core.evidence.result import Result

    result = Result(
        "enhance", "train", "walmafa", "default", str(folder), {"psnr": 9.5}, {"total_s": 1.0}, {"os": "x"}
    )
    (folder / "recipe.yaml").write_text("task: enhance\nseed: 1\n")
    (folder / "result.json").write_text(json.dumps(result.to_json()))
    return [folder / "result.json", folder / "result.json", folder / "recipe.yaml"]


def _read_result(folder: Path) -> Any:
    from effcli.core.evidence.compare import compare_runs

    return compare_runs([folder, folder])


def _recipe(folder: Path) -> list[Path]:
    from effcli.core.recipe import dump_recipe
    from effcli.core.registry import find_recipe

    (folder / "recipe.yaml").write_text(dump_recipe(find_recipe("continual", "default")))
    return [folder / "recipe.yaml"]


def _read_recipe(folder: Path) -> Any:
    from effcli.core.registry import recipe_of_run

    return recipe_of_run("continual", folder)


FORMATS = {
    "walmafa": Format(_walmafa, _read_walmafa),
    "classifier": Format(_classifier, _read_classifier),
    "diffusion": Format(_diffusion, _read_diffusion),
    "few-step student": Format(_student, _read_student),
    "packed": Format(_packed, _read_packed),
    "streamdsgn": Format(_detector_3d, _read_detector_3d),
    "policy": Format(_policy, _read_policies),
    "image classifier": Format(_image_classifier, _read_image_classifier),
    "detector": Format(_detector, _read_detector),
    "generated objects": Format(_objects, _read_objects),
    "clip": Format(_clip, _read_clip),
    "clip folder": Format(_clip_folder, _read_clip_folder),
    "teacher cache": Format(_teacher_cache, _read_teacher_cache),
    "checkpoint": Format(_checkpoint, _read_checkpoint),
    "result": Format(_result, _read_result),
    "recipe": Format(_recipe, _read_recipe),
}
