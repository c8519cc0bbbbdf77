"""Where tests find real data sets that are not part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def data_file(name: str) -> Path:
    """``name`` below ``$EFFCLI_TEST_DATA``, or below ``shared/data`` beside the checkout; skips the test without it."""
    root = os.environ.get("EFFCLI_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(root) / name
    if not path.exists():
        pytest.skip(f"{name} is not there (EFFCLI_TEST_DATA names its folder)")
    return path
