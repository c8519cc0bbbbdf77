"""A checkpoint of the released code: names and shapes written down from its modules, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from effcli.core.errors import InputError
from effcli.detect_stream.network.config import FULL
from effcli.detect_stream.weights import load_detector


def conv_norm(
    name: str, *shape: int, norm: str = "1", conv: str = "0", bias: bool = False
) -> dict[str, Tensor]:
    """A convolution and its batch norm of as many channels as the first axis, or the second of a transposed one."""
    found = {f"{name}.{conv}.weight": torch.randn(shape)}
    n_out = shape[1] if "conv5" in name or "conv6" in name or "up_block" in name else shape[0]
    if bias:
        found[f"{name}.{conv}.bias"] = torch.randn(n_out)
    return found | batch_norm(f"{name}.{norm}", n_out)


def batch_norm(name: str, n: int) -> dict[str, Tensor]:
    found = {f"{name}.{part}": torch.randn(n) for part in ("weight", "bias", "running_mean")}
    return found | {f"{name}.running_var": torch.rand(n), f"{name}.num_batches_tracked": torch.tensor(7)}


def conv(name: str, *shape: int, bias: bool = True) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(shape)} | ({f"{name}.bias": torch.randn(shape[0])} if bias else {})


def released() -> dict[str, Tensor]:
    """docs/methods/streamdsgn.md, Network, row by row."""
    net = "backbone_3d.feature_backbone"
    state = {f"{net}.conv1.weight": torch.randn(64, 3, 7, 7)} | batch_norm(f"{net}.bn1", 64)
    for stage, (c_in, c_out) in enumerate([(64, 64), (64, 128), (128, 128), (128, 128)], 1):
        for block in (0, 1):
            place = f"{net}.layer{stage}.{block}"
            state |= conv(f"{place}.conv1", c_out, c_out if block else c_in, 3, 3, bias=False)
            state |= batch_norm(f"{place}.bn1", c_out) | batch_norm(f"{place}.bn2", c_out)
            state |= conv(f"{place}.conv2", c_out, c_out, 3, 3, bias=False)
    state |= conv_norm(f"{net}.layer2.0.downsample", 128, 64, 1, 1)
    neck = "backbone_3d.feature_neck"
    for branch in range(4):
        state |= conv_norm(f"{neck}.spp_branches.{branch}.1", 32, 128, 1, 1)
    state |= conv_norm(f"{neck}.upconv_module.conv.0", 64, 512, 1, 1)
    state |= conv_norm(f"{neck}.upconv_module.redir.0", 64, 64, 3, 3)
    state |= conv_norm(f"{neck}.upconv_module.conv.1", 32, 64, 3, 3)
    state |= conv_norm(f"{neck}.upconv_module.redir.1", 32, 3, 3, 3)
    state |= conv_norm(f"{neck}.lastconv.0", 128, 32, 3, 3)
    state |= conv(f"{neck}.lastconv.2", 96, 128, 1, 1, bias=False)
    state |= conv_norm("backbone_3d.dres0.0", 32, 64, 1, 1, 1)
    state |= conv_norm("backbone_3d.dres1.0", 32, 32, 3, 3, 3)
    state |= conv_norm("backbone_3d.rpn3d_convs.0.0", 32, 32, 1, 1, 1)
    shapes = ((64, 32), (64, 64), (64, 64), (64, 64), (64, 64), (64, 32))
    for i, shape in enumerate(shapes, 1):
        inner = ".0" if i in (1, 3, 4) else ""
        state |= conv_norm(f"backbone_3d.rpn3d_hgs.0.conv{i}{inner}", *shape, 3, 3, 3)
    state |= conv_norm("backbone_3d.pred_stereo.0.0", 32, 32, 3, 3, 3)
    state |= conv("backbone_3d.pred_stereo.0.2", 1, 32, 3, 3, 3)
    state |= conv_norm("feature_align.fusion_layer", 32, 96, 1, 1, conv="conv", norm="bn")
    return state | released_seen_from_above() | {"dense_head.anchors": torch.zeros(3)}


def released_seen_from_above() -> dict[str, Tensor]:
    state = conv_norm("backbone_2d.stem", 64, 96, 1, 1, conv="conv", norm="bn")
    for stage, c_in in ((1, 64), (2, 128)):
        embed = f"backbone_2d.patch_embed{stage}"
        state |= conv_norm(embed, 128, c_in, 3, 3, conv="proj", norm="norm", bias=True)
        state |= {f"backbone_2d.norm{stage}.{part}": torch.randn(128) for part in ("weight", "bias")}
        for block in (0, 1):
            place = f"backbone_2d.block{stage}.{block}"
            unit = f"{place}.attn.spatial_gating_unit"
            state |= batch_norm(f"{place}.norm1", 128) | batch_norm(f"{place}.norm2", 128)
            state |= conv(f"{place}.attn.proj_1", 128, 128, 1, 1) | conv(
                f"{place}.attn.proj_2", 128, 128, 1, 1
            )
            state |= conv(f"{unit}.conv0", 128, 1, 3, 3) | conv(f"{unit}.conv_spatial", 128, 1, 3, 3)
            state |= conv(f"{unit}.conv1", 128, 128, 1, 1)
            state |= conv(f"{place}.mlp.fc1", 256, 128, 1, 1) | conv(f"{place}.mlp.fc2", 128, 256, 1, 1)
            state |= conv(f"{place}.mlp.dwconv.dwconv", 256, 1, 3, 3)
            state |= {f"{place}.layer_scale_{i}": torch.randn(128) for i in (1, 2)}
    state |= conv_norm("backbone_2d.up_block1", 128, 128, 2, 2) | conv_norm(
        "backbone_2d.up_block2", 128, 64, 2, 2
    )
    for tower in ("rpn3d_cls_convs", "rpn3d_bbox_convs"):
        for layer in (0, 1):
            state |= conv_norm(f"dense_head.{tower}.{layer}.0", 64, 64, 3, 3)
    state |= conv("dense_head.conv_cls", 18, 64, 3, 3) | conv("dense_head.conv_box", 42, 64, 3, 3)
    return state | conv("dense_head.conv_dir_cls", 12, 64, 1, 1)


def test_every_weight_of_a_released_checkpoint_finds_its_place(tmp_path: Path) -> None:
    state = released()
    torch.save({"epoch": 20, "model_state": state}, tmp_path / "checkpoint.pth")
    network = load_detector(str(tmp_path / "checkpoint.pth")).network
    assert network.config == FULL
    learned = [tensor for name, tensor in state.items() if "running" not in name and "anchors" not in name]
    assert sum(tensor.numel() for tensor in learned if tensor.is_floating_point()) == 3_632_585
    remaining = {tensor.double().sum().item() for tensor in network.state_dict().values()}
    assert remaining == {
        tensor.double().sum().item() for name, tensor in state.items() if "anchors" not in name
    }
    own = network.state_dict()
    assert own["bev.blocks2.1.attention.far.bias"].equal(
        state["backbone_2d.block2.1.attn.spatial_gating_unit.conv_spatial.bias"]
    )
    assert own["image_network.stages.1.0.skip.1.running_mean"].equal(
        state["backbone_3d.feature_backbone.layer2.0.downsample.1.running_mean"]
    )
    assert own["head.box_tower.3.weight"].equal(state["dense_head.rpn3d_bbox_convs.1.0.0.weight"])


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    state = released()
    del state["dense_head.conv_box.bias"]
    torch.save({"model_state": state}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"conv_box\.bias is missing or of another shape$"):
        load_detector(str(tmp_path / "other.pth"))
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        load_detector(str(tmp_path / "bad.pth"))
