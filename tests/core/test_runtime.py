from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from effcli.core import runtime as module
from effcli.core.errors import UsageError
from effcli.core.runtime import (
    Runtime,
    available_devices,
    create_runtime,
    derive_seed,
    describe_device,
    hardware_bf16,
    use_one_thread,
)
from effcli.doctor import examine


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "cuda:-1", "cpu cpu", "CPU!"])
def test_a_device_that_does_not_exist(name: str) -> None:
    with pytest.raises(UsageError, match="unknown device") as caught:
        create_runtime(device=name)
    assert (caught.value.place, caught.value.exit_code) == ("--device", 2)


@pytest.mark.parametrize("name", ["cuda:99", "xpu", "meta"])
def test_a_device_that_this_machine_lacks(name: str) -> None:
    with pytest.raises(UsageError, match=f"no device '{name}'") as caught:
        create_runtime(device=name)
    assert "effcli doctor" in str(caught.value.hint)


def test_more_processes_than_gpus_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="no device 'cuda:3'"):
        create_runtime(device="auto")


@pytest.mark.parametrize(
    ("precision", "message"),
    [("fp16", "fp16 is not supported on the CPU"), ("int8", "unknown precision 'int8'")],
)
def test_a_precision_that_cannot_be_had(precision: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        create_runtime(device="cpu", precision=precision)
    assert caught.value.place == "--precision"


@pytest.mark.parametrize(
    ("has_bf16", "is_safe", "expected"),
    [(True, True, "bf16"), (True, False, "fp32"), (False, True, "fp32"), (False, False, "fp32")],
)
def test_automatic_precision(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, is_safe: bool, expected: str
) -> None:
    monkeypatch.setattr(module, "hardware_bf16", lambda device: has_bf16)
    assert create_runtime(device="cpu", bf16_is_safe=is_safe).precision == expected


def test_a_gpu_without_bf16_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(module, "hardware_bf16", lambda device: False)
    with pytest.raises(UsageError, match="this GPU has no bf16"):
        create_runtime(device="cuda", precision="bf16")
    assert create_runtime(device="cuda").precision == "fp32"
    assert create_runtime(device="cuda", precision="fp16").precision == "fp16"


def test_autocast_follows_the_precision() -> None:
    a = torch.ones(2, 2)
    for precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        runtime = create_runtime(device="cpu", precision=precision)
        with runtime.autocast():
            assert (a @ a).dtype == expected == runtime.dtype


def test_threads() -> None:
    before = torch.get_num_threads()
    try:
        assert create_runtime(device="cpu", threads=1).describe()["threads"] == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts the threads of the process in /proc")
@pytest.mark.parametrize(
    ("prepare", "started"), [(use_one_thread, 0), (lambda: None, 1)], ids=["alone", "as it is"]
)
def test_a_thread_beside_the_main_one_starts_no_team_of_its_own(
    prepare: Callable[[], None], started: int
) -> None:
    def operations() -> None:
        x = torch.ones(1 << 20)
        _ = (
            x + x,
            torch.nn.functional.avg_pool2d(x.view(1, 1, 1024, 1024), 8),
            torch.mm(x.view(-1, 64).T, x.view(-1, 64)),
        )

    def beside() -> None:
        prepare()
        time.sleep(0.05)  # threads that have ended are gone
        before = len(list(Path("/proc/self/task").iterdir()))
        operations()
        found.append((len(list(Path("/proc/self/task").iterdir())) - before, torch.get_num_threads()))

    found: list[tuple[int, int]] = []
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        operations()
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
        assert found == [(started, 2 - (started == 0))]
        assert torch.get_num_threads() == 2
        later = threading.Thread(target=lambda: found.append((0, torch.get_num_threads())))
        later.start()
        later.join()
        assert found[-1] == (0, 2)
    finally:
        torch.set_num_threads(usual)


def test_derived_seeds_never_change() -> None:
    """Golden values: the same recipe must give the same result in every version and on every machine."""
    assert derive_seed(0) == 2631537505891389924
    assert derive_seed(0, "train", 0, 0) == 6175816549783189190
    assert derive_seed(1234, "train", 1, 20000) == 2045239331445731841
    assert derive_seed(0, "é") == 572236842095350364


def test_derived_seeds_differ_and_fit() -> None:
    keys = [
        (0,),
        (1,),
        ("0",),
        (0, 1),
        (1, 0),
        ("01",),
        ("a", 1),
        ("a1",),
        ("a", "1"),
        (0, "a", 0, 11),
        (0, "a", 1, 1),
    ]
    seeds = {derive_seed(*key) for key in keys}  # type: ignore[arg-type]
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(np.int64(7), "x") == derive_seed(7, "x")  # type: ignore[arg-type]


def test_a_generator_depends_on_its_key_alone() -> None:
    runtime = Runtime(torch.device("cpu"), "fp32", seed=5)
    first = torch.rand(4, generator=runtime.generator("data", 3))
    torch.rand(100)
    torch.rand(9, generator=runtime.generator("data", 2))
    assert torch.equal(torch.rand(4, generator=runtime.generator("data", 3)), first)
    assert not torch.equal(torch.rand(4, generator=runtime.generator("data", 4)), first)
    other = Runtime(torch.device("cpu"), "fp32", seed=6)
    assert not torch.equal(torch.rand(4, generator=other.generator("data", 3)), first)


def test_a_generator_leaves_the_global_one_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Runtime(torch.device("cpu"), "fp32", seed=5).generator("x")
    assert torch.equal(torch.rand(3), expected)


def test_each_step_stage_and_rank_has_its_own_randomness() -> None:
    drawn = set()
    for rank in (0, 1):
        runtime = Runtime(torch.device("cpu"), "fp32", 0, rank=rank, world=2)
        for stage in ("a", "b"):
            for step in (0, 1):
                runtime.seed_step(stage, step)
                drawn.add(torch.rand(1).item())
    assert len(drawn) == 8


def test_one_process_needs_no_communication() -> None:
    runtime = create_runtime(device="cpu")
    network = torch.nn.Linear(1, 1)
    assert runtime.wrap(network) is network
    assert runtime.mean_over_ranks({"a": 2}) == {"a": 2}
    assert (runtime.any_rank(True), runtime.any_rank(False)) == (True, False)
    assert runtime.from_main("x") == runtime.on_main(lambda: "x") == "x"
    runtime.barrier()
    assert runtime.is_main


def test_doctor_describes_this_machine() -> None:
    found = examine()
    assert found["devices"].keys() == {str(device) for device in available_devices()}
    assert found["devices"]["cpu"] == describe_device(torch.device("cpu")) == "cpu"
    assert found["cpu"]["bf16"] == hardware_bf16(torch.device("cpu"))
    assert found["libraries"]["torch"] == version("torch")
    assert found["auto"] == {"device": str(create_runtime().device), "precision": create_runtime().precision}


def test_the_most_memory_so_far_never_shrinks() -> None:
    runtime = create_runtime(device="cpu")
    before = runtime.peak_memory_mb()
    assert before is not None
    most = torch.ones(int((before + 64) * 2**18))  # more than all that there was, in bytes of 4
    after = runtime.peak_memory_mb()
    del most
    assert after is not None and after > before + 32
    assert runtime.peak_memory_mb() == pytest.approx(after, rel=0.05)
