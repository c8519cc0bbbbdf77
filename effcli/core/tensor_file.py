"""safetensors files that are the same bytes for the same content."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from effcli.core.files import atomic_path


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, atomically, with the permissions of any new file.

    safetensors writes its metadata in an order that changes from run to run; here it is sorted, so that equal weights
    have equal checksums.

    Raises:
        RunError: the file cannot be written.
    """
    data = save(dict(tensors), dict(metadata))
    (n_header_bytes,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + n_header_bytes])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.write(memoryview(data)[8 + n_header_bytes :])
