"""Figures as picture files: text on them is shown as it is, never read as mathematics."""

from __future__ import annotations

import warnings
from typing import IO, TYPE_CHECKING, Any

from effcli.core.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


def save_figure(figure: Figure, file: Path | IO[str], **settings: Any) -> None:
    """Write a figure.

    No text on it is read as mathematics (``$x_$`` is a class name as any other) or has characters that no font shows.

    Args:
        figure: with everything on it.
        file: where.
        settings: of matplotlib's ``savefig``.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        shown = printable(text.get_text())
        if shown != text.get_text():
            text.set_text(shown)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")  # drawn as a box
        figure.savefig(file, **settings)
