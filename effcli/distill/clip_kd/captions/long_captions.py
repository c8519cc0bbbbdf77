"""Captions that are longer than what a text tower reads, which tokenizers cut without a word."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from effcli.core.text import counted
from effcli.distill.clip.clip_model import ClipModel, Tokenizer
from effcli.distill.clip_kd.captions.caption_set import CaptionSet

log = logging.getLogger(__name__)

MOST_LOOKED_AT = 2000
"""Long captions that are tokenized, evenly over a set."""


def n_cut(tokenize: Tokenizer, captions: Sequence[str]) -> int:
    """How many captions lose their end: those whose tokens are the same without their last character."""
    if not captions:
        return 0
    whole, shorter = tokenize(list(captions)), tokenize([one[:-1] for one in captions])
    return int((whole == shorter).all(1).sum())


def say_cut_captions(pairs: CaptionSet, models: Mapping[str, ClipModel]) -> None:
    """Warn of captions that do not fit, by the model that does not read them whole.

    Args:
        pairs: whose captions.
        models: by what they are called.
    """
    for name, model in models.items():
        length = int(model.tokenize(["a"]).shape[1])
        longer = [text for texts in pairs.captions for text in texts if len(text) > length - 2]
        some = longer[:: max(1, len(longer) // MOST_LOOKED_AT)]
        n = n_cut(model.tokenize, some)
        if n:
            of = "" if len(some) == len(longer) else f" of {len(some)} that were looked at"
            log.warning(
                "%s%s: longer than the %d tokens that the %s reads; what is behind them is left out",
                counted(n, "caption"), of, length, name.replace("_", " "),
            )  # fmt: skip
