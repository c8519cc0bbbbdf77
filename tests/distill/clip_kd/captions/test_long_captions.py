"""Captions that a text tower does not read to their end are said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from open_clip.tokenizer import SimpleTokenizer

from effcli.distill.clip.models import new_clip
from effcli.distill.clip_kd.captions.caption_set import CaptionSet
from effcli.distill.clip_kd.captions.long_captions import n_cut, say_cut_captions

EIGHT = SimpleTokenizer(context_length=8)  # six words and both marks


def test_captions_that_lose_their_end_are_counted() -> None:
    assert n_cut(EIGHT, ["a red cat on a mat"]) == 0
    assert (
        n_cut(EIGHT, ["a red cat on a mat", "a red cat on a mat today", "a big red cat on a small mat"]) == 2
    )


def test_the_model_that_does_not_read_them_whole_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model = new_clip("ViT-Mini-8-64")
    pairs = CaptionSet((b"", b""), (("a cat", "a red cat on a mat today"), ("a dog that sits on a red mat",)))
    say_cut_captions(pairs, {"teacher_2": replace(model, tokenize=EIGHT), "student": model})
    assert caplog.messages == [
        "2 captions: longer than the 8 tokens of the teacher 2; what is behind them is left out"
    ]
