"""``effcli detect-stream export``: a detector as one file, for programs without effcli."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effcli.core.errors import UsageError

from .common.options import ForceOption, Options, with_options
from .common.output import print_result


@with_options()
def export(
    options: Options,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="FILE.onnx or FILE.safetensors."),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            "-w",
            metavar="RUN|FILE|builtin:NAME",
            help="The detector: a run of `train`, its file, a .pth checkpoint of the released code, or builtin:NAME "
            "(default: builtin:street-tiny).",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Write one file that detects: ONNX, from two pictures, the cameras and the last map to boxes and the map."""
    if output.suffix not in {".onnx", ".safetensors"}:
        raise UsageError(
            f"unknown file extension {output.suffix!r}", place=str(output), hint="use .onnx or .safetensors"
        )
    from effcli.core.files import check_new_file, make_folder
    from effcli.detect_stream.onnx_export import export_onnx
    from effcli.detect_stream.recipe import DEFAULT_WEIGHTS
    from effcli.detect_stream.weights import load_detector, save_detector

    check_new_file(output, force=force)
    detector = load_detector(weights or DEFAULT_WEIGHTS)
    make_folder(output.parent)
    if output.suffix == ".onnx":
        export_onnx(output, detector)
    else:
        save_detector(output, detector.network, detector.target, method=detector.method)
    content = {"output": str(output), "target": detector.target, "method": detector.method}
    print_result(content, [str(output)], as_json=options.as_json)
