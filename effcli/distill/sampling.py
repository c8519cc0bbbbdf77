"""Students in Python: ``effcli.distill.Sampler``."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL.Image import Image, fromarray
from torch import Tensor

from effcli.core.runtime import derive_seed
from effcli.core.tensor_file import require_finite_output
from effcli.data.image_sets import to_bytes
from effcli.diffusion.autoencoders import load_decoder
from effcli.diffusion.conditioning import Guided
from effcli.diffusion.ddim import ddim_scheduler, sample
from effcli.distill.weights import load_student


class Sampler:
    """Images from a student, in its few steps.

    Args:
        place: a run directory or a model folder.
        steps: which student of a run, by its number of sampling steps; None: the last.
        prompts: file with one prompt per line, for text-conditional students; None: eight general ones.
        device: where to compute.
    """

    def __init__(
        self,
        place: str | Path,
        steps: int | None = None,
        *,
        prompts: str | None = None,
        device: str = "cpu",
    ) -> None:
        model = load_student(place, steps)
        self._guided = Guided(model, model.unet.to(device), prompts=prompts)
        self._decode = load_decoder(model, torch.device(device))
        self._device = device
        self._n_calls = 0

    @torch.inference_mode()
    def __call__(
        self,
        n: int = 1,
        *,
        class_labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Image]:
        """Sample images.

        Args:
            n: number of images.
            class_labels: int64 ``[n]``, for class-conditional students; None chooses them at random.
            generator: of the noise, on the CPU; None: one whose seed follows from the global seed
                (``torch.manual_seed``) and from how often this sampler was called before. The global generator is
                not moved.

        Raises:
            InputError: the student does not have the classes.
        """
        if generator is None:
            generator = torch.Generator().manual_seed(derive_seed(torch.initial_seed(), self._n_calls))
        self._n_calls += 1
        noise = torch.randn(n, *self._guided.sample_shape, generator=generator).to(self._device)
        condition = self._guided.random_condition(n, generator)
        if class_labels is not None:
            condition = self._guided.with_labels(condition, class_labels)
        predict = self._guided.predictor(condition)
        sampled = sample(
            predict, ddim_scheduler(self._guided.scheduler_config), noise, generator=generator
        ).cpu()
        images = to_bytes(self._decode(require_finite_output(sampled, "the sampled images")))
        grey = images.shape[1] == 1
        return [
            fromarray((image[0] if grey else image.permute(1, 2, 0).contiguous()).numpy()) for image in images
        ]
