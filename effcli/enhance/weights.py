"""Files of WalMaFa weights: our own format, and the checkpoints of the released code.

Our format is one safetensors file whose metadata says ``format: effcli.walmafa``, ``version: 1`` and the
network's configuration as JSON. A released checkpoint (`torch.save`, loaded tensors-only) is converted by
:func:`convert_released`; its names are those of `model/Walmafa.py` and `model/blocks.py` of
`mcpaulgeorge/WalMaFa` at commit 50f0818, or the older ones from before that commit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from effcli.core.errors import InputError
from effcli.core.tensor_file import save_tensors
from effcli.enhance.config import WalMaFaConfig
from effcli.enhance.network import WalMaFa

FORMAT = "effcli.walmafa"
VERSION = "1"
BUILTIN_PREFIX = "builtin:"

State = dict[str, Tensor]

_CONTAINERS = ("state_dict", "model_state_dict", "params_ema", "params", "model", "network")
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


def save_weights(
    path: str | Path,
    network: WalMaFa,
    extra: Mapping[str, str] | None = None,
    *,
    kernel_dtype: torch.dtype | None = None,
) -> None:
    """Write a network's weights, atomically, in our format.

    Args:
        path: the file to write.
        network: not a fused one.
        extra: further metadata, such as what the weights were trained on.
        kernel_dtype: of the tensors with two axes or more, which is nearly all; vectors (biases, the statistics of
            normalisation) keep theirs, and so does everything without this argument.

    Raises:
        RunError: the file cannot be written.
        ValueError: the network is a fused one.
    """
    if network.state_dict().keys() != _blank_network(network.config).state_dict().keys():
        raise ValueError("a fused network cannot be saved; save the one it was made from")
    metadata = {
        **(extra or {}),
        "format": FORMAT,
        "version": VERSION,
        "config": network.config.model_dump_json(),
    }
    tensors = {
        name: tensor.detach()
        .to("cpu", (kernel_dtype if tensor.ndim > 1 else None) or tensor.dtype)
        .contiguous()
        for name, tensor in network.state_dict().items()
    }
    save_tensors(Path(path), tensors, metadata)


def load_weights(source: str | Path) -> WalMaFa:
    """Build the network that a weight file describes, in float32 on the CPU and in evaluation mode.

    Args:
        source: a file in our format, a released checkpoint (``.pth``; a safetensors file with released names
            works too), or ``builtin:NAME`` for weights that come with the package.

    Raises:
        InputError: there is no such file, or it is not (or not entirely) what it should be.
    """
    name = str(source)
    if name.startswith(BUILTIN_PREFIX):
        return _load_builtin(name)
    return _load_file(Path(source), place=name)


def convert_released(state: Mapping[str, Tensor], *, place: str | None = None) -> tuple[WalMaFaConfig, State]:
    """Turn the state dict of the released code into ours.

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
    names = {ours: released_name(ours) for ours in _blank_network(config).state_dict()}
    used = {name: tensor for name, tensor in named.items() if not _UNUSED.match(name)}
    _check_keys(expected=list(names.values()), found=list(used), place=place)
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
        reason = f"there is no {missing.args[0]!r}; its keys begin with {_some(list(named))}"
    except (ValidationError, IndexError):
        reason = "the shapes of its tensors make no such network"
    raise InputError(f"is not a checkpoint of WalMaFa: {reason}", place=place)


def _depth(named: Mapping[str, Tensor], level: str) -> int:
    """How many blocks a level has."""
    pattern = re.compile(rf"{level}\.(\d+)\.")
    return len({match[1] for name in named if (match := pattern.match(name))})


def _check_keys(*, expected: list[str], found: list[str], place: str | None) -> None:
    unknown, missing = sorted(set(found) - set(expected)), sorted(set(expected) - set(found))
    if unknown:
        near = get_close_matches(unknown[0], missing or expected, n=1)
        raise InputError(
            f"has {len(unknown)} unknown keys: {_some(unknown)}",
            place=place,
            hint=f"the nearest known is {near[0]!r}" if near else None,
        )
    if missing:
        raise InputError(f"lacks {len(missing)} keys: {_some(missing)}", place=place)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _load_builtin(source: str) -> WalMaFa:
    name = source.removeprefix(BUILTIN_PREFIX)
    assets = files("effcli.assets")
    known = sorted(
        entry.name.removesuffix(".safetensors")
        for entry in assets.iterdir()
        if entry.name.endswith(".safetensors")
    )
    if name not in known:
        raise InputError(
            "there are no such weights in the package",
            place=source,
            hint=f"there are: {', '.join(known) or 'none'}",
        )
    with as_file(assets / f"{name}.safetensors") as path:
        return _load_file(path, place=source)


def _load_file(path: Path, place: str) -> WalMaFa:
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", place=place) from None
    metadata, state = _read_safetensors(path, place) if start[8:] == b"{" else ({}, _read_pickle(path, place))
    if metadata.get("format") == FORMAT:
        config = _read_config(metadata, place)
        _check_keys(expected=list(_blank_network(config).state_dict()), found=list(state), place=place)
    else:
        config, state = convert_released(state, place=place)
    return _build(config, state, place)


def _read_safetensors(path: Path, place: str) -> tuple[dict[str, str], State]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(f"is damaged or not a safetensors file: {_one_line(error)}", place=place) from None


def _read_pickle(path: Path, place: str) -> State:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a malformed zip or pickle makes the reader raise
        raise InputError(
            f"cannot be read as a checkpoint of tensors only: {_one_line(error)}",
            place=place,
            hint="weights are a .safetensors file, or a .pth that holds tensors only",
        ) from None
    for key in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError("holds no state dict (names to tensors)", place=place)
    return {str(name): tensor for name, tensor in content.items()}


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _read_config(metadata: Mapping[str, str], place: str) -> WalMaFaConfig:
    if metadata.get("version") != VERSION:
        raise InputError(
            f"has format version {metadata.get('version')}, this effcli reads {VERSION}",
            place=place,
            hint="update effcli",
        )
    try:
        return WalMaFaConfig.model_validate(json.loads(metadata["config"]))
    except (KeyError, ValueError):
        raise InputError("has no valid network configuration in its metadata", place=place) from None


def _blank_network(config: WalMaFaConfig) -> WalMaFa:
    """A network whose weights mean nothing yet; the caller's random numbers stay as they are.

    Not on the meta device: its operators import the tracing compiler, which takes longer than filling the weights.
    """
    with torch.random.fork_rng(devices=[]):
        return WalMaFa(config)


def _build(config: WalMaFaConfig, state: State, place: str) -> WalMaFa:
    network = _blank_network(config)
    for name, expected in network.state_dict().items():
        if state[name].shape != expected.shape:
            found, wanted = tuple(state[name].shape), tuple(expected.shape)
            raise InputError(f"{name} has shape {found}, the network needs {wanted}", place=place)
    network.load_state_dict(state)  # copies, so nothing refers to the file any more
    return network.eval()
