"""What holds for every verb: stdout is the result alone, --json is one object, mistakes end with 2 and write nothing.

A new verb joins by a row in VERBS; a test fails until it has one.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import typer
from effcli.cli.main import _Root
from PIL import Image

from tests.cli.coco_squares import save_squares
from tests.cli.effcli_process import effcli, start
from tests.diffusion.tiny_models import save_pipeline, tiny_unet

pytestmark = pytest.mark.slow  # models of every task are made for them

RESULT = {"schema", "task", "verb", "method", "recipe", "output", "metrics", "timing", "environment"}
CLAIM = """
task: distill
title: A longer training is better
source: nowhere
base: teacher.yaml
overrides: {train.steps: 1}
arms: {a: {}}
seeds: [0, 1]
expect: [{arm: a, metric: parameters, at_least: 1}]
"""
TEACHER = """
task: distill
method: teacher
data: {source: photos, side: 8}
unet: {block_out_channels: [8, 8], attention_head_dim: 8, norm_num_groups: 4}
train: {steps: 2, batch_size: 4}
sampler: {steps: 2}
"""
SMALL_QUANTIZE = "--bits w4a8 --steps 2 --trajectories 1 -s train.batch_size=2 -s calibration.n_images=2"
SMALL_DISTILL = (
    "--steps 1 --teacher-steps 4 --features unet -s train.steps=1 -s train.last_rounds_steps=1 -s train.batch_size=2 "
    "-s relations.queue_size=8 -s relations.contrast=8 -s eval.n_images=4"
)
SMALL_CONTINUAL = (
    "--data classes --tasks 2 --epochs 1 -s network.width=2 -s data.side=8 -s data.channels=3 -s train.batch_size=2 "
    "--buffer 4"
)
SMALL_DETECTOR = "--epochs 1 -s train.batch_size=4"
SMALL_RL = "--steps 512 --policies 2 -s ppo.epochs=1 -s eval.episodes=2 --compare mean"
ENV_KWARGS = '{"sutton_barto_reward":false}'
SMALL_ENHANCE = "-r small -s network.dim=4 -s network.d_state=4 -s data.patch=16 -s train.batch_size=2"


@dataclass(frozen=True)
class Verb:
    """A row.

    Attributes:
        words: the command.
        arguments: with which it works in the folder `place`; ``OUT`` is a path that is not there.
        stdout: what stdout is: ``paths`` of what was made, ``text`` for people, ``picture``, or ``lines`` of JSON of
            which the last is the object of ``--json``.
        keys: of the JSON object.
        wrong: arguments instead of `arguments` that name something missing or wrong.
    """

    words: str
    arguments: str
    stdout: str = "paths"
    keys: frozenset[str] = frozenset()
    wrong: str = "nowhere"


VERBS = [
    Verb(
        "enhance run",
        "night.png --weights tiny.safetensors -o OUT.png",
        keys=frozenset(RESULT),
        wrong="no.png -o OUT.png",
    ),
    Verb(
        "enhance train",
        f"--data pairs --steps 1 {SMALL_ENHANCE} -o OUT",
        keys=frozenset(RESULT),
        wrong="--data no -o OUT",
    ),
    Verb(
        "enhance eval",
        "--data pairs --weights tiny.safetensors",
        "text",
        frozenset(RESULT),
        wrong="--data no",
    ),
    Verb("enhance merge", "shards/summary-1-of-1.json", "text", frozenset(RESULT)),
    Verb("enhance inspect", "tiny.safetensors", "text", frozenset({"weights", "parameters"})),
    Verb(
        "enhance export",
        "tiny.safetensors -o OUT.safetensors",
        keys=frozenset({"output"}),
        wrong="no -o OUT/x",
    ),
    Verb(
        "quantize run",
        f"model {SMALL_QUANTIZE} -s eval.n_images=4 -o OUT",
        keys=frozenset(RESULT),
        wrong=f"model {SMALL_QUANTIZE} -s eval.data=nowhere -o OUT",
    ),
    Verb(
        "quantize sample",
        "packed -n 4 -o OUT.png",
        keys=frozenset({"output", "images"}),
        wrong="no -o OUT/x.png",
    ),
    Verb("quantize eval", "packed -n 4", "text", frozenset(RESULT), wrong="packed --data nowhere"),
    Verb("quantize inspect", "packed", "text", frozenset({"layers", "size_bytes", "bits_per_parameter"})),
    Verb(
        "quantize export",
        "packed --to diffusers -o OUT",
        keys=frozenset({"output", "layers"}),
        wrong="no -o OUT",
    ),
    Verb(
        "distill run",
        f"model {SMALL_DISTILL} -o OUT",
        keys=frozenset(RESULT),
        wrong=f"model {SMALL_DISTILL} --data nowhere -o OUT",
    ),
    Verb(
        "distill sample",
        "students --steps 2 -n 4 -o OUT.png",
        keys=frozenset({"output", "images"}),
        wrong="students --steps 8 -o OUT/x.png",
    ),
    Verb(
        "distill reinforce",
        "classes --views 1 -s cache_dir=reinforced-cache -o OUT",
        keys=frozenset(RESULT),
        wrong="nowhere -o deep/er/OUT",
    ),
    Verb("distill eval", "students -n 4", "text", frozenset(RESULT), wrong="model -n 4"),
    Verb("distill train", "-r teacher.yaml -o OUT", keys=frozenset(RESULT), wrong="--data no -o deep/er/OUT"),
    Verb(
        "continual run",
        f"{SMALL_CONTINUAL} -o OUT",
        keys=frozenset(RESULT),
        wrong="--data nowhere -o deep/er/OUT",
    ),
    Verb("continual eval", "stream --data classes", "text", frozenset(RESULT), wrong="stream --data nowhere"),
    Verb(
        "continual predict",
        "stream classes",
        "text",
        frozenset({"images", "failed", "unknown", "unknown_below", "images_per_s"}),
        wrong="stream nowhere",
    ),
    Verb(
        "continual export",
        "stream -o OUT.safetensors",
        keys=frozenset({"output", "classes"}),
        wrong="stream -o OUT/x.txt",
    ),
    Verb(
        "continual train-detector",
        f"--data squares {SMALL_DETECTOR} -o OUT",
        keys=frozenset(RESULT),
        wrong="--data nowhere -o deep/er/OUT",
    ),
    Verb(
        "continual detect",
        "squares-detector night.png",
        "text",
        frozenset({"images", "failed"}),
        wrong="squares-detector nowhere.png",
    ),
    Verb(
        "continual inspect",
        "squares -o OUT.png",
        "text",
        frozenset({"data", "parts", "output"}),
        wrong="nowhere -o deep/er/OUT.png",
    ),
    Verb(
        "detect-stream run",
        "kitti/0000 --clock sim --simulate-latency 50",
        "lines",
        frozenset(RESULT),
        wrong="nowhere -o OUT",
    ),
    Verb(
        "detect-stream train",
        "--data kitti -s data.split=all -s eval.data=null --steps 1 -s train.batch_size=1 -o OUT",
        keys=frozenset(RESULT),
        wrong="--data nowhere -o deep/er/OUT",
    ),
    Verb("detect-stream eval", "--data kitti", "text", frozenset(RESULT), wrong="--data nowhere"),
    Verb(
        "detect-stream export",
        "-o OUT.safetensors",
        keys=frozenset({"output", "target"}),
        wrong="-o OUT/x.txt",
    ),
    Verb(
        "detect-stream synth",
        "-n 1 --frames 3 -o OUT",
        keys=frozenset({"output", "sequences", "frames"}),
        wrong="--preset no -o OUT",
    ),
    Verb(
        "rl-distill run",
        f"{SMALL_RL} --teacher group --tensorboard -o OUT",
        keys=frozenset(RESULT),
        wrong=f"{SMALL_RL} --teacher nowhere -o deep/er/OUT",
    ),
    Verb(
        "rl-distill eval",
        f"group -n 2 --env-kwargs {ENV_KWARGS}",
        "text",
        frozenset(RESULT),
        wrong="group --env Acrobot-v1",
    ),
    Verb(
        "rl-distill watch",
        f"group --steps 5 --env-kwargs {ENV_KWARGS} -o OUT.gif",
        keys=frozenset({"output", "steps", "episode_return"}),
        wrong="group -o OUT/x.txt",
    ),
    Verb(
        "rl-distill export",
        "group -o OUT.safetensors",
        keys=frozenset({"output", "policy"}),
        wrong="group --policy 9 -o OUT/x.onnx",
    ),
    Verb("recipes ls", "", "text", frozenset({"recipes", "claims"})),
    Verb("recipes show", "quantize", "text", frozenset({"task", "method", "seed"})),
    Verb("recipes cp", "quantize default OUT.yaml", keys=frozenset({"output"}), wrong="quantize no OUT.yaml"),
    Verb("recipes check", "teacher.yaml claim.yaml", keys=frozenset({"files"}), wrong="no.yaml"),
    Verb("doctor", "", "text", frozenset({"devices"}), wrong="--no"),
    Verb("report", "packed", keys=frozenset({"reports"})),
    Verb("compare", "packed packed", "text", frozenset({"metrics", "rows"})),
    Verb("compare", "packed packed -o OUT.html", keys=frozenset({"metrics", "rows", "page"})),
    Verb("verify", "claim.yaml -o OUT", keys=frozenset({"verdict", "findings", "arms"}), wrong="no.yaml"),
]
by_name = pytest.mark.parametrize("verb", VERBS, ids=[verb.words for verb in VERBS])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """A folder with everything that the rows name."""
    folder = tmp_path_factory.mktemp("place")
    draws = np.random.default_rng(0)

    def picture(name: str, brightest: int = 60) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, brightest, (24, 32, 3), dtype=np.uint8)).save(path)

    picture("night.png")
    for name in ("1.png", "2.png"):
        picture(f"pairs/low/{name}")
        picture(f"pairs/high/{name}", 255)
        picture(f"photos/{name}", 255)
    for number in range(4):
        picture(f"classes/cat/{number}.png", 255)
        picture(f"classes/dog/{number}.png", 255)
    save_squares(folder / "squares", n=8)
    (folder / "claim.yaml").write_text(CLAIM)
    (folder / "teacher.yaml").write_text(TEACHER)
    shutil.copy(tiny_weights, folder / "tiny.safetensors")
    words = "enhance night.png --weights tiny.safetensors --shard 1/1 -o shards"
    done = effcli(*words.split(), cwd=folder)
    assert done.code == 0, done.stderr
    save_pipeline(folder / "model", tiny_unet())
    small = (*SMALL_QUANTIZE.split(), "-s", "eval.n_images=4")
    done = effcli("quantize", "model", *small, "-o", "packed", cwd=folder)
    assert done.code == 0, done.stderr
    done = effcli("distill", "model", *SMALL_DISTILL.split(), "-o", "students", cwd=folder)
    assert done.code == 0, done.stderr
    done = effcli("continual", *SMALL_CONTINUAL.split(), "-o", "stream", cwd=folder)
    assert done.code == 0, done.stderr
    done = effcli("rl-distill", *SMALL_RL.split(), "-o", "group", cwd=folder)
    assert done.code == 0, done.stderr
    done = effcli("detect-stream", "synth", "-n", "1", "--frames", "4", "-o", "kitti", cwd=folder)
    assert done.code == 0, done.stderr
    words = f"train-detector --data squares {SMALL_DETECTOR} -o squares-detector"
    done = effcli("continual", *words.split(), cwd=folder)
    assert done.code == 0, done.stderr
    return folder


def words_of(verb: Verb, arguments: str, out: str) -> list[str]:
    name = f"{out}-{verb.words}".replace(" ", "-")
    return [*verb.words.split(), *arguments.replace("OUT", name).split()]


def everything_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_every_verb_has_a_row() -> None:
    def verbs() -> Iterator[str]:
        for name, (module, _) in _Root.table.items():
            command = typer.main.get_command(importlib.import_module(module).app)
            own = getattr(command, "commands", {})
            yield from (f"{name} {verb}" for verb in own) if own else [name]

    assert {verb.words for verb in VERBS} == set(verbs())


@by_name
def test_stdout_is_the_result_alone(verb: Verb, place: Path) -> None:
    done = effcli(*words_of(verb, verb.arguments, "plain"), cwd=place)
    assert done.code == 0, done.stderr
    assert done.lines
    if verb.stdout == "paths":
        assert all((place / line).exists() for line in done.lines), done.lines


@by_name
def test_json_is_one_object(verb: Verb, place: Path) -> None:
    done = effcli(*words_of(verb, verb.arguments, "json"), "--json", "-q", cwd=place)
    assert (done.code, done.stderr) == (0, "")
    content = json.loads(done.lines[-1]) if verb.stdout == "lines" else done.json
    assert content.keys() >= verb.keys
    if "metrics" in verb.keys and "timing" in verb.keys:
        assert f"{content['task']} {content['verb']}" == verb.words
        assert {"effcli", "torch", "device", "precision", "threads", "seed"} <= content["environment"].keys()
    assert [key for key in keys_in(content) if not is_snake_case(key)] == []


def keys_in(value: object) -> Iterator[str]:
    """Keys at any depth, but not those that are names of a person's things."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in {
                "figures",
                "arms",
                "recipe",
                "values",
                "unet_config",
                "scheduler_config",
                "per_class",
            }:
                yield from keys_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_in(inner)


def is_snake_case(key: str) -> bool:
    return key == key.lower() and key.replace("_", "").isalnum()


@by_name
def test_a_mistake_is_2_and_one_object_and_writes_nothing(verb: Verb, place: Path) -> None:
    for arguments in (verb.wrong, f"{verb.arguments} --no-such-option"):
        before = everything_in(place)
        done = effcli(*words_of(verb, arguments, "wrong"), "--json", cwd=place)
        assert done.code == 2, done.stderr
        assert done.json["error"].keys() == {"code", "place", "message", "hint"}
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
        assert everything_in(place) == before


WITH_PLAN = [verb for verb in VERBS if verb.words.endswith(" run") or "train" in verb.words]


@pytest.mark.parametrize("verb", WITH_PLAN, ids=[verb.words for verb in WITH_PLAN])
def test_a_dry_run_prints_the_recipe_and_touches_nothing(verb: Verb, place: Path) -> None:
    before = everything_in(place)
    done = effcli(*words_of(verb, verb.arguments, "dry"), "--dry-run", "--json", cwd=place)
    assert done.code == 0, done.stderr
    assert done.json["recipe"]["task"] == verb.words.split()[0]
    assert done.json["plan"]
    assert everything_in(place) == before


@pytest.mark.parametrize("verb", WITH_PLAN, ids=[verb.words for verb in WITH_PLAN])
def test_a_wrong_key_is_named_with_its_place_and_the_nearest_known(verb: Verb, place: Path) -> None:
    done = effcli(*words_of(verb, verb.arguments, "key"), "-s", "sead=1", "--json", cwd=place)
    assert done.code == 2
    assert done.json["error"]["place"] == "--set sead=1"
    assert done.json["error"]["message"] == "sead: unknown key, did you mean 'seed'?"


@pytest.mark.parametrize("verb", WITH_PLAN, ids=[verb.words for verb in WITH_PLAN])
def test_a_device_or_precision_that_is_not_there_is_refused(verb: Verb, place: Path) -> None:
    words = words_of(verb, verb.arguments, "device")
    assert "no device" in effcli(*words, "--device", "cuda:7", cwd=place).stderr
    done = effcli(*words, "--device", "cpu", "--precision", "fp16", cwd=place)
    assert (done.code, done.lines) == (2, [])
    assert "fp16 is not supported on the CPU" in done.stderr


LONG = {
    "enhance train": f"enhance train --data pairs {SMALL_ENHANCE} --steps 100000 -o long-enhance",
    "quantize run": f"quantize model {SMALL_QUANTIZE} --trajectories 100000 -o long-quantize",
    "quantize sample": "quantize sample packed -n 1000000 --batch-size 64 -o long.png",
    "distill run": f"distill model {SMALL_DISTILL} -s train.last_rounds_steps=100000 -o long-distill",
    "distill sample": "distill sample students -n 1000000 --batch-size 64 -o long.png",
    "distill train": "distill train -r teacher.yaml --steps 100000 -o long-teacher",
    "continual run": f"continual {SMALL_CONTINUAL} --epochs 1000000 -o long-continual",
    "continual train-detector": "continual train-detector --data squares --epochs 100000 -o long-detector",
    "rl-distill run": "rl-distill --steps 100M -o long-rl",
    "verify": "verify claim.yaml --seeds 0 --seeds 1 --seeds 2 --seeds 3 --seeds 4 --seeds 5 -o long-verify",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("name", LONG)
def test_a_signal_ends_with_130_and_one_object(
    name: str, number: signal.Signals, place: Path, tmp_path: Path
) -> None:
    words = LONG[name].replace("long", f"long-{number}").split()
    process = start(tmp_path, *words, "--json", cwd=place)
    time.sleep(0.7 if name == "verify" else 2.0)
    assert process.exitcode is None, (tmp_path / "2").read_text()
    for _ in range(3):  # as a person would: libraries swallow it now and then while they are imported
        os.kill(process.pid or 0, number)
        process.join(20)
        if process.exitcode is not None:
            break
    assert process.exitcode == 130, (tmp_path / "2").read_text()
    assert json.loads((tmp_path / "1").read_text())["error"]["code"] == "interrupted"
    assert "interrupted" in (tmp_path / "2").read_text()


def test_a_closed_pipe_and_a_full_disk_on_stdout(place: Path) -> None:
    command = f"{sys.executable} -m effcli recipes show quantize"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -1"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    for json_too in ("", " --json"):
        done = subprocess.run(
            ["bash", "-c", f"{command}{json_too} > /dev/full"], capture_output=True, text=True
        )
        assert done.returncode == 1
        assert "No space left" in done.stderr and "Traceback" not in done.stderr
