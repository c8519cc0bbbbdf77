"""Wavelets by name: which are accepted, their filters, and that Haar needs no PyWavelets."""

import subprocess
import sys

import pytest

from effcli.nn.wavelet_names import filters_of, reach_of, require_wavelet


@pytest.mark.parametrize("name", ["haar", "db1", "db38", "sym4", "coif17", "bior2.2", "rbio6.8", "dmey"])
def test_discrete_wavelets_are_accepted(name):
    assert require_wavelet(name) == name


@pytest.mark.parametrize("name", ["db99", "bior1.2", "Haar", "", "mexh", "gaus1"])
def test_others_are_refused_with_the_names_that_exist(name):
    with pytest.raises(ValueError, match="unknown wavelet") as caught:
        require_wavelet(name)
    message = str(caught.value)
    assert repr(name) in message
    for known in ("haar", "db1-db38", "sym2-sym20", "coif1-coif17", "bior1.1/1.3/", "rbio1.1/1.3/", "dmey"):
        assert known in message
    assert len(message) < 300 and "\n" not in message


def test_filters_are_those_of_two_channels_and_reach_follows_their_length():
    for name, length, reach in (("db1", 2, 0), ("db2", 4, 2), ("bior2.2", 6, 2), ("sym4", 8, 4)):
        forth, back = filters_of(name)
        assert {len(taps) for taps in (*forth, *back)} == {length}
        assert sum(forth.low) == pytest.approx(2**0.5) and sum(forth.high) == pytest.approx(0, abs=1e-9)
        assert reach_of(name) == reach
    assert reach_of("haar") == 0


def test_haar_imports_no_pywavelets():
    code = "import sys, effcli.nn.wavelet_names as w; w.require_wavelet('haar'); w.reach_of('haar'); "
    subprocess.run(
        [sys.executable, "-c", code + "assert not {'pywt', 'torch'} & set(sys.modules)"], check=True
    )
