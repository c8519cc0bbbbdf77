"""Speed of `effcli continual`: ratios inside one run. Nothing else should be running.

    python benchmarks/continual.py [--json FILE] [--width 20] [--images 320] [--repeats 3] [--methods er,clfd-er]
                                   [--processor-time]

Images a second that are learned, per method: whole training of two tasks of two classes for two epochs on random 32x32
RGB images (augmentation, buffer, selection and optimiser included; measuring not), batches of 32 new and 32 kept
images, in float32 and bfloat16. Rounds take turns; the median counts. The peer is ER written as it is written with a
loader: torchvision transforms of one PIL image after another, a buffer that is a list of places filled in a loop, the
same network. Then the parts of an ER step alone. The row ``features`` is about ranpac, in processor seconds: computing
and keeping the features of 320 images against a bare forward pass of the backbone (goal: at most 1.1x), and learning
1,000 images whose features are kept (goal: less than 1 s).

With ``--processor-time`` all seconds are those that the processor spent, on one thread: ratios for a busy machine.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from effcli.continual.assembly import new_method
from effcli.continual.augmentation import random_crop_flip
from effcli.continual.class_splits import ClassTask
from effcli.continual.kept_features import BATCH as BATCH_OF_FEATURES
from effcli.continual.learner import Classifier
from effcli.continual.methods.buffer import Reservoir
from effcli.continual.recipe import ImageAugmentSection
from effcli.continual.training import learn_stream
from effcli.core.evidence.records import write_record
from effcli.core.recipe import parse_set
from effcli.core.registry import find_recipe
from effcli.core.run import open_run
from effcli.core.runtime import create_runtime
from effcli.data.image_sets import ImageSet
from effcli.nn.resnet import ResNet18, Widths

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615)
EPOCHS, BATCH, BUFFER = 2, 32, 50

METHODS = {
    "sgd": ("sgd", ()),
    "er": ("er", ()),
    "clfd-er": ("er", ("frequency.enabled=true",)),
    "clfd-er, FFE alone": ("er", ("frequency.enabled=true", "frequency.select=false")),
    "clfd-er, CFFS alone": ("er", ("frequency.enabled=true", "frequency.encode=false")),
    "derpp": ("derpp", ()),
    "clfd-derpp": ("derpp", ("frequency.enabled=true",)),
    "er-ace": ("er-ace", ()),
    "clfd-er-ace": ("er-ace", ("frequency.enabled=true",)),
    "cls-er": ("cls-er", ()),
    "clfd-cls-er": ("cls-er", ("frequency.enabled=true",)),
    "e2net": ("e2net", ("subnets.candidates=100",)),
    "ir": ("ir", ()),
    "ir, not enlarged": ("ir", ("ir.enlarge=none",)),
}


def random_tasks(n_images: int) -> list[ClassTask]:
    """Two tasks of two classes with ``n_images`` images a class."""
    draws = torch.Generator().manual_seed(0)
    found = []
    for number in range(2):
        labels = torch.arange(2 * number, 2 * number + 2).repeat(n_images)
        images = torch.randint(0, 256, (len(labels), 3, 32, 32), dtype=torch.uint8, generator=draws)
        names = (f"{2 * number}", f"{2 * number + 1}")
        train, measured = ImageSet(images, labels, names), ImageSet(images[:2], labels[:2], names)
        found.append(ClassTask(number, names, 2 * number, train, measured))
    return found


def ours(name: str, tasks: list[ClassTask], width: int, precision: str) -> float:
    """Seconds of training."""
    recipe_name, settings = METHODS[name]
    sizes = [f"network.width={width}", "data.side=32", "data.channels=3", f"train.epochs={EPOCHS}"]
    loaded = type(find_recipe("continual", recipe_name)).model_fields
    if "buffer" in loaded:
        sizes += [f"buffer.size={BUFFER}", f"buffer.batch_size={BATCH}"]
    if "ir" in loaded:
        sizes += [f"train.first_epochs={EPOCHS}"]
    sizes += [f"train.batch_size={BATCH}", f"precision={precision}"]
    recipe: Any = find_recipe("continual", recipe_name, [parse_set(one) for one in (*sizes, *settings)])
    runtime = create_runtime(device="cpu", precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder) / "run", recipe, runtime, verb="run", recipe_name=recipe_name)
        with run:
            return learn_stream(recipe, tasks, tasks, (MEAN, STD), 4, run).train_s


class PilImages(Dataset[tuple[Tensor, Tensor, int]]):
    """An image transformed when it is asked for, beside itself as a tensor for the buffer."""

    def __init__(self, images: ImageSet, transform: Callable[[Any], Tensor]) -> None:
        self.images = [Image.fromarray(one) for one in images.images.permute(0, 2, 3, 1).numpy()]
        self.labels, self.transform = images.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, int]:
        image = self.images[row]
        return self.transform(image), transforms.functional.to_tensor(image), self.labels[row]


def peer(tasks: list[ClassTask], width: int, precision: str) -> float:
    """Seconds of training ER with a loader of single images and a buffer in loops."""
    runtime = create_runtime(device="cpu", precision=precision)
    torch.manual_seed(0)
    network = Classifier(ResNet18(Widths.of(width), 3), 4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    cut = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    new = transforms.Compose([*cut, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    old = transforms.Compose([*cut, transforms.Normalize(MEAN, STD)])
    places: list[tuple[Tensor, int]] = []
    n_seen, seconds = 0, 0.0
    for task in tasks:
        loader = DataLoader(PilImages(task.train, new), BATCH, shuffle=True)
        started = time.perf_counter()
        for _ in range(EPOCHS):
            for x, plain, y in loader:
                images, labels = x, y
                if places:
                    drawn = random.sample(places, min(BATCH, len(places)))
                    images = torch.cat([x, torch.stack([old(image) for image, _ in drawn])])
                    labels = torch.cat([y, torch.tensor([label for _, label in drawn])])
                with runtime.autocast():
                    loss = F.cross_entropy(network(images).float(), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                for image, label in zip(plain, y.tolist(), strict=True):
                    n_seen += 1
                    place = n_seen - 1 if n_seen <= BUFFER else random.randrange(n_seen)
                    if place < BUFFER:
                        places[place : place + 1] = [(image, label)]
        seconds += time.perf_counter() - started
    return seconds


def parts_of_a_step(width: int, precision: str, n_steps: int = 20) -> dict[str, float]:
    """Milliseconds of what an ER step consists of."""
    runtime = create_runtime(device="cpu", precision=precision)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 4, (BATCH,))
    buffer = Reservoir(BUFFER, torch.device("cpu"))
    for _ in range(4):
        buffer.offer(images, labels)
    augment = ImageAugmentSection()
    network = Classifier(ResNet18(Widths.of(width), 3), 4).to(memory_format=torch.channels_last)
    both = torch.randn(2 * BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with runtime.autocast():
            loss = F.cross_entropy(network(both).float(), labels.repeat(2))
        loss.backward()

    parts: dict[str, Callable[[], Any]] = {
        "augmentation of 32": lambda: random_crop_flip(images, augment.pad, flip=augment.flip),
        "buffer, offer": lambda: buffer.offer(images, labels),
        "buffer, draw": lambda: buffer.draw(BATCH),
        "network, 64 images, forward and backward": step,
    }
    found = {}
    for name, part in parts.items():
        seconds = []
        for _ in range(n_steps):
            started = time.perf_counter()
            part()
            seconds.append(time.perf_counter() - started)
        found[name] = 1000 * statistics.median(seconds)
    return found


def processor_s(part: Callable[[], Any], n: int) -> float:
    """Median processor seconds of ``n`` calls."""
    seconds = []
    for _ in range(n):
        started = time.process_time()
        part()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


def features(n_repeats: int, n_images: int = 320) -> dict[str, float]:
    """What ranpac spends on features, beside the bare network, and on learning from kept ones."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n_images, 3, 64, 64), dtype=torch.uint8, generator=draws)
    with tempfile.TemporaryDirectory() as folder:
        settings = [parse_set(f"network.features={folder}"), parse_set("precision=fp32")]
        recipe: Any = find_recipe("continual", "ranpac", settings)
        method: Any = new_method(recipe, 10, (0.5,) * 3, (0.25,) * 3, 64)
        mean, std, backbone = method.learner.mean, method.learner.std, method.backbone

        @torch.no_grad()
        def bare() -> None:
            for part in images.split(BATCH_OF_FEATURES):
                x = (part.float() / 255 - mean) / std
                backbone(x.contiguous(memory_format=torch.channels_last))

        def computed() -> None:
            for file in Path(folder).glob("*.sqlite*"):
                file.unlink()
            method.kept.of(images)

        kept = torch.randn(1000, backbone.dim, generator=draws)
        labels = torch.randint(0, 10, (1000,), generator=draws)

        def learned() -> None:
            method.add(kept, labels, 10)
            method.head()

        bare()
        pairs = [(processor_s(computed, 1), processor_s(bare, 1)) for _ in range(n_repeats)]
        computed_s, bare_s = (statistics.median(column) for column in zip(*pairs, strict=True))
        with torch.no_grad():
            learned_s = processor_s(learned, n_repeats)
    return {
        "features, processor s": computed_s,
        "bare forward pass, processor s": bare_s,
        "features against it, x": computed_s / bare_s,
        "ranpac, 1,000 images, processor s": learned_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--width", type=int, default=20)
    parser.add_argument("--images", type=int, default=320, help="a class")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", help="these alone, with commas")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--processor-time", action="store_true")
    options = parser.parse_args()
    if options.processor_time:
        torch.set_num_threads(1)
        time.perf_counter = time.process_time  # also that of the training loop
    random.seed(0)
    np.random.seed(0)
    tasks = random_tasks(options.images)
    n_images = EPOCHS * sum(len(task.train) for task in tasks)
    names = options.methods.split(",") if options.methods else ["peer", *METHODS, "features"]
    made: dict[str, Any] = {}
    if "features" in names:
        names.remove("features")
        made["features"] = features(options.repeats)
        for name, value in made["features"].items():
            print(f"{name:42s} {value:8.3f}")
    arms = [(name, precision) for precision in options.precisions.split(",") for name in names]
    seconds: dict[tuple[str, str], list[float]] = {arm: [] for arm in arms}
    for _ in range(options.repeats):
        for name, precision in arms:
            took = (
                peer(tasks, options.width, precision)
                if name == "peer"
                else ours(name, tasks, options.width, precision)
            )
            seconds[name, precision].append(took)
    rates = {arm: n_images / statistics.median(times) for arm, times in seconds.items()}
    print(f"width {options.width}, {torch.get_num_threads()} threads; x: against ER in the same precision")
    for name, precision in arms:
        of_er = rates.get(("er", precision), float("nan"))
        rate = rates[name, precision]
        print(f"{name:24s} {precision}  {rate:8.1f} images/s  {rate / of_er:5.2f}x")
    made |= {
        f"{name}, {precision}": {"images_per_s": rates[name, precision], "seconds": times}
        for (name, precision), times in seconds.items()
    }
    for precision in options.precisions.split(",") if names else ():
        made[f"parts, {precision}"] = found = parts_of_a_step(options.width, precision)
        for part, ms in found.items():
            print(f"{precision}  {part:42s} {ms:8.3f} ms")
    write_record(options.json, made, sys.argv)


if __name__ == "__main__":
    main()
