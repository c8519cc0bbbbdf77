"""``effcli detect-stream export``: a detector as one file, for programs without effcli."""

from __future__ import annotations

from ..common.options import ExportFileOption, ForceOption, Options, check_extension, with_options
from ..common.output import print_result
from .options import WeightsOption


@with_options()
def export(
    options: Options,
    output: ExportFileOption,
    weights: WeightsOption = None,
    force: ForceOption = False,
) -> None:
    """Export a detector as one ONNX file: pictures, calibration and the last map in, boxes and the new map out."""
    check_extension(output, ".onnx", ".safetensors")
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
