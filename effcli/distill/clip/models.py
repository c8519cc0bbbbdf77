"""Where CLIP models come from and how they are kept: open_clip names, checkpoints, folders, hub ids, the package.

A folder holds `open_clip_config.json` and `open_clip_model.safetensors`, which open_clip loads as ``local-dir:FOLDER``.
A model in the package is one safetensors file; see `compact.py`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from effcli.core.errors import InputError
from effcli.core.files import make_folder, read_json, write_text
from effcli.core.library_errors import as_input_errors, hub_asked_once, short
from effcli.core.tensor_file import BUILTIN_PREFIX, builtin_file, require_finite, save_tensors
from effcli.core.weight_file import check_tensors, make_within
from effcli.distill.clip.clip_model import ClipModel, Tokenizer
from effcli.distill.clip.compact import FORMAT, check_config, checked_preprocess, read_compact
from effcli.distill.clip.views import Preprocess

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
HUB_PREFIX = "hf-hub:"
_HINT = "an open_clip configuration"
_COMPILED = "_orig_mod."
"""What torch.compile puts before the names of weights."""
_MOST_TENSORS = 2**12
"""More than any CLIP of open_clip has."""


def load_clip(source: str) -> ClipModel:
    """Load a trained model by name.

    Args:
        source: ``builtin:NAME``; a folder that :func:`save_clip` or open_clip wrote, or a run directory with one in
            ``model/``; ``NAME:TAG`` or ``NAME:FILE``, a configuration of open_clip or ours with weights that are
            downloaded or lie in a checkpoint; or ``hf-hub:OWNER/NAME``.

    Raises:
        InputError: nothing is there, it cannot be read, or its weights do not fit its configuration.
    """
    if source.startswith(BUILTIN_PREFIX):
        with builtin_file(source, FORMAT) as file:
            return _load_compact(file, source)
    path = Path(source)
    if (path / "recipe.yaml").is_file() and (path / "model").is_dir():
        path = path / "model"
    if path.is_file() and path.suffix == ".safetensors":
        return _load_compact(path, source)
    if path.is_dir():
        return _load_folder(path, source)
    if source.startswith(HUB_PREFIX):
        return _load_hub(source)
    name, colon, weights = source.partition(":")
    if not colon or not weights:
        raise InputError(
            "not a CLIP checkpoint",
            place=source,
            hint="a folder, NAME:TAG like ViT-B-16:laion2b_s34b_b88k, NAME:FILE, hf-hub:OWNER/NAME or builtin:NAME",
        )
    return _load_named(name, weights, source)


def new_clip(name: str) -> ClipModel:
    """A model with new weights.

    Args:
        name: a configuration of open_clip or one of ours, a .json file with one, or a folder of a model, of which the
            weights are not read.

    Raises:
        InputError: there is no such configuration.
    """
    path = Path(name)
    if path.is_dir():
        written = read_json(path / CONFIG_FILE, hint=_HINT)
        return _model(_part(written, "model_cfg", path), checked_preprocess(written, str(path)), name, path)
    config = read_json(path, hint=_HINT) if path.suffix == ".json" else named_config(name)
    return _model(config, {}, name)


def rebuilt(model: ClipModel, changes: Mapping[str, Any]) -> ClipModel:
    """A model with another configuration: the weights that both have in one shape, the others new.

    Args:
        model: the model.
        changes: keys of its configuration, and their new values.

    Raises:
        InputError: the parts of the new configuration do not fit together.
    """
    new = _model({**model.config, **changes}, model.preprocess.as_dict(), model.source)
    state = new.network.state_dict()
    kept = {
        name: value
        for name, value in model.network.state_dict().items()
        if name in state and state[name].shape == value.shape
    }
    new.network.load_state_dict({**state, **kept})
    return new


def named_config(name: str) -> dict[str, Any]:
    """The configuration that open_clip, or the folder `configs` here, has by this name.

    Raises:
        InputError: there is none; the nearest name is the hint.
    """
    open_clip = _open_clip()
    known = open_clip.list_models()
    if name not in known:
        near = get_close_matches(name, known, n=3)
        raise InputError(
            "no such model",
            place=name,
            hint=f"did you mean {', '.join(near)}?" if near else "see open_clip.list_models()",
        )
    config: dict[str, Any] = open_clip.get_model_config(name)
    return config


def save_clip(folder: Path, model: ClipModel) -> None:
    """Write a model as open_clip loads it.

    Raises:
        RunError: it cannot be written.
    """
    make_folder(folder)
    content = {"model_cfg": model.config, "preprocess_cfg": model.preprocess.as_dict()}
    write_text(folder / CONFIG_FILE, json.dumps(content, indent=2) + "\n")
    weights = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    save_tensors(folder / WEIGHTS_FILE, weights, {"format": "pt"})
    save_vocabulary = getattr(model.tokenize, "save_pretrained", None)
    if save_vocabulary is not None and "hf_tokenizer_name" in model.config["text_cfg"]:
        save_vocabulary(folder)


def build(config: Mapping[str, Any]) -> nn.Module:
    """The network of a configuration, with new weights.

    Raises:
        InputError: it is not a CLIP, or its parts do not fit together.
    """
    check_config(config, "config")
    settings = deepcopy(dict(config))
    is_custom = settings.pop("custom_text", False) or "hf_model_name" in settings["text_cfg"]
    if "timm_model_name" in settings["vision_cfg"]:
        settings["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in settings["text_cfg"]:
        settings["text_cfg"]["hf_model_pretrained"] = False
    try:
        network: nn.Module = _class_of(settings, is_custom)(**settings)
    except Exception as error:  # sizes that do not fit together fail in any way, deep in open_clip and timm
        raise InputError(f"not a CLIP configuration: {short(error)}", place="config") from None
    return network.eval()


def _class_of(config: Mapping[str, Any], is_custom: bool) -> Any:
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    if "multimodal_cfg" in config:  # it also writes captions; its embeddings are those of a CLIP
        return CoCa
    return CustomTextCLIP if is_custom else CLIP


def _model(
    config: Mapping[str, Any], preprocess: Mapping[str, Any], source: str, folder: Path | None = None
) -> ClipModel:
    _open_clip()
    network = build(config)
    return ClipModel(
        network, dict(config), Preprocess.of(network, preprocess), _tokenizer(config, folder), source
    )


def _tokenizer(config: Mapping[str, Any], folder: Path | None) -> Tokenizer:
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    text = config["text_cfg"]
    length = int(text.get("context_length", DEFAULT_CONTEXT_LENGTH))
    if name := text.get("hf_tokenizer_name"):
        place = folder if folder is not None and (folder / "tokenizer_config.json").is_file() else name
        with as_input_errors(str(place)):
            tokenizer: Tokenizer = HFTokenizer(
                str(place),
                context_length=length,
                tokenizer_mode=text.get("tokenizer_mode"),
                **text.get("tokenizer_kwargs", {}),
            )
            return tokenizer
    simple: Tokenizer = SimpleTokenizer(context_length=length, **text.get("tokenizer_kwargs", {}))
    return simple


def _load_folder(folder: Path, source: str) -> ClipModel:
    from open_clip.factory import _find_checkpoint_in_dir

    written = read_json(folder / CONFIG_FILE, hint=_HINT)
    config, settings = (
        _part(written, "model_cfg", folder),
        checked_preprocess(written, str(folder / CONFIG_FILE)),
    )
    file = _find_checkpoint_in_dir(folder)
    if file is None:
        raise InputError("holds no weights", place=source, hint=f"it needs {WEIGHTS_FILE}")
    n_most = Path(file).stat().st_size  # a weight has at least a byte
    n_tensors = _n_tensors(Path(file))
    model = make_within(lambda: _model(config, settings, source, folder), n_most, n_tensors, source)
    _load_weights(model.network, Path(file))
    return model


def _n_tensors(file: Path) -> int:
    """How many tensors a file holds, or more; what is wrong with a damaged file is said when it is loaded."""
    if file.suffix == ".safetensors":
        with contextlib.suppress(SafetensorError, OSError), safe_open(file, framework="pt") as opened:
            return len(opened.keys())
    return _MOST_TENSORS


def _load_named(name: str, weights: str, source: str) -> ClipModel:
    config = named_config(name)
    if Path(weights).is_file():
        model = _model(config, {}, source)
        _load_weights(model.network, Path(weights))
        return model
    open_clip = _open_clip()
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights not in tags:
        hint = f"{name} has the tags {', '.join(tags)}" if tags else f"open_clip knows no weights of {name}"
        raise InputError(
            f"{weights!r} is neither a file nor a tag", place=source, hint=f"{hint}; or name a checkpoint"
        )
    with as_input_errors(source), hub_asked_once(source):
        network = open_clip.create_model(name, pretrained=weights)
    return ClipModel(
        network.eval(),
        config,
        Preprocess.of(network, network.visual.preprocess_cfg),
        open_clip.get_tokenizer(name),
        source,
    )


def _load_hub(source: str) -> ClipModel:
    open_clip = _open_clip()
    with as_input_errors(source), hub_asked_once(source):
        network = open_clip.create_model(source, require_pretrained=True)
        config = open_clip.get_model_config(source)
        tokenize = open_clip.get_tokenizer(source)
    return ClipModel(
        network.eval(), config, Preprocess.of(network, network.visual.preprocess_cfg), tokenize, source
    )


def _load_weights(network: nn.Module, file: Path) -> None:
    """Strictly; files of open_clip's own training, of CLIP-KD's release, of compiled models and bare ones."""
    from open_clip.factory import load_checkpoint, load_state_dict
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    with as_input_errors(str(file)):
        try:
            load_checkpoint(network, str(file), strict=True, weights_only=True)
        except RuntimeError as error:
            if _COMPILED not in str(error):
                raise
            state = load_state_dict(str(file), weights_only=True)
            state = {name.replace(_COMPILED, ""): value for name, value in state.items()}
            resize_pos_embed(state, network)
            resize_text_pos_embed(state, network)
            network.load_state_dict(state)
    require_finite(network.state_dict(), str(file))


def _load_compact(file: Path, source: str) -> ClipModel:
    header, state = read_compact(file, source)
    n_elements = sum(value.numel() for value in state.values())
    model = make_within(
        lambda: _model(header.config, header.preprocess, source), n_elements, len(state), source
    )
    check_tensors(model.network.state_dict(), state, source)
    model.network.load_state_dict(state)
    return model


def _open_clip() -> Any:
    """The library, with our configurations among its own."""
    import open_clip

    folder = Path(__file__).parent / "configs"
    if "ViT-T-16" not in open_clip.list_models():
        open_clip.add_model_config(folder)
    return open_clip


def _part(content: Mapping[str, Any], key: str, folder: Path) -> dict[str, Any]:
    part = content.get(key)
    if not isinstance(part, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= part.keys():
        raise InputError(f"its {key} is not an open_clip configuration", place=str(folder / CONFIG_FILE))
    return part
