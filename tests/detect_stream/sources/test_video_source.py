"""Videos of one or two eyes, and a live stream that is served on the loopback address."""

from __future__ import annotations

import io
import socket
import struct
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effcli.core.errors import InputError, UsageError
from effcli.data.moving_pictures import write_timed_video, write_video
from effcli.detect_stream.data.stereo_calibration import write_calibration
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.sources.open_source import SourceName, open_source

av = pytest.importorskip("av")
N_FRAMES = 6


def picture(i: int) -> np.ndarray:
    """Both eyes, [64, 128, 3], left and right of other grey."""
    return np.repeat(np.repeat(np.array([[40 + 10 * i, 180]], np.uint8), 64, 1), 64, 0)[..., None].repeat(
        3, 2
    )


@pytest.fixture
def calibration(tmp_path: Path) -> str:
    write_calibration(tmp_path / "calib.txt", Drive(1).calibration)
    return str(tmp_path / "calib.txt")


def opened(*names: object, calibration: str, side_by_side: bool = False) -> list:
    left, right = map(str, names) if len(names) == 2 else (str(names[0]), None)
    name = SourceName(left, right, calibration, side_by_side=side_by_side)
    return list(open_source(name, io.BytesIO()).frames())


def test_one_video_with_both_eyes(tmp_path: Path, calibration: str) -> None:
    file = tmp_path / "both.mp4"
    write_video(file, [Image.fromarray(picture(i)) for i in range(N_FRAMES)], 20)
    with pytest.raises(UsageError, match="is one video"):
        opened(file, calibration=calibration)
    arrivals = opened(file, calibration=calibration, side_by_side=True)
    assert len(arrivals) == N_FRAMES
    assert arrivals[2].frame.left.shape == arrivals[2].frame.right.shape == (64, 64, 3)
    assert abs(arrivals[2].frame.left.mean() - 60) < 3 and abs(arrivals[2].frame.right.mean() - 180) < 3


def test_a_longer_video_has_frames_that_cannot_be_read(tmp_path: Path, calibration: str) -> None:
    for name, n in (("left", N_FRAMES), ("right", N_FRAMES - 2)):
        write_video(tmp_path / f"{name}.mp4", [Image.fromarray(picture(i)) for i in range(n)], 20)
    files = tmp_path / "left.mp4", tmp_path / "right.mp4"
    arrivals = opened(*files, calibration=calibration)
    assert [one.damage for one in arrivals] == [None] * 4 + ["the right video has ended before"] * 2


def mpegts(fps: int) -> bytes:
    data = io.BytesIO()
    with av.open(data, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        stream.time_base = Fraction(1, fps)
        for i in range(N_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        container.mux(stream.encode())
    return data.getvalue()


def serve(data: bytes) -> str:
    """The address of a server that sends some bytes to the first who connects."""
    server = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        connection, _ = server.accept()
        with connection, server:
            connection.sendall(data)

    threading.Thread(target=run, daemon=True).start()
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_a_live_stream_has_the_moments_of_its_sender(calibration: str) -> None:
    address = serve(mpegts(25))
    arrivals = opened(address, calibration=calibration, side_by_side=True)
    assert len(arrivals) >= N_FRAMES - 1
    assert np.diff([one.time_s for one in arrivals]) == pytest.approx(1 / 25, abs=1e-3)
    assert abs(arrivals[0].frame.left.mean() - 40) < 5 and abs(arrivals[0].frame.right.mean() - 180) < 5
    assert arrivals[-1].interval_s == pytest.approx(1 / 25, abs=1e-3)


def test_a_camera_is_refused_by_name_where_it_cannot_be_read(calibration: str) -> None:
    with pytest.raises(UsageError, match="both views in one picture"):
        opened("/dev/video0", calibration=calibration)
    with pytest.raises(InputError, match="/dev/video77: cannot be read as a video"):
        opened("/dev/video77", calibration=calibration, side_by_side=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(InputError, match="cannot be read as a video"):
        opened(f"tcp://127.0.0.1:{port}", calibration=calibration, side_by_side=True)


def test_two_videos_of_different_rates_are_refused(tmp_path: Path, calibration: str) -> None:
    for name, rate in (("left", 20), ("right", 10), ("other", 20)):
        write_video(tmp_path / f"{name}.mp4", [Image.fromarray(picture(i)) for i in range(N_FRAMES)], rate)
    with pytest.raises(InputError, match=r"right\.mp4: has 10 frames per second, the left video 20"):
        opened(tmp_path / "left.mp4", tmp_path / "right.mp4", calibration=calibration)
    assert len(opened(tmp_path / "left.mp4", tmp_path / "other.mp4", calibration=calibration)) == N_FRAMES


def test_frames_have_the_moments_of_the_video(tmp_path: Path, calibration: str) -> None:
    moments_s = [0, 0.1, 0.2, 1.2, 1.3, 1.4]
    pictures = [Image.fromarray(picture(i)) for i in range(N_FRAMES)]
    write_timed_video(tmp_path / "both.mp4", zip(pictures, moments_s, strict=True), 10)
    arrivals = opened(tmp_path / "both.mp4", calibration=calibration, side_by_side=True)
    assert [one.time_s for one in arrivals] == pytest.approx(moments_s, abs=1e-3)
    name = SourceName(str(tmp_path / "both.mp4"), None, calibration, fps=5, side_by_side=True)
    assert [one.due_s(5) for one in open_source(name, io.BytesIO()).frames()] == [0, 0.2, 0.4, 0.6, 0.8, 1]


def test_frames_whose_moments_drift_apart_do_not_belong_together(tmp_path: Path, calibration: str) -> None:
    pictures = [Image.fromarray(picture(i)) for i in range(N_FRAMES)]
    for name, moments_s in (("left", [0, 1, 2, 3, 4, 5]), ("right", [0, 1, 2, 4, 4.1, 5])):
        timed = ((one, 0.1 * moment) for one, moment in zip(pictures, moments_s, strict=True))
        write_timed_video(tmp_path / f"{name}.mp4", timed, 10)
    arrivals = opened(tmp_path / "left.mp4", tmp_path / "right.mp4", calibration=calibration)
    late = "left and right were taken 100 ms apart"
    assert [one.damage for one in arrivals] == [None, None, None, late, None, None]


def test_a_video_that_players_turn_is_refused(tmp_path: Path, calibration: str) -> None:
    file = tmp_path / "both.mp4"
    write_video(file, [Image.fromarray(picture(i)) for i in range(N_FRAMES)], 20)
    data = file.read_bytes()
    upright, upside_down = (struct.pack(">5i", one << 16, 0, 0, 0, one << 16) for one in (1, -1))
    start = data.index(upright, data.index(b"tkhd"))
    file.write_bytes(data[:start] + upside_down + data[start + 20 :])
    with pytest.raises(InputError, match="is turned by 180 degrees by its metadata"):
        opened(file, calibration=calibration, side_by_side=True)


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_a_video_that_is_cut_off_says_so(ending: str, tmp_path: Path, calibration: str) -> None:
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    options = {"movflags": "faststart"} if ending == "mp4" else {}
    with av.open(str(whole), "w", options=options) as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for i in range(40):
            noise = np.random.default_rng(i).integers(0, 255, (64, 128, 3), dtype=np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        film.mux(stream.encode())
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    arrivals = opened(whole, calibration=calibration, side_by_side=True)
    assert [one.damage for one in arrivals] == [None] * 40
    last = opened(cut, calibration=calibration, side_by_side=True)[-1]
    assert last.frame is None
    assert last.damage is not None and ("of 4.0 s" in last.damage or "any further" in last.damage)
