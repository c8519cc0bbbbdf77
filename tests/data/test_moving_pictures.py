"""Moving pictures keep the moments of their pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from effcli.data.moving_pictures import write_timed_video, write_video

av = pytest.importorskip("av")

MOMENTS_S = [1.0, 1.04, 3.0, 5.0]


def _pictures() -> list[Image.Image]:
    return [Image.new("RGB", (32, 32), (50 * i, 0, 0)) for i in range(4)]


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_pictures_of_a_varying_rate_keep_their_moments(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"film.{ending}"
    write_timed_video(file, zip(_pictures(), MOMENTS_S, strict=True), 10)
    with av.open(str(file)) as film:
        assert [round(frame.time, 3) for frame in film.decode(video=0)] == [0, 0.04, 2, 4]
        assert film.duration == 4_100_000


def test_pictures_of_a_constant_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", _pictures(), 10)
    with av.open(str(tmp_path / "film.mp4")) as film:
        assert film.streams.video[0].average_rate == 10
        assert [round(frame.time, 3) for frame in film.decode(video=0)] == [0, 0.1, 0.2, 0.3]
