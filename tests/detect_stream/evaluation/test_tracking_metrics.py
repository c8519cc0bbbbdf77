"""HOTA, MOTA and IDF1 where they are known by hand, and files of ours before TrackEval's reader of KITTI."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effcli.core.errors import InputError, UsageError
from effcli.core.runtime import create_runtime
from effcli.detect_stream.data.frame_objects import FrameObjects, no_objects, objects_of
from effcli.detect_stream.data.kitti_labels import tracking_lines
from effcli.detect_stream.data.synthetic_drives import Drive
from effcli.detect_stream.evaluation.sequence_evaluation import MeasureSettings, measure
from effcli.detect_stream.evaluation.tracking_metrics import (
    TrackedSequence,
    require_trackeval,
    tracking_metrics,
)
from effcli.detect_stream.files.output_files import StreamFiles
from effcli.detect_stream.pipeline import RunInputs, run
from effcli.detect_stream.recipe import StreamDsgnRecipe
from effcli.detect_stream.sources.frame_source import SequenceSource
from effcli.detect_stream.stream.run_options import RunOptions
from effcli.detect_stream.weights import load_detector
from tests.detect_stream.files.test_output_files import output

pytest.importorskip("trackeval")


def cars(*ids: int) -> FrameObjects:
    """Cars side by side, each with a number."""
    boxes = np.array([[20.0, 6.0 * i, 0, 4, 1.6, 1.5, 0.0] for i in range(len(ids))]).reshape(-1, 7)
    seen = np.array([[100.0 * i, 50, 100 * i + 60, 100] for i in range(len(ids))]).reshape(-1, 4)
    return objects_of(["Car"] * len(ids), boxes, image_boxes=seen, track_ids=np.array(ids, int))


def test_what_is_exact_has_100_and_what_is_swapped_has_half_of_it() -> None:
    true = {i: cars(3, 7) for i in range(10)}
    same = tracking_metrics([TrackedSequence(true, true)])
    assert same["car"] == {
        "hota": 100.0,
        "deta": 100.0,
        "assa": 100.0,
        "mota": 100.0,
        "idf1": 100.0,
        "id_switches": 0,
    }
    assert same["pedestrian"] is None
    swapped = {i: cars(3, 7) if i < 5 else cars(7, 3) for i in range(10)}
    found = tracking_metrics([TrackedSequence(swapped, true)])["car"]
    assert found is not None
    assert (found["deta"], found["idf1"], found["id_switches"]) == (100.0, 50.0, 2)
    assert found["mota"] == pytest.approx(90.0)  # 2 of 20
    assert found["assa"] == pytest.approx(100 / 3, abs=0.01)  # each pair 5 of 15
    assert found["hota"] == pytest.approx(10 * np.sqrt(100 / 3), abs=0.01)


def test_frames_without_an_output_are_missed_and_other_classes_do_not_count() -> None:
    true = {i: cars(3) for i in range(4)}
    true[0] = replace(true[0], kinds=("Tractor",))
    found = {i: cars(5) for i in range(2, 4)}
    measured = tracking_metrics([TrackedSequence(found, true), TrackedSequence({}, {})])["car"]
    assert measured is not None and measured["mota"] == pytest.approx(200 / 3, abs=0.01)
    assert measured["id_switches"] == 0


def test_labels_that_name_a_track_twice_in_a_frame_are_refused() -> None:
    with pytest.raises(InputError, match="same ID more than once"):
        tracking_metrics([TrackedSequence({}, {0: cars(3, 3)})])


def test_without_trackeval_the_hint_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackeval", None)
    with pytest.raises(UsageError, match="needs TrackEval") as caught:
        require_trackeval()
    assert caught.value.hint == "pip install 'effcli[tracking]'"


def test_results_of_no_track_are_not_in_the_tracking_file(tmp_path: Path) -> None:
    one = output(0)
    with StreamFiles(tmp_path / "out", "cam", (0, 1)) as files:
        files.add("{}", replace(one, detected=replace(one.detected, objects=cars(4, -1))))
    rows = (tmp_path / "out/cam.txt").read_text().splitlines()
    assert [row.split()[:2] for row in rows] == [["1", "4"]]
    assert len((tmp_path / "out/data/000001.txt").read_text().splitlines()) == 2


def devkit_folders(place: Path, drive: Drive) -> None:
    labels = [row for i in range(len(drive)) for row in tracking_lines(i, drive.objects(i))]
    (place / "true/label_02").mkdir(parents=True)
    (place / "true/label_02" / f"{drive.name}.txt").write_text("".join(f"{row}\n" for row in labels))
    seqmap = f"{drive.name} empty 000000 {len(drive):06d}\n"
    (place / "true/evaluate_tracking.seqmap.training").write_text(seqmap)


@pytest.mark.slow
def test_the_file_of_a_run_is_read_by_trackeval_as_it_is_and_gives_what_eval_says(tmp_path: Path) -> None:
    from trackeval.datasets import Kitti2DBox
    from trackeval.metrics import HOTA

    drive, detector = Drive(3, 8), load_detector("builtin:street-tiny")
    runtime = create_runtime(device="cpu", precision="fp32", threads=1)
    recipe = StreamDsgnRecipe.model_validate({"stream": {"clock": "sim"}})
    options = RunOptions(latencies_s=(0.06,), output=tmp_path / "runs" / "ours")
    run(recipe, RunInputs(SequenceSource(drive), detector), options, runtime, lambda line: None)
    devkit_folders(tmp_path, drive)
    dataset = Kitti2DBox(
        {
            "GT_FOLDER": str(tmp_path / "true"),
            "TRACKERS_FOLDER": str(tmp_path / "runs"),
            "TRACKER_SUB_FOLDER": "",
            "PRINT_CONFIG": False,
        }
    )
    raw = dataset.get_raw_seq_data("ours", drive.name)
    data = dataset.get_preprocessed_seq_data(raw, "car")
    hota = 100 * float(HOTA().eval_sequence(data)["HOTA"].mean())
    measured = measure(detector, [drive], MeasureSettings(tracking=True), runtime)["tracking"]["car"]
    assert hota > 20
    assert measured["hota"] == pytest.approx(
        hota, abs=3
    )  # there boxes from 0.05 on are followed, here from 0.1 on


def test_nothing_found_is_zero_and_nothing_else() -> None:
    true = {i: cars(3) for i in range(3)}
    measured = tracking_metrics([TrackedSequence({1: no_objects()}, true)])["car"]
    assert measured is not None and measured["hota"] == 0 and measured["mota"] == 0
