"""How well the built-in colour model follows its classes, by guidance: what ResNet-56 sees in its samples.

    python benchmarks/colour_diffusion.py [--samples 200] [--steps 16] [--guidance 1 2 3] [--grid DIR] [--json FILE]

For each guidance scale the share of samples in which the classifier sees the class that was asked for (it is right on
83 % of the real test images), and the Frechet distance of its features to those of CIFAR-10's training images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from effcli.core.evidence.records import write_record
from effcli.core.runtime import create_runtime
from effcli.core.tensor_file import builtin_file
from effcli.data.image_sets import to_bytes, to_range
from effcli.data.picture_grid import save_grid
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.models import load_model
from effcli.diffusion.sampler_settings import SamplerSettings
from effcli.diffusion.sampling import sample_images
from effcli.metrics.features import FORMAT, load_classifier, load_features
from effcli.metrics.frechet import frechet_distance

MODEL = "builtin:colour-diffusion"
RESNET = "builtin:cifar10-resnet56"
N_CLASSES = 10
BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--grid", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model, space = load_model(MODEL), load_features(RESNET)
    assert space.reference is not None
    with builtin_file(RESNET, FORMAT) as file:
        classifier, _ = load_classifier(file, RESNET)
    runtime = create_runtime(device="cpu", precision="fp32")
    labels = torch.arange(options.samples) % N_CLASSES
    rows = {}
    for scale in options.guidance:
        guided = Guided(model, model.unet, guidance=scale)
        settings = SamplerSettings(steps=options.steps)
        images = to_bytes(sample_images(guided, settings, options.samples, BATCH, runtime, labels=labels))
        with torch.no_grad():
            found = classifier.eval()(to_range(images)).argmax(1)
        rows[f"guidance {scale:g}"] = {
            "right class, %": 100 * float((found == labels).float().mean()),
            "Frechet distance": frechet_distance(space.features(images), space.reference),
        }
        print(f"guidance {scale:g}", rows[f"guidance {scale:g}"], flush=True)
        if options.grid is not None:
            save_grid(images, options.grid / f"guidance-{scale:g}.png")
    write_record(options.json, rows, sys.argv)


if __name__ == "__main__":
    main()
