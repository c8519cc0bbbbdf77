"""``--gallery``: one self-contained page to compare pictures with their results.

Every picture is a figure of the page: small versions of both, one over the other with a boundary that moves, their
levels and the change of hue. The page holds the first :data:`MOST_PICTURES` pictures, so that browsers open it
whatever the size of the batch is. Until it is written, figures wait in a temporary file without a name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import IO, TYPE_CHECKING

from effcli.core.errors import EffcliError, UsageError
from effcli.core.files import atomic_path, check_new_file, make_folder
from effcli.core.text import counted, printable
from effcli.data.picture import Picture
from effcli.enhance.files.figures import level_of, small_pair
from effcli.enhance.files.remote import is_url

if TYPE_CHECKING:
    from jinja2 import Template

    from effcli.core.runtime import Runtime
    from effcli.enhance.files.jobs import OutputPlan

MOST_PICTURES = 300
GENERATOR = "effcli enhance --gallery"
_ENDINGS = {".html", ".htm"}

_FIGURE = """<figure><div class="pair" style="--ratio: {{ pair.width }} / {{ pair.height }}">\
<img alt="{{ name }}, before" src="{{ pair.before }}" decoding="async">\
<img class="after" alt="{{ name }}, after" src="{{ pair.after }}" decoding="async">\
<span class="side left">before</span><span class="side right">after</span>\
<input type="range" min="0" max="100" value="50" aria-label="{{ name }}: share of the picture before">\
</div><figcaption><div class="name">{{ name }}</div><dl>\
<div><dt>level</dt><dd>{{ "%.3f" % before }} → {{ "%.3f" % after }}</dd></div>\
<div><dt>hue change</dt><dd>{{ hue }}</dd></div>\
<div><dt>size</dt><dd>{{ width }} × {{ height }}</dd></div></dl></figcaption></figure>"""


@dataclass(frozen=True)
class BatchFacts:
    """What a page says of its batch beside the figures.

    Attributes:
        n_planned: pictures of the batch.
        failures: those that could not be enhanced, each with its reason.
        is_interrupted: the batch was stopped before its end.
    """

    n_planned: int
    failures: Sequence[EffcliError] = ()
    is_interrupted: bool = False


@dataclass
class Gallery:
    """The figures of this process, and the page they are for.

    Attributes:
        path: the page.
        numbers: places in the plan of the pictures that the page shows.
    """

    path: Path
    numbers: frozenset[int]
    _spool: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    _places: list[tuple[int, int, int]] = field(default_factory=list)

    def shows(self, number: int) -> bool:
        """Whether the picture at this place of the plan has a figure."""
        return number in self.numbers

    def add(self, number: int, name: str, before: Picture, after: Picture) -> None:
        """Add the figure of the picture at a place of the plan."""
        height, width = after.pixels.shape[:2]
        pair = small_pair(before, after)
        text = _template(_FIGURE).render(
            name=printable(name),
            pair=pair,
            hue="–" if pair.hue_change is None else f"{pair.hue_change:.1f}°",
            before=level_of(before),
            after=level_of(after),
            width=width,
            height=height,
        )
        content = text.encode("utf-8", "backslashreplace")
        self._places.append((number, self._spool.tell(), len(content)))
        self._spool.write(content)

    def write(self, runtime: Runtime, facts: BatchFacts) -> None:
        """Write the page with the figures of all ranks, whole or not at all.

        Raises:
            RunError: it cannot be written.
        """
        shares: list[Iterable[tuple[int, bytes]]] = [self._figures()]
        if runtime.world > 1:
            shares = [*runtime.gather(list(self._figures()))]
        runtime.on_main(lambda: _write_page(self.path, shares, facts))

    def _figures(self) -> Iterator[tuple[int, bytes]]:
        for number, start, length in sorted(self._places):
            self._spool.seek(start)
            yield number, self._spool.read(length)


def open_gallery(path: Path, plan: OutputPlan) -> Gallery:
    """The gallery of a batch: the first :data:`MOST_PICTURES` pictures of its plan."""
    numbers = sorted(job.number for job in (*plan.jobs, *plan.skipped))
    return Gallery(path, frozenset(numbers[:MOST_PICTURES]))


def check_gallery(name: str | Path, *, force: bool, resume: bool) -> Path:
    """Make sure, before any work starts, that the page can be written and that nothing is lost by it; returns its path.

    Raises:
        UsageError: it is a URL, it does not end in .html, it is there already (unless ``force``, or it is a gallery
            that ``resume`` continues), or it cannot be written.
    """
    path = Path(name)
    if is_url(str(name)):
        raise UsageError("a gallery must be a local file", place=str(name))
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError("the name of a gallery must end in .html", place=str(path))
    check_new_file(path, force=force or (resume and _is_gallery(path)))
    return path


def _is_gallery(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return GENERATOR.encode() in file.read(1 << 10)
    except OSError:
        return False


def _write_page(path: Path, shares: Sequence[Iterable[tuple[int, bytes]]], facts: BatchFacts) -> None:
    from markupsafe import Markup

    ordered = shares[0] if len(shares) == 1 else sorted(one for share in shares for one in share)
    failures = [printable(str(failure)) for failure in facts.failures]
    page = _template(
        (files(__package__) / "gallery.html").read_text(encoding="utf-8")
    ).stream(
        generator=GENERATOR,
        title="Before and after",
        facts=_facts(facts),
        notices=_notices(facts),
        figures=(Markup(content.decode("utf-8")) for _, content in ordered),  # names are escaped there
        failures=failures[:MOST_PICTURES],
    )
    make_folder(path.parent)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(page)


def _facts(facts: BatchFacts) -> str:
    n_failed = len(facts.failures)
    failed = f", {n_failed} of them could not be enhanced" if n_failed else ""
    return (
        f"{counted(facts.n_planned, 'picture')}{failed}. Levels are mean grey levels, 0 black to 1 white; "
        "the change of hue is the mean over what is coloured in the result."
    )


def _notices(facts: BatchFacts) -> list[str]:
    notices = []
    if facts.is_interrupted:
        notices.append("The batch was interrupted: pictures that were not started are missing here.")
    if facts.n_planned > MOST_PICTURES:
        notices.append(f"This page shows the first {MOST_PICTURES} of {facts.n_planned} pictures.")
    if len(facts.failures) > MOST_PICTURES:
        notices.append(f"Of {len(facts.failures)} failures the first {MOST_PICTURES} are listed.")
    return notices


@cache
def _template(text: str) -> Template:
    from jinja2 import Environment

    return Environment(autoescape=True).from_string(text)
