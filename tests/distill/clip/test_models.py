"""Loading and saving CLIP models, their sizes, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from effcli.core.errors import InputError
from effcli.core.tensor_file import save_tensors
from effcli.distill.clip.compact import WORDS, save_compact
from effcli.distill.clip.models import build, load_clip, named_config, new_clip, save_clip
from tests.distill.clip.tiny_clips import LOCKED, STUDENT, tiny_clip, write_config


def n_parameters(part: Any) -> int:
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize(
    ("name", "image", "text_blocks", "total"),
    [
        ("ViT-T-16", 5_622_912, 21_293_568, 46_116_097),
        ("ViT-B-16", 86_192_640, 37_828_608, 149_620_737),
        ("ViT-L-14", 303_966_208, 85_054_464, 427_616_513),
    ],
)
def test_sizes_of_the_papers_models(name: str, image: int, text_blocks: int, total: int) -> None:
    with torch.device("meta"):
        network = build(named_config(name))
    sizes = [n_parameters(part) for part in (network.visual, network.transformer, network)]
    assert sizes == [image, text_blocks, total]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("MobileViT-S", 5.3),
        ("Swin-T", 27.9),
        ("ResNet-18", 11.4),
        ("MobileNetV3-S", 2.0),
        ("EfficientNet-B0", 4.7),
    ],
)
def test_students_on_timm_trunks(name: str, millions: float) -> None:
    model = new_clip(name)
    assert n_parameters(model.network.visual) / 1e6 == pytest.approx(millions, abs=0.06)
    assert n_parameters(model.network.text.transformer) == 21_293_568
    assert model.network.encode_image(torch.zeros(1, 3, 224, 224)).shape == (1, 512)


def test_a_saved_model_comes_back_here_and_in_open_clip(tmp_path: Path) -> None:
    import open_clip

    model = tiny_clip(tmp_path, STUDENT)
    save_clip(tmp_path / "saved", model)
    again = load_clip(str(tmp_path / "saved"))
    assert again.fingerprint() == model.fingerprint()
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'saved'}")
    theirs.eval()
    from PIL import Image

    picture = Image.new("RGB", (33, 21), (200, 100, 50))
    seen = model.preprocess.whole(picture)
    torch.testing.assert_close(transform(picture), seen)
    torch.testing.assert_close(theirs.encode_image(seen[None]), model.network.encode_image(seen[None]))
    tokens = model.tokenize(["a red thing"])
    assert tokens.shape == (1, 8)
    torch.testing.assert_close(
        open_clip.get_tokenizer(f"local-dir:{tmp_path / 'saved'}")(["a red thing"]), tokens
    )


@pytest.mark.parametrize("form", ["bare", "training", "prefixed"])
def test_checkpoints_of_open_clips_training(tmp_path: Path, form: str) -> None:
    from effcli.distill.clip import models

    write_config(tmp_path / "Tiny-Test.json", STUDENT)
    models._open_clip().add_model_config(tmp_path / "Tiny-Test.json")
    state = new_clip("Tiny-Test").network.state_dict()
    content = {
        "bare": state,
        "training": {"epoch": 3, "name": "x", "state_dict": state, "optimizer": {}},
        "prefixed": {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    }[form]
    torch.save(content, tmp_path / "epoch_3.pt")
    loaded = load_clip(f"Tiny-Test:{tmp_path / 'epoch_3.pt'}")
    torch.testing.assert_close(loaded.network.state_dict()["visual.proj"], state["visual.proj"])


def test_the_teacher_in_the_package() -> None:
    model = load_clip("builtin:twemoji-clip")
    assert model.dim == 128 and model.preprocess.size == (128, 128)
    assert model.network.encode_image(torch.zeros(2, 3, 128, 128)).shape == (2, 128)
    words = model.network.text.token_embedding.weight
    n_known = int((words.abs().sum(1) > 0).sum())
    assert 500 < n_known < 5000


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model") as caught:
        new_clip("ViT-B-61")
    assert "ViT-B-16" in str(caught.value.hint)
    with pytest.raises(InputError, match="not a CLIP checkpoint"):
        load_clip("ViT-B-16")
    with pytest.raises(InputError, match="neither a file nor a tag") as caught:
        load_clip("ViT-B-16:laion3b")
    assert "laion2b_s34b_b88k" in str(caught.value.hint)
    with pytest.raises(InputError, match="cannot be read"):
        load_clip(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(InputError, match="not an open_clip configuration"):
        load_clip(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": STUDENT}))
    with pytest.raises(InputError, match="holds no weights"):
        load_clip(str(tmp_path))


def test_weights_that_do_not_fit_the_configuration(tmp_path: Path) -> None:
    save_clip(tmp_path / "m", tiny_clip(tmp_path, STUDENT))
    content = json.loads((tmp_path / "m" / "open_clip_config.json").read_text())
    content["model_cfg"]["embed_dim"] = 20
    (tmp_path / "m" / "open_clip_config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="size mismatch"):
        load_clip(str(tmp_path / "m"))


def test_position_embeddings_without_a_width(tmp_path: Path) -> None:
    save_clip(tmp_path / "m", tiny_clip(tmp_path, STUDENT))
    file = tmp_path / "m" / "open_clip_model.safetensors"
    weights = load_file(file)
    weights["positional_embedding"] = weights["positional_embedding"].flatten()
    save_tensors(file, weights, {"format": "pt"})
    with pytest.raises(InputError, match="cannot be loaded: tuple index out of range") as caught:
        load_clip(str(tmp_path / "m"))
    assert caught.value.place == str(file)


def test_a_folder_with_far_more_layers_than_tensors(tmp_path: Path) -> None:
    save_clip(tmp_path / "m", tiny_clip(tmp_path, STUDENT))
    file = tmp_path / "m" / "open_clip_config.json"
    content = json.loads(file.read_text())
    content["model_cfg"]["vision_cfg"]["layers"] = 10**9
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="describes a network that is larger than its"):
        load_clip(str(tmp_path / "m"))


@pytest.mark.parametrize(("n_words", "width"), [(0, 2**24), (1, 2**20), (40, 2**14)])
def test_a_compact_file_with_a_word_table_that_it_does_not_hold(
    tmp_path: Path, n_words: int, width: int
) -> None:
    file = save_tiny_compact(tmp_path, n_words)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    config = json.loads(metadata["config"])
    config["text_cfg"]["width"] = width
    tensors[WORDS] = torch.zeros(n_words, width, dtype=torch.float16)
    save_tensors(file, tensors, metadata | {"config": json.dumps(config)})
    with pytest.raises(InputError, match=rf"describes 49,408 words of width {width:,}, too many for"):
        load_clip(str(file))


def test_a_compact_file_comes_back_with_the_words_it_holds(tmp_path: Path) -> None:
    model = load_clip(str(save_tiny_compact(tmp_path, 40)))
    words = model.network.state_dict()[WORDS]
    assert words.shape == (49408, LOCKED["text_cfg"]["width"])
    assert bool((words[:40].abs().sum(1) > 0).all())
    assert not bool(words[40:].any())


def save_tiny_compact(folder: Path, n_words: int) -> Path:
    save_compact(
        folder / "c.safetensors", tiny_clip(folder, LOCKED), "efficientnet-lite0", torch.arange(n_words)
    )
    return folder / "c.safetensors"


def test_a_pickled_checkpoint_is_not_opened(tmp_path: Path) -> None:
    torch.save({"state_dict": Path}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt|tensors only"):
        load_clip(f"ViT-T-16:{tmp_path / 'x.pt'}")


def test_a_hub_id_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_clip("hf-hub:nobody/nothing")
