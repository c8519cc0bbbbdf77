"""What libraries raise and say: one line of ours, and nothing on stderr."""

from __future__ import annotations

import logging

import pytest

from effcli.core.errors import InputError, UsageError
from effcli.core.library_errors import as_input_errors


def test_an_exception_of_a_library_is_one_line_with_the_name() -> None:
    with pytest.raises(InputError) as caught, as_input_errors("timm:x"):
        raise ValueError("two\n  lines")
    assert (str(caught.value.place), caught.value.message) == ("timm:x", "cannot be loaded: two lines")
    assert caught.value.hint is None


def test_a_missing_network_has_its_hint() -> None:
    with pytest.raises(InputError) as caught, as_input_errors("timm:x", offline="name a file"):
        raise OSError("Please check your connection")
    assert caught.value.hint == "name a file"


def test_errors_of_effcli_are_left_as_they_are() -> None:
    with pytest.raises(UsageError, match="mine"), as_input_errors("timm:x"):
        raise UsageError("mine")


def test_retries_of_the_hub_are_not_shown_and_levels_are_put_back(capfd: pytest.CaptureFixture[str]) -> None:
    hub = logging.getLogger("huggingface_hub")
    before = hub.level, logging.getLogger().level
    with as_input_errors("x"):
        hub.warning("Retrying in 1s")
        print("loaded")
    assert (hub.level, logging.getLogger().level) == before
    assert capfd.readouterr() == ("", "")
