"""numba and PyTorch share OpenMP: one must not change the other's number of threads."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_first_compiled_kernel_leaves_the_threads_of_pytorch_alone() -> None:
    code = (
        "import torch; torch.set_num_threads(1); torch.get_num_threads()\n"
        "from effcli.nn.weighted_rows import _scatter; _scatter()\n"
        "from effcli.nn.compiled.numba_threads import threads\n"
        "with threads(2): pass\n"
        "print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
