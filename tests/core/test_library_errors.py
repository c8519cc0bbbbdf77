"""What libraries raise and say: one line of ours, and nothing on stderr."""

from __future__ import annotations

import logging
import socket

import pytest

from effcli.core.errors import InputError, UsageError
from effcli.core.library_errors import as_input_errors, hub_asked_once


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


def test_without_an_address_the_hub_is_not_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, hf_hub_download

    def unknown(*_: object) -> list[object]:
        raise socket.gaierror("Name or service not known")

    waits: list[float] = []
    monkeypatch.setattr("effcli.core.library_errors.urllib.request.getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr("time.sleep", waits.append)
    with (
        pytest.raises(InputError, match="cannot be reached") as caught,
        hub_asked_once("timm:x", hint="a file"),
    ):
        hf_hub_download("effcli/nothing", "model.safetensors")
    assert (caught.value.place, caught.value.hint, waits) == ("timm:x", "a file", [])
    assert not constants.HF_HUB_OFFLINE


def test_where_the_hub_is_known_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [1])
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(ValueError, match="mine"), hub_asked_once("timm:x"):
        assert before == constants.HF_HUB_OFFLINE
        raise ValueError("mine")
