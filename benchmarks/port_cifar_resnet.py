"""The residual networks of `akamaster/pytorch_resnet_cifar10` as files of this project.

    python benchmarks/port_cifar_resnet.py resnet56-4bfd9763.th --data cifar10.npz -o cifar10-resnet56.safetensors

The names of the tensors lose `module.`, float32 becomes float16, and the moments of the features of the training images
are written beside them. Printed is the accuracy on the test images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from effcli.core.tensor_file import read_tensors, save_tensors
from effcli.data.image_sets import load_images, to_range
from effcli.metrics.features import save_classifier
from effcli.nn.classifiers.cifar_resnet import CifarResNet, CifarResNetConfig


def ported(file: Path) -> CifarResNet:
    """The network of a released checkpoint, with weights rounded to float16."""
    released = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    state = {name.removeprefix("module."): value for name, value in released.items()}
    depth = 2 + sum(name.endswith(("conv1.weight", "conv2.weight")) and "layer" in name for name in state)
    network = CifarResNet(CifarResNetConfig(depth=depth))
    network.load_state_dict({name: value.half() for name, value in state.items()}, strict=False)
    missing = network.state_dict().keys() - state.keys()
    if state.keys() - network.state_dict().keys() or any("num_batches" not in name for name in missing):
        raise SystemExit(f"{file}: not a checkpoint of pytorch_resnet_cifar10")
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def accuracy(network: CifarResNet, data: str) -> float:
    """Share of the test images that are classified rightly."""
    test = load_images(data, "eval", side=32, channels=3)
    found = torch.cat([network(to_range(part)).argmax(1) for part in test.images.split(500)])
    return float((found == test.labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    network = ported(options.checkpoint)
    print(f"{100 * accuracy(network, options.data):.2f} % of the test images")
    save_classifier(options.output, network, load_images(options.data, "train", side=32, channels=3).images)
    metadata, tensors = read_tensors(options.output, str(options.output))
    small = {
        name: value.half() if name.startswith("network.") and value.is_floating_point() else value
        for name, value in tensors.items()
    }
    save_tensors(options.output, small, metadata)


if __name__ == "__main__":
    main()
