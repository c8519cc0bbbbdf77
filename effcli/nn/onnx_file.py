"""Networks as ONNX files, for programs without PyTorch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from effcli.core.errors import UsageError
from effcli.core.files import atomic_path


def save_onnx(
    network: nn.Module,
    example: Tensor,
    file: Path,
    *,
    input_name: str,
    output_name: str,
    metadata: Mapping[str, str],
) -> None:
    """Write a network with one input and one output; the first axis of both may have any length.

    Args:
        network: in evaluation mode, on the CPU.
        example: an input; two items, as an axis of length 1 is taken for a constant.
        file: where to.
        input_name, output_name: in the file.
        metadata: what users of the file need to know.

    Raises:
        UsageError: the packages for it are not installed.
        RunError: the file cannot be written.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError(
            "needs the packages onnx and onnxscript",
            place=str(file),
            hint="pip install 'effcli[onnx]', or export to .safetensors",
        ) from None
    with warnings.catch_warnings(), _Quiet("onnxscript", "torch.onnx", "onnx_ir"), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[input_name],
            output_names=[output_name],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, dict(metadata))
    first = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # a name that nobody knows
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == first:
                axis.dim_param = "batch"
    onnx.checker.check_model(model)
    with atomic_path(file) as temporary:
        onnx.save_model(model, temporary)


class _Quiet:
    """Loggers that only repeat what an exporter did."""

    def __init__(self, *names: str) -> None:
        self.loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *exception: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
