"""Networks as ONNX files, for programs without PyTorch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effcli.core.errors import InputError, UsageError
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
    model = model_of(network, (example,), file, [input_name], [output_name], {0: torch.export.Dim.DYNAMIC})
    first = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param  # a name that nobody knows
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == first:
                axis.dim_param = "batch"
    save_model(model, file, metadata)


def save_fixed_onnx(
    network: nn.Module,
    examples: Sequence[Tensor],
    file: Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    metadata: Mapping[str, str],
) -> None:
    """Write a network with several inputs and outputs of fixed shapes.

    Args:
        network: in evaluation mode, on the CPU.
        examples: its inputs.
        file: where to.
        input_names, output_names: in the file.
        metadata: what users of the file need to know.

    Raises:
        UsageError: the packages for it are not installed.
        RunError: the file cannot be written.
    """
    save_model(model_of(network, tuple(examples), file, input_names, output_names, None), file, metadata)


def model_of(
    network: nn.Module,
    examples: tuple[Tensor, ...],
    file: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic: dict[int, Any] | None,
) -> Any:
    """The network as an ONNX model, to which its own nodes can be added.

    Args:
        network: in evaluation mode, on the CPU.
        examples: its inputs.
        file: where it will be written, for messages.
        input_names, output_names: in the model.
        dynamic: axes of all inputs that may have any length: axis -> what ``torch.export`` is told of it.

    Raises:
        UsageError: the packages for it are not installed.
    """
    try:
        import onnx  # noqa: F401
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
            examples,
            dynamo=True,
            verbose=False,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=None if dynamic is None else tuple(dynamic for _ in examples),
        )
    assert program is not None
    return program.model_proto


def save_model(model: Any, file: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX model, checked, with metadata.

    Raises:
        RunError: the file cannot be written.
    """
    import onnx

    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    with atomic_path(file) as temporary:
        onnx.save_model(model, temporary)


def open_onnx(file: Path) -> Any:
    """Open an ONNX file as a session of ONNX Runtime on the CPU.

    Raises:
        InputError: it is missing or damaged.
        UsageError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(
            "needs the package onnxruntime", place=str(file), hint="pip install 'effcli[onnx]'"
        ) from None
    if not file.is_file():
        raise InputError("no such file", place=str(file))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of protobuf, or of its own kinds
        reason = " ".join(str(error).split())
        raise InputError(f"cannot be read as an ONNX file: {reason}", place=str(file)) from None


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
