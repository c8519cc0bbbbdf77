"""Models of the Hugging Face hub: only the parts that are read, and of each only one kind of weights."""

from __future__ import annotations

from pathlib import Path

from effcli.core.errors import InputError
from effcli.core.library_errors import hub_asked_once
from effcli.diffusion.denoisers.classes import PARTS
from effcli.diffusion.weight_files import choose_weights

_CHECK = "check the name and the network; a folder that was downloaded before works offline"
_NUMBERS = ("", "_2", "_3")
_WITH_WEIGHTS = {
    **dict.fromkeys((*PARTS, "vae", "vqvae"), True),
    **{f"text_encoder{n}": False for n in _NUMBERS},
    "": True,
}
"""Folder -> whether its weights are named as diffusers does; the root's are read where no part denoises."""
_TOKENIZERS = [f"tokenizer{n}/" for n in _NUMBERS]
_DESCRIPTIONS = [
    f"{folder}*.json"
    for folder in ("", "scheduler/", *(f"{part}/" for part in _WITH_WEIGHTS if part), *_TOKENIZERS)
] + [f"{folder}*{ending}" for folder in _TOKENIZERS for ending in (".txt", ".model")]


def download(source: str) -> Path:
    """Fetch a hub id, or find it in the hub's cache.

    Raises:
        InputError: it is not a hub id, the hub does not have it, or there is no network and it is not in the cache.
    """
    if source.count("/") != 1 or source.startswith((".", "/")):
        raise InputError(
            "no such folder or file", place=source, hint="a diffusers folder, a Hub id or builtin:NAME"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with hub_asked_once(source, hint=_CHECK):
            folder = Path(snapshot_download(source, allow_patterns=_DESCRIPTIONS))
            weights = weights_to_fetch(_names_at(source), source)
            if weights:
                snapshot_download(source, allow_patterns=weights, revision=folder.name)
            return folder
    except HFValidationError:
        raise InputError("no such folder, and not a Hub id either", place=source) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"is not a local folder, and the Hub did not provide it: {reason}",
            place=source,
            hint=_CHECK,
        ) from None


def weights_to_fetch(names: list[str], source: str) -> list[str]:
    """Patterns of the weight files to fetch, of a repository's file names.

    Raises:
        InputError: a part has only variants, and several.
    """
    patterns = []
    in_root = not any(name.startswith(tuple(f"{part}/" for part in PARTS)) for name in names)
    for folder, of_diffusers in _WITH_WEIGHTS.items():
        if folder == "" and not in_root:
            continue
        prefix = folder and f"{folder}/"
        own = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        chosen = choose_weights(own, f"{source}/{folder}", of_diffusers=of_diffusers)
        if chosen is None:
            continue
        name, kind, variant = chosen
        patterns.append(prefix + name)
        if name.endswith(".json"):
            stem = name.split(".")[0] + (f".{variant}" if variant else "")
            patterns.append(f"{prefix}{stem}-*-of-*.{kind}")
    return patterns


def _names_at(source: str) -> list[str]:
    """The repository's files; nothing where the hub cannot be asked: then what is in the cache is all there is."""
    from huggingface_hub import HfApi

    try:
        return [file.rfilename for file in HfApi().model_info(source, timeout=10).siblings or []]
    except Exception:  # whatever the HTTP library of this version raises without a network
        return []
