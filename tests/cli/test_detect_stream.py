"""`effcli detect-stream` from the outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effcli.detect_stream.weights import load_detector
from tests.cli.effcli_process import Finished, effcli

pytestmark = pytest.mark.slow

SIM = [
    "--clock",
    "sim",
    "--simulate-latency",
    "60",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--precision",
    "fp32",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a written drive."""
    folder = tmp_path_factory.mktemp("stream")
    done = effcli("detect-stream", "synth", "-o", "kitti", "-n", "2", "--frames", "6", cwd=folder)
    assert (done.code, done.lines) == (0, ["kitti"]), done.stderr
    return folder


@pytest.fixture
def pair(place: Path, tmp_path: Path) -> Path:
    """left/, right/ and calib.txt."""
    base = place / "kitti" / "training"
    shutil.copytree(base / "image_02" / "0000", tmp_path / "left")
    shutil.copytree(base / "image_03" / "0000", tmp_path / "right")
    shutil.copy(base / "calib" / "0000.txt", tmp_path / "calib.txt")
    return tmp_path


def parsed(done: Finished) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    *outputs, summary = [json.loads(line) for line in done.lines]
    return outputs, summary


def refused(place: Path, *words: str | Path) -> str:
    done = effcli("detect-stream", *words, cwd=place)
    assert (done.code, done.lines) == (2, []), done.stderr
    return done.stderr


def test_a_sequence_gives_lines_and_a_summary(place: Path) -> None:
    done = effcli("detect-stream", "kitti/0000", *SIM, "-o", "out", cwd=place)
    assert done.code == 0, done.stderr
    outputs, summary = parsed(done)
    assert [one["frame"] for one in outputs] == list(range(6))
    assert outputs[2].keys() >= {
        "seq",
        "target_frame",
        "t_capture",
        "t_finish",
        "latency_ms",
        "age_ms",
        "objects",
    }
    assert [one["history"] for one in outputs[:2]] == [1, 2]
    assert all(thing["id"] >= 0 for one in outputs for thing in one["objects"])
    metrics = summary["metrics"]
    assert metrics.keys() >= {
        "frames",
        "processed",
        "dropped",
        "latency_ms",
        "age_ms",
        "deadline_misses",
        "sap",
        "ap",
    }
    assert (metrics["frames"], metrics["processed"], metrics["dropped"]) == (6, 6, 0)
    assert metrics["latency_ms"]["p50"] == pytest.approx(60)
    assert [json.loads(line) for line in (place / "out/streaming.jsonl").read_text().splitlines()] == outputs
    assert (place / "out/data/000003.txt").is_file() and (place / "out/0000.txt").is_file()
    assert "latency 60 ms" in done.stderr and "sap" in done.stderr
    again = effcli("detect-stream", "kitti/0000", *SIM, cwd=place)
    assert again.lines[:-1] == done.lines[:-1]  # a virtual clock with given latencies is exact


def test_latencies_from_a_file_and_drops(place: Path) -> None:
    (place / "latencies.txt").write_text("150\n250\n")
    words = ["kitti/0000", *SIM[:2], "--simulate-latency", "latencies.txt", "--threads", "1"]
    done = effcli("detect-stream", *words, cwd=place)
    outputs, summary = parsed(done)
    assert "older than one frame: --horizon auto" in done.stderr
    assert "--horizon" not in effcli("detect-stream", *words, "--horizon", "auto", cwd=place).stderr
    assert [one["latency_ms"] for one in outputs[:3]] == [150, 250, 150]
    assert summary["metrics"]["dropped"] > 0
    assert summary["metrics"]["processed"] + summary["metrics"]["dropped"] == 6


def test_two_folders_without_labels_say_so(pair: Path) -> None:
    done = effcli("detect-stream", ".", *SIM, cwd=pair)
    assert done.code == 0, done.stderr
    assert "sap" not in parsed(done)[1]["metrics"]
    assert "no labels" in done.stderr
    named = effcli("detect-stream", "left", "right", "--calib", "calib.txt", *SIM, cwd=pair)
    assert [one["objects"] for one in parsed(named)[0]] == [one["objects"] for one in parsed(done)[0]]


def test_boxes_for_another_moment(place: Path) -> None:
    plain, _ = parsed(effcli("detect-stream", "kitti/0000", *SIM, cwd=place))
    later, _ = parsed(effcli("detect-stream", "kitti/0000", *SIM, "--horizon", "200", cwd=place))
    auto, _ = parsed(effcli("detect-stream", "kitti/0000", *SIM, "--horizon", "auto", cwd=place))
    assert auto[3]["t_target"] == pytest.approx(plain[3]["t_capture"] + 0.06)
    assert later[3]["t_target"] == pytest.approx(plain[3]["t_target"] + 0.1)
    for one, other in zip(plain[3]["objects"], later[3]["objects"], strict=True):
        expected = np.array(one["xyz"])[[0, 2]] + 0.1 * np.array(one["velocity"])
        assert np.array(other["xyz"])[[0, 2]] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("ending", ["gif", "webp", "mp4"])
def test_a_video_has_every_frame(place: Path, tmp_path: Path, ending: str) -> None:
    if ending == "mp4":
        pytest.importorskip("av")
    file = tmp_path / f"play.{ending}"
    done = effcli("detect-stream", "kitti/0000", *SIM, "--video", file, cwd=place)
    assert done.code == 0, done.stderr
    if ending != "mp4":
        with Image.open(file) as picture:
            assert getattr(picture, "n_frames", 1) == 6
            assert picture.width > 832
        return
    import av

    with av.open(str(file)) as container:
        assert len(list(container.decode(video=0))) == 6
    calib = ["--calib", "kitti/training/calib/0000.txt"]
    assert "left and right are the same picture" in refused(place, file, file, *calib, *SIM)
    both = effcli("detect-stream", file, "--side-by-side", *calib, *SIM, cwd=place)
    assert both.code == 0, both.stderr
    assert parsed(both)[1]["metrics"]["frames"] == 6


def stream_of(pair: Path, *, raw: bool) -> bytes:
    parts = []
    for left in sorted((pair / "left").iterdir())[:4]:
        files = (left, pair / "right" / left.name)
        if raw:
            pictures = [np.asarray(Image.open(one).convert("RGB")) for one in files]
            parts.append(b'{"w": 416, "h": 128}\n' + pictures[0].tobytes() + pictures[1].tobytes())
        else:
            data = [one.read_bytes() for one in files]
            header = json.dumps({"left_bytes": len(data[0]), "right_bytes": len(data[1])})
            parts.append(header.encode() + b"\n" + data[0] + data[1])
    return b"".join(parts)


def piped(pair: Path, data: bytes) -> Finished:
    return effcli("detect-stream", "-", "--calib", "calib.txt", "--threads", "1", cwd=pair, stdin=data)


@pytest.mark.parametrize("raw", [True, False])
def test_a_pipe(pair: Path, raw: bool) -> None:
    done = piped(pair, stream_of(pair, raw=raw))
    assert done.code == 0, done.stderr
    assert parsed(done)[1]["metrics"]["frames"] == 4  # some may have been overtaken


def test_a_pipe_that_is_closed_early_or_holds_rubbish(pair: Path) -> None:
    data = stream_of(pair, raw=True)
    done = piped(pair, data[: len(data) - 1000])
    assert done.code == 3, done.stderr
    assert "frame 3 is left out: the pipe ended in the middle of it" in done.stderr
    assert parsed(done)[1]["metrics"]["damaged"] == 1
    for wrong, message in (
        (b"", "no frame can be read"),
        (b"rubbish\n", "not JSON"),
        (b'{"w": 0}\n', "neither w"),
    ):
        done = piped(pair, wrong)
        assert done.code == 2 and message in done.stderr, done.stderr


def test_a_truncated_picture_is_left_out(pair: Path) -> None:
    file = pair / "left" / "000003.png"
    file.write_bytes(file.read_bytes()[:500])
    done = effcli("detect-stream", ".", *SIM, cwd=pair)
    assert done.code == 3, done.stderr  # done in part
    outputs, summary = parsed(done)
    assert [one["frame"] for one in outputs] == [0, 1, 2, 4, 5]
    assert summary["metrics"]["damaged"] == 1
    assert "frame 3 is left out" in done.stderr


def test_a_missing_side_costs_its_frame(pair: Path) -> None:
    (pair / "right" / "000005.png").unlink()
    done = effcli("detect-stream", ".", *SIM, cwd=pair)
    assert done.code == 3, done.stderr
    assert [one["frame"] for one in parsed(done)[0]] == [0, 1, 2, 3, 4]
    assert "left has 6 pictures and right 5" in done.stderr
    assert "builtin:street-tiny has learned from synthetic drives only" in done.stderr


def test_another_scene_forgets_the_last_frame(pair: Path) -> None:
    for eye in ("left", "right"):
        file = pair / eye / "000003.png"
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    outputs, summary = parsed(effcli("detect-stream", ".", *SIM, cwd=pair))
    assert summary["metrics"]["scene_changes"] == 2  # there and back
    assert [one["history"] for one in outputs] == [1, 2, 2, 1, 1, 2]


def test_a_pair_that_is_not_rectified_is_noticed(pair: Path) -> None:
    for file in (pair / "right").iterdir():
        Image.fromarray(np.roll(np.asarray(Image.open(file)), 3, 0)).save(file)
    assert "do not look rectified" in effcli("detect-stream", ".", *SIM, cwd=pair).stderr


def test_bad_input(pair: Path, place: Path) -> None:
    assert "no such folder" in refused(place, "nowhere")
    assert "holds 2 sequences" in refused(place, "kitti")
    assert "needs a calibration" in refused(pair, "left", "right")
    assert "has the pictures of one camera" in refused(pair, "left")
    assert "name a .rrd file" in refused(pair, ".", "--log", "drive.txt")
    assert "no preset" in refused(place, "synth", "-o", "x", "--preset", "no")
    assert "PRESET" in refused(place, "synthetic:0")
    assert "live sources need --clock wall" in refused(pair, "-", "--calib", "calib.txt", "--clock", "sim")
    assert "virtual clock only" in refused(pair, ".", "--simulate-latency", "60")
    assert "expected milliseconds" in refused(pair, ".", "--clock", "sim", "--simulate-latency", "soon")
    assert "unknown file extension" in refused(pair, ".", "--video", "play.txt")
    assert "not a detector" in refused(pair, ".", "-w", "nowhere")
    (pair / "calib.txt").write_text("P2: 1 2\n")
    assert "P2 has 2 numbers" in refused(pair, ".")
    shutil.copy(place / "kitti/training/calib/0000.txt", pair / "calib.txt")


def test_an_old_option_names_the_new_one(place: Path) -> None:
    assert "--paper is now called --pairing asap" in refused(place, "eval", "--data", "kitti", "--paper")


def test_a_network_that_cannot_run_is_refused_before_anything_is_written(place: Path) -> None:
    words = ["train", "--data", "kitti", "-s", "network.size=full", "-s", "network.quirks=false", "-o", "no"]
    assert "network.quirks: size full has 10 layers" in refused(place, *words)
    assert not (place / "no").exists()


def test_training_on_a_folder_and_measuring(place: Path, tmp_path: Path) -> None:
    words = [
        "--data",
        "kitti",
        "-s",
        "data.split=all",
        "--steps",
        "2",
        "-s",
        "train.batch_size=1",
        "--threads",
        "1",
    ]
    words += ["-s", "eval.data=kitti", "-s", "seed=3"]
    done = effcli("detect-stream", "train", *words, "-o", tmp_path / "run", cwd=place)
    assert done.code == 0, done.stderr
    metrics = json.loads((tmp_path / "run/result.json").read_text())["metrics"]
    assert metrics["parameters"] == 349_568
    assert metrics["ap"].keys() == {"car", "pedestrian", "cyclist", "all"}
    assert (tmp_path / "run/pictures/detections.png").is_file()
    other = effcli("detect-stream", "train", *words, "-o", tmp_path / "again", cwd=place)
    assert other.code == 0, other.stderr
    weights = [(tmp_path / name / "model/streamdsgn.safetensors").read_bytes() for name in ("run", "again")]
    assert weights[0] == weights[1]
    done = effcli(
        "detect-stream",
        "eval",
        "-w",
        tmp_path / "run",
        "--data",
        "kitti",
        "--pairing",
        "asap",
        "--json",
        cwd=place,
    )
    assert done.code == 0, done.stderr
    assert done.json["metrics"]["frames"] == 12


def test_depth_and_tracks_are_measured_where_asked_for(place: Path) -> None:
    words = ["--data", "kitti", "--frames", "0001:0-3", "--threads", "1", "--depth", "--tracking"]
    done = effcli("detect-stream", "eval", *words, cwd=place)
    assert done.code == 0, done.stderr
    depth, *tracking = done.lines[-3:]
    assert depth.startswith("depth: median error 0.") and " % above 1 m, known for " in depth
    assert [line.split(":")[0] for line in tracking] == ["tracking, car", "tracking, pedestrian"]
    assert all("no labels" in line or ("HOTA" in line and "MOTA" in line) for line in tracking)


def test_depth_alone_is_learned_first(place: Path, tmp_path: Path) -> None:
    words = ["--data", "kitti", "-s", "data.split=all", "-s", "eval.data=null", "-s", "train.batch_size=1"]
    words += ["--threads", "1", "--steps", "1", "-s", "train.learning_rate=1e-12"]
    given = load_detector("builtin:street-tiny").network
    init = ["-s", "train.init=builtin:street-tiny"]
    done = effcli(
        "detect-stream", "train", *words, *init, "-s", "train.depth_steps=2", "-o", tmp_path / "d", cwd=place
    )
    assert done.code == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "d/metrics.jsonl").read_text().splitlines()]
    stages = {line["stage"]: line for line in lines}
    assert set(stages) == {"depth", "train"} and "score" not in stages["depth"]
    assert stages["depth"]["loss"] == pytest.approx(stages["depth"]["depth"])
    found = load_detector(str(tmp_path / "d")).network
    moved = {  # statistics tell who saw pictures twice more
        name.split(".")[0]: int(value) - int(dict(given.named_buffers())[name])
        for name, value in found.named_buffers()
        if name.endswith("num_batches_tracked")
    }
    assert moved["image_network"] == moved["space"] == 3 and moved["bev"] == moved["head"] == 1


def test_fine_tuning_says_what_the_detector_was_before(place: Path, tmp_path: Path) -> None:
    words = ["--data", "kitti", "-s", "data.frames=0000:0-3", "--steps", "1", "--threads", "1"]
    words += ["-s", "eval.data=kitti", "-s", "eval.frames=0001:0-3", "--precision", "fp32"]
    done = effcli("detect-stream", "train", "-r", "fine-tune", *words, "-o", tmp_path / "run", cwd=place)
    assert done.code == 0, done.stderr
    metrics = json.loads((tmp_path / "run/result.json").read_text())["metrics"]
    assert metrics["frames"] == 4
    words = ["--data", "kitti", "--frames", "0001:0-3", "--json", "--threads", "1"]
    words += ["--simulate-latency", "60", "--precision", "fp32"]
    shipped = effcli("detect-stream", "eval", *words, cwd=place)
    assert shipped.code == 0, shipped.stderr
    assert metrics["initial"] == {name: shipped.json["metrics"][name] for name in ("ap", "sap")}
    assert "0001 has frames 0 to 5, not 0001:3-6" in refused(
        place, "eval", "--data", "kitti", "--frames", "0001:3-6"
    )


def test_several_horizons_are_learned_measured_and_chosen(place: Path, tmp_path: Path) -> None:
    words = ["--data", "kitti", "-s", "data.split=all", "-s", "eval.data=null", "-s", "train.batch_size=1"]
    words += ["--threads", "1", "--steps", "1", "-s", "train.frozen_stereo=builtin:street-tiny"]
    words += ["-s", "train.init=builtin:street-tiny", "-s", "loss.horizons=[1,2]"]
    run = tmp_path / "run"
    done = effcli("detect-stream", "train", *words, "-o", run, cwd=place)
    assert done.code == 0, done.stderr
    words = ["--data", "kitti", "--frames", "0000:0-4", "--json", "--threads", "1"]
    metrics = effcli("detect-stream", "eval", "-w", run, *words, cwd=place).json["metrics"]
    assert metrics["horizons"].keys() == {"1", "2"} and metrics["ap_ahead"].keys() == {"1", "2", "3"}
    late = [*SIM[:3], "150", *SIM[4:], "-w", run]
    outputs, summary = parsed(effcli("detect-stream", "kitti/0000", *late, cwd=place))
    assert [(one["frame"], one["target_frame"]) for one in outputs] == [
        (0, 1),
        (1, 3),
        (3, 5),
        (4, 6),
        (5, 7),
    ]
    assert all(one["t_target"] == pytest.approx(one["target_frame"] / 10) for one in outputs)
    assert summary["metrics"]["horizons"] == {"1": 1, "2": 4}


def test_only_what_follows_the_map_is_learned(place: Path, tmp_path: Path) -> None:
    words = ["--data", "kitti", "-s", "data.split=all", "-s", "eval.data=null", "-s", "train.batch_size=1"]
    words += ["--threads", "1", "--steps", "2", "-s", "train.frozen_stereo=builtin:street-tiny"]
    given = load_detector("builtin:street-tiny").network
    for form in (
        ["train.init=builtin:street-tiny"],
        ["network.fusion=none", "network.bev=hourglass", "loss.motion=0"],
    ):
        settings = [word for one in form for word in ("-s", one)]
        done = effcli("detect-stream", "train", *words, *settings, "-o", tmp_path / form[0], cwd=place)
        assert done.code == 0, done.stderr
        found = load_detector(str(tmp_path / form[0])).network
        for name, kept in given.stereo_parts().state_dict().items():
            torch.testing.assert_close(found.stereo_parts().state_dict()[name], kept, rtol=0, atol=0)
        assert not torch.equal(found.head.scores.weight, given.head.scores.weight)
    stderr = refused(place, "train", *words, "-s", "network.size=base", "-o", tmp_path / "base")
    assert "its parts up to the bird's-eye-view map are not those of this network" in stderr
