"""Weights of NanoDet-m from OpenVINO IR (.xml and .bin) to a detector's file, and how close both networks are.

    python benchmarks/port_nanodet.py nanodet_m.xml -o effcli/assets/nanodet-m.safetensors
    python benchmarks/port_nanodet.py nanodet_m.xml --check     # needs the package openvino

Convolutions are taken in the order of the ONNX file that the IR was made from, which is in their names. The input of
the IR is BGR; the kernels of the first convolution are turned round, so that ours is RGB.
"""

from __future__ import annotations

import argparse
import json
import re
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor, nn

from effcli.continual.egor.detectors.nanodet import NanoDetM
from effcli.continual.egor.weights import UNKNOWN_RATIOS, DetectorSpec, load_detector, save_detector

SIDE = 320
NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush"
)
CLASSES = tuple(NAMES.split(", "))


def convolutions(xml: Path) -> list[tuple[Tensor, Tensor]]:
    """Kernels ``[O, I, kH, kW]`` and biases ``[O]`` of an IR, in the order of the ONNX file."""
    content = xml.with_suffix(".bin").read_bytes()
    root = ElementTree.parse(xml).getroot()
    layers = {layer.get("id"): layer for layer in root.iter("layer")}
    inputs: dict[str | None, list[str | None]] = {}
    for edge in sorted(root.iter("edge"), key=lambda e: int(e.get("to-port", "0"))):
        inputs.setdefault(edge.get("to-layer"), []).append(edge.get("from-layer"))

    def constant(layer: str | None) -> Tensor:
        data = layers[layer].find("data")
        assert data is not None and data.get("element_type") == "f32"
        first, n = int(data.get("offset", "")), int(data.get("size", ""))
        shape = [int(side) for side in data.get("shape", "").split(",")]
        return torch.from_numpy(np.frombuffer(content[first : first + n], "<f4").copy()).view(shape)

    found = {}
    for number, layer in layers.items():
        if layer.get("type") in ("Convolution", "GroupConvolution"):
            kernel = constant(inputs[number][1])
            kernel = kernel.flatten(0, 1) if kernel.dim() == 5 else kernel
            (add,) = [other for other, given in inputs.items() if number in given]
            order = re.findall("[0-9]+", layer.get("name", ""))
            found[int(order[0])] = (kernel, constant(inputs[add][1]).flatten())
    return [found[place] for place in sorted(found)]


def port(xml: Path) -> NanoDetM:
    """The network with the weights of an IR."""
    network = NanoDetM(len(CLASSES)).eval()
    trunk = [*network.backbone.modules(), *network.laterals]
    ours = [module for module in trunk if isinstance(module, nn.Conv2d)]
    theirs = convolutions(xml)
    theirs[0] = (theirs[0][0].flip(1), theirs[0][1])
    with torch.no_grad():
        for conv, (kernel, bias) in zip(ours, theirs, strict=False):
            conv.load_state_dict({"weight": kernel, "bias": bias})
        heads = iter(theirs[len(ours) :])
        for tower, cls, reg in zip(network.towers, network.cls, network.reg, strict=True):
            for conv in (module for module in tower.modules() if isinstance(module, nn.Conv2d)):
                conv.load_state_dict(dict(zip(("weight", "bias"), next(heads), strict=True)))
            kernel, bias = next(heads)
            n = len(CLASSES)
            cls.load_state_dict({"weight": kernel[:n], "bias": bias[:n]})
            reg.load_state_dict({"weight": kernel[n:], "bias": bias[n:]})
    assert next(heads, None) is None
    return network


def distances(network: NanoDetM, xml: Path) -> dict[str, float]:
    """Largest differences of scores and edges from those of the openvino runtime, on noise of 0..255."""
    openvino = import_module("openvino")
    compiled = openvino.Core().compile_model(str(xml), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = torch.randint(0, 256, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    outputs = [torch.from_numpy(value) for value in compiled(images.flip(1).float().numpy()).values()]
    scores = torch.cat([one for one in outputs if one.shape[-1] == len(CLASSES)], 1)
    edges = torch.cat([one for one in outputs if one.shape[-1] != len(CLASSES)], 1)
    with torch.no_grad():
        raw = network(network.normalise(images.to(torch.uint8)))
    return {
        "scores": float((network.scores(raw) - scores).abs().max()),
        "edges": float((raw.edges - edges).abs().max()),
        "largest_edge": float(edges.abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("xml", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--longest", type=int, default=SIDE)
    given = parser.parse_args()
    network = port(given.xml)
    if given.output:
        about = DetectorSpec(tuple(CLASSES), (UNKNOWN_RATIOS,) * len(CLASSES), given.longest, None)
        save_detector(given.output, network.half(), about)
    if given.check:
        print(json.dumps({"float32": distances(port(given.xml), given.xml)}))
        if given.output:
            stored, _ = load_detector(str(given.output))
            assert isinstance(stored, NanoDetM)
            print(json.dumps({"float16": distances(stored, given.xml)}))


if __name__ == "__main__":
    main()
