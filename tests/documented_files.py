"""The files and folders that the commands of the documentation name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from effcli.detect_stream.data.kitti_tracking import write_sequence
from effcli.detect_stream.data.synthetic_drives import Drive
from tests.cli.coco_squares import save_squares
from tests.diffusion.tiny_models import save_pipeline, tiny_unet
from tests.distill.clip.tiny_clips import save_pairs


def save_documented_files(folder: Path) -> None:
    """Photos, pairs, classes, boxes, a stereo sequence and a diffusion model, all tiny."""
    draws = np.random.default_rng(0)

    def picture(name: str, brightest: int = 60) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, brightest, (48, 64, 3), dtype=np.uint8)).save(path)

    for name in ("night.png", "night.jpg", "photo.jpg", "photos/a.png", "photos/deep/b.jpg"):
        picture(name)
    assert list(write_sequence(folder / "kitti", "0000", Drive(1, 4)))
    for pair in ("1.png", "2.png"):
        picture(f"pairs/low/{pair}")
        picture(f"pairs/high/{pair}", 255)
        picture(f"images/{pair}", 255)
    for name in "abcde":
        for number in range(3):
            picture(f"{'new' if name == 'e' else 'animals'}/{name}/{number}.png", 255)
    save_pipeline(folder / "my-diffusers-folder", tiny_unet())
    save_pairs(folder / "captioned")
    save_squares(folder / "boxes", n=8)
    save_squares(folder / "more-boxes", n=8)
