"""`effcli continual predict` from the outside."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from tests.cli.effcli_process import effcli
from tests.cli.test_continual import SMALL, save_classes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over classes a to d; one of them has many more images."""
    folder = tmp_path_factory.mktemp("predict")
    save_classes(folder / "classes", "abc", n=8)
    save_classes(folder / "classes", "d", n=30)
    words = ("--data", "classes", "--tasks", "2", "--method", "er", *SMALL)
    done = effcli("continual", *words, "-o", "run", cwd=folder)
    assert done.code == 0, done.stderr
    assert "unbalanced: 24 training images of d, 6 of a" in done.stderr
    return folder


def test_a_line_per_picture_and_bad_ones_counted(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "classes", tmp_path / "more")
    (tmp_path / "more" / "a" / "bad.png").write_bytes(b"no")
    first = place / "classes" / "d" / "0.png"
    done = effcli("continual", "predict", "run", first, tmp_path / "more", "-k", "3", cwd=place)
    assert done.code == 3
    lines = [json.loads(line) for line in done.lines]
    assert len(lines) == 1 + 8 * 3 + 30 + 1
    assert [line["file"] for line in lines if "error" in line] == [str(tmp_path / "more/a/bad.png")]
    good = [line for line in lines if "error" not in line]
    assert {len(line["top"]) for line in good} == {3}
    assert all(line["label"] in ("a", "b", "c", "d", None) for line in good)
    assert "56 pictures" in done.stderr and "cannot be read: 1" in done.stderr


def test_a_pipe_csv_and_json_say_the_same(place: Path) -> None:
    file = place / "classes" / "a" / "0.png"
    words = ("continual", "predict", "run", "-", "--unknown-below", "0")
    line = effcli(*words, cwd=place, stdin=file.read_bytes()).json
    whole = effcli(*words, "--json", "-q", cwd=place, stdin=file.read_bytes()).json
    assert (whole["images"], whole["failed"], whole["unknown"], whole["unknown_below"]) == ([line], 0, 0, 0)
    assert whole["images_per_s"] > 0
    done = effcli(*words, "--csv", cwd=place, stdin=file.read_bytes())
    (row,) = csv.DictReader(io.StringIO(done.stdout.decode()))
    assert (row["file"], row["label"], row["error"]) == ("-", line["label"], "")
    assert [row[f"top_{rank}"] for rank in range(1, 5)] == [one["label"] for one in line["top"]]
    done = effcli("continual", "predict", "run", file, "--unknown-below", "1", cwd=place)
    assert done.json["label"] is None and "none of the known classes: 1" in done.stderr


def test_the_onnx_file_answers_like_the_run(place: Path, tmp_path: Path) -> None:
    assert effcli("continual", "export", "run", "-o", tmp_path / "c.onnx", cwd=place).code == 0
    ours = effcli("continual", "predict", "run", "classes/b", cwd=place).lines
    theirs = effcli("continual", "predict", tmp_path / "c.onnx", "classes/b", cwd=place).lines
    for one, other in zip(map(json.loads, ours), map(json.loads, theirs), strict=True):
        assert (one["file"], one["label"]) == (other["file"], other["label"])
        assert one["score"] == pytest.approx(other["score"], abs=2e-4)


def test_what_cannot_be_predicted_is_refused(place: Path) -> None:
    for words, message in [
        (("run", "nowhere.png"), "no such file or folder"),
        (("classes", "classes"), "no classifier in it"),
        (("run", "-", "-"), "stdin is a single picture"),
        (("run", "classes", "--csv", "--json"), "cannot both go to stdout"),
    ]:
        done = effcli("continual", "predict", *words, cwd=place)
        assert done.code == 2 and message in done.stderr, done.stderr
    done = effcli("continual", "predict", "run", "-", cwd=place, stdin=b"no picture")
    assert (done.code, done.json["file"]) == (1, "-")
