"""Frames by the numbers of their names."""

from __future__ import annotations

import pytest

from effcli.core.errors import RecipeError
from effcli.core.recipe import load_recipe
from effcli.detect_stream.frame_ranges import FrameRange, parse_frames
from effcli.detect_stream.recipe import StreamDsgnRecipe


def test_ranges_are_read() -> None:
    assert parse_frames("49-127") == (FrameRange(49, 127),)
    assert parse_frames("000049-000127, 130") == (FrameRange(49, 127), FrameRange(130, 130))
    assert parse_frames("0000:49-127,0001:49-127") == (
        FrameRange(49, 127, "0000"),
        FrameRange(49, 127, "0001"),
    )
    assert str(parse_frames("0001:7-9")[0]) == "0001:7-9"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected FROM-TO"),
        ("49:", "expected FROM-TO"),
        ("49-127-200", "expected FROM-TO"),
        ("-5", "expected FROM-TO"),
        ("127-49", "127-49 is empty"),
        ("49-60,60-70", "49-60 and 60-70 overlap"),
        ("49-60,0000:70-80", "name the sequence of every range, or of none"),
    ],
)
def test_other_lists_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_frames(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {frames: 9-4}", r"data\.frames: .*9-4 is empty"),
        ("data: {frames: 000047}", r"data\.frames: .*string"),  # YAML takes it for an octal number
        ("eval: {data: null, frames: 4-9}", r"eval\.frames: nothing is measured"),
    ],
)
def test_a_recipe_checks_its_frames(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(StreamDsgnRecipe, f"task: detect-stream\n{text}\n", "mine.yaml")
