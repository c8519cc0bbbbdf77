"""Pictures of any kind to answers, by a run's classifier and by its ONNX file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import effcli.continual
from effcli.continual.network import Calibration, ImageClassifier, classifier_of
from effcli.continual.prediction.onnx_classifier import export_onnx
from effcli.continual.prediction.picture_files import pictures_of, predict_files
from effcli.continual.weights import FILE_NAME, save_classifier
from effcli.core.errors import InputError
from tests.continual.streams import tiny_method

NAMES = [("ant", "bee"), ("Katze", "犬")]


def classifier(calibration: Calibration | None = None) -> ImageClassifier:
    torch.manual_seed(0)
    found = classifier_of(tiny_method("er"), NAMES, 8)
    found.calibration = calibration
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "model").mkdir(parents=True)
    save_classifier(tmp_path / "run" / FILE_NAME, classifier(Calibration(2.0, 0.25, 40)))
    return tmp_path / "run"


def picture(height: int = 24, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_picture_is_the_same_as_path_pil_array_and_tensor(run: Path, tmp_path: Path) -> None:
    values = picture()
    Image.fromarray(values).save(tmp_path / "a.png")
    predictor = effcli.continual.load(run, device="cpu")
    kinds = [
        tmp_path / "a.png",
        Image.fromarray(values),
        values,
        torch.from_numpy(values).movedim(-1, 0),
    ]
    images = [predictor.prepared(kind) for kind in kinds]
    assert all(torch.equal(image, images[0]) for image in images)
    answers = predictor.predict(kinds, batch_size=3)
    assert len(answers) == 4 and len({answer.top[0][0] for answer in answers}) == 1
    assert [len(predictor.predict(kind)) for kind in kinds] == [1] * 4
    assert len(predictor.predict(np.stack([values, values]))) == 2
    grey = values[..., 0]
    assert predictor.predict(grey) == predictor.predict(np.repeat(grey[..., None], 3, 2))


def test_scores_are_the_softmax_of_logits_over_the_temperature(run: Path) -> None:
    predictor, network = effcli.continual.load(run, device="cpu"), classifier()
    image = predictor.prepared(picture())
    with torch.no_grad():
        wanted = torch.softmax(network.scores(image[None]).double() / 2, 1)[0]
    (answer,) = predictor.answers(image[None], 4)
    assert dict(answer.top) == pytest.approx(dict(zip(network.about.classes, wanted.tolist(), strict=True)))
    assert [score for _, score in answer.top] == sorted(dict(answer.top).values(), reverse=True)
    assert answer.score == answer.top[0][1]
    assert len(predictor.predict(picture(), k=2)[0].top) == 2


def test_a_score_below_the_threshold_is_none_of_the_classes(run: Path) -> None:
    predictor = effcli.continual.load(run, device="cpu")
    (answer,) = predictor.predict(picture())
    assert (predictor.unknown_below, answer.label) == (0.25, answer.top[0][0])  # of 4 classes one has 1/4
    assert predictor.predict(picture(), unknown_below=answer.score + 1e-9)[0].label is None
    assert predictor.predict(picture(), unknown_below=answer.score)[0].label == answer.label


def test_a_file_without_calibration_answers_as_it_did(tmp_path: Path) -> None:
    save_classifier(tmp_path / "old.safetensors", classifier())
    predictor = effcli.continual.load(tmp_path / "old.safetensors", device="cpu")
    assert (predictor.temperature, predictor.unknown_below) == (1.0, 0.0)


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), torch.zeros(3, 4, 4), 3.5]
)
def test_what_is_no_picture_is_refused(wrong: object, run: Path) -> None:
    with pytest.raises(InputError, match=r"is not a picture|cannot predict a float"):
        effcli.continual.load(run, device="cpu").predict([wrong])


def test_files_of_sub_folders_are_answered_and_bad_ones_named(run: Path, tmp_path: Path) -> None:
    for name in ("b.png", "deep/er/a.jpg", "deep/c.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(seed=len(name))).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "bad.png").write_bytes(b"<html>")
    files = pictures_of([str(tmp_path / "photos"), str(tmp_path / "photos" / "b.png")])
    assert [Path(file).name for file in files] == ["b.png", "bad.png", "c.png", "a.jpg", "b.png"]
    predictor = effcli.continual.load(run, device="cpu")
    batches = list(predict_files(predictor, files, k=1, unknown_below=0, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    lines = [line for batch in batches for line in batch]
    assert [line["file"] for line in lines] == files
    assert [number for number, line in enumerate(lines) if "error" in line] == [1]
    assert "web page" in lines[1]["error"]
    assert lines[0] == lines[4] and lines[0]["top"][0]["label"] == lines[0]["label"]
    with pytest.raises(InputError, match="no such file or folder"):
        pictures_of([str(tmp_path / "nowhere")])


@pytest.mark.slow
def test_the_onnx_file_says_what_it_needs_and_answers_the_same(run: Path, tmp_path: Path) -> None:
    import onnx

    file = tmp_path / "c.onnx"
    export_onnx(file, classifier(Calibration(2.0, 0.25, 40)))
    said = {one.key: one.value for one in onnx.load(file).metadata_props}
    assert json.loads(said["classes"]) == ["ant", "bee", "Katze", "犬"]
    how = json.loads(said["preprocessing"])
    assert how["resize"] == {"shorter_side": 8, "filter": "bilinear", "antialias": True}
    assert (how["crop"]["size"], how["mean"], how["std"]) == ([8, 8], [0.5] * 3, [0.25] * 3)
    ours, theirs = effcli.continual.load(run, device="cpu"), effcli.continual.load(file)
    assert theirs.unknown_below == 0.25
    for seed in range(3):
        (mine,), (other,) = ours.predict(picture(seed=seed)), theirs.predict(picture(seed=seed))
        assert dict(other.top) == pytest.approx(dict(mine.top), abs=1e-5)
    (tmp_path / "no.onnx").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read as an ONNX file"):
        effcli.continual.load(tmp_path / "no.onnx")
