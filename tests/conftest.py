from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads only wait for each other

sys.path.insert(0, str(Path(__file__).parent / "core"))  # toy_task, which child processes import too


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Results are the same bit for bit on one thread only."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def warnings_logged() -> Iterator[list[str]]:
    """The library's warnings, also after a command has configured its logger not to propagate."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Collector(logging.WARNING)
    logging.getLogger("effcli").addHandler(handler)
    yield messages
    logging.getLogger("effcli").removeHandler(handler)


@pytest.fixture
def without_heic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As where pillow-heif is not installed."""
    from effcli.data import picture_folders

    picture_folders._readable_endings.cache_clear()
    monkeypatch.setattr(picture_folders, "register_heif", lambda: False)
    yield
    picture_folders._readable_endings.cache_clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow tests first, so that no worker is left with them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
