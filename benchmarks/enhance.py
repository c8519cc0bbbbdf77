"""Speed and memory of `effcli enhance`: ratios inside one run. Nothing else should be running.

    python benchmarks/enhance.py [--json FILE] [--sizes 256x256 400x608] [--repeats 3] [--megapixels 0.24 12]

The whole network at the published size, with the released behaviour (Mamba on the details, tokens by reshape). The
peer has the same weights, unfused, with the plain loop as its scan. Times are medians over repeats in which the three
take turns; memory is the peak of a process that does nothing else.

Then whole commands on pictures of so many megapixels (0.24 is 566x424), with the built-in weights, in full and fast
detail, beside `import torch`, Zero-DCE in plain PyTorch and `convert -auto-level` (where ImageMagick is installed):
processor seconds of user and system, wall seconds, and the peak of memory. Each command runs twice, the second time
counts: the first compiles kernels. Last, the exposure head: one compiled pass beside its formulas in PyTorch, and the
blurs of the formulas beside their old form.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image

from effcli.core.evidence.records import write_record
from effcli.enhance.network.config import WalMaFaConfig
from effcli.enhance.network.exposure_head import (
    N_MAPS,
    GuidedMaps,
    blurred,
    guide_of,
    render,
    render_fitted,
    spread,
)
from effcli.enhance.network.walmafa_net import WalMaFa
from effcli.nn import selective_scan as scan_module


def released_network() -> WalMaFa:
    torch.manual_seed(0)
    return WalMaFa(WalMaFaConfig(mamba_band="high", token_order="reshape", head="picture")).eval()


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def forms() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """The three that are compared, by name, with the same weights."""
    network = released_network()
    fused = network.fuse()

    def peer(x: torch.Tensor) -> torch.Tensor:
        with mock.patch.object(scan_module, "available_backends", lambda device: ("loop",)):
            exact: torch.Tensor = network(x)
            return exact

    def bf16(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half: torch.Tensor = fused(x).float()
            return half

    return {"peer": peer, "fp32": fused, "bf16": bf16}


def measure_network(height: int, width: int, repeats: int) -> dict[str, object]:
    """Seconds, errors and peak memory of the three forms at one size."""
    calls = forms()
    x = torch.rand(1, 3, height, width)
    with torch.inference_mode():
        outputs = {name: call(x) for name, call in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repeats):
            for name, call in calls.items():
                times[name].append(seconds(partial(call, x)))
    medians = {name: statistics.median(values) for name, values in times.items()}
    exact, fast, half = outputs.values()
    noise = (half - fast).square().mean().item() / float(fast.var())
    return {
        "size": f"{height}x{width}",
        **{f"{name}_s": round(value, 3) for name, value in medians.items()},
        "fp32_ratio": round(medians["peer"] / medians["fp32"], 2),
        "bf16_ratio": round(medians["peer"] / medians["bf16"], 2),
        "fp32_max_error": (exact - fast).abs().max().item(),
        "bf16_db_below_signal": round(-10 * math.log10(noise), 1),
        **{f"{name}_peak_gib": round(measure_memory(name, height, width), 2) for name in calls},
    }


def measure_memory(form: str, height: int, width: int) -> float:
    """Peak GiB of a fresh process that evaluates one form once; importing torch alone takes about 0.3."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_gib, (form, height, width, torch.get_num_threads()))


def _peak_gib(form: str, height: int, width: int, threads: int) -> float:
    torch.set_num_threads(threads)
    with torch.inference_mode():
        forms()[form](torch.rand(1, 3, height, width))
    status = Path(
        "/proc/self/status"
    ).read_text()  # not getrusage: its figure comes along from the parent process
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def measure_start() -> dict[str, float]:
    """Seconds of whole processes: help, a small picture, and what importing torch alone takes."""
    with tempfile.TemporaryDirectory() as folder:
        example = Path(folder, "small.png")
        Image.new("RGB", (256, 256), (20, 30, 10)).save(example)
        return measure_starts(example)


def measure_starts(example: Path) -> dict[str, float]:
    """The same, on a picture that is there."""
    commands = {
        "help_s": [sys.executable, "-m", "effcli", "--help"],
        "enhance_help_s": [sys.executable, "-m", "effcli", "enhance", "--help"],
        "import_torch_s": [sys.executable, "-c", "import torch"],
        "enhance_small_s": [
            sys.executable,
            "-m",
            "effcli",
            "enhance",
            str(example),
            "-o",
            "-",
            "--format",
            "png",
        ],
    }

    def run(command: list[str]) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    for command in commands.values():
        run(command)
    return {name: round(min(seconds(partial(run, c)) for _ in range(3)), 2) for name, c in commands.items()}


LAUNCHER = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(json.dumps({"code": status, "cpu_s": round(used.ru_utime + used.ru_stime, 2),
                  "wall_s": round(time.perf_counter() - started, 2), "peak_mib": used.ru_maxrss >> 10}))
"""
"""A process of its own starts the command: `ru_maxrss` of a child is at least the memory of the process that forked."""

ZERO_DCE = """
import sys, numpy, torch
from PIL import Image
from torch import nn
class ZeroDCE(nn.Module):
    "Seven convolutions of 32 channels, symmetric skips, eight curves x + a (x^2 - x) (Guo et al., CVPR 2020)."
    def __init__(self):
        super().__init__()
        widths = [(3, 32), (32, 32), (32, 32), (32, 32), (64, 32), (64, 32), (64, 24)]
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in widths)
    def forward(self, x):
        kept, y = [], x
        for k, layer in enumerate(self.layers[:4]):
            y = torch.relu(layer(y)); kept.append(y)
        y = torch.relu(self.layers[4](torch.cat((kept[2], kept[3]), 1)))
        y = torch.relu(self.layers[5](torch.cat((kept[1], y), 1)))
        for a in torch.tanh(self.layers[6](torch.cat((kept[0], y), 1))).chunk(8, 1):
            x = x + a * (x * x - x)
        return x
torch.set_num_threads(int(sys.argv[3]))
x = torch.from_numpy(numpy.array(Image.open(sys.argv[1]).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
with torch.inference_mode():
    y = ZeroDCE()(x)
Image.fromarray((y[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(sys.argv[2], quality=95)
"""


def measure_command(words: list[str]) -> dict[str, float]:
    """Processor and wall seconds and peak MiB of one command."""
    shown = subprocess.run([sys.executable, "-c", LAUNCHER, *words], check=True, capture_output=True).stdout
    row: dict[str, float] = json.loads(shown)
    if row.pop("code"):
        raise SystemExit(f"failed: {' '.join(words)}")
    return row


def measure_pictures(megapixels: float, threads: int) -> dict[str, dict[str, float] | str]:
    """Whole commands on one JPEG of 4:3, an example repeated, in full and fast detail, and the peers."""
    with tempfile.TemporaryDirectory() as folder:
        picture, out = (str(Path(folder, name)) for name in ("in.jpg", "out.jpg"))
        make_picture(picture, round((megapixels * 1e6 * 3 / 4) ** 0.5))
        command = [sys.executable, "-m", "effcli", "enhance", picture, "-o", out, "--force", "-q"]
        command += ["--brightness", "0.5", "--threads", str(threads)]
        commands = {detail: [*command, "--detail", detail] for detail in ("full", "fast")}
        commands["zero_dce"] = [sys.executable, "-c", ZERO_DCE, picture, out, str(threads)]
        commands["import_torch"] = [sys.executable, "-c", "import torch"]
        rows: dict[str, dict[str, float] | str] = {}
        for name, words in commands.items():
            measure_command(words)
            rows[name] = measure_command(words)
        rows["convert"] = (
            measure_command(["convert", picture, "-auto-level", out])
            if has_imagemagick()
            else "skipped: ImageMagick is not installed"
        )
    return rows


def has_imagemagick() -> bool:
    path = shutil.which("convert")
    return (
        path is not None
        and "ImageMagick"
        in subprocess.run([path, "-version"], capture_output=True, text=True).stdout.partition("\n")[0]
    )


def make_picture(path: str, height: int) -> None:
    """A dark JPEG of 4:3: an example of the package, repeated and cut."""
    with Image.open(next(Path("examples").glob("*.jpg"))) as image:
        pixels = np.asarray(image.convert("RGB"))
    width = round(height * 4 / 3)
    repeats = -(-height // pixels.shape[0]), -(-width // pixels.shape[1]), 1
    dark = (np.tile(pixels, repeats)[:height, :width] * 0.4).astype(np.uint8)
    Image.fromarray(dark).save(path, quality=95)


def old_blurred(x: torch.Tensor) -> list[torch.Tensor]:
    """The blurs of the exposure head as dilated depthwise convolutions."""
    scales, kernel, n = [x], torch.tensor((1.0, 4.0, 6.0, 4.0, 1.0)) / 16, x.shape[1]
    for step in (1, 2, 4):
        down = kernel.view(1, 1, 5, 1).expand(n, 1, 5, 1)
        y = functional.pad(scales[-1], (0, 0, 2 * step, 2 * step), mode="replicate")
        y = functional.conv2d(y, down, dilation=step, groups=n)
        y = functional.pad(y, (2 * step, 2 * step, 0, 0), mode="replicate")
        scales.append(functional.conv2d(y, down.transpose(2, 3), dilation=step, groups=n))
    return scales


def measure_head(height: int, width: int, repeats: int) -> dict[str, float]:
    """Processor seconds of the exposure head on maps of a quarter of the sides: the compiled pass and the formulas."""
    x, log_gain = torch.rand(1, 3, height, width), torch.tensor([1.0])
    fitted = GuidedMaps(*torch.randn(2, 1, N_MAPS, height // 4, width // 4))

    def by_formulas() -> torch.Tensor:
        scales = blurred(x)
        return render(scales, log_gain, spread(fitted, guide_of(scales, log_gain)))

    compiled = partial(render_fitted, x, log_gain, fitted)
    return in_turns({"formulas": by_formulas, "compiled": compiled}, repeats)


def in_turns(forms: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median processor seconds of two forms, the first call of each left out, and the first over the second."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for name, call in forms.items():
                started = time.process_time()
                call()
                times[name].append(time.process_time() - started)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    first, second = medians.values()
    return {
        **{f"{name}_cpu_s": round(value, 3) for name, value in medians.items()},
        "ratio": round(first / second, 2),
    }


def measure_blurs(height: int, width: int, repeats: int) -> dict[str, float]:
    """Processor seconds of the blurs, old and new, in turns."""
    x = torch.rand(1, 3, height, width)
    return in_turns({"old": partial(old_blurred, x), "new": partial(blurred, x)}, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sizes", nargs="*", default=["256x256", "400x608"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--megapixels", type=float, nargs="*", default=[0.24, 12])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for size in options.sizes:
        height, width = map(int, size.split("x"))
        rows.append(measure_network(height, width, options.repeats))
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    start = measure_start()
    print("  ".join(f"{name} {value}" for name, value in start.items()))
    pictures = {f"{size:g} MP": measure_pictures(size, options.threads) for size in options.megapixels}
    for size_name, commands in pictures.items():
        for name, row in commands.items():
            print(f"{size_name:>7} {name:<12} {row}", flush=True)
    blurs = measure_blurs(1000, 1500, options.repeats)
    print("blurs ", blurs)
    head = measure_head(1000, 1500, options.repeats)
    print("head  ", head)
    figures = {"pictures": pictures, "blurs": blurs, "head": head, "network": rows, "start": start}
    write_record(options.json, figures, sys.argv)


if __name__ == "__main__":
    main()
