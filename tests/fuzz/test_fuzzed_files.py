"""Damaged files of every format are read, or refused in one line; never a raw exception, never much memory.

``EFFCLI_FUZZ=1000`` damages each format that often.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from effcli.core.errors import EffcliError
from tests.fuzz.formats import FORMATS, damage_of

N_EDITS = int(os.environ.get("EFFCLI_FUZZ", "40"))
_SPARE_MB = 96
_LONGEST_S = 20.0


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level("CRITICAL"):
        yield


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    form = FORMATS[name]
    for folder in ("model", "objects"):
        (tmp_path / folder).mkdir()
    files = form.write(tmp_path)
    form.read(tmp_path)  # whole
    whole = {file: file.read_bytes() for file in files}
    before_mb = _peak_mb()
    raw: list[str] = []
    n_refused = 0
    for number in range(N_EDITS):
        rng = random.Random(f"{name} {number}")
        file = rng.choice(files)
        file.write_bytes(damage_of(file)(whole[file], rng))
        started = time.perf_counter()
        try:
            form.read(tmp_path)
        except EffcliError as error:
            n_refused += 1
            assert "\n" not in error.message or name == "recipe", error  # a recipe has a line a mistake
            assert error.exit_code == 2, error
        except Exception as error:
            raw.append(
                f"{number} ({file.name}): {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            )
        assert time.perf_counter() - started < _LONGEST_S, number
        file.write_bytes(whole[file])
    size_mb = sum(map(len, whole.values())) / 2**20
    print(f"{name}: {N_EDITS} edits, {n_refused} refused, {len(raw)} raw, +{_peak_mb() - before_mb:.0f} MB")
    assert not raw, "\n".join(raw[:20])
    assert _peak_mb() - before_mb < _SPARE_MB + 8 * size_mb
    assert n_refused > N_EDITS // 4 or name == "teacher cache"  # which is computed again


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
