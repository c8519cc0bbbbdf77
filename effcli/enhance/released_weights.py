"""Checkpoints of the released WalMaFa code, converted to our names (docs/methods/walmafa.md, Released checkpoints).

Their names are those of `model/Walmafa.py` and `model/blocks.py` of `mcpaulgeorge/WalMaFa` at commit 50f0818, or the
older ones from before that commit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import ValidationError
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.weight_file import check_keys, make_within, some_names
from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.walmafa_net import blank_network

State = dict[str, Tensor]

_UNUSED = re.compile(
    r"coefficient$|patch_embed_mask\.|skip_2_1\.|[a-z_0-9]+\.\d+\.(mb\.model2|illu\.conv2)\."
)

# Ours -> released, in the order in which a prefix is looked for.
_NETWORK_NAMES = {
    "illumination.estimator.mix": "estimator.conv1",
    "illumination.estimator.depthwise": "estimator.depth_conv",
    "illumination.to_map": "estimator.conv2",
    "embed": "patch_embed.proj",
    "down_1.conv": "down_1.body.0",
    "down_2.conv": "down_2.body.0",
    "down_3.conv": "down_3.body.0",
    "up_3.conv": "up3_2.body.0",
    "up_2.conv": "up2_1.body.0",
    "up_1.conv": "up2_0.body.0",
    "skip_2.weight": "coefficient_3_2",
    "skip_2.conv": "skip_3_2",
    "skip_1.weight": "coefficient_2_1",
    "skip_1.conv": "skip_1_0",  # not skip_2_1, which the released forward pass never calls
    "output.weight": "coefficient_1_0",
    "output.conv": "output",
}
_LEVEL_NAMES = {
    "encoder_1": "decoder_level1_0",
    "encoder_2": "decoder_level2_0",
    "encoder_3": "decoder_level3_0",
    "decoder_2": "decoder_level2_1",
    "decoder_1": "decoder_level1_1",
    "decoder_0": "sim",
}
_BLOCK_NAMES = {
    "norm": "norm1.body",
    "estimator.mix": "illu.conv1",
    "estimator.depthwise": "illu.depth_conv",
    "wavelet_mamba.widen": "mb.convb.0",
    "wavelet_mamba.narrow": "mb.convb.2",
    "wavelet_mamba.norm": "mb.ln",
    "wavelet_mamba.mamba": "mb.model1",
    "wavelet_mamba.smooth": "mb.smooth",
    "ffn_norm": "norm2.body",
    "ffn.project_in": "ffn.project_in",
    "ffn.branch_3x3.conv": "ffn.rep_conv1.c",
    "ffn.branch_3x3.norm": "ffn.rep_conv1.bn",
    "ffn.branch_1x1.conv": "ffn.rep_conv2.c",
    "ffn.branch_1x1.norm": "ffn.rep_conv2.bn",
    "ffn.depthwise": "ffn.dwconv",
    "ffn.project_out": "ffn.project_out",
}
_STAGE_NAMES = {
    "entry": "conv0.0",
    "stage_0": "conv0.1",
    "stage_1": "conv1",
    "stage_2": "conv2",
    "stage_3": "conv3",
    "merge_2.process": "conv4.0",
    "merge_2.project": "conv4.1",
    "merge_1.process": "conv5.0",
    "merge_1.project": "conv5.1",
    "merge_0.process": "convout.0",
    "merge_0.project": "convout.1",
}
_FOURIER_NAMES = {
    "enhance.project": "frequency_process.fpre",
    "enhance.amplitude": "frequency_process.process1",
    "enhance.phase": "frequency_process.process2",
    "project": "cat",
}


def convert_released(state: Mapping[str, Tensor], *, place: str | None = None) -> tuple[WalMaFaConfig, State]:
    """Convert a state dict of the released code to our names.

    Strips ``module.``, follows the renaming of commit 50f0818 where it is needed (``latent`` -> ``sim``,
    then ``FFAB`` -> ``latent``), infers the sizes, renames, and drops the parameters that are never used.

    Args:
        state: released names to tensors.
        place: the file, for error messages.

    Returns:
        The configuration, with the behaviour of the released code (Mamba on the details, reshape order), and
        the state dict of a :class:`WalMaFa` built with it.

    Raises:
        InputError: a key is missing, unknown or of the wrong shape.
    """
    named = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if any(name.startswith("FFAB.") for name in named):
        named = {_modern_name(name): tensor for name, tensor in named.items()}
    config = _infer_config(named, place)
    n_elements = sum(value.numel() for value in named.values())
    network = make_within(lambda: blank_network(config), n_elements, len(named), place or "weights")
    names = {ours: released_name(ours) for ours in network.state_dict()}
    used = {name: tensor for name, tensor in named.items() if not _UNUSED.match(name)}
    check_keys(list(names.values()), list(used), place)
    return config, {ours: used[released] for ours, released in names.items()}


def released_name(name: str) -> str:
    """The name that a key of our state dict has in the released code's."""
    head, _, tail = name.partition(".")
    if head in _LEVEL_NAMES:
        index, _, rest = tail.partition(".")
        return f"{_LEVEL_NAMES[head]}.{index}.{_rename(rest, _BLOCK_NAMES)}"
    if head == "fourier":
        stage = next(stage for stage in _STAGE_NAMES if tail.startswith(f"{stage}."))
        return f"latent.{_STAGE_NAMES[stage]}.{_rename(tail.removeprefix(f'{stage}.'), _FOURIER_NAMES)}"
    return _rename(name, _NETWORK_NAMES)


def _rename(name: str, names: Mapping[str, str]) -> str:
    for ours, released in names.items():
        if name == ours or name.startswith(f"{ours}."):
            return released + name.removeprefix(ours)
    return name


def _modern_name(name: str) -> str:
    for old, new in (("latent.", "sim."), ("FFAB.", "latent.")):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _infer_config(named: Mapping[str, Tensor], place: str | None) -> WalMaFaConfig:
    try:
        dim = named["patch_embed.proj.weight"].shape[0]
        d_state = named["sim.0.mb.model1.A_log"].shape[1]
        return WalMaFaConfig(
            head="picture",
            dim=dim,
            d_state=d_state,
            blocks=(
                _depth(named, "decoder_level1_0"),
                _depth(named, "decoder_level2_0"),
                _depth(named, "decoder_level3_0"),
            ),
            mamba_band="high",
            token_order="reshape",
        )
    except KeyError as missing:
        reason = f"{missing.args[0]!r} is missing; its keys begin with {some_names(list(named))}"
    except (ValidationError, IndexError):
        reason = "the shapes of its tensors do not fit together"
    raise InputError(f"not a WalMaFa checkpoint: {reason}", place=place)


def _depth(named: Mapping[str, Tensor], level: str) -> int:
    """How many blocks a level has."""
    pattern = re.compile(rf"{level}\.(\d+)\.")
    return len({match[1] for name in named if (match := pattern.match(name))})
