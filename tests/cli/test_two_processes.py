"""The verbs under torchrun: two processes share the work, one writes and prints.

Most are forked with what torchrun puts into the environment.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from effcli.core.evidence.result import numbers
from effcli.core.resuming.metrics_log import read_metrics
from tests.cli.effcli_process import effcli, torchrun, two_ranks
from tests.diffusion.tiny_models import save_pipeline, tiny_unet
from tests.distill.clip.tiny_clips import STUDENT, save_pairs, save_teacher, write_config

pytestmark = pytest.mark.slow

TINY_ENHANCE = "-r small -s network.dim=4 -s network.d_state=4 -s data.patch=16 -s train.batch_size=2"
SMALL_QUANTIZE = "--bits w2a4 --steps 4 --trajectories 2 -s train.batch_size=4 -s calibration.n_images=4"
SAME = "--device cpu --precision fp32 --threads 1"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that two processes quantized."""
    place = tmp_path_factory.mktemp("quantize")
    save_pipeline(place / "model", tiny_unet())
    words = f"quantize model {SMALL_QUANTIZE} -s eval.n_images=8 -s eval.batch_size=3 {SAME} -o run --json"
    done = two_ranks(*words.split(), cwd=place)
    assert done.code == 0, done.stderr
    assert done.json["environment"]["world"] == 2
    return place / "run"


def test_enhance_train_gives_the_weights_of_one_process(pairs: Path, tmp_path: Path) -> None:
    words = f"enhance train {TINY_ENHANCE} {SAME} --data {pairs} --steps 5 -o"
    assert effcli(*words.split(), "one", cwd=tmp_path).code == 0
    done = torchrun(*words.split(), "two", cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["two"]), done.stderr
    one, two = (load_file(tmp_path / run / "model" / "walmafa.safetensors") for run in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-5, rtol=1e-3)


def test_detect_stream_train_has_the_gradients_of_one_process(tmp_path: Path) -> None:
    words = (
        f"detect-stream train --data synthetic:2 {SAME} --steps 1 -s eval.data=null -s train.batch_size=2 "
        "-s augment.forget=0 -o"
    ).split()
    assert effcli(*words, "one", cwd=tmp_path).code == 0
    done = two_ranks(*words, "two", cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["two"]), done.stderr
    first, second = (read_metrics(tmp_path / run / "metrics.jsonl")[0] for run in ("one", "two"))
    assert first.pop("stage") == second.pop("stage")
    assert second == pytest.approx(first, rel=1e-3)
    states = [torch.load(tmp_path / run / "checkpoints" / "train.pt")["state"] for run in ("one", "two")]
    one, two = (
        torch.cat([moments["exp_avg"].flatten() for moments in state["optimizer"]["state"].values()])
        for state in states
    )  # a tenth of the first gradient; weights after Adam's first step would only show its signs
    assert (two - one).norm() <= 0.02 * one.norm()


def test_quantize_eval_measures_what_the_run_and_one_process_measure(packed: Path, tmp_path: Path) -> None:
    words = f"quantize eval {packed} --model {packed.parent}/model -n 8 --batch-size 3 {SAME} --json".split()
    one, two = effcli(*words, cwd=tmp_path), two_ranks(*words, cwd=tmp_path)
    assert (one.code, two.code) == (0, 0), two.stderr
    first, second = dict(numbers(one.json["metrics"])), dict(numbers(two.json["metrics"]))
    assert first.keys() >= {"fd_fp", "mse_to_fp"}
    assert second == pytest.approx(first, rel=1e-4)


def test_distill_gives_the_weights_of_one_process(tmp_path: Path) -> None:
    """RDD's relations are those of the whole batch, and so are BatchNorm's statistics in its head."""
    save_pipeline(tmp_path / "model", tiny_unet())
    words = (
        f"distill model --steps 1 --teacher-steps 4 --features unet {SAME} -s train.steps=2 "
        "-s train.last_rounds_steps=2 -s train.batch_size=4 -s relations.queue_size=64 -s relations.contrast=32 "
        "-s relations.m_weight=1.0 -s eval.n_images=4 -s eval.batch_size=2 -o"
    ).split()
    assert effcli(*words, "one", cwd=tmp_path).code == 0
    done = two_ranks(*words, "two", cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["two"]), done.stderr
    weights = "unet/diffusion_pytorch_model.safetensors"
    start = load_file(tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    for steps in ("2", "1"):
        one, two = (load_file(tmp_path / run / "students" / steps / weights) for run in ("one", "two"))
        # Together, not weight by weight: Adam makes full steps of gradients that are rounding errors.
        apart, moved = (
            sum(((a[name] - b[name]) ** 2).sum() for name in start) ** 0.5
            for a, b in ((two, one), (one, start))
        )
        assert apart <= 0.05 * moved, (steps, apart, moved)
    lines = [
        [line for line in read_metrics(tmp_path / run / "metrics.jsonl") if line["step"] == 0]
        for run in ("one", "two")
    ]
    for one, two in zip(*lines, strict=True):
        assert one.pop("stage") == two.pop("stage")
        assert two == pytest.approx(one, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("more", ["", "-s loss.contrast=sigmoid -s train.forward_pairs=3"])
def test_clip_kd_gives_the_weights_of_one_process(tmp_path: Path, more: str) -> None:
    """The losses are those of the whole batch; there is one projection, and the cache is filled by both.

    The student has SigLIP's bias, which a softmax does not use.
    """
    save_teacher(tmp_path / "teacher")
    write_config(tmp_path / "vit.json", STUDENT | {"init_logit_bias": -10.0})
    save_pairs(tmp_path / "pairs")
    words = (
        "distill teacher --method clip-kd --student vit.json --data pairs/pairs.csv --teacher-cache 2-views "
        f"-s train.epochs=4 -s train.batch_size=8 -s train.warmup_steps=2 -s loss.afd=1.0 -s loss.gd=1.0 {more} {SAME}"
    ).split()
    assert effcli(*words, "-s", "cache_dir=cache-one", "-o", "one", cwd=tmp_path).code == 0
    done = two_ranks(*words, "-s", "cache_dir=cache-two", "-o", "two", cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["two"]), done.stderr
    lines = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("one", "two")]
    assert len(lines[0]) > 1
    for one, two in zip(*lines, strict=True):
        assert one.pop("stage") == two.pop("stage")
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)
    caches = [
        sorted(path.name for path in (tmp_path / f"cache-{run}").rglob("*.npy")) for run in ("one", "two")
    ]
    assert caches[0] == caches[1] == ["captions.npy", "view-0.npy", "view-1.npy"]


def test_quantize_sample_draws_the_images_of_one_process(packed: Path, tmp_path: Path) -> None:
    words = f"quantize sample {packed} -n 7 --batch-size 2 {SAME} -o".split()
    assert effcli(*words, "one.png", cwd=tmp_path).code == 0
    done = two_ranks(*words, "two.png", cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["two.png"]), done.stderr
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_enhance_keeps_every_good_picture_though_one_share_is_all_broken(
    tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "mixed").mkdir()
    for number in range(8):
        path = tmp_path / "mixed" / f"{number}.png"
        if number % 2:
            path.write_bytes(b"no picture")
        else:
            Image.fromarray(np.full((24, 24, 3), 20 * number, np.uint8)).save(path)
    words = f"enhance mixed --weights {tiny_weights} {SAME} -o bright --json"
    done = torchrun(*words.split(), cwd=tmp_path)
    assert done.code == 1  # of the launcher, whatever is not 0
    assert "exitcode  : 3" in done.stderr
    assert done.json["metrics"]["images"] == 4
    assert done.json["metrics"]["failed"] == len(done.json["failures"]) == 4
    assert sorted(path.name for path in (tmp_path / "bright").iterdir()) == [
        "0.png",
        "2.png",
        "4.png",
        "6.png",
    ]
    assert done.stderr.count("1.png: not an image") == 1


PPO = "-s ppo.epochs=2 -s ppo.minibatches=4 -s ppo.rollout=32 -s opd.feature_weight=0.1"
DQN = "--method opd-da-dqn -s dqn.learning_starts=100 -s dqn.batch_size=32"


@pytest.mark.parametrize("method", [PPO, DQN], ids=["ppo", "dqn"])
def test_rl_distill_gives_the_policies_of_one_process(method: str, tmp_path: Path) -> None:
    words = f"rl-distill --env FrozenLake-v1 --steps 512 --policies 2 --policy small,small {method}"
    words += f" -s eval.episodes=2 -s env.copies=4 --compare= {SAME}"
    done = two_ranks(*words.split(), "-o", "two", "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    metrics = done.json["metrics"]
    one = effcli(*words.split(), "-o", "one", "--json", cwd=tmp_path).json["metrics"]
    assert len(metrics["returns"]) == 2 and metrics["env_steps"] == one["env_steps"]
    assert len(read_metrics(tmp_path / "two/metrics.jsonl")) == len(
        read_metrics(tmp_path / "one/metrics.jsonl")
    )
    for file in ("policy-1.safetensors", "policy-2.safetensors"):
        two, alone = (load_file(tmp_path / run / "model" / file) for run in ("two", "one"))
        for name, value in alone.items():
            torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4)
    refused = two_ranks(*words.replace("copies=4", "copies=3").split(), "-o", "three", cwd=tmp_path)
    assert refused.code == 2
    assert "cannot be divided evenly among 2 processes" in refused.stderr


def test_continual_shares_features_out(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for name in "abcd":
        (tmp_path / "classes" / name).mkdir(parents=True)
        colour = draws.integers(60, 196, 3)
        for number in range(24):
            values = np.clip(colour + draws.integers(-50, 50, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(values).save(tmp_path / "classes" / name / f"{number}.png")
    words = (
        f"continual --method ranpac --data classes --tasks 2 {SAME} -s network.side=32 -s projection.size=40"
    )
    done = effcli(*words.split(), "-s", "network.features=kept-1", "-o", "one", cwd=tmp_path)
    assert done.code == 0, done.stderr
    done = two_ranks(*words.split(), "-s", "network.features=kept-2", "-o", "two", cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["two"]), done.stderr
    one, two = (load_file(tmp_path / run / "model" / "classifier.safetensors") for run in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=5e-3, rtol=5e-2)
    assert (tmp_path / "two" / "classes.csv").is_file()


def test_continual_trains_as_one_process_does(tmp_path: Path) -> None:
    for label, name in enumerate("abcd"):
        draws = np.random.default_rng(label)
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(11):
            values = draws.integers(40 * label, 40 * label + 99, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(values).save(tmp_path / "classes" / name / f"{number}.png")
    words = f"continual --method er --data classes --tasks 2 {SAME} -s network.width=8 -s train.batch_size=7"
    words += " -s train.epochs=2 -s train.learning_rate=0.001 -s buffer.size=10 -s buffer.batch_size=4"
    assert effcli(*words.split(), "-o", "one", cwd=tmp_path).code == 0
    done = two_ranks(*words.split(), "-o", "two", cwd=tmp_path)
    assert (done.code, done.lines) == (0, ["two"]), done.stderr
    one, two = (read_metrics(tmp_path / run / "metrics.jsonl")[0] for run in ("one", "two"))
    assert two == {**one, "loss": pytest.approx(one["loss"], rel=1e-4), "ce": two["ce"]}
    one, two = (load_file(tmp_path / run / "model" / "classifier.safetensors") for run in ("one", "two"))
    first, second = (torch.cat([value.flatten().float() for value in run.values()]) for run in (one, two))
    assert (second - first).norm() <= 1e-3 * first.norm()
    backbone = "-s network.backbone=efficientnet-lite0 -s network.backbone_rate=0.1 -o three"
    refused = two_ranks(*f"{words} {backbone}".split(), cwd=tmp_path)
    assert refused.code == 2 and "takes its statistics from one process's part" in refused.stderr
    assert not (tmp_path / "three").exists()
