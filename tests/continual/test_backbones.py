"""Backbones by name, and names that are not understood."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from effcli.continual.backbones import build_backbone, open_backbone
from effcli.core.errors import EffcliError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", "no such backbone"),
        ("timm:", "no such backbone"),
        ("keras:vgg", "no such backbone"),
        ("timm:resnet81", "timm has no such model"),
        ("torchvision:resnet81", "torchvision has no such classifier"),
        ("open_clip:ViT-B-99:openai", "open_clip has no such model"),
        ("open_clip:ViT-B-32", "the name does not say which weights"),
        ("timm:test_resnet:nothing.safetensors", "no such file"),
    ],
)
@pytest.mark.slow
def test_a_name_that_is_not_understood_is_one_line(name: str, message: str) -> None:
    with pytest.raises(EffcliError, match=message):
        open_backbone(name, None, 32)


@pytest.mark.slow
def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    import timm

    file = tmp_path / "other.pth"
    torch.save({"state_dict": timm.create_model("test_vit", num_classes=0).state_dict()}, file)
    with pytest.raises(EffcliError, match="keys"):
        open_backbone(f"timm:test_resnet:{file}", None, 32)


@pytest.mark.slow
def test_a_transformer_takes_its_own_side_alone(tmp_path: Path) -> None:
    import timm

    file = tmp_path / "vit.pth"
    network = timm.create_model("test_vit", num_classes=5)
    torch.save({"model": {f"module.{name}": value for name, value in network.state_dict().items()}}, file)
    backbone = open_backbone(f"timm:test_vit:{file}", None, 8)
    assert backbone.about.side == 160
    with torch.no_grad():
        found, expected = backbone(torch.ones(1, 3, 160, 160)), network.eval()
        torch.testing.assert_close(
            found,
            expected.forward_head(expected.forward_features(torch.ones(1, 3, 160, 160)), pre_logits=True),
        )
    with pytest.raises(EffcliError, match="takes only images of 160 pixels"):
        open_backbone(f"timm:test_vit:{file}", 96, 8)


@pytest.mark.slow
def test_torchvision_loses_its_head_and_keeps_its_features(tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    network = models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=3).eval()
    file = tmp_path / "shuffle.pth"
    torch.save(network.state_dict(), file)
    backbone = open_backbone(f"torchvision:shufflenet_v2_x0_5:{file}", None, 16)
    assert backbone.about.side == 128
    x = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(network.fc(backbone(x)), network(x))
    assert build_backbone(backbone.about).dim == backbone.dim == 1024


@pytest.mark.slow
def test_a_clip_model_gives_its_image_tower(tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(0)
    network = open_clip.create_model("RN50", pretrained=None).eval()
    file = tmp_path / "clip.pt"
    torch.save(network.state_dict(), file)
    backbone = open_backbone(f"open_clip:RN50:{file}", None, 16)
    assert (backbone.about.side, backbone.dim) == (224, 1024)
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), network.encode_image(x))


@pytest.mark.slow
def test_the_backbone_in_the_package_is_there_without_a_network() -> None:
    backbone = open_backbone("efficientnet-lite0", None, 1000)
    assert (backbone.dim, backbone.about.side) == (1280, 224)
    assert not backbone.training
