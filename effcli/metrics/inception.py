"""The features that published Frechet distances are in: Inception-v3 of 2015, by torch-fidelity, from a weight file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from effcli.core.errors import InputError, UsageError
from effcli.core.tensor_file import read_pickled_tensors
from effcli.core.weight_file import one_line

PREFIX = "inception:"
"""Of the name of a feature space; the file follows."""

_LAYER = "2048"
"""The pooled features before the classifier, as Heusel et al. (NeurIPS 2017) take them."""


def load_inception(name: str) -> Callable[[Tensor], Tensor]:
    """From uint8 ``[B, 1|3, H, W]`` to float32 ``[B, 2048]``; images are resized as TensorFlow 1 does.

    Args:
        name: ``inception:FILE``; the file is torch-fidelity's and pytorch-fid's
            ``pt_inception-2015-12-05-6726825d.pth``.

    Raises:
        UsageError: torch-fidelity is not installed.
        InputError: the file is not there, holds more than tensors, or other weights.
    """
    file = Path(name.removeprefix(PREFIX))
    if find_spec("torch_fidelity") is None:
        raise UsageError("needs the package torch-fidelity", place=name, hint="pip install 'effcli[fid]'")
    if not file.is_file():
        raise InputError("no such file", place=str(file), hint="pt_inception-2015-12-05-6726825d.pth")
    read_pickled_tensors(file, str(file))  # nothing in it is executed; the library's own reading would
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        with contextlib.redirect_stdout(sys.stderr):
            network: Any = FeatureExtractorInceptionV3(
                "inception-v3-compat", [_LAYER], feature_extractor_weights_path=str(file)
            )
    except (RuntimeError, TypeError, KeyError) as error:
        raise InputError(
            f"its weights are not those of Inception-v3 of 2015: {one_line(error)}", place=str(file)
        ) from None

    def extract(images: Tensor) -> Tensor:
        features: Tensor = network(images.expand(-1, 3, -1, -1))[0]
        return features

    return extract
