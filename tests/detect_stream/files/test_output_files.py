"""What is written while a stream runs, and pictures that cannot be read twice."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effcli.core.errors import RunError
from effcli.core.runtime import create_runtime
from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects, objects_of
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.files import video as stream_video
from effcli.detect_stream.files.output_files import StreamFiles
from effcli.detect_stream.pipeline import RunInputs, run
from effcli.detect_stream.recipe import StreamDsgnRecipe
from effcli.detect_stream.sources.pipe_source import PipeSource
from effcli.detect_stream.sources.video_source import VideoSource
from effcli.detect_stream.stream.output import StreamOutput
from effcli.detect_stream.stream.run_options import RunOptions
from effcli.detect_stream.stream.stream_detector import DetectedFrame
from effcli.detect_stream.weights import load_detector


def output(frame: int, ahead: int = 1, objects: FrameObjects | None = None) -> StreamOutput:
    return StreamOutput(
        frame,
        frame + ahead,
        0.0,
        0.0,
        0.1,
        0,
        DetectedFrame(objects or no_objects(), np.zeros((0, 2)), 1, {}, ahead=ahead),
        0.0,
        0.1,
        no_objects(),
    )


def test_outputs_are_in_the_files_as_soon_as_they_are_there(tmp_path: Path) -> None:
    with StreamFiles(tmp_path / "out", "cam") as files:
        for i in range(2):
            files.add(json.dumps({"frame": i}), output(i))
            lines = (tmp_path / "out/streaming.jsonl").read_text().splitlines()
            assert [json.loads(line)["frame"] for line in lines] == list(range(i + 1))
            assert [file.name for file in sorted((tmp_path / "out/data").iterdir())] == [
                f"{number + 1:06d}.txt"
                for number in range(i)  # the next frame has not come
            ]
        files.came(5)
        assert (tmp_path / "out/data/000002.txt").is_file()
        assert all(Path(path).exists() for path in files.paths)


def test_results_for_frames_that_do_not_exist_are_not_written(tmp_path: Path) -> None:
    with StreamFiles(tmp_path / "out", "cam", (49, 50, 53)) as files:
        for number in (49, 50, 53):
            files.add("{}", output(number))
        assert [file.name for file in (tmp_path / "out/data").iterdir()] == ["000050.txt"]


@pytest.mark.parametrize("numbers", [tuple(range(7)), None])
def test_of_two_results_for_a_frame_the_later_is_written_and_rows_are_in_order(
    tmp_path: Path, numbers: tuple[int, ...] | None
) -> None:
    cars = [
        objects_of(["Car"], np.array([[10.0 + i, 0, 0, 4, 1.6, 1.5, 0]]), track_ids=np.array([1]))
        for i in range(5)
    ]
    with StreamFiles(tmp_path / "out", "cam", numbers) as files:
        for frame, ahead in ((0, 3), (1, 2), (2, 3), (3, 1), (4, 2)):
            files.add("{}", output(frame, ahead, cars[frame]))
        files.came(6)
    rows = [row.split() for row in (tmp_path / "out/cam.txt").read_text().splitlines()]
    assert [(int(row[0]), float(row[15])) for row in rows] == [(3, 11.0), (4, 13.0), (5, 12.0), (6, 14.0)]
    assert sorted(file.name for file in (tmp_path / "out/data").iterdir()) == [
        f"{number:06d}.txt" for number in (3, 4, 5, 6)
    ]


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(RunError, match="cannot be made"):
        StreamFiles(tmp_path / "out", "cam")


@pytest.mark.slow
def test_no_more_than_so_many_pictures_of_a_pipe_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drive = Drive(7, n_frames=3)
    data = b"".join(
        b'{"w": 416, "h": 128}\n' + drive.frame(i).left.tobytes() + drive.frame(i).right.tobytes()
        for i in range(3)
    )
    monkeypatch.setattr(stream_video, "MOST_BYTES", 416 * 128 * 3 + 1)
    options = RunOptions(video=tmp_path / "play.gif")
    source = PipeSource(io.BytesIO(data), drive.calibration, None)
    with caplog.at_level(logging.WARNING, logger="effcli"):
        result = run(
            StreamDsgnRecipe(),
            RunInputs(source, load_detector("builtin:street-tiny")),
            options,
            create_runtime(device="cpu", threads=1),
            lambda line: None,
        )
    assert result.metrics["frames"] == 3
    assert "the video has only the first" in caplog.text
    with Image.open(tmp_path / "play.gif") as picture:
        assert getattr(picture, "n_frames", 1) == 2


def test_a_video_that_is_damaged_ends_there(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from effcli.data.moving_pictures import write_video

    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(8)]
    write_video(tmp_path / "left.mp4", pictures, 10)
    content = bytearray((tmp_path / "left.mp4").read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 4] = bytes(len(content) // 4)
    (tmp_path / "right.mp4").write_bytes(content)
    source = VideoSource(tmp_path / "left.mp4", tmp_path / "right.mp4", Drive(7).calibration, None)
    arrivals = list(source.frames())
    assert [one.number for one in arrivals] == list(range(len(arrivals)))
    assert arrivals[0].frame is not None and arrivals[-1].frame is None
    assert "cannot be read any further" in (arrivals[-1].damage or "")
