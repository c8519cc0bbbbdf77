"""The recording for the rerun viewer, read back by rerun's own reader."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effcli.core.errors import UsageError
from effcli.core.runtime import create_runtime
from effcli.detect_stream.data.frame_objects import FrameObjects, objects_of
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.files.background import Background
from effcli.detect_stream.files.rerun_log import RerunLog
from effcli.detect_stream.pipeline import RunInputs, plan_run, run
from effcli.detect_stream.recipe import StreamDsgnRecipe
from effcli.detect_stream.sources.frame_source import SequenceSource
from effcli.detect_stream.stream.output import StreamOutput
from effcli.detect_stream.stream.run_options import RunOptions
from effcli.detect_stream.stream.stream_detector import FrameImages
from effcli.detect_stream.weights import load_detector
from tests.detect_stream.files.test_output_files import output

pytest.importorskip("rerun")

Rows = dict[str, list[dict[str, Any]]]


def rows_of(file: Path) -> Rows:
    """Rows by entity, each a dictionary of columns."""
    from rerun.chunk import RrdReader

    found: Rows = defaultdict(list)
    for chunk in RrdReader(file).stream():
        found[str(chunk.entity_path).strip("/")] += chunk.to_record_batch().to_pylist()
    return found


def column(row: dict[str, Any], word: str) -> Any:
    (name,) = [one for one in row if one.endswith(word)]
    return row[name]


def seen(frame: int, objects: FrameObjects) -> StreamOutput:
    images = FrameImages(np.full((8, 16, 3), 90, np.uint8), np.full((8, 16), 10.0, np.float32))
    one = output(frame)
    velocities = np.zeros((len(objects), 2))
    detected = replace(one.detected, objects=objects, velocities=velocities, images=images)
    return replace(one, captured_s=frame / 10, target_s=frame / 10 + 0.1, detected=detected, objects=objects)


def cars(*ids: int) -> FrameObjects:
    boxes = np.array([[10.0, 2.0, -1.0, 4.0, 1.6, 1.5, 0.5]] * len(ids)).reshape(-1, 7)
    return objects_of(["Car"] * len(ids), boxes, track_ids=np.array(ids, int))


def test_everything_is_on_the_time_lines(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "drive.rrd"
    background = Background()
    with RerunLog(file, "cam", Drive(3, 3).calibration, (8, 16), background) as log, background:
        for frame, objects in ((5, cars(4, -1)), (6, cars(4)), (7, cars())):
            log.add("", seen(frame, objects))
        assert not file.exists()
    rows = rows_of(file)
    names = ("rig/left/image", "rig/left/depth", "rig/boxes", "rig/left/boxes", "rig/tracks", "output/age_ms")
    assert set(names) <= rows.keys()
    assert [row["frame"] for row in rows["rig/left/depth"]] == [5, 6, 7]
    assert [row["frame"] for row in rows["rig/boxes"]] == [6, 7, 8]  # the moment that they are for
    first, second = rows["rig/boxes"][:2]
    assert column(first, ":labels") == ["Car 4, 1.00", "Car, 1.00"]
    np.testing.assert_allclose(column(second, ":centers"), [[-2, 1, 10]], atol=1e-6)
    np.testing.assert_allclose(column(second, ":half_sizes"), [[2, 0.75, 0.8]], atol=1e-6)
    assert [len(column(row, ":strips")) for row in rows["rig/tracks"]] == [1, 1, 0]
    assert len(column(rows["rig/tracks"][1], ":strips")[0]) == 2
    assert column(rows["output/age_ms"][2], ":scalars") == pytest.approx([-600])  # made up: done after 0.1 s


def test_a_failure_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    background = Background()
    with (
        pytest.raises(RuntimeError, match="later"),
        RerunLog(tmp_path / "a.rrd", "cam", Drive(3, 3).calibration, (8, 16), background) as log,
        background,
    ):
        log.add("", seen(5, cars(4)))
        raise RuntimeError("later")
    assert list(tmp_path.iterdir()) == []


def test_other_names_and_a_missing_package_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="unknown file extension"):
        plan_run(StreamDsgnRecipe(), RunOptions(log=tmp_path / "a.txt", most_frames=3))
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(UsageError, match="needs rerun-sdk") as caught:
        plan_run(StreamDsgnRecipe(), RunOptions(log=tmp_path / "a.rrd", most_frames=3))
    assert caught.value.hint == "pip install 'effcli[rerun]'"


@pytest.mark.slow
def test_a_run_logs_what_it_publishes(tmp_path: Path) -> None:
    lines: list[str] = []
    recipe = StreamDsgnRecipe.model_validate({"stream": {"clock": "sim"}})
    options = RunOptions(latencies_s=(0.06,), log=tmp_path / "drive.rrd")
    source = SequenceSource(Drive(3, 3))
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    done = run(
        recipe, RunInputs(source, load_detector("builtin:street-tiny")), options, runtime, lines.append
    )
    assert done.metrics["files"] == [str(tmp_path / "drive.rrd")]
    rows = rows_of(tmp_path / "drive.rrd")
    assert len(rows["rig/left/image"]) == len(rows["rig/left/depth"]) == len(lines) == 3
    ages = [column(row, ":scalars")[0] for row in rows["output/age_ms"]]
    assert ages == pytest.approx([60, 60, 60])
