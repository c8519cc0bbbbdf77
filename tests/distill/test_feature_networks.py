"""The networks whose feature maps are compared: where they come from and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from effcli.core.errors import InputError
from effcli.diffusion.models import DiffusionModel, load_model
from effcli.distill.feature_networks import load_feature_network
from effcli.metrics.features import load_classifier, save_classifier
from effcli.nn.classifiers.small_classifier import SmallClassifier, SmallClassifierConfig
from tests.diffusion.tiny_models import SCHEDULER, tiny_unet
from tests.distill.small_teacher import teacher, whole

CPU = torch.device("cpu")


def test_the_builtin_classifier():
    network = load_feature_network("builtin", whole(load_model("builtin:fashion-diffusion")))
    assert network.feature_map(torch.zeros(2, 1, 16, 16)).shape == (2, 96, 4, 4)


def test_a_classifier_of_ones_own(tmp_path: Path):
    torch.manual_seed(0)
    network = SmallClassifier(SmallClassifierConfig(side=8, width=4)).eval()
    save_classifier(tmp_path / "c.safetensors", network, torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    found = load_feature_network(str(tmp_path / "c.safetensors"), whole(teacher()))
    x = torch.randn(2, 1, 8, 8)
    again, _ = load_classifier(tmp_path / "c.safetensors", "")
    assert torch.equal(found.feature_map(x), again.feature_map(x))


def test_images_of_another_size_or_colour():
    with pytest.raises(InputError, match="is for images of 1x16x16, the teacher's are 1x8x8") as caught:
        load_feature_network("builtin", whole(teacher()))
    assert "--features unet" in str(caught.value.hint)
    colour = DiffusionModel(tiny_unet(sample_size=16, in_channels=3, out_channels=3), SCHEDULER, "colour")
    with pytest.raises(InputError, match="the teacher's are 3x16x16"):
        load_feature_network("builtin", whole(colour))


def test_small_photographs_have_a_classifier_in_the_package():
    colour = DiffusionModel(tiny_unet(sample_size=32, in_channels=3, out_channels=3), SCHEDULER, "colour")
    with pytest.raises(InputError, match="the teacher's are 3x32x32") as caught:
        load_feature_network("builtin", whole(colour))
    assert "--features builtin:cifar10-resnet20 is for such images" in str(caught.value.hint)
    network = load_feature_network("builtin:cifar10-resnet20", whole(colour))
    maps = network.feature_maps(torch.zeros(2, 3, 32, 32))
    assert [tuple(one.shape) for one in maps] == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
    assert torch.equal(network.feature_map(torch.zeros(2, 3, 32, 32)), maps[-1])


def test_the_middle_of_the_teacher():
    model = teacher()
    caught = []
    hook = model.unet.mid_block.register_forward_hook(lambda module, inputs, output: caught.append(output))
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    model.unet(x, 0)
    hook.remove()
    found = load_feature_network("unet", whole(model)).feature_map(x)
    torch.testing.assert_close(found, caught[0])
    assert torch.autograd.grad(found.sum(), x)[0].abs().sum() > 0


def test_all_maps(tmp_path: Path) -> None:
    """Every convolution of the small classifier, every block of the teacher; each last map is the one alone."""
    x = torch.randn(2, 1, 16, 16)
    network = load_feature_network("builtin", whole(load_model("builtin:fashion-diffusion")))
    maps = network.feature_maps(x)
    assert [tuple(one.shape[1:]) for one in maps] == [
        (24, 16, 16), (48, 8, 8), (48, 8, 8), (96, 4, 4), (96, 4, 4)
    ]  # fmt: skip
    assert torch.equal(maps[-1], network.feature_map(x))
    own = load_feature_network("unet", whole(teacher()))
    maps = own.feature_maps(torch.randn(2, 1, 8, 8))
    assert [tuple(one.shape[1:]) for one in maps] == [(16, 4, 4), (32, 4, 4), (32, 4, 4)]


def test_the_teacher_with_skip_blocks_and_of_noise_levels():
    blocks = {
        "down_block_types": ("SkipDownBlock2D", "SkipDownBlock2D"),
        "up_block_types": ("SkipUpBlock2D", "SkipUpBlock2D"),
    }
    colours = {"in_channels": 3, "out_channels": 3, "sample_size": 16, "time_embedding_type": "fourier"}
    unet = tiny_unet(**blocks, **colours)
    model = DiffusionModel(unet, {"_class_name": "ScoreSdeVeScheduler"}, "score")
    found = load_feature_network("unet", whole(model)).feature_map(torch.randn(2, 3, 16, 16))
    assert bool(torch.isfinite(found).all())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with the weights of one network, made at random; nothing else can be had."""
    from torchvision.models import get_model, get_model_weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    torch.manual_seed(0)
    file = Path(get_model_weights("squeezenet1_1").DEFAULT.url).name
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(get_model("squeezenet1_1").state_dict(), tmp_path / "hub" / "checkpoints" / file)
    return tmp_path


def test_a_network_of_torchvision(hub: Path):
    found = load_feature_network("torchvision:squeezenet1_1", whole(teacher()), side=64)
    maps = found.feature_map(torch.randn(2, 1, 8, 8))
    assert maps.shape[0] == 2 and min(maps.shape[2:]) > 1
    sides = [one.shape[-1] for one in found.feature_maps(torch.randn(2, 1, 8, 8))]
    assert sides == [31, 15, 7, 3]
    with pytest.raises(InputError, match=r"no pixels to relate|does not take these images"):
        load_feature_network("torchvision:squeezenet1_1", whole(teacher()))


def test_a_network_that_cannot_be_had(hub: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("torchvision:resnet18", "torchvision:no-such-network"):
        with pytest.raises(InputError, match="cannot be loaded"):
            load_feature_network(name, whole(teacher()))
    assert capsys.readouterr().out == ""  # stdout is for results
    with pytest.raises(InputError, match="no such feature network"):
        load_feature_network("nothing", whole(teacher()))


def test_a_network_of_timm(tmp_path: Path):
    timm = pytest.importorskip("timm")
    import json

    torch.manual_seed(0)
    network = timm.create_model("test_resnet")
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    config = {"architecture": "test_resnet", "pretrained_cfg": network.pretrained_cfg}
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    found = load_feature_network(f"timm:local-dir:{tmp_path}", whole(teacher()), side=128)
    maps = found.feature_map(torch.zeros(1, 1, 8, 8))
    assert maps.ndim == 4 and min(maps.shape[2:]) > 1
