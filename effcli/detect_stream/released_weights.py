"""Checkpoints of the released code (streamDSGN-pytorch) as weights of the ``full`` network.

The names are those of its public modules; no released checkpoint was at hand to try them on.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from effcli.core.errors import InputError
from effcli.detect_stream.network.config import FULL
from effcli.detect_stream.network.streamdsgn import StreamDsgn

_SAME_INSIDE = {
    "image_network.features": "feature_neck.lastconv.2",
    "depth_head.last": "pred_stereo.0.2",
    "head.scores": "conv_cls",
    "head.codes": "conv_box",
    "head.directions": "conv_dir_cls",
    "bev.norm1": "norm1",
    "bev.norm2": "norm2",
}
_CONV_AND_NORM = {
    "image_network.to_half": "feature_neck.upconv_module.conv.0",
    "image_network.to_full": "feature_neck.upconv_module.conv.1",
    "image_network.half_skip": "feature_neck.upconv_module.redir.0",
    "image_network.full_skip": "feature_neck.upconv_module.redir.1",
    "image_network.last": "feature_neck.lastconv.0",
    "match1": "dres0.0",
    "match2": "dres1.0",
    "space.enter": "rpn3d_convs.0.0",
    "space.hourglass.down1": "rpn3d_hgs.0.conv1.0",
    "space.hourglass.same1": "rpn3d_hgs.0.conv2",
    "space.hourglass.down2": "rpn3d_hgs.0.conv3.0",
    "space.hourglass.same2": "rpn3d_hgs.0.conv4.0",
    "space.hourglass.up1": "rpn3d_hgs.0.conv5",
    "space.hourglass.up2": "rpn3d_hgs.0.conv6",
    "depth_head.first": "pred_stereo.0.0",
    "bev.up1": "up_block1",
    "bev.up2": "up_block2",
}
_IN_LARGE_KERNEL_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.enter": "attn.proj_1",
    "attention.near": "attn.spatial_gating_unit.conv0",
    "attention.far": "attn.spatial_gating_unit.conv_spatial",
    "attention.mix": "attn.spatial_gating_unit.conv1",
    "attention.leave": "attn.proj_2",
    "feed_forward.wide": "mlp.fc1",
    "feed_forward.depthwise": "mlp.dwconv.dwconv",
    "feed_forward.narrow": "mlp.fc2",
}
_IN_3D = ("match", "space", "depth_head")


def convert_released(state: Mapping[str, Tensor], place: str) -> StreamDsgn:
    """The ``full`` network with the weights of a released checkpoint.

    Args:
        state: its state dict; the first part of each name, the stage of its pipeline, does not matter.
        place: its name in messages.

    Raises:
        InputError: a weight is missing or of another shape; what is more in it (anchors, counters) is left out.
    """
    theirs = {name.removeprefix("module.").partition(".")[2]: tensor for name, tensor in state.items()}
    network = StreamDsgn(FULL)
    own, missing = {}, []
    for name, value in network.state_dict().items():
        released = _released_name(name)
        if released in theirs and theirs[released].shape == value.shape:
            own[name] = theirs[released].to(value.dtype)
        elif name.endswith("num_batches_tracked"):
            own[name] = value
        else:
            missing.append(released)
    if missing:
        raise InputError(
            f"not a checkpoint of the released StreamDSGN: {missing[0]} is missing or of another shape"
            + (f", and {len(missing) - 1} more" if missing[1:] else ""),
            place=place,
        )
    network.load_state_dict(own)
    return network


def _released_name(name: str) -> str:
    module, _, parameter = name.rpartition(".")
    if parameter in ("scale1", "scale2"):
        return f"{_MODULES[module]}.layer_scale_{parameter[-1]}"
    return f"{_MODULES[module]}.{parameter}"


def _modules() -> dict[str, str]:
    """Our modules that hold parameters, and the released ones without the stage of the pipeline."""
    pairs = dict(_SAME_INSIDE)
    for ours, theirs in _CONV_AND_NORM.items():
        conv, norm = ("conv", "norm") if ours.startswith(_IN_3D) else ("0", "1")
        pairs |= {f"{ours}.{conv}": f"{theirs}.0", f"{ours}.{norm}": f"{theirs}.1"}
    for ours, theirs in (("bev.stem", "stem"), ("fusion.narrow", "fusion_layer")):
        pairs |= {f"{ours}.0": f"{theirs}.conv", f"{ours}.1": f"{theirs}.bn"}
    pairs |= {
        "image_network.stem.0": "feature_backbone.conv1",
        "image_network.stem.1": "feature_backbone.bn1",
    }
    for stage in range(4):
        for block in range(FULL.blocks):
            ours, theirs = (
                f"image_network.stages.{stage}.{block}",
                f"feature_backbone.layer{stage + 1}.{block}",
            )
            for i, half in ((1, "first"), (2, "second")):
                pairs |= {f"{ours}.{half}.0": f"{theirs}.conv{i}", f"{ours}.{half}.1": f"{theirs}.bn{i}"}
            pairs |= {f"{ours}.skip.{i}": f"{theirs}.downsample.{i}" for i in (0, 1)}
    for pool in range(len(FULL.pool_sides)):
        ours, theirs = f"image_network.pools.{pool}", f"feature_neck.spp_branches.{pool}.1"
        pairs |= {f"{ours}.{i}": f"{theirs}.{i}" for i in (0, 1)}
    for stage in (1, 2):
        pairs |= {
            f"bev.down{stage}.0": f"patch_embed{stage}.proj",
            f"bev.down{stage}.1": f"patch_embed{stage}.norm",
        }
        for block in range(FULL.bev_blocks[stage - 1]):
            ours, theirs = f"bev.blocks{stage}.{block}", f"block{stage}.{block}"
            pairs[ours] = theirs
            pairs |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in _IN_LARGE_KERNEL_BLOCK.items()}
    for layer in (0, 1):
        for ours, theirs in (("head.score_tower", "rpn3d_cls_convs"), ("head.box_tower", "rpn3d_bbox_convs")):
            pairs |= {f"{ours}.{3 * layer + i}": f"{theirs}.{layer}.0.{i}" for i in (0, 1)}
    return pairs


_MODULES = _modules()
