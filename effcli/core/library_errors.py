"""What model libraries and their hubs raise, print and warn, as one line of ours."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import urllib.request
import warnings
from collections.abc import Iterator
from pickle import UnpicklingError
from urllib.parse import urlsplit

from effcli.core.errors import EffcliError, InputError

_OFFLINE = ("onnect", "resolve", "Name or service")


@contextlib.contextmanager
def as_input_errors(place: str, *, offline: str = "it needs the network the first time") -> Iterator[None]:
    """What open_clip, timm, torchvision and the hub raise inside, as one line; what they print and warn is dropped.

    Args:
        place: the name of the model or file in the message.
        offline: the hint where the network was not there.

    Raises:
        InputError: something was raised that is not an error of effcli.
    """
    loggers = [
        logging.getLogger(name) for name in ("", "huggingface_hub")
    ]  # the hub's has a handler of its own
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except EffcliError:
        raise
    except UnpicklingError:
        raise InputError("not a checkpoint of tensors only", place=place) from None
    except Exception as error:  # files that are not what they claim to be fail in any way, deep in libraries
        reason = short(error)
        hint = offline if any(word in reason for word in _OFFLINE) else None
        raise InputError(f"cannot be loaded: {reason}", place=place, hint=hint) from None
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


@contextlib.contextmanager
def hub_asked_once(place: str, *, hint: str = "it needs the network the first time") -> Iterator[None]:
    """Inside, models of the Hugging Face hub come from its cache alone where its host has no address.

    The hub's library would ask six times and wait half a minute before it said so, and again for the next file name.

    Raises:
        InputError: the host has no address, and a model is not in the cache.
    """
    from huggingface_hub import constants

    host = str(urlsplit(constants.ENDPOINT).hostname)
    before = constants.HF_HUB_OFFLINE
    is_away = not before and not _has_address(host)
    constants.HF_HUB_OFFLINE = before or is_away
    try:
        yield
    except Exception as error:
        if not (is_away and _is_of_offline_mode(error)):
            raise
        raise InputError(
            f"not in the Hub's cache, and {host} cannot be reached", place=place, hint=hint
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = before


def _is_of_offline_mode(error: BaseException) -> bool:
    """Whether the hub's library raised it, or what a library around it raised instead."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return True
    return error.__context__ is not None and _is_of_offline_mode(error.__context__)


def _has_address(host: str) -> bool:
    """Whether a host is known; true where a proxy would look it up."""
    if urllib.request.getproxies().keys() & {"https", "http", "all"}:
        return True
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def short(error: Exception) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
