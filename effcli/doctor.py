"""What this machine offers: devices, precision, kernels, optional parts."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch

from effcli import __version__
from effcli.core.machine import commit, instructions, processor
from effcli.core.runtime import Runtime, available_devices, create_runtime, describe_device, hardware_bf16
from effcli.core.threads import NUMBERS, WAITING

_LIBRARIES = (
    *("torch", "torchvision", "accelerate", "safetensors", "numba", "numpy", "pillow", "torchmetrics"),
    *("diffusers", "open-clip-torch", "gymnasium", "ale-py", "faster-coco-eval"),
)
_OPTIONAL = {
    "mamba_ssm": "faster selective scan on CUDA: pip install 'effcli[cuda]'",
    "transformers": "text-conditional diffusion models: pip install 'effcli[text]'",
    "peft": "LoRAs on quantized networks: pip install 'effcli[lora]'",
    "onnxscript": "export to ONNX: pip install 'effcli[onnx]'",
    "trackeval": "tracks measured by HOTA, MOTA and IDF1: pip install 'effcli[tracking]'",
    "rerun_bindings": "recordings of streams for the rerun viewer: pip install 'effcli[rerun]'",
    "minatar": "MinAtar's games: pip install 'effcli[minatar]'",
    "pygame": "drawing games: pip install 'effcli[watch]'",
    "pillow_heif": "HEIC pictures: pip install 'effcli[heic]'",
    "rawpy": "camera raw pictures: pip install 'effcli[raw]'",
    "av": "videos: pip install 'effcli[video]'",
    "s3fs": "pictures in object stores: pip install 'effcli[remote]'",
    "tensorboard": "logs for TensorBoard: pip install 'effcli[tensorboard]'",
    "torch_fidelity": "Inception's features: pip install 'effcli[fid]'",
    "gguf": "export to GGUF: pip install 'effcli[gguf]'",
    "torchao": "export to torchao: pip install 'effcli[torchao]'",
}


def examine() -> dict[str, Any]:
    """Everything ``effcli doctor`` prints, and what a bug report needs."""
    from effcli.nn.selective_scan import available_backends

    automatic = create_runtime(threads="auto")
    devices = available_devices()
    return {
        "effcli": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": {
            "processor": processor(),
            "instructions": instructions(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "threads_chosen": _how_threads_are_chosen(automatic),
            "threads_waiting": [f"{name}={os.environ[name]}" for name in WAITING if name in os.environ],
            "capability": torch.backends.cpu.get_cpu_capability(),
            "bf16": hardware_bf16(torch.device("cpu")),
        },
        "devices": {str(device): describe_device(device) for device in devices},
        "auto": {"device": str(automatic.device), "precision": automatic.precision},
        "selective_scan": {device.type: available_backends(device.type)[0] for device in devices},
        "libraries": {name.replace("-", "_"): _version(name) for name in _LIBRARIES},
        "optional": {
            name: "installed" if find_spec(name) else f"not installed ({why})"
            for name, why in _OPTIONAL.items()
        },
    }


def _how_threads_are_chosen(runtime: Runtime) -> str:
    """What ``--threads auto`` does here."""
    given = [f"{name}={os.environ[name]}" for name in NUMBERS if name in os.environ]
    if given:
        return f"fixed by {' '.join(given)}"
    if runtime.tuners.is_fixed:
        return "fixed: " + (
            "there is one core" if runtime.device.type == "cpu" else f"the work is on {runtime.device}"
        )
    return (
        f"1 or {runtime.tuners.most}, whichever is faster for the steps of each loop (--threads N fixes it)"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
