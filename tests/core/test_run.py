from __future__ import annotations

import errno
import json
import logging
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_task import ToyRecipe, ToyTrain, run_toy, train

from effcli.core.errors import InterruptedRunError, NonFiniteError, RunError, UsageError
from effcli.core.evidence.result import Result, finite, numbers, read_result
from effcli.core.recipe import dump_recipe
from effcli.core.resuming.checkpoint import SaveEvery
from effcli.core.resuming.metrics_log import MetricsLog, read_metrics
from effcli.core.run import Run, open_run
from effcli.core.runtime import Runtime

CPU = Runtime(torch.device("cpu"), "fp32", seed=0)


def opened(
    path: Path | None, *, resume: bool = False, seed: int = 0, save_steps: int = 1000, **options: Any
) -> Run:
    return open_run(
        path,
        ToyRecipe(seed=seed),
        options.pop("runtime", CPU),
        verb="run",
        recipe_name="toy",
        resume=resume,
        save_every=SaveEvery(None, save_steps),
        **options,
    )


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def stop_at(stage: str, step: int) -> Any:
    def hook(*now: Any) -> None:
        if now == (stage, step):
            os.kill(os.getpid(), signal.SIGINT)

    return hook


# --- --save-every -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10min", SaveEvery(600.0)),
        ("90s", SaveEvery(90.0)),
        ("2h", SaveEvery(7200.0)),
        ("0.5h", SaveEvery(1800.0)),
        ("500steps", SaveEvery(None, 500)),
        ("1steps", SaveEvery(None, 1)),
    ],
)
def test_save_every(text: str, expected: SaveEvery) -> None:
    assert SaveEvery.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "min",
        "0s",
        "0steps",
        "-1s",
        "nans",
        "infs",
        "1e3s",
        "1_0s",
        "1.5steps",
        "²steps",
        "٣s",
        "10 m",
        "steps",
    ],
)
def test_save_every_refuses_everything_else(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        SaveEvery.parse(text)
    assert caught.value.place == "--save-every"


def test_checkpoints_are_written_when_due(tmp_path: Path) -> None:
    network, saved = nn.Linear(1, 1), []
    with opened(tmp_path, save_steps=4) as run:
        save = run._checkpoints.save
        run._checkpoints.save = lambda name, content: (saved.append(content["step"]), save(name, content))  # type: ignore[func-returns-value, method-assign, assignment]
        list(run.steps("train", 10, {"network": network}))
        run.save_every = SaveEvery(0.02)
        for _ in run.steps("timed", 3, {"network": network}):
            time.sleep(0.021)
    assert saved == [4, 8, 10, 1, 2, 3]


def test_a_loop_has_begun_once_it_has_a_checkpoint(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    with opened(tmp_path, save_steps=2) as run:
        begun = [run.has_begun("train") for _ in run.steps("train", 4, {"network": network})]
        assert begun == [False, False, True, True]
        assert run.has_begun("train") and not run.has_begun("other")


def test_what_a_run_says_is_more_than_information_and_less_than_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as run, caplog.at_level(logging.DEBUG):
        run.say("half is done")
    levels = [record.levelno for record in caplog.records if record.getMessage() == "half is done"]
    assert len(levels) == 1 and logging.INFO < levels[0] < logging.WARNING


# --- stop and resume ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path = run_toy(tmp_path_factory.mktemp("runs") / "whole")
    torch.set_num_threads(threads)
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("stage", "step"), [("train", 0), ("train", 7), ("train", 23), ("tune", 0), ("tune", 4), ("tune", 11)]
)
def test_a_stopped_run_goes_on_to_the_same_result(
    tmp_path: Path, uninterrupted: Path, stage: str, step: int
) -> None:
    path = tmp_path / "run"
    with pytest.raises(
        InterruptedRunError, match=f"after {step + 1} of .* of {stage}; checkpoint written"
    ) as caught:
        run_toy(path, stop_at(stage, step))
    assert caught.value.exit_code == 130
    assert "--resume" in str(caught.value.hint)
    assert not (path / "result.json").exists()
    torch.rand(step)  # the state of the global generators is another one in another process
    run_toy(path, resume=True)
    for name in ("weights.pt", "metrics.jsonl", "recipe.yaml"):
        assert (path / name).read_bytes() == (uninterrupted / name).read_bytes(), name
    assert read_result(path)["metrics"] == read_result(uninterrupted)["metrics"]


@pytest.mark.slow
def test_the_time_adds_up_over_resumes(tmp_path: Path) -> None:
    def slow(stage: str, step: int) -> None:
        time.sleep(0.02)
        if (stage, step) == ("train", 19):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        run_toy(tmp_path, slow)
    before = torch.load(tmp_path / "checkpoints" / "train.pt", weights_only=True)["elapsed_s"]
    assert before > 0.4
    started = time.monotonic()
    run_toy(tmp_path, lambda *_: time.sleep(0.01), resume=True)
    took = time.monotonic() - started
    total = read_result(tmp_path)["timing"]["total_s"]
    assert before + 0.16 < total < before + took + 0.01


def test_a_stage_is_computed_once_and_comes_back_as_a_resumed_run_sees_it(tmp_path: Path) -> None:
    calls = []

    def compute(n: int) -> dict[str, Any]:
        calls.append(n)
        return {"x": torch.rand(n), "names": ("a",), "none": None}

    seen = []
    for resume in (False, True):
        with opened(tmp_path, resume=resume) as run:
            value = run.stage("prepare", compute, 3)
            seen.append((value["x"].tolist(), value["names"], value["none"], torch.rand(1).item()))
    assert calls == [3]
    assert seen[0] == seen[1]


def test_a_stage_that_could_not_be_resumed_fails_at_once(tmp_path: Path) -> None:
    with opened(tmp_path) as run, pytest.raises(RunError, match="cannot be read back"):
        run.stage("prepare", lambda: np.float64(1))


def test_other_randomness_than_torch_s_is_seeded_too(tmp_path: Path) -> None:
    import random

    def draw(run: Run) -> list[float]:
        return [random.random() + np.random.rand() + torch.rand(1).item() for _ in run.steps("x", 3, {})]

    drawn = []
    for name in ("a", "b"):
        with opened(tmp_path / name) as run:
            drawn.append(draw(run))
        random.seed(name)
        np.random.seed(len(drawn))
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3


def test_check_stop(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.check_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(InterruptedRunError):
            run.check_stop()


@pytest.mark.parametrize(
    "now", [Runtime(torch.device("cpu"), "bf16", 0), Runtime(torch.device("meta"), "fp32", 0)]
)
def test_going_on_with_other_arithmetic_is_announced(
    tmp_path: Path, now: Runtime, warnings_logged: list[str]
) -> None:
    with opened(tmp_path) as run:
        list(run.steps("train", 2, {"network": nn.Linear(1, 1)}))
    with opened(tmp_path, resume=True) as run:
        list(run.steps("train", 2, {"network": nn.Linear(1, 1)}))
    assert warnings_logged == []
    with opened(tmp_path, resume=True, runtime=now) as run:
        list(run.steps("train", 2, {"network": nn.Linear(1, 1)}))
    (warning,) = warnings_logged
    assert "the last bits will differ" in warning
    assert now.precision in warning
    assert now.device.type in warning


@pytest.mark.parametrize(
    "state", [{"network": nn.Linear(2, 1)}, {"network": nn.Linear(1, 1), "more": nn.Linear(1, 1)}]
)
def test_a_checkpoint_that_does_not_fit_is_a_clear_error(tmp_path: Path, state: dict[str, nn.Module]) -> None:
    with opened(tmp_path) as run:
        list(run.steps("train", 2, {"network": nn.Linear(1, 1)}))
    with opened(tmp_path, resume=True) as run, pytest.raises(RunError, match="its checkpoint does not fit"):
        list(run.steps("train", 3, state))


# --- which directory ----------------------------------------------------------------------------------


def test_a_run_of_another_recipe_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    before = snapshot(tmp_path)
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"another recipe \(seed: 0 -> 1\)"):
            opened(tmp_path, seed=1, resume=resume)
    assert snapshot(tmp_path) == before


def test_a_run_of_another_method_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("task: other\nmethod: x\nnetwork: {width: 3}\n")
    with pytest.raises(UsageError, match=r"a run of another recipe \(other, x\)$"):
        opened(tmp_path)


def test_an_unfinished_run_needs_resume(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    with pytest.raises(UsageError, match="unfinished run of this recipe") as caught:
        opened(tmp_path)
    assert caught.value.hint == "--resume continues it"


def test_a_finished_run_is_refused_without_resume_and_untouched_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_toy(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match="a finished run of this recipe"):
        run_toy(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # a finished run may lie on a read-only disk
    run_toy(tmp_path, resume=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("resume", [False, True])
def test_what_is_not_a_run_directory_is_refused(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.jpg").touch()
    with pytest.raises(UsageError, match="is not empty and is not a run directory"):
        opened(tmp_path / "photos", resume=resume)
    with pytest.raises(UsageError, match="is a file, not a folder"):
        opened(tmp_path / "photos" / "x.jpg", resume=resume)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["x.jpg"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"seed: [", b"task: other\nmethod: x\n", b""])
def test_a_directory_whose_recipe_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(UsageError, match="another recipe"):
        opened(tmp_path, resume=True)
    assert (tmp_path / "recipe.yaml").read_bytes() == content


def test_a_directory_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UsageError, match="cannot be written: Read-only file system"):
        opened(tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_two_processes_cannot_work_in_one_directory(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with opened(tmp_path), pytest.raises(UsageError, match="another process is working in this directory"):
        opened(tmp_path, resume=True)
    with opened(tmp_path, resume=True):
        pass


def test_a_process_killed_while_it_wrote_the_recipe_leaves_a_directory_that_can_be_used(
    tmp_path: Path,
) -> None:
    for name in (".lock", ".part-0123.yaml"):
        (tmp_path / name).touch()
    with opened(tmp_path):
        assert not list(tmp_path.glob(".part-*"))


def test_left_over_parts_are_removed_on_reopening(tmp_path: Path) -> None:
    with opened(tmp_path):
        pass
    for name in (".part-1.json", "checkpoints/.part-2.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with opened(tmp_path, resume=True):
        assert not list(tmp_path.rglob(".part-*"))


def test_the_default_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings_logged: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(None) as first, opened(None) as second:
        assert first.path != second.path
        assert {first.path.parent, second.path.parent} == {Path("runs/toy")}
        assert first.path.name.startswith("toy-")
    with opened(None, seed=1) as other:
        pass
    os.utime(first.path, (2e9, 2e9))  # the newest one
    (Path("runs/toy") / "toy-file").touch()
    with opened(None, resume=True) as resumed:
        assert resumed.path == first.path
    with opened(None, resume=True, seed=1) as resumed:
        assert resumed.path == other.path
    assert warnings_logged == []
    (other.path / "result.json").touch()
    with opened(None, resume=True, seed=1) as new:
        assert new.path != other.path
    assert warnings_logged == ["no unfinished run of this recipe in runs/toy: starting a new one"]


# --- numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, torch.tensor(math.nan)])
@pytest.mark.parametrize("step", [20, 7])  # a logged step and one between
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(tmp_path: Path, bad: Any, step: int) -> None:
    with (
        opened(tmp_path, save_steps=5) as run,
        pytest.raises(NonFiniteError, match=rf"loss is (nan|inf) at step {step} of train"),
    ):
        for now in run.steps("train", 30, {"network": nn.Linear(1, 1)}):
            run.log("train", now, every=10, loss=bad if now == step else 1.0)
    assert torch.load(tmp_path / "checkpoints" / "train.pt", weights_only=True)["step"] == step // 5 * 5
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == (
        [0, 10] if step == 20 else [0]
    )


def test_weights_that_are_not_finite_never_become_a_checkpoint(tmp_path: Path) -> None:
    """Where looking at each loss costs too much, the weights are looked at before they are saved."""
    network = nn.Linear(1, 1)
    with (
        opened(tmp_path, save_steps=2) as run,
        pytest.raises(NonFiniteError, match="weights of network are not finite after 4 steps of train"),
    ):
        for step in run.steps("train", 10, {"network": network}):
            if step == 2:
                network.weight.data.fill_(math.nan)
    assert torch.load(tmp_path / "checkpoints" / "train.pt", weights_only=True)["step"] == 2


def test_a_full_disk_while_logging_is_a_run_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(tmp_path) as run:
        monkeypatch.setattr(Path, "open", full)
        with pytest.raises(RunError, match="the disk is full"):
            run.log("train", 0, loss=1.0)


def test_a_line_cut_short_by_a_crash_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"stage": "a", "step": 0, "x": 1.0}\n{"stage": "a", "st')
    assert read_metrics(file) == [{"stage": "a", "step": 0, "x": 1.0}]
    log = MetricsLog(file)
    log.reopen()
    assert file.read_text() == '{"stage": "a", "step": 0, "x": 1.0}\n'
    file.write_text("{")
    log.reopen()
    assert file.read_text() == ""


def test_lines_that_are_there_already_are_not_written_twice(tmp_path: Path) -> None:
    """What was logged between two loops is logged again on the way to the second one's checkpoint."""

    def work(run: Run, n_tunes: int) -> None:
        list(run.steps("train", 2, {}))
        run.log("between", 0, seconds=time.monotonic())
        for step in run.steps("tune", 5, {}):
            run.log("tune", step, loss=n_tunes)
            run.log("between", 0, seconds=time.monotonic())  # twice under one name is two lines
            if step == n_tunes:
                os.kill(os.getpid(), signal.SIGINT)

    for n_tunes in (1, 3):
        with opened(tmp_path, resume=n_tunes > 1) as run, pytest.raises(InterruptedRunError):
            work(run, n_tunes)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["stage"], row["step"]) for row in rows] == [
        ("between", 0), *(pair for step in range(4) for pair in (("tune", step), ("between", 0)))
    ]  # fmt: skip
    assert [row["loss"] for row in rows if row["stage"] == "tune"] == [1, 1, 3, 3]


def test_lines_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    for resume in (False, True):
        with opened(tmp_path, resume=resume, save_steps=2) as run, pytest.raises(KeyError):
            for step in run.steps("train", 9, {}):
                run.log("train", step, loss=float(resume))
                if step == 4:
                    raise KeyError
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1)]


# --- result -------------------------------------------------------------------------------------------


def test_every_number_of_a_result_is_finite_or_null(tmp_path: Path) -> None:
    metrics: dict[Any, object] = {
        "nan": math.nan,
        "nested": {"inf": -math.inf, "list": [1, math.inf, {"x": (math.nan,)}]},
        "numpy": np.float32(1.5),
        "array": np.array([[1.0, math.nan]]),
        "integer": np.int64(3),
        "tensor": torch.tensor([1, 2]),
        "file": Path("a/b"),
        3: True,
    }
    with opened(tmp_path) as run:
        result = run.finish(metrics)
    content = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert content == read_result(tmp_path) == result.to_json()
    assert content["metrics"] == {
        "nan": None,
        "nested": {"inf": None, "list": [1, None, {"x": [None]}]},
        "numpy": 1.5,
        "array": [[1.0, None]],
        "integer": 3,
        "tensor": [1, 2],
        "file": "a/b",
        "3": True,
    }
    assert dict(numbers(content["metrics"])) == {"numpy": 1.5, "integer": 3.0}
    assert finite(1e308) == 1e308


def test_the_result_has_what_the_contract_names(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        assert not run.is_finished
        result = run.finish({"psnr": 1.0})
        assert run.is_finished
    assert isinstance(result, Result)
    content = read_result(tmp_path)
    assert list(content["environment"]) == [
        "effcli",
        "torch",
        "device",
        "precision",
        "threads",
        "world",
        "seed",
        "processor",
        "commit",
    ]
    assert content["timing"].keys() == {"total_s"}
    assert (content["task"], content["verb"], content["method"]) == ("toy", "run", "sgd")
    assert (content["recipe"], content["output"]) == ("toy", str(tmp_path))
    assert (tmp_path / "recipe.yaml").read_text() == dump_recipe(ToyRecipe())


def test_reading_what_is_not_a_result(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run directory"):
        read_result(tmp_path)
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(UsageError, match="an unfinished run"):
        read_result(tmp_path)
    with pytest.raises(UsageError, match="not a run directory"):
        read_result(tmp_path / "recipe.yaml")
    for text, message in [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"schema": 1}', "not the result"),
    ]:
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(UsageError, match=message):
            read_result(tmp_path)


def test_a_report_that_fails_does_not_cost_the_result(tmp_path: Path, warnings_logged: list[str]) -> None:
    with opened(tmp_path) as run:
        run.finish({"psnr": 1.0}, lambda: {"a picture": "pictures/none.png"})
    assert read_result(tmp_path)["metrics"] == {"psnr": 1.0}
    assert "no report.html" in warnings_logged[0]


def test_the_result_is_on_the_disk_before_anything_is_drawn(tmp_path: Path) -> None:
    def draw() -> dict[str, str]:
        assert read_result(tmp_path)["metrics"] == {"psnr": 1.0}
        (tmp_path / "a.png").write_bytes(b"")
        return {"a picture": "a.png"}

    with opened(tmp_path) as run:
        result = run.finish({"psnr": 1.0}, draw)
    assert result.figures == read_result(tmp_path)["figures"] == {"a picture": "a.png"}
    assert (tmp_path / "report.html").is_file()


def test_figures_that_fail_cost_neither_the_result_nor_the_others(
    tmp_path: Path, warnings_logged: list[str]
) -> None:
    def fail() -> dict[str, str]:
        raise ValueError("no font for\nthis")

    with opened(tmp_path) as run:
        run.draw(fail)
        run.draw(lambda: {"early": "a.png"})
        (tmp_path / "a.png").write_bytes(b"")
        run.finish({"psnr": 1.0}, fail)
    assert read_result(tmp_path)["figures"] == {"early": "a.png"}
    assert warnings_logged == ["a figure is missing: ValueError: no font for this"] * 2


def test_the_log_says_what_ran(tmp_path: Path) -> None:
    logging.getLogger("effcli").setLevel(logging.INFO)
    try:
        with opened(tmp_path) as run:
            train(ToyRecipe(train=ToyTrain(steps=2)), run)
    finally:
        logging.getLogger("effcli").setLevel(logging.NOTSET)
    text = (tmp_path / "log.txt").read_text()
    assert "toy run, recipe toy" in text
    assert "finished in" in text


# --- a run that could not start -----------------------------------------------------------------------


def test_wrong_input_takes_back_a_directory_that_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError), opened(tmp_path / "new"):
        raise UsageError("no such weights")
    assert not (tmp_path / "new").exists()


def test_a_directory_with_work_in_it_stays(tmp_path: Path) -> None:
    with pytest.raises(UsageError), opened(tmp_path / "run") as run:
        run.stage("collect", lambda: 1)
        raise UsageError("wrong only now")
    assert (tmp_path / "run" / "checkpoints").exists() and (tmp_path / "run" / "recipe.yaml").exists()


def test_other_errors_and_other_files_keep_the_directory(tmp_path: Path) -> None:
    with pytest.raises(RunError), opened(tmp_path / "failed"):
        raise RunError("the disk is full")
    assert (tmp_path / "failed" / "recipe.yaml").exists()
    with pytest.raises(UsageError), opened(tmp_path / "shared") as run:
        (run.path / "notes.txt").write_text("mine")
        raise UsageError("wrong")
    assert (tmp_path / "shared" / "notes.txt").read_text() == "mine"


def test_a_directory_that_was_there_stays_when_a_resumed_run_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(RunError), opened(tmp_path / "run"):
        raise RunError("killed early")
    with pytest.raises(UsageError), opened(tmp_path / "run", resume=True):
        raise UsageError("the data are gone")
    assert (tmp_path / "run" / "recipe.yaml").exists()
