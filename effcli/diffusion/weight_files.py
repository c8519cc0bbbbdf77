"""The weight files of one part of a pipeline (`unet/`, `vae/`, `text_encoder/`): which there are, and what they hold.

A part has one file, or shards with an index, as safetensors or pickled (`.bin`), each perhaps in a variant such as
fp16. Read are those without a variant where there are any, and safetensors before `.bin`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from effcli.core.errors import InputError
from effcli.core.files import read_json, sha256
from effcli.core.tensor_file import read_pickled_tensors

_STEM = r"(?P<stem>diffusion_pytorch_model|model|pytorch_model)"  # of diffusers; of transformers, either kind
_SINGLE = re.compile(_STEM + r"(?:\.(?P<variant>\w+))?\.(?P<kind>safetensors|bin)")
_INDEX = re.compile(_STEM + r"\.(?P<kind>safetensors|bin)\.index(?:\.(?P<variant>\w+))?\.json")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.*", "pytorch_lora_weights.*", "*attn_procs*",
                  "pytorch_custom_diffusion_weights.*")  # fmt: skip
_ADAPTER_KEYS = re.compile(r"lora|\bhada_|\blokr_|\bip_adapter|\.base_layer\.|\.processor\.|modules_to_save")
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NOT_WEIGHTS = {"I64", "I32", "BOOL"}
"""Types of buffers that are no weights, such as position numbers."""

_FUSE = "merge it into the weights first: pipe.fuse_lora(), pipe.unload_lora_weights(), pipe.save_pretrained(FOLDER)"


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a part.

    Attributes:
        files: one, or all shards.
        kind: ``safetensors`` or ``bin``.
        variant: in the files' names; None for those without.
    """

    files: tuple[Path, ...]
    kind: str
    variant: str | None

    def sha256(self) -> str:
        """Of the file; of several, of their checksums in the order of their names."""
        digests = [sha256(file) for file in self.files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def plain_name(self, file: Path) -> str:
        """The name that a file of the variant has without it."""
        return file.name if self.variant is None else file.name.replace(f".{self.variant}", "", 1)

    def check(self) -> tuple[str, int]:
        """Make sure that they hold plain floating-point weights.

        Returns:
            Their type, such as ``float16``, and how many tensors there are.

        Raises:
            InputError: a file is damaged or a Git LFS pointer, or holds an adapter or quantized weights.
        """
        names: set[str] = set()
        types: set[str] = set()
        for file in self.files:
            held = _held_by(file)
            names |= set(held)
            types |= set(held.values())
        place = str(self.files[0])
        adapters = sorted(name for name in names if _ADAPTER_KEYS.search(name))
        if adapters:
            raise InputError(
                f"holds an adapter that is not merged into the weights: {adapters[0]}",
                place=place,
                hint=_FUSE,
            )
        strange = sorted(types - set(_FLOATS) - _NOT_WEIGHTS)
        if strange:
            raise InputError(
                f"holds {strange[0]} tensors: quantized weights are not read", place=place,
                hint="name the full-precision model",
            )  # fmt: skip
        return " and ".join(sorted(_FLOATS[one] for one in types & set(_FLOATS))), len(names)


def find_weights(folder: Path, *, of_diffusers: bool = True) -> WeightFiles:
    """The weights to read in ``folder``; see the first lines of this file.

    Args:
        folder: of the part.
        of_diffusers: as of :func:`choose_weights`.

    Raises:
        InputError: there are none, a shard is missing, only several variants are there, or an adapter lies beside them.
    """
    check_no_adapter(folder)
    names = [path.name for path in folder.iterdir() if path.is_file()]
    chosen = choose_weights(names, str(folder), of_diffusers=of_diffusers)
    if chosen is None:
        other = sorted(
            name for name in names if name.endswith((".gguf", ".msgpack", ".onnx", ".ckpt", ".safetensors"))
        )
        found = f"; {other[0]} is not read" if other else ""
        raise InputError(
            f"has no {'diffusion_pytorch_model' if of_diffusers else 'model'}.safetensors or .bin{found}",
            place=str(folder),
        )
    name, kind, variant = chosen
    if not name.endswith(".json"):
        return WeightFiles((folder / name,), kind, variant)
    shards = sorted(set(read_json(folder / name).get("weight_map", {}).values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing or not shards:
        raise InputError(
            f"names {len(shards)} shards, {len(missing)} are missing: {', '.join(missing[:2])}",
            place=str(folder / name),
            hint="download the folder again",
        )
    return WeightFiles(tuple(folder / shard for shard in shards), kind, variant)


def choose_weights(
    names: Iterable[str], place: str, *, of_diffusers: bool = True
) -> tuple[str, str, str | None] | None:
    """Of a folder's file names the one to read (a file of weights or the index of shards), its kind and variant.

    Args:
        names: of the files.
        place: the folder, for messages.
        of_diffusers: whether the part is a class of diffusers, not of transformers.

    Raises:
        InputError: there are only variants, and several.
    """
    found: dict[tuple[str | None, str], str] = {}
    for pattern in (_SINGLE, _INDEX):  # shards are read where there is a single file too, as diffusers does
        for match in filter(None, map(pattern.fullmatch, sorted(names))):
            if (match["stem"] == "diffusion_pytorch_model") == of_diffusers:
                found[match["variant"], match["kind"]] = match[0]
    variants = {variant for variant, _ in found}
    if not variants:
        return None
    if None not in variants and len(variants) > 1:
        raise InputError(
            f"has only variants, and several: {', '.join(sorted(map(str, variants)))}",
            place=place,
            hint="keep the files of one of them in the folder",
        )
    variant = None if None in variants else variants.pop()
    kind = "safetensors" if (variant, "safetensors") in found else "bin"
    return found[variant, kind], kind, variant


def check_no_adapter(folder: Path) -> None:
    """Refuse a folder with the files of an adapter: its weights alone are another model.

    Raises:
        InputError: there is one.
    """
    for pattern in _ADAPTER_FILES:
        for file in sorted(folder.glob(pattern)):
            raise InputError(f"{file.name} is an adapter, which is not read", place=str(folder), hint=_FUSE)


def _held_by(file: Path) -> dict[str, str]:
    """Name -> type of a file's tensors, types as safetensors names them."""
    _check_not_a_pointer(file)
    if file.suffix == ".bin":
        long_names = {name: short for short, name in _FLOATS.items()} | {
            "int64": "I64",
            "int32": "I32",
            "bool": "BOOL",
        }
        return {
            name: long_names.get(str(tensor.dtype).removeprefix("torch."), str(tensor.dtype))
            for name, tensor in read_pickled_tensors(file, str(file)).items()
        }
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise InputError(f"is damaged or not a safetensors file: {reason}", place=str(file)) from None


def _check_not_a_pointer(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            start = opened.read(40)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", place=str(file)) from None
    if start.startswith(b"version https://git-lfs"):
        raise InputError("is a Git LFS pointer, not the weights", place=str(file), hint="git lfs pull")
