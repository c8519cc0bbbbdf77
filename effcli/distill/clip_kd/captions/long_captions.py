"""Captions that are longer than what a text tower reads, which tokenizers cut without a word."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial

from effcli.core.text import cut_texts
from effcli.distill.clip.clip_model import ClipModel, Tokenizer
from effcli.distill.clip_kd.captions.caption_set import CaptionSet

log = logging.getLogger(__name__)


def n_cut(tokenize: Tokenizer, captions: Sequence[str]) -> int:
    """How many captions lose their end: those whose tokens are the same without their last character."""
    whole, shorter = tokenize(list(captions)), tokenize([one[:-1] for one in captions])
    return int((whole == shorter).all(1).sum())


def say_cut_captions(pairs: CaptionSet, models: Mapping[str, ClipModel]) -> None:
    """Warn of captions that do not fit, by the model that does not read them whole.

    Args:
        pairs: whose captions.
        models: by what they are called.
    """
    texts = [text for captions in pairs.captions for text in captions]
    for name, model in models.items():
        length = int(model.tokenize(["a"]).shape[1])
        reader = f"the {name.replace('_', ' ')}"
        said = cut_texts(texts, length, partial(n_cut, model.tokenize), "caption", reader)
        if said is not None:
            log.warning("%s", said)
