"""What model libraries and their hubs raise, print and warn, as one line of ours."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pickle import UnpicklingError

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


def short(error: Exception) -> str:
    """What an exception says, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
