"""Inside the room imports go one way, as a frame does: sources, network, stream, evaluation."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOM = Path(__file__).resolve().parents[2] / "effcli" / "detect_stream"
PREFIX = "effcli.detect_stream."

# From below to above; each may import those before it. Beside each other: nothing imports the other way.
ORDER = [
    "frame_ranges",
    "network.config",
    "recipe",
    "data",
    "network",
    "losses",
    "released_weights",
    "weights",
    "onnx_export",
    "sources",
    "stream",
    "stereo_detector",
    "files",
    "training",
    "evaluation",
    "pipeline",
]


def part_of(module: str) -> str:
    """``network.config`` alone stands below the recipe, whose sections describe it."""
    return "network.config" if module == "network.config" else module.split(".")[0]


@pytest.mark.parametrize("file", sorted(ROOM.rglob("*.py")), ids=lambda file: str(file.relative_to(ROOM)))
def test_imports_go_one_way(file: Path) -> None:
    own = part_of(".".join(file.relative_to(ROOM).with_suffix("").parts))
    if own == "__init__":
        return
    found = [
        part_of(node.module.removeprefix(PREFIX))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PREFIX)
    ]
    above = ORDER[ORDER.index(own) + 1 :]
    assert [part for part in found if part in above] == []
