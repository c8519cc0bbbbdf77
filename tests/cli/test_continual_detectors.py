"""`effcli continual` with detectors, from the outside."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import effcli as effcli_package
from effcli.core.tensor_file import read_tensors
from tests.cli.coco_squares import save_squares
from tests.cli.effcli_process import Finished, effcli

pytestmark = pytest.mark.slow

FAST = ["--device", "cpu", "--threads", "1"]
TRAIN = ["-s", "train.batch_size=4", "-s", "train.warmup_steps=2"]
INVERT = ["-s", "inversion.iterations=4", "-s", "inversion.per_class=2", "-s", "inversion.side=32"]
EGOR = ["--method", "egor", "--epochs", "2", *TRAIN, *INVERT, *FAST]
BASE = ["-s", "base.epochs=2", "-s", "base.batch_size=4"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with squares, a detector of two colours, and one that has learned a third and a fourth after it."""
    folder = tmp_path_factory.mktemp("detectors")
    save_squares(folder / "squares")
    words = ("--data", "squares", "--tasks", "2+2", "--epochs", "2", *TRAIN, *FAST)
    done = effcli("continual", "train-detector", *words, "-o", "first", cwd=folder)
    assert (done.code, done.lines) == (0, ["first"]), done.stderr
    done = effcli("continual", "--detector", "first", "--data", "squares", *EGOR, "-o", "second", cwd=folder)
    assert (done.code, done.lines) == (0, ["second"]), done.stderr
    return folder


def metrics_of(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text())["metrics"]
    return content


def refused(place: Path, *words: str | Path) -> Finished:
    done = effcli("continual", *words, cwd=place)
    assert (done.code, done.lines) == (2, []), done.stderr
    return done


def test_a_run_has_the_metrics_and_the_files_of_the_contract(place: Path) -> None:
    metrics = metrics_of(place / "second")
    assert metrics.keys() >= {"ap", "ap50", "before", "inversions", "train_s", "peak_memory_mb"}
    assert metrics["ap"].keys() == metrics["ap50"].keys() == {"old", "new", "all"}
    assert metrics["ap_by_class"].keys() == {"red", "green", "blue", "white"}
    assert len(metrics["history"]) == 2
    (inversions,) = metrics["inversions"]
    assert inversions["by_class"].keys() == {"red", "green"}
    for name in ("objects/objects-1.png", "objects/scenes-1.png", "pictures/found.png", "report.html"):
        assert (place / "second" / name).is_file()
    metadata, _ = read_tensors(place / "second" / "model" / "detector.safetensors", "")
    assert json.loads(metadata["about"])["classes"] == ["red", "green", "blue", "white"]


def test_images_with_old_classes_teach_nothing_unless_asked(place: Path) -> None:
    words = ("--method", "egor", "--detector", "first", "--data", "squares", "--dry-run", "--json")
    plan = effcli("continual", *words, cwd=place).json["plan"]
    assert plan["classes"] == [["blue", "white"]]
    assert plan["images_left_out"] == [3]  # green and blue twice, white and red
    with_old = effcli("continual", *words, "-s", "data.cooccur=true", cwd=place).json["plan"]
    assert with_old["train_images"][0] == plan["train_images"][0] + 3


def test_forgetting_is_measured_where_the_new_data_show_no_old_class(place: Path, tmp_path: Path) -> None:
    save_squares(tmp_path / "new", names=("blue", "white"))
    words: tuple[str | Path, ...] = ("--data", tmp_path / "new", *EGOR, "-s", "composition.enabled=false")
    done = effcli("continual", "--detector", "first", *words, "-o", tmp_path / "kept", "--json", cwd=place)
    assert done.code == 0, done.stderr
    first = metrics_of(place / "first")
    assert done.json["metrics"]["before"]["ap_by_class"] == first["ap_by_class"]
    source = {"source": "the images that first held out", "images": 12, "classes": 2}
    assert done.json["metrics"]["old_measured_on"] == [source]
    assert "old classes are measured on: 2 on the images that first held out (12 images)" in done.stderr
    again = effcli("continual", "eval", tmp_path / "kept", "--json", cwd=place).json["metrics"]
    assert again["ap_by_class"] == done.json["metrics"]["ap_by_class"]

    shutil.copy(place / "first" / "model" / "detector.safetensors", tmp_path / "only.safetensors")
    alone: tuple[str | Path, ...] = ("--detector", tmp_path / "only.safetensors", *words)
    done = effcli("continual", *alone, "-o", tmp_path / "alone", "--json", cwd=place)
    assert done.code == 0, done.stderr
    (source,) = done.json["metrics"]["old_measured_on"]
    assert source["source"] == "objects synthesised from the old detector" and 2 <= source["images"] <= 4
    assert done.json["metrics"]["ap50"]["old"] is not None and not done.json["metrics"]["inversions"]
    named = ("-s", f"eval.old_data={place / 'squares'}", "-o", tmp_path / "named")
    done = effcli("continual", *alone, *named, cwd=place)
    assert done.code == 0, done.stderr
    assert metrics_of(tmp_path / "named")["before"]["ap_by_class"] == first["ap_by_class"]
    shows_none = refused(place, *alone, "-s", f"eval.old_data={tmp_path / 'new'}")
    assert "shows none of the old classes that are to be measured: red, green" in shows_none.stderr


def test_it_trains_the_first_detector_itself_and_resumes_to_the_same_end(place: Path, tmp_path: Path) -> None:
    words = ["--data", str(place / "squares"), "--tasks", "2+1+1", *EGOR, *BASE, "-s", "data.cooccur=true"]
    done = effcli("continual", *words, "-o", "whole", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines() if line.startswith("increment")] == [
        "increment 1/2",
        "increment 2/2",
    ]
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("result.json", "report.html", "checkpoints/train-2.pt", "checkpoints/ap-2.pt"):
        (tmp_path / "cut" / name).unlink()
    done = effcli("continual", *words, "-o", "cut", "--resume", cwd=tmp_path)
    assert done.code == 0, done.stderr
    first, second = (tmp_path / run / "model/detector.safetensors" for run in ("whole", "cut"))
    assert first.read_bytes() == second.read_bytes()
    assert len(metrics_of(tmp_path / "cut")["history"]) == 3


@pytest.mark.parametrize(
    "sets",
    [
        ["distillation.weight=0", "composition.enabled=false", "learning.columns=all"],
        ["composition.enabled=false", "distillation.select=threshold", "distillation.balance=false"],
        ["learning.columns=all", "learning.pasted_as_labels=true", "distillation.weight=0"],
        ["inversion.source=second", "composition.online=false", "distillation.nms=pixels"],
    ],
    ids=["finetune", "erd", "replay", "reuse"],
)
def test_other_methods_by_switches(sets: list[str], place: Path, tmp_path: Path) -> None:
    switches = [word for one in sets for word in ("-s", one)]
    words = ("--detector", "first", "--data", "squares", *EGOR, *switches, "-o", tmp_path / "run", "--json")
    done = effcli("continual", *words, cwd=place)
    assert done.code == 0, done.stderr
    has_objects = "composition.enabled=false" not in sets
    assert len(done.json["metrics"]["inversions"]) == has_objects


def test_references_and_pseudo_labels(place: Path, tmp_path: Path) -> None:
    more = ("--references", "finetune,joint", "--pseudo-label", "-s", "learning.pseudo_score=0.05", *BASE)
    words = ("--detector", "first", "--data", "squares", *EGOR, *more, "-o", tmp_path / "run", "--json")
    done = effcli("continual", *words, cwd=place)
    assert done.code == 0, done.stderr
    assert "objects of old classes taken as labels" in done.stderr
    metrics = done.json["metrics"]
    joint = metrics["references"]["joint"]["ap"]["all"]
    assert metrics["references"].keys() == {"finetune", "joint"}
    assert metrics["abs_gap"] == pytest.approx(joint - metrics["ap"]["all"], abs=1e-5)


def test_a_branch_leaves_the_old_detector_alone(place: Path, tmp_path: Path) -> None:
    words = ("--method", "branch", "--detector", "first", "--data", "squares", "--epochs", "2", *TRAIN, *FAST)
    done = effcli(
        "continual",
        *words,
        "-s",
        "branch.start=new",
        "-s",
        "branch.channels=8",
        "-o",
        tmp_path / "run",
        "--json",
        cwd=place,
    )
    assert done.code == 0, done.stderr
    metrics = done.json["metrics"]
    assert metrics["ap"]["old"] == metrics["before"]["ap"]["all"]
    assert metrics["ap_by_class"].keys() == {"red", "green", "blue", "white"}
    assert 0 < metrics["parameters_new"] < 0.01 * metrics["parameters"]
    shown = []
    for detector in (place / "first", tmp_path / "run"):
        done = effcli("continual", "detect", detector, "squares/eval", "--score", "0.01", *FAST, cwd=place)
        lines = [json.loads(line) for line in done.lines]
        shown.append([[o for o in one["objects"] if o["class"] in ("red", "green")] for one in lines])
    assert shown[0] == shown[1] and any(shown[0])
    egor = ("--method", "egor", "--detector", tmp_path / "run", "--data", "squares")
    assert "has a branch, and cannot learn classes in its old network" in refused(place, *egor).stderr


def test_detect_writes_lines_and_pictures(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(place / "squares" / "eval", folder)
    (folder / "broken.png").write_bytes(b"\x89PNG rubbish")
    words = ("detect", "second", folder, "-o", tmp_path / "out", "--threshold", "0.01")
    done = effcli("continual", *words, cwd=place)
    assert done.code == 3
    lines = [json.loads(line) for line in done.lines]
    assert len(lines) == 13
    assert [line["image"] for line in lines if "error" in line] == [str(folder / "broken.png")]
    found = [one for line in lines for one in line.get("objects", [])]
    assert found
    assert {one["class"] for one in found} <= {"red", "green", "blue", "white"}
    for line in lines:
        assert "error" in line or Image.open(line["drawn"]).size == (64, 64)
    again = effcli("continual", *words, cwd=place)
    assert (again.code, again.lines) == (2, [])
    assert "already exists" in again.stderr


def test_an_exported_detector_finds_the_same(place: Path, tmp_path: Path) -> None:
    pictures = (place / "squares" / "eval", "--threshold", "0.01", *FAST)
    expected = [
        json.loads(line) for line in effcli("continual", "detect", "second", *pictures, cwd=place).lines
    ]
    for name in ("second.onnx", "second.safetensors"):
        done = effcli("continual", "export", "second", "-o", tmp_path / name, cwd=place)
        assert (done.code, done.lines) == (0, [str(tmp_path / name)]), done.stderr
        done = effcli("continual", "detect", tmp_path / name, *pictures, cwd=place)
        assert done.code == 0, done.stderr
        for line, one in zip(map(json.loads, done.lines), expected, strict=True):
            assert [o["class"] for o in line["objects"]] == [o["class"] for o in one["objects"]]
            for a, b in zip(line["objects"], one["objects"], strict=True):
                assert a["score"] == pytest.approx(b["score"], abs=2e-4)
                assert a["box"] == pytest.approx(b["box"], abs=0.11)


def test_eval_of_a_detector_finds_what_its_run_found(place: Path) -> None:
    done = effcli("continual", "eval", "second", "--data", "squares", "--json", cwd=place)
    assert done.code == 0, done.stderr
    assert done.json["metrics"]["ap"]["all"] == metrics_of(place / "second")["ap"]["all"]


def test_detect_without_a_detector_takes_the_one_in_the_package(tmp_path: Path) -> None:
    photo = Path(__file__).resolve().parents[2] / "examples" / "boats.jpg"
    done = effcli("continual", "detect", photo, "-o", "boats.jpg", "--score", "0.5", *FAST, cwd=tmp_path)
    assert (done.code, len(done.lines)) == (0, 1), done.stderr
    assert {one["class"] for one in done.json["objects"]} == {"boat"} and done.json["ms"] > 0
    assert Image.open(tmp_path / "boats.jpg").size == (1536, 960)
    coco = effcli("continual", "detect", photo, "--format", "coco", "--score", "0.5", *FAST, cwd=tmp_path)
    assert [one["category_id"] for one in coco.json["annotations"]] == [9, 9]
    words = ("detect", photo, "--format", "yolo", "-o", "labels", "--score", "0.5", *FAST)
    assert effcli("continual", *words, cwd=tmp_path).code == 0
    assert (tmp_path / "labels/classes.txt").read_text().splitlines()[8] == "boat"
    assert [line.split()[0] for line in (tmp_path / "labels/labels/boats.txt").read_text().splitlines()] == [
        "8",
        "8",
    ]


def test_detect_on_a_video_and_in_a_pipe(place: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("h264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for name in range(3):
            picture = Image.open(place / "squares" / "eval" / f"{name}.png").convert("RGB")
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    words = ("detect", place / "second", "film.mp4", "-o", "drawn.mp4", "--score", "0.01")
    done = effcli("continual", *words, cwd=tmp_path)
    assert done.code == 0, done.stderr
    lines = [json.loads(line) for line in done.lines]
    assert [(line["frame"], line["time_s"]) for line in lines] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    with av.open(str(tmp_path / "drawn.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3
    content = (place / "squares" / "eval" / "0.png").read_bytes()
    piped = effcli(
        "continual", "detect", place / "second", "-", "-o", "-", *FAST, cwd=tmp_path, stdin=content
    )
    assert Image.open(io.BytesIO(piped.stdout)).size == (64, 64)


def change(place: Path, to: Path, **changes: Any) -> None:
    """A copy of the squares with other annotations for training."""
    shutil.copytree(place / "squares", to)
    file = to / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for key, value in changes.items():
        content[key] = value(content[key])
    file.write_text(json.dumps(content))


def test_wrong_annotations_are_named_before_anything_is_made(place: Path, tmp_path: Path) -> None:
    def try_them(name: str, **changes: Any) -> str:
        change(place, tmp_path / name, **changes)
        done = refused(tmp_path, "train-detector", "--data", name, "-o", "run")
        assert not (tmp_path / "run").exists()
        return done.stderr

    gone = try_them(
        "gone", images=lambda all: [{**one, "file_name": f"no-{one['file_name']}"} for one in all]
    )
    assert "12 of 12 images are missing, the first is no-0.png" in gone
    unknown = try_them("unknown", categories=lambda all: all[1:])
    assert "is of category 2, which is not listed" in unknown
    empty = try_them("empty", images=lambda all: [])
    assert "lists no images" in empty
    (tmp_path / "list.json").write_text("[1]")
    assert "not a COCO file" in refused(tmp_path, "train-detector", "--data", "list.json").stderr
    (tmp_path / "no.json").write_text("{")
    assert "not valid JSON" in refused(tmp_path, "train-detector", "--data", "no.json").stderr


def test_boxes_outside_and_empty_ones_are_mended_and_said(place: Path, tmp_path: Path) -> None:
    def broken(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        annotations[0]["bbox"] = [-20, 10, 40, 20]
        annotations[1]["bbox"] = [10, 10, 0, 5]
        annotations[2]["bbox"] = [50, 50, 16, 16]
        return annotations

    change(place, tmp_path / "mended", annotations=broken)
    words = ("train-detector", "--data", "mended", "--epochs", "1", *TRAIN, *FAST, "-o", "run")
    done = effcli("continual", *words, cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "3 boxes were empty or extended beyond their image" in done.stderr


def test_what_does_not_fit_together_is_refused(place: Path, tmp_path: Path) -> None:
    knows = refused(place, "--method", "egor", "--detector", "second", "--data", "squares")
    assert "the detector already knows all of its classes" in knows.stderr
    no_base = refused(place, "--method", "egor", "--data", "squares")
    assert (
        "data.tasks: say which classes the first detector learns, as in 5+5, or name a detector"
        in no_base.stderr
    )
    assert "no detector in it" in refused(place, "--method", "egor", "--detector", "squares").stderr
    wrong = refused(place, "--method", "egor", "--tasks", "3+3", "--data", "squares")
    assert "tasks of [3, 3] classes do not add up to 4 classes" in wrong.stderr
    labels = refused(place, "--method", "egor", "-s", "learning.pasted_as_labels=true")
    assert "learning.columns: labels of old classes need columns all" in labels.stderr
    shutil.copy(place / "first" / "model" / "detector.safetensors", tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:1000])
    damaged = refused(
        tmp_path, "--method", "egor", "--detector", "cut.safetensors", "--data", place / "squares"
    )
    assert "damaged" in damaged.stderr
    joint = refused(
        tmp_path,
        "--method",
        "egor",
        "--detector",
        place / "first",
        "--data",
        "builtin:garment-scenes",
        "--references",
        "joint",
    )
    assert "joint training also needs images of the old classes" in joint.stderr


def test_egor_on_nanodet_keeps_its_trunk_unless_told_otherwise(place: Path, tmp_path: Path) -> None:
    words = ("--method", "egor", "--detector", "builtin:nanodet-m", "--data", "squares", *INVERT, *FAST)
    fast = (
        "-s",
        "train.epochs=1",
        "-s",
        "composition.enabled=false",
        "-s",
        f"eval.old_data={place / 'squares'}",
    )
    done = effcli("continual", *words, *fast[:4], "-o", tmp_path / "run", "--json", cwd=place)
    assert done.code == 0, done.stderr
    assert "trunk: frozen" in (tmp_path / "run" / "recipe.yaml").read_text()
    old, new = (
        read_tensors(file, "")[1]
        for file in (
            Path(effcli_package.__file__).parent / "assets/nanodet-m.safetensors",
            tmp_path / "run/model/detector.safetensors",
        )
    )
    for name, value in old.items():
        is_kept = torch.equal(value.float(), new[name].float())
        assert is_kept == name.startswith(("backbone.", "laterals.")) or name.startswith("cls."), name
    again = ("--method", "egor", "--detector", tmp_path / "run", "--data", "squares", "--tasks", "4")
    plan = effcli("continual", *again, "--dry-run", "--json", cwd=place)
    assert plan.code == 2 and "already knows all of its classes" in plan.stderr
    given = effcli("continual", "-r", "egor", *words, "--dry-run", "--json", cwd=place)
    assert given.code == 0, given.stderr
