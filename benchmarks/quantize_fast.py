"""`effcli quantize --fast` on networks of the real size of Stable Diffusion 1.5 and SDXL: seconds, memory, bytes.

    python benchmarks/quantize_fast.py [--json FILE] [--models sd15 sdxl] [--bits w4] [--threads N]

Weights are random, stored in fp16 as published ones are; quantization takes as long on them. Measured is the whole
command on the folder of a UNet, from its start to its end; memory is the peak of its process, libraries included (the
last column has that of `import torch` alone).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from effcli.core.evidence.records import write_record

PLAIN, CROSS = "DownBlock2D", "CrossAttnDownBlock2D"
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": (PLAIN, CROSS, CROSS),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "use_linear_projection": True,
    },
}


def write_model(name: str, folder: Path) -> None:
    """A UNet with its scheduler, as `effcli quantize` reads them; in a process of its own, for its memory."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    UNet2DConditionModel(**CONFIGS[name]).save_pretrained(folder)
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(folder)


def measure(words: list[str]) -> dict[str, float]:
    """Processor and wall seconds and peak GiB of a command.

    Raises:
        SystemExit: it failed.
    """
    started = time.perf_counter()
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(words)}")
    return {
        "wall_s": round(time.perf_counter() - started, 1),
        "processor_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
    }


def measure_model(name: str, bits: str, threads: int) -> dict[str, Any]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "unet"), Path(folder, "out")
        subprocess.run([sys.executable, __file__, "--write", name, str(source)], check=True)
        command = [sys.executable, "-m", "effcli", "quantize", str(source), "--bits", bits, "--fast"]
        row: dict[str, Any] = measure([*command, "--threads", str(threads), "-o", str(out)])
        metrics = json.loads((out / "result.json").read_text(encoding="utf-8"))["metrics"]
    kept = ("parameters", "size_bytes", "bits_per_parameter", "weight_error_relative")
    row |= {key: metrics[key] for key in kept}
    row["s_per_100m_parameters"] = round(row["wall_s"] / metrics["parameters"] * 1e8, 1)
    return row


def main() -> None:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=["sd15"])
    parser.add_argument("--bits", default="w4")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--write", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_model(arguments.write[0], Path(arguments.write[1]))
        return
    libraries = measure([sys.executable, "-c", "import torch"])["peak_gib"]
    rows = {}
    for name in arguments.models:
        rows[name] = measure_model(name, arguments.bits, arguments.threads) | {"torch_gib": libraries}
        print(name, *(f"{key} {value}" for key, value in rows[name].items()), sep="  ", flush=True)
    write_record(arguments.json, rows, sys.argv)


if __name__ == "__main__":
    main()
