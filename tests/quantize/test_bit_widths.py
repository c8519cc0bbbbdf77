"""What `--bits` takes."""

import pytest

from effcli.quantize.bit_widths import parse_bits


@pytest.mark.parametrize(("text", "bits"), [("w2a4", (2, 4)), ("W8A8", (8, 8)), ("w4", (4, None))])
def test_bits_as_they_are_typed(text, bits):
    assert parse_bits(text) == bits


@pytest.mark.parametrize("text", ["w9", "2a4", "w2a", "a4", "w", "w0a4", "w2a9", "", "w2a4x", "w-1", "w２"])
def test_other_bits_are_refused(text):
    with pytest.raises(ValueError, match=r"form w2a4|in 1\.\.8"):
        parse_bits(text)
