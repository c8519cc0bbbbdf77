"""Transparency of WebM is beside its frames, and is said to be left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")


def test_webm_with_transparency_says_that_it_is_left_out(tmp_path: Path) -> None:
    from effcli.data.video.source import open_source

    with av.open(str(tmp_path / "a.webm"), "w") as film:
        stream = film.add_stream("libvpx-vp9", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        film.mux(
            stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 4), 128, np.uint8), format="rgba"))
        )
        film.mux(stream.encode())
    assert open_source(tmp_path / "a.webm").facts.notes == ("its transparency is left out",)
