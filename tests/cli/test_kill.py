"""kill -9 at random moments of a run, resumed: the products and the log are those of an uninterrupted run."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effcli.detect_stream.data.kitti_tracking import write_sequence
from effcli.detect_stream.data.synthetic_drives import Drive
from tests.cli.coco_squares import save_squares
from tests.cli.effcli_process import effcli, start
from tests.diffusion.tiny_models import save_pipeline, tiny_unet
from tests.distill.clip.tiny_clips import LOCKED, STUDENT, save_pairs, save_teacher, write_config

pytestmark = pytest.mark.slow

N_KILLS = int(os.environ.get("EFFCLI_KILLS", "3"))
"""Of each command; they cost some seconds each."""

SAME = ("--save-every", "2steps", "--device", "cpu", "--precision", "fp32", "--threads", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the commands name."""
    folder = tmp_path_factory.mktemp("kill")
    draws = np.random.default_rng(1)
    for number in range(4):
        values = draws.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        for side, picture in (("low", values // 6), ("high", values)):
            (folder / "pairs" / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / "pairs" / side / f"{number}.png")
    for name in "abcdef":
        (folder / "classes" / name).mkdir(parents=True)
        for number in range(8):
            values = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(values).save(folder / "classes" / name / f"{number}.png")
    assert list(write_sequence(folder / "kitti", "0000", Drive(1, 4)))
    save_pipeline(folder / "model", tiny_unet())
    save_teacher(folder / "clip")
    write_config(folder / "vit.json", STUDENT)
    write_config(folder / "lite0.json", LOCKED)
    save_squares(folder / "squares", n=8)
    save_pairs(folder / "captions")
    return folder


def set_(**values: object) -> list[str]:
    return [part for key, value in values.items() for part in ("-s", f"{key.replace('__', '.')}={value}")]


COMMANDS = {
    "detect-stream train": [
        *("detect-stream", "train", "--data", "kitti", "--steps", "5"),
        *set_(data__split="all", eval__data="null", train__batch_size=1),
    ],
    "enhance train": [
        *("enhance", "train", "-r", "small", "--data", "pairs", "--steps", "30"),
        *set_(network__dim=4, network__d_state=4, data__patch=16, train__batch_size=2),
    ],
    "quantize": [
        *("quantize", "model", "--bits", "w2a4", "--steps", "4", "--trajectories", "5"),
        *set_(train__batch_size=2, calibration__n_images=4, calibration__n_inputs=8, eval__n_images=4),
    ],
    "distill": [
        *("distill", "model", "--steps", "1", "--teacher-steps", "8", "--features", "unet"),
        *set_(train__steps=4, train__last_rounds_steps=4, train__batch_size=2, eval__n_images=4),
        *set_(relations__queue_size=64, relations__contrast=32, features_from=4),
    ],
    "distill clip-kd": [
        *("distill", "clip", "--method", "clip-kd", "--student", "vit.json", "--data", "captions/pairs.csv"),
        *("--teacher-cache", "2-views", "-s", "cache_dir=cache"),
        *set_(train__epochs=6, train__batch_size=4, eval__hold_out=0.2),
    ],
    "continual": [
        *("continual", "--method", "clfd-cls-er", "--data", "classes", "--tasks", "3", "--epochs", "4"),
        *set_(network__width=2, data__side=8, data__channels=3, train__batch_size=4, buffer__size=8),
    ],
    "continual e2net": [
        *("continual", "--method", "e2net", "--data", "classes", "--tasks", "3", "--epochs", "4"),
        *set_(network__width=8, data__side=8, data__channels=3, train__batch_size=4, buffer__size=8),
        *set_(subnets__candidates=10),
    ],
    "continual ir": [
        *("continual", "--method", "ir", "--data", "classes", "--tasks", "3", "--epochs", "4"),
        *set_(network__width=2, data__side=8, data__channels=3, train__batch_size=4, train__first_epochs=4),
    ],
    "continual train-detector": [
        *("continual", "train-detector", "--data", "squares", "--tasks", "2+2", "--epochs", "3"),
        *set_(train__batch_size=4, train__warmup_steps=2),
    ],
    "continual egor": [
        *("continual", "--method", "egor", "--data", "squares", "--tasks", "2+2", "--epochs", "2"),
        *set_(train__batch_size=4, train__warmup_steps=2, base__epochs=1, base__batch_size=4),
        *set_(inversion__iterations=4, inversion__per_class=2, inversion__side=32),
    ],
    "rl-distill": [
        *("rl-distill", "--steps", "600", "--policies", "2", "--policy", "small,small", "--compare", ""),
        *set_(ppo__epochs=1, ppo__rollout=16, eval__episodes=1),
    ],
    "distill train lit": [
        *("distill", "train", "-r", "twemoji-clip", "--data", "captions/pairs.csv"),
        *set_(student="lite0.json", teacher_cache="2-views", cache_dir="cache", eval__hold_out=0.2),
        *set_(train__epochs=3, train__batch_size=8),
    ],
    "distill train classifier": [
        *("distill", "train", "-r", "fashion-classifier", "--data", "classes", "--steps", "30"),
        *set_(data__side=8, train__batch_size=8, width=8),
    ],
    "distill train": [
        *("distill", "train", "--data", "pairs/high", "--steps", "30"),
        *set_(unet__block_out_channels=[8, 8], unet__attention_head_dim=8, unet__norm_num_groups=4),
        *set_(data__side=8, train__batch_size=4, sampler__steps=2),
    ],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_and_resumed_until_it_is_done(name: str, place: Path, tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    draw, command = random.Random(seed), [*COMMANDS[name], *SAME]
    whole = place / f"{name} whole".replace(" ", "-")
    started = time.monotonic()
    done = effcli(*command, "-o", whole, cwd=place)
    assert done.code == 0, done.stderr
    whole_s = time.monotonic() - started
    n_killed = n_runs = 0
    while n_killed < N_KILLS:
        killed = tmp_path / f"killed-{n_runs}"
        while not (killed / "result.json").exists():
            process = start(tmp_path, *command, "-o", killed, "--resume", cwd=place)
            if n_killed < N_KILLS:
                process.join(draw.uniform(0, whole_s))
                process.kill()
            process.join(120)
            assert process.exitcode in (0, -signal.SIGKILL), f"seed {seed}: {(tmp_path / '2').read_text()}"
            n_killed += process.exitcode != 0
        n_runs += 1
        if (
            process.exitcode
        ):  # killed while it drew: the result is there, and resuming clears what is half written
            again = effcli(*command, "-o", killed, "--resume", cwd=place)
            assert (again.code, again.lines) == (0, [str(killed)]), again.stderr
        products = [path.relative_to(whole) for path in (whole / "model").rglob("*") if path.is_file()]
        assert products
        for file in (*products, Path("metrics.jsonl"), Path("recipe.yaml")):
            assert (killed / file).read_bytes() == (whole / file).read_bytes(), f"{file}, seed {seed}"
        assert not list(killed.rglob(".part-*"))


def n_kept(folder: Path) -> int:
    """Rows of the files with features in a folder."""
    found = 0
    for file in folder.glob("*.sqlite"):
        with (
            contextlib.closing(sqlite3.connect(file)) as database,
            contextlib.suppress(sqlite3.OperationalError),
        ):
            found += database.execute("SELECT count(*) FROM features").fetchone()[0]
    return found


def test_killed_in_the_middle_of_computing_features(tmp_path: Path) -> None:
    draws = np.random.default_rng(3)
    for name in "ab":
        (tmp_path / "many" / name).mkdir(parents=True)
        for number in range(160):
            values = draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / "many" / name / f"{number}.png")
    command = ["continual", "--method", "ranpac", "--data", "many", "--tasks", "2", *SAME]
    command += set_(projection__size=20)
    killed = (*command, "-s", "network.features=kept", "-o", "killed", "--resume")
    process = start(tmp_path, *killed, cwd=tmp_path)
    while process.is_alive() and n_kept(tmp_path / "kept") < 64:
        time.sleep(0.01)
    process.kill()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert 64 <= n_kept(tmp_path / "kept") < 320
    assert not (tmp_path / "killed" / "result.json").exists()
    for words in (killed, (*command, "-s", "network.features=other", "-o", "whole")):
        done = effcli(*words, cwd=tmp_path)
        assert done.code == 0, done.stderr
    assert n_kept(tmp_path / "kept") == 320
    file = Path("model", "classifier.safetensors")
    assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
