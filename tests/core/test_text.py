"""Foreign text never reaches a terminal as commands."""

from __future__ import annotations

import pytest

from effcli.core.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain.png", "plain.png"),
        ("Größe 夜景 \U0001f319.png", "Größe 夜景 \U0001f319.png"),
        ("a\x1b]0;title\x07b", r"a\x1b]0;title\x07b"),
        ("a\nerror: b", r"a\nerror: b"),
        ("a\x9b31mb\x7f", r"a\x9b31mb\x7f"),
        ("gpj.\u202egnp", r"gpj.\u202egnp"),
        ("a\u2028b", r"a\u2028b"),
        ("\udce4.png", r"\udce4.png"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
