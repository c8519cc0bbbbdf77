"""`effcli distill --method clip-kd` from the outside."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.effcli_process import Finished, effcli
from tests.distill.clip.tiny_clips import STUDENT, save_pairs, save_teacher, write_config

pytestmark = pytest.mark.slow

SMALL = [
    "--method",
    "clip-kd",
    "--student",
    "vit.json",
    "--data",
    "pairs/pairs.csv",
    "-s",
    "cache_dir=cache",
    "-s",
    "train.epochs=2",
    "-s",
    "train.batch_size=8",
    "-s",
    "train.warmup_steps=2",
    "-s",
    "eval.hold_out=0.2",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--threads",
    "1",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, a student's configuration, pairs, classes and a finished run."""
    folder = tmp_path_factory.mktemp("clip")
    save_teacher(folder / "teacher")
    write_config(folder / "vit.json", STUDENT)
    save_pairs(folder / "pairs")
    for number, name in enumerate(("red_thing", "other")):
        (folder / "classes" / name).mkdir(parents=True)
        for one in range(3):
            values = np.full((20, 20, 3), 60 * number + one, np.uint8)
            Image.fromarray(values).save(folder / "classes" / name / f"{one}.png")
    done = effcli("distill", "teacher", *SMALL, "-o", "run", "--json", cwd=folder)
    assert done.code == 0, done.stderr
    assert done.json["method"] == "clip-kd"
    assert {"i2t_r1", "i2t_r5", "t2i_r1", "t2i_r10"} <= done.json["metrics"]["student"].keys()
    return folder


def refused(place: Path, *words: str | Path) -> Finished:
    done = effcli("distill", *SMALL, *words, "-o", "refused", cwd=place)
    assert (done.code, done.lines) == (2, []), done.stderr
    assert not (place / "refused").exists()
    assert "Traceback" not in done.stderr
    return done


def test_result_and_report(place: Path) -> None:
    assert {"open_clip_config.json", "open_clip_model.safetensors"} == {
        path.name for path in (place / "run" / "model").iterdir()
    }
    report = (place / "run" / "report.html").read_text()
    assert "What each model finds for a caption" in report


def test_dry_run_says_how_large_the_cache_is(place: Path) -> None:
    words = ("distill", "--teacher", "teacher", *SMALL, "--teacher-cache", "12-views", "--dry-run", "--json")
    done = effcli(*words, cwd=place)
    assert done.code == 0, done.stderr
    plan = done.json["plan"]
    rows = 12 * plan["train_images"] + plan["train_captions"]
    assert plan["teacher_cache_bytes"] == rows * 24 * 2
    assert plan["teacher_cache_is_there"] is False
    assert (
        effcli(*words[:-4], "--dry-run", "--json", cwd=place).json["plan"]["teacher_cache_is_there"] is True
    )


def test_eval_on_other_pairs_with_all_captions_and_classes(place: Path) -> None:
    asked = "--data pairs/pairs.csv --captions all --zero-shot classes --template a_{} --json"
    done = effcli("distill", "eval", "run", *asked.split(), cwd=place)
    assert done.code == 0, done.stderr
    metrics = done.json["metrics"]
    assert metrics["eval_images"] == 24 and metrics["captions"] == "all"
    assert metrics["zero_shot_images"] == 6 and metrics["zero_shot_classes"] == 2
    for who in ("teacher", "student"):
        assert 0 <= metrics[who]["zero_shot_top1"] <= 1
        assert metrics[who]["text_parameters"] < metrics[who]["parameters"]
    text = effcli("distill", "eval", "run", cwd=place)
    assert "student.t2i_r1" in text.stdout.decode()


def test_eval_does_not_need_the_training_images(place: Path, tmp_path: Path) -> None:
    for name in ("run", "teacher", "classes"):
        shutil.copytree(place / name, tmp_path / name)
    done = effcli("distill", "eval", "run", "--data", "classes", "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert done.json["metrics"]["eval_images"] == 6


def test_a_run_is_a_teacher_too(place: Path) -> None:
    done = effcli("distill", "--teacher", "run", *SMALL, "--dry-run", "--json", cwd=place)
    assert done.code == 0, done.stderr
    assert done.json["plan"]["teacher_parameters"] == done.json["plan"]["student_parameters"]


def test_options_of_the_other_kind_are_refused(place: Path) -> None:
    for words, message in (
        ("distill eval run -n 4", "does not apply to a run of CLIP-KD"),
        ("distill sample run -o x.png", "run"),
    ):
        done = effcli(*words.split(), cwd=place)
        assert (done.code, done.lines) == (2, []), done.stderr
        assert message in done.stderr and "Traceback" not in done.stderr
    done = effcli("distill", "teacher", *SMALL, "--steps", "2", "-o", "x", cwd=place)
    assert done.code == 2 and "student_steps: unknown key" in done.stderr


def test_bad_input(place: Path) -> None:
    assert "no such model" in refused(place, "teacher", "-s", "student=ViT-T-61").stderr
    assert "not a CLIP checkpoint" in refused(place, "ViT-T-16").stderr
    assert "teacher_cache" in refused(place, "teacher", "--teacher-cache", "some").stderr
    assert "no such file or folder" in refused(place, "teacher", "-s", "data.source=gone.csv").stderr
    (place / "latin.csv").write_bytes(b"filepath,title\n1.png,\xe9\n")
    done = refused(place, "teacher", "-s", "data.source=latin.csv")
    assert "latin.csv:2: is not UTF-8" in done.stderr
    (place / "broken.csv").write_text("filepath,title\n" + "".join(f"pairs/{n}.png,x\n" for n in range(40)))
    assert "16 of 40 are missing" in refused(place, "teacher", "-s", "data.source=broken.csv").stderr
    done = refused(place, "teacher", "-s", "train.batch_size=500")
    assert "fewer than a batch of 500" in done.stderr


def test_what_is_left_out_is_listed(place: Path) -> None:
    lines = [f"pairs/{n}.png,thing {n}" for n in range(25)]
    (place / "one-missing.csv").write_text("filepath,title\n" + "\n".join(lines) + "\n")
    words = (
        "distill",
        "teacher",
        *SMALL,
        "-s",
        "data.source=one-missing.csv",
        "-o",
        "with-missing",
        "--json",
    )
    done = effcli(*words, cwd=place)
    assert done.code == 0, done.stderr
    assert done.json["metrics"]["left_out"] == ["one-missing.csv:26: no such image: pairs/24.png"]
    assert "left out: one-missing.csv:26: no such image: pairs/24.png" in done.stderr
