from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from effcli.core.errors import InputError, UsageError
from effcli.enhance.data.pairs import PairSet, augment, load_pairs, sample_patch, splits_of
from effcli.enhance.data.synthetic_lowlight import (
    N_SCENES,
    builtin_scenes,
    synthetic_low_light,
    synthetic_scene,
)


def write_image(path: Path, value: int = 0, size: tuple[int, int] = (12, 10), **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value + 1, value + 2)).save(path, **options)


def write_pairs(root: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        write_image(root / "low" / name, 10 * i)
        write_image(root / "high" / name, 10 * i + 5)
    return root


def pack(folder: Path, archive: Path, arcname: str, mode: str = "w") -> Path:
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, arcname=arcname)
    return archive


def noise_pairs(count: int, sides: tuple[int, int] = (20, 24)) -> PairSet:
    """Pairs whose high image is 255 - low, so that any mismatch of the two transforms shows."""
    generator = torch.Generator().manual_seed(0)
    lows = [torch.randint(0, 256, (3, *sides), generator=generator, dtype=torch.uint8) for _ in range(count)]
    return PairSet(tuple(map(str, range(count))), tuple((low, 255 - low) for low in lows))


# --- sources -------------------------------------------------------------------------------------------------


def test_folder_with_low_and_high_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    pairs = load_pairs(write_pairs(tmp_path, ["b.png", "a.png", "sub dir/ü.png"]), None)
    assert pairs.names == ("a.png", "b.png", "sub dir/ü.png")
    low, high = pairs[0]
    assert low.dtype == torch.uint8 and low.shape == (3, 10, 12)
    assert (low[:, 0, 0].tolist(), high[:, 0, 0].tolist()) == ([10, 11, 12], [15, 16, 17])
    assert len(list(pairs)) == len(pairs) == 3


def test_names_match_exactly_first_then_by_stem_and_the_rest_is_reported(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "only-low.png"):
        write_image(tmp_path / "low" / name)
    for name in ("a.png", "a.bmp", "b.JPG", "only-high.png"):
        write_image(tmp_path / "high" / name)
    (tmp_path / "low" / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "low" / "notes.txt").write_text("not an image")
    pairs = load_pairs(tmp_path, "train")
    assert pairs.names == ("a.png", "b.png")
    expected = [tmp_path / "low/only-low.png", tmp_path / "high/a.bmp", tmp_path / "high/only-high.png"]
    assert list(pairs.unmatched) == list(map(str, expected))


@pytest.mark.parametrize("arcname", ["", "pairs", "./deep/pairs"])
def test_a_tar_is_read_in_place_and_equals_its_folder(tmp_path: Path, arcname: str) -> None:
    folder = tmp_path / "pairs"
    write_pairs(folder / "train", ["x.png", "y.webp"])
    write_pairs(folder / "eval", ["z.png"])
    archive = pack(folder, tmp_path / "pairs.tar", arcname)
    for split, count in (("train", 2), ("eval", 1)):
        from_folder, from_tar = (load_pairs(source, split) for source in (folder, archive))  # type: ignore[arg-type]
        assert from_folder.names == from_tar.names and len(from_tar) == count
        for ours, theirs in zip(from_folder, from_tar, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert splits_of(archive) == splits_of(folder) == ("train", "eval")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs", "pairs.tar"]


def test_several_sources_are_joined_and_named(tmp_path: Path) -> None:
    first, second = (write_pairs(tmp_path / name, ["a.png", "b.png"]) for name in ("one", "two"))
    pairs = load_pairs([first, str(second), "builtin:scenes"], "eval")
    assert pairs.names[:5] == ("one/a.png", "one/b.png", "two/a.png", "two/b.png", "scenes/eval-00")
    assert len(pairs) == 4 + N_SCENES["eval"]
    held_out = pairs.select([4, 0])
    assert held_out.names == ("scenes/eval-00", "one/a.png") and torch.equal(held_out[1][0], pairs[0][0])


def test_sets_beyond_the_memory_bound_are_decoded_on_demand(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a.png", "b.png"])
    in_memory = load_pairs(tmp_path, None, decoded_bytes_limit=2 * 2 * 3 * 12 * 10)
    on_demand = load_pairs(tmp_path, None, decoded_bytes_limit=2 * 2 * 3 * 12 * 10 - 1)
    assert all(isinstance(low, torch.Tensor) for low, _ in in_memory.stored)
    assert not any(isinstance(low, torch.Tensor) for low, _ in on_demand.stored)
    drawn = [pairs.batch(3, batch_size=3, patch=8, seed=1) for pairs in (in_memory, on_demand)]
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])
    (tmp_path / "low" / "a.png").write_bytes(b"gone bad meanwhile")
    with pytest.raises(InputError, match=r"a\.png: not an image"):
        on_demand[0]


def test_an_orientation_tag_turns_the_image_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(tmp_path / "low" / "a.jpg", size=(12, 10), exif=exif)
    write_image(tmp_path / "high" / "a.jpg", size=(10, 12))
    assert load_pairs(tmp_path, None)[0][0].shape == (3, 12, 10)


# --- bad data ------------------------------------------------------------------------------------------------


def corrupt(root: Path) -> None:
    whole = (root / "high" / "a.png").read_bytes()
    (root / "high" / "a.png").write_bytes(whole[: len(whole) // 2])


def replace_high(root: Path, name: str, **options: object) -> None:
    (root / "high" / "a.png").unlink()
    write_image(root / "high" / name, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "high" / "a.png").unlink(), r"no images in high/"),
        (
            lambda root: replace_high(root, "b.png"),
            r"no name in low/ is also in high/ \('a.png' against 'b.png'\)",
        ),
        (lambda root: replace_high(root, "a.png", size=(12, 9)), r"low/a.png: .* is 12x10 but .* is 12x9"),
        (lambda root: replace_high(root, "a.png", size=(10, 12)), r"low/a.png: .* is 12x10 but .* is 10x12"),
        (corrupt, r"high/a.png: .*truncated"),
        (lambda root: (root / "low" / "a.png").write_bytes(b""), r"low/a.png: is empty"),
        (
            lambda root: Image.new("F", (12, 10)).save(root / "low" / "a.png", "TIFF"),
            r"low/a.png: 32-bit floating-point samples",
        ),
        (lambda root: (root / "low").rename(root / "dark"), r"no images in low/"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_bad_pairs_are_refused_by_name(tmp_path: Path, spoil: object, message: str, packed: bool) -> None:
    root = write_pairs(tmp_path / "pairs", ["a.png"])
    spoil(root)
    source = pack(root, tmp_path / "pairs.tar", "") if packed else root
    with pytest.raises(InputError, match=message) as caught:
        load_pairs(source, None)
    assert caught.value.place is not None and str(source) in caught.value.place


def test_two_candidates_for_one_pair_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, ["a.png"])
    replace_high(tmp_path, "a.bmp")
    write_image(tmp_path / "high" / "a.jpg")
    with pytest.raises(InputError, match=r"'a.bmp' and 'a.jpg' are both candidates"):
        load_pairs(tmp_path, None)


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train", ["a.png"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar").write_text("no tar at all, and long enough to hold no header either " * 20)
    compressed = pack(tmp_path / "train", tmp_path / "packed.tar.gz", "", "w:gz")
    truncated = pack(tmp_path / "train", tmp_path / "cut.tar", "")
    truncated.write_bytes(truncated.read_bytes()[:700])
    for source, split, message in [
        (tmp_path / "nowhere", None, "no such file or folder"),
        (tmp_path / "empty", "train", "no images in low/ and high/"),
        (tmp_path / "text.tar", "train", "cannot be read as a tar"),
        (compressed, "train", "cannot be read as a tar"),
        (truncated, "train", "cannot be read as a tar"),
        (tmp_path, "eval", "no eval/ at the top, only train/"),
        (tmp_path, None, "no low/ at the top, only train/"),
        ("builtin:nothing", "train", "unknown built-in pairs"),
        ("builtin:scenes", None, "name one"),
        ([], "train", "no pairs given"),
    ]:
        with pytest.raises(InputError, match=message):
            load_pairs(source, split)  # type: ignore[arg-type]


def test_a_tar_with_pairs_in_two_folders_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_pairs(tmp_path / "all" / name, ["a.png"])
    with pytest.raises(InputError, match="pairs below several folders: 'one/', 'two/'"):
        load_pairs(pack(tmp_path / "all", tmp_path / "all.tar", ""), None)


def test_links_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", ["a.png"])
    archive = pack(tmp_path / "pairs", tmp_path / "pairs.tar", "")
    with tarfile.open(archive, "a") as tar:
        for side in ("low", "high"):
            link = tarfile.TarInfo(f"{side}/secret.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link, io.BytesIO())
    assert load_pairs(archive, None).names == ("a.png",)


# --- patches -------------------------------------------------------------------------------------------------


def test_the_nine_augmentations() -> None:
    image = torch.arange(6).reshape(1, 2, 3)
    rows = [[0, 1, 2], [3, 4, 5]]
    flipped_rows, flipped_columns = [[3, 4, 5], [0, 1, 2]], [[2, 1, 0], [5, 4, 3]]
    expected = {
        0: rows,
        1: flipped_rows,
        2: flipped_columns,
        3: [[2, 5], [1, 4], [0, 3]],
        4: [[5, 4, 3], [2, 1, 0]],
        5: [[3, 0], [4, 1], [5, 2]],
        6: np.rot90(flipped_rows).tolist(),
        7: np.rot90(flipped_columns).tolist(),
        8: rows,
    }
    assert {choice: augment(image, choice)[0].tolist() for choice in range(9)} == expected


def test_draws_treat_both_images_alike_and_leave_two_in_nine_unturned() -> None:
    low, high = noise_pairs(1, (6, 6))[0]
    turned = {augment(low, choice).numpy().tobytes(): choice for choice in range(8)}
    counts: Counter[int] = Counter()
    for seed in range(1800):
        dark, bright = sample_patch(low, high, 6, np.random.default_rng(seed))
        assert torch.allclose(dark + bright, torch.ones(3, 6, 6))
        counts[turned[(dark * 255).round().byte().numpy().tobytes()]] += 1
    assert set(counts) == set(range(8))
    assert 330 < counts[0] < 470  # 400 expected, standard deviation 18
    assert all(140 < counts[choice] < 260 for choice in range(1, 8))  # 200 expected, 13


@given(height=st.integers(1, 9), width=st.integers(1, 9), patch=st.integers(1, 20), seed=st.integers(0, 99))
def test_crops_agree_with_numpy_reflection(height: int, width: int, patch: int, seed: int) -> None:
    low, high = noise_pairs(1, (height, width))[0]
    dark, _ = sample_patch(low, high, patch, np.random.default_rng(seed))
    padding = [(0, 0), (0, max(patch - height, 0)), (0, max(patch - width, 0))]
    padded = np.pad(low.numpy(), padding, mode="reflect" if min(height, width) > 1 else "symmetric")
    if min(height, width) == 1:  # numpy's reflect needs two pixels along an axis
        mode = ["edge" if side == 1 else "reflect" for side in (height, width)]
        padded = np.pad(low.numpy(), [padding[0], padding[1], (0, 0)], mode=mode[0])  # type: ignore[call-overload]
        padded = np.pad(padded, [(0, 0), (0, 0), padding[2]], mode=mode[1])  # type: ignore[call-overload]
    crops = np.lib.stride_tricks.sliding_window_view(padded, (patch, patch), axis=(1, 2))
    candidates = {
        augment(torch.from_numpy(crops[:, i, j].copy()), choice).numpy().tobytes()
        for i in range(crops.shape[1])
        for j in range(crops.shape[2])
        for choice in range(8)
    }
    assert (dark * 255).round().byte().numpy().tobytes() in candidates


def test_gamma_jitter_changes_the_low_image_only() -> None:
    low, high = noise_pairs(1)[0]
    plain, jittered = (sample_patch(low, high, 16, np.random.default_rng(5), jitter) for jitter in (0.0, 0.4))
    assert torch.equal(plain[1], jittered[1])
    inner = (plain[0] > 0.02) & (plain[0] < 0.98)
    gamma = jittered[0][inner].log() / plain[0][inner].log()
    assert torch.allclose(gamma, gamma[0].expand_as(gamma), atol=1e-3)
    assert 0.6 <= gamma[0] <= 1.4 and abs(gamma[0] - 1.0) > 1e-3
    with pytest.raises(UsageError, match=r"gamma jitter must be in 0..1 \(1 excluded\), not 1.0"):
        sample_patch(low, high, 16, np.random.default_rng(5), 1.0)


# --- batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 3, 6])
def test_the_ranks_together_draw_the_batch_of_one_process(world: int) -> None:
    pairs = noise_pairs(7)
    settings = {"batch_size": 6, "patch": 16, "seed": 3, "gamma_jitter": 0.2}
    for step in (0, 1, 17):
        whole = pairs.batch(step, **settings)  # type: ignore[arg-type]
        shares = [pairs.batch(step, rank=r, world=world, **settings) for r in range(world)]  # type: ignore[arg-type]
        assert all(low.shape == (6 // world, 3, 16, 16) for low, _ in shares)
        assert torch.equal(torch.cat([low for low, _ in shares]), whole[0])
        assert torch.equal(torch.cat([high for _, high in shares]), whole[1])


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(UsageError, match="a batch of 6 cannot be divided evenly among 4 processes"):
        noise_pairs(3).batch(0, batch_size=6, patch=8, seed=0, world=4)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    pairs = noise_pairs(5)
    settings = {"batch_size": 4, "patch": 12}
    forward = [pairs.batch(step, seed=1, **settings)[0] for step in range(4)]
    torch.manual_seed(99)
    np.random.seed(99)
    backward = [pairs.batch(step, seed=1, **settings)[0] for step in (3, 2, 1, 0)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not torch.equal(forward[0], forward[1])
    assert not torch.equal(forward[0], pairs.batch(0, seed=2, **settings)[0])


def test_each_epoch_holds_each_pair_once_across_batch_ends() -> None:
    lows = [torch.full((3, 8, 8), value, dtype=torch.uint8) for value in range(5)]
    pairs = PairSet(tuple("abcde"), tuple((low, low) for low in lows))
    drawn: list[int] = []
    for step in range(5):  # 5 steps of 4 = 4 epochs of 5
        low, _ = pairs.batch(step, batch_size=4, patch=8, seed=0)
        drawn += (low[:, 0, 0, 0] * 255).round().int().tolist()
    epochs = [drawn[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


# --- simulated low light -------------------------------------------------------------------------------------


def test_simulated_low_light_is_dark_noisy_and_in_8_bits() -> None:
    generator = torch.Generator().manual_seed(1)
    grey = torch.full((3, 64, 64), 0.5)
    levels = []
    for _ in range(40):
        low = synthetic_low_light(grey, generator)
        assert low.min() >= 0 and low.max() <= 1 and torch.equal((low * 255).round() / 255, low)
        assert len(set(low[0].flatten().tolist())) > 3
        levels.append(float((low**2.2).mean() / 0.5**2.2))
    # In linear light the noise averages out up to clipping at black: what is left is exposure times gain.
    assert 0.015 * 0.85 * 0.9 < min(levels) < 0.03 and 0.05 < max(levels) < 0.10 * 1.15 * 1.1


def test_scenes_are_reproducible_and_splits_differ() -> None:
    train, evaluation = builtin_scenes("train"), builtin_scenes("eval")
    assert (len(train), len(evaluation)) == (N_SCENES["train"], N_SCENES["eval"])
    assert all(torch.equal(a[0], b[0]) for a, b in zip(evaluation, builtin_scenes("eval"), strict=True))
    assert not any(torch.equal(a[1], b[1]) for a, b in zip(train, evaluation, strict=False))
    for low, high in evaluation:
        assert low.dtype == high.dtype == torch.uint8 and low.shape == high.shape == (3, 128, 128)
        assert low.float().mean() < 0.6 * high.float().mean()
    scene = synthetic_scene(20, 33, torch.Generator().manual_seed(0))
    assert scene.shape == (3, 20, 33) and scene.min() >= 0 and scene.max() <= 1 and scene.std() > 0.05
