"""Device, precision, threads, seeds and ranks: decided once, used by every task."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from effcli.core.errors import EffcliError, UsageError
from effcli.core.threads import ThreadTuner, ThreadTuners, number_is_given

Precision = Literal["fp32", "bf16", "fp16"]
M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtypes by the names that options and recipes use."""


@dataclass(frozen=True)
class Runtime:
    """Where and how a task computes.

    Attributes:
        device: the device of this process.
        precision: what autocast uses; ``fp32`` means no autocast.
        seed: the root of all randomness.
        rank, world: this process among ``world`` processes (0 and 1 outside ``torchrun``).
        tuners: which number of threads each loop gets.
    """

    device: torch.device
    precision: Precision
    seed: int
    rank: int = 0
    world: int = 1
    tuners: ThreadTuners = field(
        default_factory=lambda: ThreadTuners(1, _set_threads, is_fixed=True), compare=False, repr=False
    )

    @property
    def is_main(self) -> bool:
        """True in the one process that writes."""
        return self.rank == 0

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the heavy layers."""
        return DTYPES[self.precision]

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Context in which heavy layers run in :attr:`precision`."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def generator(self, *key: int | str) -> torch.Generator:
        """A CPU generator that depends on the seed and ``key`` alone, never on what was drawn before."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *key))

    def seed_step(self, stage: str, step: int) -> None:
        """Seed the global generators for one step: randomness depends on (seed, stage, rank, step) only."""
        self.seed_all(stage, self.rank, step)

    def seed_all(self, *key: int | str) -> None:
        """Seed the global generators of Python, NumPy and PyTorch from the seed and ``key``."""
        value = derive_seed(self.seed, *key)
        random.seed(value)
        np.random.seed(value % 2**32)
        torch.manual_seed(value)

    def wrap(self, network: M) -> M:
        """Return ``network`` ready to train here: gradients are averaged over the ranks.

        The result is called like the network; its parameters are the network's own, so optimisers, EMA and
        checkpoints keep using the network.
        """
        if self.world == 1:
            return network
        return accelerator().prepare_model(network)  # type: ignore[no-any-return]

    def mean_over_ranks(self, values: Mapping[str, float]) -> dict[str, float]:
        """Average named numbers over all ranks."""
        if self.world == 1:
            return dict(values)
        tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return dict(zip(values, (tensor / self.world).tolist(), strict=True))

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """Add up tensors of one shape over all ranks, in place."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
        return values

    def any_rank(self, flag: bool) -> bool:
        """True when ``flag`` is true in at least one rank."""
        if self.world == 1:
            return flag
        tensor = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
        return bool(tensor.item() > 0)

    def from_main(self, value: T) -> T:
        """Give every rank the main rank's ``value``."""
        if self.world == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def on_main(self, compute: Callable[[], T]) -> T:
        """Compute in the main rank alone; every rank gets its value, or raises its error."""
        if self.world == 1:
            return compute()
        value: T | None = None
        error: EffcliError | None = None
        if self.is_main:
            try:
                value = compute()
            except EffcliError as failure:
                error = failure
        value, error = self.from_main((value, error))
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Every rank's ``value``, in the order of the ranks, in every rank."""
        if self.world == 1:
            return [value]
        box: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(box, value)
        return box

    def alone(self) -> Runtime:
        """This process as if there were no others: what it computes then waits for none."""
        return replace(self, rank=0, world=1)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            torch.distributed.barrier()

    def peak_memory_mb(self) -> float | None:
        """The most memory so far: allocated on a GPU; elsewhere this whole process, None where that is not known."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        try:
            import resource
        except ImportError:  # Windows
            return None
        unit = 1 if sys.platform == "darwin" else 2**10  # what ru_maxrss counts in
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

    def tuner(self, loop: str, beside: int = 0) -> ThreadTuner:
        """What times the steps of a loop and chooses its number of threads, unless that is fixed.

        Args:
            loop: its name; the same name gives the same tuner.
            beside: threads and processes that work beside the loop.
        """
        return self.tuners.of(loop, beside)

    def describe(self) -> dict[str, Any]:
        """The ``environment`` block of a result."""
        from effcli import __version__
        from effcli.core.machine import commit, processor

        steps_by_threads = self.tuners.describe()
        return {
            "effcli": __version__,
            "torch": str(torch.__version__),
            "device": str(self.device),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "world": self.world,
            "seed": self.seed,
            "processor": processor(),
            "commit": commit(),
        } | ({"steps_by_threads": steps_by_threads} if steps_by_threads else {})


def create_runtime(
    *,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    threads: int | Literal["auto"] | None = None,
    bf16_is_safe: bool = True,
) -> Runtime:
    """Build the runtime from the options.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``; ``auto`` is bf16 where the hardware computes in it
            and the task says it is safe, else fp32.
        seed: the root of all randomness.
        threads: CPU threads; None leaves PyTorch's choice; ``auto`` measures the steps of each loop (on the CPU, in
            one process, and unless the environment sets the number: ``OMP_NUM_THREADS``).
        bf16_is_safe: whether the task keeps its quality in bf16.

    Raises:
        UsageError: the device is not there, or it does not support the precision.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _choose_device(device)
    if world > 1 and chosen.type == "cuda":
        chosen = _choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    arithmetic = _choose_precision(precision, chosen, bf16_is_safe)
    if world > 1:
        accelerator(cpu=chosen.type == "cpu")
    if isinstance(threads, int):
        torch.set_num_threads(threads)  # after Accelerate, which sets it too
    is_fixed = threads != "auto" or number_is_given() or world > 1 or chosen.type != "cpu"
    most = torch.get_num_threads() if is_fixed else _most_threads()
    tuners = ThreadTuners(most, _set_threads, is_fixed=is_fixed)
    return Runtime(chosen, arithmetic, seed, rank, world, tuners)


@functools.cache
def _most_threads() -> int:
    """PyTorch's choice, before a tuner made another."""
    return torch.get_num_threads()


def _set_threads(threads: int) -> None:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def use_one_thread() -> None:
    """Let torch's operations in the calling thread use one CPU thread; those of other threads stay as they are.

    For a thread that works beside the main one. Otherwise OpenMP starts a second team for it, sees more threads than
    cores, and lets all of them sleep after each operation; waking them doubles the time of small networks.
    """
    threads = (
        torch.get_num_threads()
    )  # asked for once: the first operation would ask, and take what it then finds
    torch.set_num_threads(1)
    # That was for OpenMP in this thread, but for MKL, and for threads to come, in all; another thread can undo it.
    undo = threading.Thread(target=torch.set_num_threads, args=(threads,))
    undo.start()
    undo.join()


_accelerator: Any = None


def accelerator(cpu: bool = False) -> Any:
    """The process-wide ``accelerate.Accelerator``, made on first use (it starts the process group)."""
    global _accelerator
    if _accelerator is None:
        from accelerate import Accelerator

        os.environ.setdefault(
            "OMP_NUM_THREADS", str(torch.get_num_threads())
        )  # or Accelerate takes all cores
        _accelerator = Accelerator(cpu=cpu, mixed_precision="no")  # autocast is ours: Runtime.autocast
        atexit.register(_leave_process_group)
    return _accelerator


def _leave_process_group() -> None:
    """Leave the process group while the interpreter still runs.

    gloo's threads free the tensors of the last collective call after it has returned, and need the GIL for it. One
    that asks for the GIL of an interpreter that is ending aborts the process (one exit in eight), so they get a moment.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    time.sleep(0.2)


def share_of(batch_size: int, world: int) -> int:
    """How many rows of a batch each of ``world`` processes takes.

    Raises:
        UsageError: they cannot be shared out evenly.
    """
    if batch_size % world:
        raise UsageError(
            f"a batch of {batch_size} cannot be divided evenly among {world} processes",
            hint=f"choose a batch size that is a multiple of {world}",
        )
    return batch_size // world


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed from a key, the same in every process and Python version."""
    plain = tuple(
        part if isinstance(part, str) else int(part) for part in key
    )  # NumPy's integers print otherwise
    digest = hashlib.blake2b(ascii(plain).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def random_state(device: torch.device) -> torch.Tensor:
    """The state of the generator that operations on a device sample from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def hardware_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies matrices in bf16 natively."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def available_devices() -> list[torch.device]:
    """Every device of this machine, the CPU first."""
    devices = [torch.device("cpu")]
    devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [*devices, torch.device("mps")] if torch.backends.mps.is_available() else devices


def describe_device(device: torch.device) -> str:
    """The name of a GPU with its memory and whether it has bf16; of other devices the type."""
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory >> 20} MB, bf16 {'yes' if hardware_bf16(device) else 'no'}"


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"unknown device {name!r}", place="--device", hint="auto, cpu, cuda, cuda:N or mps"
        ) from None
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(device.type, False):
        raise UsageError(
            f"this machine has no device {name!r}", place="--device", hint="`effcli doctor` lists them"
        )
    return device


def _choose_precision(name: str, device: torch.device, bf16_is_safe: bool) -> Precision:
    if name == "auto":
        return "bf16" if bf16_is_safe and hardware_bf16(device) else "fp32"
    if name == "fp16" and device.type == "cpu":
        raise UsageError("fp16 is not supported on the CPU", place="--precision", hint="use bf16 or fp32")
    if name == "bf16" and device.type == "cuda" and not hardware_bf16(device):
        raise UsageError("this GPU has no bf16", place="--precision", hint="use fp16 or fp32")
    if name not in DTYPES:
        raise UsageError(f"unknown precision {name!r}", place="--precision", hint="auto, fp32, bf16 or fp16")
    return name  # type: ignore[return-value]
