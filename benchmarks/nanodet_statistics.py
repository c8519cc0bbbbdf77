"""Means and variances of the features of NanoDet-m's backbone on photographs, for the prior of synthesised objects.

    python benchmarks/nanodet_statistics.py PHOTO... -o effcli/assets/nanodet-m-statistics.safetensors

Each photograph is shown whole and in quarters, scaled to 320 pixels of the longer side. Only statistics are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from effcli.continual.egor.data.detection_sets import resized
from effcli.continual.egor.detectors.detector import Detector
from effcli.continual.egor.detectors.feature_statistics import measured_statistics, save_statistics
from effcli.continual.egor.training import stack
from effcli.continual.egor.weights import BUILTIN, load_detector
from effcli.data.images import read_image

SIDE = 320


def views(photo: Tensor) -> Iterator[Tensor]:
    """uint8 ``[3, H, W]`` and its quarters, scaled, with sides that are multiples of 32: nothing is padded."""
    height, width = photo.shape[1] // 2, photo.shape[2] // 2
    corners = [(top, left) for top in (0, height) for left in (0, width)]
    parts = [photo[:, top : top + height, left : left + width] for top, left in corners]
    for one in (photo, *parts):
        small = resized(one, SIDE / max(one.shape[1:]))
        yield small[:, : small.shape[1] // 32 * 32, : small.shape[2] // 32 * 32]


def batches(detector: Detector, photos: Sequence[Path]) -> Iterator[Tensor]:
    for photo in photos:
        for one in views(read_image(photo)):
            yield detector.normalise(stack([one])[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    detector = load_detector(BUILTIN)[0]
    found = measured_statistics(detector, batches(detector, given.photos))
    names = ", ".join(sorted(photo.name for photo in given.photos))
    save_statistics(given.output, found, {"photographs": names})
    print(
        f"{len(found.layers)} layers, {sum(map(len, found.means))} channels, {len(given.photos)} photographs"
    )


if __name__ == "__main__":
    main()
