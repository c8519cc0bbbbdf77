"""What `effcli detect-stream` prints for people: the summary of a stream, and the tables of a measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..common.output import is_main_process, print_lines, print_note, print_result, print_table

if TYPE_CHECKING:
    from effcli.core.evidence.result import Result


def print_summary(result: Result, *, as_json: bool, quiet: bool, is_moved_on: bool) -> None:
    """The summary is the last line of stdout; a table for people goes to stderr."""
    print_result(result.to_json(), [], as_json=True)
    if quiet or as_json or not is_main_process():
        return
    metrics = result.metrics
    latency, age = metrics["latency_ms"], metrics["age_ms"]
    lines = [
        f"{metrics['processed']} of {metrics['frames']} frames, {metrics['dropped']} dropped, "
        f"{metrics['damaged']} damaged",
        f"latency {latency['p50']:.0f} ms (p95 {latency['p95']:.0f}, p99 {latency['p99']:.0f}), "
        f"age {age['p50']:.0f} ms (p95 {age['p95']:.0f}, p99 {age['p99']:.0f}), "
        f"{metrics['deadline_misses']} later than one frame",
    ]
    farthest = max(1, *map(int, metrics["horizons"]))
    if age["p50"] > farthest * 1000 / metrics["fps"] and not is_moved_on:
        frames = "one frame" if farthest == 1 else f"{farthest} frames"
        lines.append(
            f"results are older than {frames}: --horizon auto moves boxes to the age that results have"
        )
    if "sap" in metrics:
        quality = {name: metrics[name] for name in ("sap", "ap")}
        lines += [
            f"{name:<4}" + "  ".join(f"{kind} {_number(value)}" for kind, value in row.items())
            for name, row in quality.items()
        ]
    else:
        lines.append("no labels, so neither sAP nor AP")
    for line in [*lines, *metrics["files"]]:
        print_note(line)


def print_measures(metrics: dict[str, Any]) -> None:
    """The table of a measurement, and depth and tracks where they were measured."""
    names = ("ap", "sap", "sap_constant_velocity", "ap_same_frame")
    found = {name: metrics[name] for name in names}
    horizons = metrics["horizons"]
    if len(horizons) > 1:
        found |= {
            f"{name}, horizon {frames}": row[name] for frames, row in horizons.items() for name in names[:3]
        }
    found |= {f"ap 1 m, frame +{frames}": row for frames, row in metrics["ap_ahead"].items()}
    classes = list(metrics["ap"])
    for measure in ("3d_loose", "bev_loose", "3d_strict", "bev_strict"):
        found[f"sap, {measure}"] = {kind: metrics["sap_table"][kind][measure]["moderate"] for kind in classes}
    print_table(
        [[name, *(_number(row[kind]) for kind in classes)] for name, row in found.items()], ["", *classes]
    )
    if "depth" in metrics:
        _print_depth(metrics["depth"])
    if "tracking" in metrics:
        _print_tracking(metrics["tracking"])


def _print_tracking(found: dict[str, Any]) -> None:
    for kind, row in found.items():
        if row is None:
            print_lines([f"tracking, {kind}: no labels"])
            continue
        shares = ", ".join(f"{name.upper()} {row[name]:.1f}" for name in ("hota", "mota", "idf1"))
        print_lines([f"tracking, {kind}: {shares}, {row['id_switches']} identity switches"])


def _print_depth(found: dict[str, Any]) -> None:
    if found["median_error_m"] is None:
        print_lines([f"depth: known for none of {found['pixels']:,} pixels"])
        return
    print_lines(
        [
            f"depth: median error {found['median_error_m']:.3f} m, {found['above_1m_percent']:.1f} % above 1 m, "
            f"known for {found['known_percent']:.1f} % of {found['pixels']:,} pixels"
        ]
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
