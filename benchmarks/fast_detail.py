"""How far `--detail fast` is from full detail on large photographs, and what each costs.

    python benchmarks/fast_detail.py [PHOTO...] [--megapixels 8.3] [--small 0.5 1] [--json FILE]

Each photograph is made smaller to so many megapixels (none is made larger), darkened by three stops of linear light and
given the noise of a sensor. PSNR in dB between the two 8-bit results; processor seconds of one thread without reading
and writing. ``--small`` compares small forms of other sizes with the one that the command takes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from effcli.core.evidence.records import write_record
from effcli.core.runtime import create_runtime
from effcli.enhance.brightness import Brightness
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.image_quality import psnr
from effcli.enhance.network import fast_detail
from effcli.enhance.recipe import Detail
from effcli.enhance.walmafa import Brightener
from effcli.enhance.weights import load_weights

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LEVEL = 0.42
STOPS, FULL_WELL, READ_NOISE = 3, 2500.0, 8e-4


def dark_and_noisy(photo: np.ndarray) -> np.ndarray:
    """A photograph [H, W, 3] as taken with an eighth of the light: photon and read noise, a fixed seed."""
    draws = np.random.default_rng(0)
    linear = ((photo / 255.0) ** 2.2 * 2.0**-STOPS).astype(np.float32)
    linear += np.sqrt(linear / FULL_WELL) * draws.standard_normal(linear.shape, np.float32)
    linear += READ_NOISE * draws.standard_normal(linear.shape, np.float32)
    dark: np.ndarray = (255 * linear.clip(0, 1) ** (1 / 2.2)).round().astype(np.uint8)
    return dark


def read(path: Path, megapixels: float) -> np.ndarray:
    with Image.open(path) as image:
        photo = image.convert("RGB")
    scale = min(1.0, (megapixels * 1e6 / (photo.width * photo.height)) ** 0.5)
    size = round(photo.width * scale), round(photo.height * scale)
    return np.asarray(photo if scale == 1 else photo.resize(size, Image.Resampling.LANCZOS))


def brightened(dark: np.ndarray, detail: Detail) -> tuple[np.ndarray, float]:
    """The result in 8 bits, and processor seconds."""
    runtime = create_runtime(device="cpu", threads=1)
    brightener = Brightener(
        load_weights("builtin:walmafa"), runtime, brightness=Brightness(LEVEL), detail=detail
    )
    enhancer = Enhancer(brightener, runtime=runtime)
    started = time.process_time()
    result = enhancer.enhance_array(dark)
    return result, time.process_time() - started


def _unit(picture: np.ndarray) -> torch.Tensor:
    """[H, W, 3] in 8 bits as [3, H, W] in 0..1."""
    return torch.from_numpy(picture).permute(2, 0, 1).float() / 255


def measure(path: Path, megapixels: float, small_megapixels: list[float]) -> dict[str, object]:
    dark = dark_and_noisy(read(path, megapixels))
    row: dict[str, object] = {"photo": path.stem, "megapixels": round(dark.size / 3e6, 1)}
    full, row["full_cpu_s"] = brightened(dark, "full")
    for small in small_megapixels:
        fast_detail.SMALL_PIXELS = round(small * 2**20)
        fast, cpu_s = brightened(dark, "fast")
        row |= {
            f"fast_{small:g}_db": round(psnr(_unit(fast), _unit(full)), 2),
            f"fast_{small:g}_cpu_s": round(cpu_s, 2),
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, nargs="*", help="default: those of examples/, which are smaller")
    parser.add_argument("--megapixels", type=float, default=8.3)
    parser.add_argument("--small", type=float, nargs="+", default=[fast_detail.SMALL_PIXELS / 2**20])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for photo in options.photos or sorted(EXAMPLES.glob("*.jpg")):
        rows.append(measure(photo, options.megapixels, options.small))
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    write_record(options.json, rows, sys.argv)


if __name__ == "__main__":
    main()
