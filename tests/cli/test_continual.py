"""`effcli continual` from the outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.effcli_process import Finished, effcli

pytestmark = pytest.mark.slow

SMALL = [
    *("--epochs", "2", "--buffer", "8", "-s", "buffer.batch_size=4", "-s", "train.batch_size=8"),
    *("-s", "network.width=2", "-s", "data.side=8", "-s", "data.channels=3"),
    *("--device", "cpu", "--precision", "fp32", "--threads", "1"),
]
WITHOUT_BUFFER = [*SMALL[:2], *SMALL[6:]]


def save_classes(folder: Path, names: str, n: int = 12, seed: int = 0) -> None:
    """A sub-folder for each letter; its pictures have a colour of their own, so that they can be learned."""
    draws = np.random.default_rng(seed)
    for name in names:
        colour = np.random.default_rng(ord(name)).integers(40, 216, 3)
        (folder / name).mkdir(parents=True)
        for number in range(n):
            values = np.clip(colour + draws.integers(-30, 30, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(values).save(folder / name / f"{number}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with classes and a finished run over two tasks of them."""
    folder = tmp_path_factory.mktemp("continual")
    save_classes(folder / "classes", "abcd")
    done = effcli("continual", "--data", "classes", "--tasks", "2", *SMALL, "-o", "run", cwd=folder)
    assert (done.code, done.lines) == (0, ["run"]), done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()[-2:]] == [
        "task 1/2 (a, b)",
        "task 2/2 (c, d)",
    ]
    return folder


def refused(place: Path, *words: str | Path) -> Finished:
    done = effcli("continual", *words, cwd=place)
    assert (done.code, done.lines) == (2, []), done.stderr
    return done


def metrics_of(run: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((run / "result.json").read_text())["metrics"]
    return content


def test_a_run_has_the_metrics_and_the_files_of_the_contract(place: Path) -> None:
    metrics = metrics_of(place / "run")
    names = {"class_il", "task_il", "forgetting", "average_incremental", "accuracy_matrix", "train_s"}
    assert metrics.keys() >= names | {"peak_memory_mb", "buffer_bytes"}
    assert metrics["buffer_bytes"] == 4 * 8 * 3 * 4 * 4 * 4 + 4 * 8 * 8  # features in float32, labels
    assert metrics["classes"] == [["a", "b"], ["c", "d"]]
    for name in ("accuracy.png", "model/classifier.safetensors", "report.html", "metrics.jsonl"):
        assert (place / "run" / name).is_file()


@pytest.mark.parametrize("method", ["er", "derpp", "er-ace", "cls-er", "clfd-derpp", "e2net", "sgd", "joint"])
def test_each_method_learns_the_stream(method: str, place: Path, tmp_path: Path) -> None:
    small = WITHOUT_BUFFER if method in {"sgd", "joint"} else SMALL
    words = ("--method", method, "--data", "classes", "--tasks", "2", *small, "--json")
    done = effcli("continual", *words, "-o", tmp_path / "run", cwd=place)
    assert done.code == 0, done.stderr
    assert len(done.json["metrics"]["accuracy_matrix"]) == (1 if method == "joint" else 2)
    is_wrapped = "enabled: true" in (tmp_path / "run" / "recipe.yaml").read_text()
    assert is_wrapped == method.startswith("clfd")


@pytest.mark.parametrize("method", ["ir", "frozen-ncm"])
def test_methods_without_images_keep_a_vector_a_class(method: str, place: Path, tmp_path: Path) -> None:
    sets = (
        "-s",
        "train.first_epochs=1",
        "-s",
        "network.width=2",
        "-s",
        "data.side=8",
        "-s",
        "data.channels=3",
    )
    words = ("--method", method, "--data", "classes", "--tasks", "2,1,1", *sets, "--json")
    done = effcli("continual", *words, "-o", tmp_path / "run", cwd=place)
    assert done.code == 0, done.stderr
    metrics = done.json["metrics"]
    assert (metrics["buffer_bytes"], metrics["prototype_bytes"]) == (0, 4 * 16 * 4)


def test_a_task_of_new_classes_is_added_to_a_finished_run(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    save_classes(tmp_path / "new", "xy")
    before = metrics_of(tmp_path / "run")["accuracy_matrix"]
    words = ("continual", "run", "--tasks-dir", tmp_path / "new", "--resume", "-o", tmp_path / "run")
    done = effcli(*words, "--dry-run", "--json", cwd=place)
    assert done.json["plan"]["tasks"] == [["a", "b"], ["c", "d"], ["x", "y"]]
    assert metrics_of(tmp_path / "run")["accuracy_matrix"] == before
    done = effcli(*words, cwd=place)
    assert (done.code, done.lines) == (0, [str(tmp_path / "run")]), done.stderr
    metrics = metrics_of(tmp_path / "run")
    assert metrics["classes"] == [["a", "b"], ["c", "d"], ["x", "y"]]
    assert [row[:2] for row in metrics["accuracy_matrix"][:2]] == before
    done = effcli("continual", "eval", tmp_path / "run", "--data", tmp_path / "new", "--json", cwd=place)
    assert (done.code, done.json["metrics"]["per_class"].keys()) == (0, {"x", "y"})


def test_a_task_is_added_only_where_a_run_is_and_with_new_classes(place: Path, tmp_path: Path) -> None:
    save_classes(tmp_path / "new", "xy")
    assert "--resume -o RUN" in refused(place, "--tasks-dir", tmp_path / "new").stderr
    words = ("--tasks-dir", tmp_path / "new", "--resume")
    assert "not a run directory" in refused(place, *words, "-o", tmp_path / "none").stderr
    assert "leave out --method" in refused(place, *words, "-o", "run", "--method", "er").stderr
    before = (place / "run" / "recipe.yaml").read_bytes()
    done = refused(place, "--tasks-dir", "classes", "--resume", "-o", "run")
    assert "nothing new: all its 48 training images have been learned already" in done.stderr
    assert (place / "run" / "recipe.yaml").read_bytes() == before
    assert (place / "run" / "result.json").is_file()


def test_eval_of_the_own_stream_finds_what_the_run_found(place: Path) -> None:
    done = effcli("continual", "eval", "run", "--json", cwd=place)
    found, before = done.json["metrics"], metrics_of(place / "run")
    same = ("class_il", "task_il", "pooled", "per_class_mean")
    assert [found[name] for name in same] == pytest.approx([before[name] for name in same])
    assert list(before)[:2] == ["class_il", "per_class_mean"]


def test_a_setting_that_a_method_has_not_says_why(place: Path) -> None:
    done = refused(place, "--data", "classes", "--method", "ncm", "--epochs", "2")
    assert done.stderr.splitlines()[-1] == (
        "error: --epochs: train.epochs: not a setting of this method: nothing is trained by gradients, so there are no "
        "epochs"
    )


def test_eval_leaves_classes_out_that_it_does_not_know(place: Path, tmp_path: Path) -> None:
    save_classes(tmp_path / "some", "bz")
    done = effcli("continual", "eval", "run", "--data", tmp_path / "some", "--json", cwd=place)
    assert (done.json["metrics"]["images"], done.json["metrics"]["per_class"].keys()) == (12, {"b"})
    assert "left out, not known to the classifier: z" in done.stderr
    save_classes(tmp_path / "none", "z")
    assert (
        "none of its classes is known to the classifier: z"
        in refused(place, "eval", "run", "--data", tmp_path / "none").stderr
    )


def test_export_writes_a_file_that_is_enough(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "c.safetensors"
    done = effcli("continual", "export", "run", "-o", file, cwd=place)
    assert (done.code, done.lines) == (0, [str(file)])
    assert effcli("continual", "eval", file, "--data", "classes", "--json", cwd=place).code == 0
    assert "name images with --data" in refused(place, "eval", file).stderr
    assert "--force" in refused(place, "export", "run", "-o", file).stderr
    assert "unknown file extension '.pt'" in refused(place, "export", "run", "-o", tmp_path / "c.pt").stderr
    file.write_bytes(file.read_bytes()[:-100])
    assert "damaged" in refused(place, "eval", file, "--data", "classes").stderr


def test_what_does_not_fit_together_is_refused(place: Path) -> None:
    same = ("--data", "classes", *SMALL, "-o", "refused")
    assert "4 classes cannot be split into 3 tasks" in refused(place, *same, "--tasks", "3").stderr
    assert "give the sizes: [2, 1, 1]" in refused(place, *same, "--tasks", "3").stderr
    assert "even sides, not 9" in refused(place, *same, "--tasks", "2", "-s", "data.side=9").stderr
    assert (
        "supported by er, derpp, er-ace, cls-er, not by ir"
        in refused(place, "--method", "ir", "--frequency", "on").stderr
    )
    assert "--method er" in refused(place, "--method", "clfd", "--frequency", "off").stderr
    assert "cannot read '2x'" in refused(place, *same, "--tasks", "2x").stderr
    words = ("--data", "classes", "--method", "joint", "-s", "data.more=[classes]", "-o", "refused")
    assert "nothing new" in refused(place, *words, "--tasks", "2").stderr
    assert not (place / "refused").exists()


def test_corrupt_pictures_are_left_out_and_named_or_refused_before_anything_is_made(tmp_path: Path) -> None:
    save_classes(tmp_path / "classes" / "Train", "ab")
    save_classes(tmp_path / "classes" / "Val", "ab", n=4)
    (tmp_path / "classes" / "Train" / "b" / "98.png").write_bytes(b"no picture")
    (tmp_path / "classes" / "Train" / "b" / "._98.png").write_bytes(b"hidden")
    (tmp_path / "classes" / "Train" / "notes.txt").touch()
    words = ("--data", "classes", "--tasks", "2", *SMALL)
    done = effcli("continual", *words, "-o", "run", cwd=tmp_path)
    assert done.code == 0
    said = ["classes/Train: left out: 1 .txt", "left out: classes/Train/b/98.png: not an image"]
    for text in (done.stderr, (tmp_path / "run" / "log.txt").read_text()):
        assert [text.count(line) for line in said] == [1, 1]
    (tmp_path / "classes" / "Train" / "b" / "99.png").write_bytes(b"no picture")
    assert "2 of 26 pictures cannot be read" in refused(tmp_path, *words, "-o", "run2").stderr
    assert not (tmp_path / "run2").exists()
    for number in (98, 99):
        (tmp_path / "classes" / "Train" / "b" / f"{number}.png").unlink()
    (tmp_path / "classes" / "Val" / "a" / "3.png").write_bytes(b"")
    assert "Val/a/3.png: is empty" in refused(tmp_path, *words, "-o", "run2").stderr


def test_the_folder_of_one_class_is_not_the_folder_of_its_task(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    (tmp_path / "classes").symlink_to(place / "classes")
    save_classes(tmp_path / "new", "e")
    done = refused(tmp_path, "--tasks-dir", "new/e", "--resume", "-o", "run")
    assert "has no classes: its pictures lie in it directly" in done.stderr
    assert f"the folder above it, {tmp_path / 'new'}" in done.stderr
    assert (tmp_path / "run" / "result.json").is_file()


def test_a_task_of_one_image_is_refused(tmp_path: Path) -> None:
    save_classes(tmp_path / "classes", "ab", n=2)
    assert (
        "a single training image"
        in refused(tmp_path, "--data", "classes", "--tasks", "2", *SMALL, "-o", "run").stderr
    )


def test_a_buffer_for_everything_is_said(place: Path, tmp_path: Path) -> None:
    words = ("--method", "er", "--data", "classes", "--tasks", "2", *SMALL, "--buffer", "100")
    done = effcli("continual", *words, "-o", tmp_path / "run", cwd=place)
    assert done.code == 0
    assert "the buffer's 100 places hold all 40 training images" in done.stderr


def test_no_byte_of_a_run_changes_when_a_task_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    save_classes(tmp_path / "new", "xy")
    files = [file for file in sorted((tmp_path / "run").rglob("*")) if file.is_file()]
    before = [file.read_bytes() for file in files]
    words = ("--tasks-dir", tmp_path / "new", "--resume", "-o", tmp_path / "run")
    refused(place, *words, "--device", "cuda:7")
    refused(place, *words, "--save-every", "soon")
    assert "leave out --seed" in refused(place, *words, "--seed", "3").stderr
    (tmp_path / "new" / "x" / "0.png").write_bytes(b"")
    (tmp_path / "new" / "x" / "1.png").write_bytes(b"")
    assert "2 of 24 pictures cannot be read" in refused(place, *words).stderr
    undone = ("--undo", "-o", tmp_path / "run")
    assert "no added task to remove" in refused(place, *undone).stderr
    assert "name it with -o RUN" in refused(place, "--undo").stderr
    assert "one task is added or removed at a time" in refused(place, *words, "--undo").stderr
    assert [file.read_bytes() for file in files] == before


def test_undo_takes_the_last_task_back(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    save_classes(tmp_path / "new", "xy")
    words = ("--tasks-dir", tmp_path / "new", "--resume", "-o", tmp_path / "run")
    assert effcli("continual", *words, cwd=place).code == 0
    done = effcli("continual", "--undo", "-o", tmp_path / "run", "--dry-run", "--json", cwd=place)
    assert done.json["plan"]["tasks"] == [["a", "b"], ["c", "d"]]
    assert metrics_of(tmp_path / "run")["classes"] == [["a", "b"], ["c", "d"], ["x", "y"]]
    done = effcli("continual", "--undo", "-o", tmp_path / "run", cwd=place)
    assert (done.code, done.lines) == (0, [str(tmp_path / "run")]), done.stderr
    assert metrics_of(tmp_path / "run")["classes"] == [["a", "b"], ["c", "d"]]


def test_tasks_that_fit_are_chosen_for_a_folder(tmp_path: Path) -> None:
    save_classes(tmp_path / "classes", "abcdefg", n=4)
    done = effcli("continual", "--data", "classes", *SMALL, "--dry-run", "--json", cwd=tmp_path)
    assert [len(task) for task in done.json["plan"]["tasks"]] == [3, 2, 2]


def test_a_run_goes_on_without_its_old_images(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    save_classes(tmp_path / "classes", "abcd", seed=1)
    (tmp_path / "run" / "result.json").unlink()
    words = ("continual", "-r", "run", "--resume", "-o", "run")
    done = effcli(*words, cwd=tmp_path)
    assert done.code == 0
    assert "classes: 4 of 4 test images of task 1 are gone or changed" in done.stderr
    assert metrics_of(tmp_path / "run")["class_il"] == metrics_of(place / "run")["class_il"]
    assert "its test images are no longer there" in refused(tmp_path, "eval", "run").stderr


def test_own_photographs_are_learned_on_trained_features(tmp_path: Path) -> None:
    save_classes(tmp_path / "classes", "abcd")
    words = (
        "--data",
        "classes",
        "--threads",
        "1",
        "-s",
        "network.features=kept",
        "-s",
        "projection.size=100",
    )
    done = effcli("continual", *words, "--json", "-o", "run", cwd=tmp_path)
    assert (done.code, done.json["method"]) == (0, "ranpac"), done.stderr
    assert "method: ranpac" in done.stderr
    assert done.json["metrics"]["class_il"] == 1
    assert len(list((tmp_path / "kept").glob("*.sqlite"))) == 1
    save_classes(tmp_path / "new", "xy")
    grown = effcli("continual", "--tasks-dir", "new", "--resume", "-o", "run", cwd=tmp_path)
    assert (grown.code, grown.lines) == (0, ["run"]), grown.stderr
    save_classes(tmp_path / "all", "abcdxy")
    seen = effcli("continual", "eval", "run", "--data", "all", "--json", cwd=tmp_path)
    assert seen.json["metrics"]["class_il"] > 0.9
