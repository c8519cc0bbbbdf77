"""Many pictures as one."""

import io

import torch
from PIL import Image

from effcli.data.picture_grid import encode_png, grid, save_grid


def test_pictures_stand_side_by_side():
    images = torch.stack([torch.full((1, 2, 3), value, dtype=torch.uint8) for value in (10, 20, 30)])
    out = grid(images, n_columns=2, zoom=1)
    assert out.shape == (3, 6, 8)
    assert out[0, 0].tolist() == [10, 10, 10, 128, 20, 20, 20, 128]
    assert out[0, 3].tolist() == [30, 30, 30, 128, 128, 128, 128, 128]
    assert grid(images[:1], zoom=2, border=0).shape == (3, 4, 6)


def test_a_png_holds_the_same_pixels(tmp_path):
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    save_grid(images, tmp_path / "x.png", zoom=1)
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (12, 12)
    assert Image.open(io.BytesIO(encode_png(grid(images, zoom=1)))).getpixel((0, 0)) == tuple(
        images[0, :, 0, 0].tolist()
    )
