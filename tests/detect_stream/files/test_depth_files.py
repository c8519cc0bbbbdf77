"""Depth as pictures and as a video: what is in them is what the renderer knows, and `eval` says how exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from effcli.core.errors import InputError, UsageError
from effcli.core.runtime import create_runtime
from effcli.data.images import read_grey_samples
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.evaluation.depth_error import DepthErrors
from effcli.detect_stream.evaluation.sequence_evaluation import MeasureSettings, measure
from effcli.detect_stream.files.depth_files import write_depth
from effcli.detect_stream.files.depth_video import DepthVideo
from effcli.detect_stream.pipeline import RunInputs, plan_run, run
from effcli.detect_stream.recipe import StreamDsgnRecipe
from effcli.detect_stream.sources.frame_source import SequenceSource
from effcli.detect_stream.stream.output import StreamOutput
from effcli.detect_stream.stream.run_options import RunOptions
from effcli.detect_stream.stream.stream_detector import FrameImages
from effcli.detect_stream.weights import load_detector, require_depth, save_detector
from tests.detect_stream.files.test_output_files import output

DETECTOR = "builtin:street-tiny"


@pytest.mark.slow
def test_pictures_hold_the_depth_that_eval_measures(tmp_path: Path) -> None:
    drive, detector = Drive(3, 3), load_detector(DETECTOR)
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    recipe = StreamDsgnRecipe.model_validate({"stream": {"clock": "sim"}})
    options = RunOptions(latencies_s=(0.06,), depth=tmp_path / "depth", depth_video=tmp_path / "depth.gif")
    done = run(recipe, RunInputs(SequenceSource(drive), detector), options, runtime, lambda line: None)
    assert done.metrics["files"] == [str(tmp_path / "depth"), str(tmp_path / "depth.gif")]
    files = sorted((tmp_path / "depth").iterdir())
    assert [file.name for file in files] == ["000000.png", "000001.png", "000002.png"]
    errors, n_true = [], 0
    for i, file in enumerate(files):
        found, true = read_grey_samples(file) / 256, drive.depth(i)
        assert found.shape == true.shape
        counts = (true > 2.0) & (true < 40.4)
        n_true += int(counts.sum())
        errors.append(np.abs(found - true)[counts & (found > 0)])
    every = np.concatenate(errors)
    assert 0.6 < len(every) / n_true < 0.95
    assert np.median(every) < 0.2  # the farthest is 40 m away
    measured = measure(detector, [drive], MeasureSettings(depth=True), runtime)["depth"]
    assert measured["median_error_m"] == pytest.approx(float(np.median(every)), abs=1 / 256)
    assert measured["known_percent"] == pytest.approx(100 * len(every) / n_true, abs=0.1)
    assert measured["above_1m_percent"] == pytest.approx(100 * (every > 1).mean(), abs=0.5)
    assert "depth" not in measure(detector, [drive], MeasureSettings(), runtime)


def test_a_picture_is_whole_metres_times_256_and_0_where_unknown(tmp_path: Path) -> None:
    depth = np.array([[0.0, 2.5], [39.998, 400.0]], np.float32)
    write_depth(tmp_path / "a.png", depth)
    assert read_grey_samples(tmp_path / "a.png").tolist() == [[0, 640], [10239, 65535]]
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def shown(frame: int, captured_s: float, grey: int) -> StreamOutput:
    depth = np.full((8, 16), 10.0, np.float32)
    images = FrameImages(np.full((8, 16, 3), grey, np.uint8), depth)
    one = output(frame)
    return replace(one, captured_s=captured_s, detected=replace(one.detected, images=images))


def test_the_video_keeps_the_time_of_frames_that_were_left_out(tmp_path: Path) -> None:
    from PIL import Image

    with DepthVideo(tmp_path / "deep" / "x.gif", 10.0, (2.0, 40.0)) as video:
        for frame in (0, 1, 4):
            video.add("", shown(frame, frame / 10, 50 * frame))
        assert not (tmp_path / "deep" / "x.gif").exists()
    with Image.open(tmp_path / "deep" / "x.gif") as picture:
        durations = []
        for i in range(getattr(picture, "n_frames", 1)):
            picture.seek(i)
            durations.append(picture.info["duration"])
    assert sum(durations) == 500 and durations[1] == 300  # GIF joins pictures that are the same


def test_errors_count_where_truth_is_in_range_and_depth_is_known() -> None:
    errors = DepthErrors((2.0, 40.0))
    errors.add(np.array([10.0, 0.0, 22.0, 5.0, 7.5]), np.array([10.2, 10.0, 20.0, 1.0, 7.0]))
    errors.add(np.array([10.0]), None)
    assert errors.summary() == {
        "pixels": 4,
        "known_percent": 75.0,
        "median_error_m": 0.5,
        "above_1m_percent": 33.33,
    }
    assert DepthErrors((2.0, 40.0)).summary()["median_error_m"] is None


def test_a_detector_that_has_never_learned_depth_is_refused(tmp_path: Path) -> None:
    detector = load_detector(DETECTOR)
    require_depth(detector, DETECTOR)
    head = detector.network.depth_head
    assert head is not None
    head.first.norm.load_state_dict({"bias": torch.zeros(16)}, strict=False)
    save_detector(tmp_path / "d.safetensors", detector.network, "next")
    recipe = StreamDsgnRecipe(weights=str(tmp_path / "d.safetensors"))
    with pytest.raises(InputError, match="not trained to predict depth"):
        plan_run(recipe, RunOptions(depth=tmp_path / "depth", most_frames=3))
    assert plan_run(recipe, RunOptions(most_frames=3)).facts["target"] == "next"


def test_two_outputs_at_one_place_are_refused(tmp_path: Path) -> None:
    options = RunOptions(video=tmp_path / "a.gif", depth_video=tmp_path / "a.gif", most_frames=3)
    with pytest.raises(UsageError, match="--video and --depth-video name the same place"):
        plan_run(StreamDsgnRecipe(), options)
