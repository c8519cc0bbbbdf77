"""The page of ``--gallery``: its structure, what it shows of large batches, and that nothing in it is fetched."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effcli.core.errors import InputError, RunError, UsageError
from effcli.core.runtime import create_runtime
from effcli.data.picture import Picture
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.files import gallery as module
from effcli.enhance.files.batch import enhance_files
from effcli.enhance.files.figures import LARGEST_WIDTH, level_of, small_pair
from effcli.enhance.files.gallery import BatchFacts, Gallery, check_gallery, open_gallery
from effcli.enhance.files.output_plan import plan_outputs


class Page(HTMLParser):
    """The elements of a page, each (tag, attributes), and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def image_of(uri: str | None) -> Image.Image:
    kind, data = (uri or "").split(",", 1)
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def flat(height: int, width: int, colour: tuple[float, ...]) -> Picture:
    return Picture(np.full((height, width, len(colour)), colour, np.float32))


def brighter() -> Enhancer:
    return Enhancer(lambda x: (3 * x).clamp(0, 1), runtime=create_runtime(device="cpu", precision="fp32"))


def photos(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        values = np.random.default_rng(number).integers(0, 60, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / name)


def run(tmp_path: Path, **options: Any) -> tuple[Page, list[str]]:
    """Enhance tmp_path/in with a gallery; the page, and the names of its figures."""
    plan = plan_outputs([tmp_path / "in"], str(tmp_path / "out"), **options)
    enhancer, page = brighter(), tmp_path / "page" / "gallery.html"
    gallery = open_gallery(page, plan)
    outcome = enhance_files(plan, enhancer, gallery=gallery)
    n_planned = len(plan.jobs) + len(plan.skipped)
    gallery.write(enhancer.runtime, BatchFacts(n_planned, outcome.failures, outcome.interrupted))
    read = Page(page)
    return read, [(one["aria-label"] or "").split(":")[0] for one in read.all("input")]


def test_each_picture_has_both_versions_a_slider_and_figures(tmp_path):
    photos(tmp_path / "in", "a<b>&'.png", "b.png")
    page, names = run(tmp_path)
    assert names == [str(tmp_path / "in" / name) for name in ("a<b>&'.png", "b.png")]
    images = page.all("img")
    assert len(images) == 4 and all(image_of(one["src"]).size == (40, 24) for one in images)
    before, after = (np.asarray(image_of(one["src"]), np.float64).mean() for one in images[:2])
    assert after / before == pytest.approx(3, rel=0.1)
    assert all(one["type"] == "range" for one in page.all("input"))
    levels = re.findall(r"(\d\.\d{3}) → (\d\.\d{3})", page.text)
    assert len(levels) == 2 and all(
        float(bright) == pytest.approx(3 * float(dark), rel=0.02) for dark, bright in levels
    )
    assert len(re.findall(r"hue change\d+\.\d°", page.text)) == 2


def test_nothing_is_fetched_and_light_dark_and_phones_are_thought_of(tmp_path):
    photos(tmp_path / "in", "a.png")
    page, _ = run(tmp_path)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    text = (tmp_path / "page" / "gallery.html").read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "") and "url(" not in text and "@import" not in text
    metas = [*page.all("meta")]
    assert any("default-src 'none'" in (one.get("content") or "") for one in metas)
    assert any(one.get("name") == "viewport" for one in metas)
    assert "prefers-color-scheme: dark" in text and "touch-action" in text


def test_small_versions_are_bounded_and_keep_proportions():
    pair = small_pair(flat(900, 1600, (0.1, 0.2, 0.3)), flat(900, 1600, (0.2, 0.4, 0.6)))
    assert (pair.width, pair.height) == (LARGEST_WIDTH, 360)
    assert image_of(pair.after).size == (640, 360)
    assert pair.hue_change == pytest.approx(0, abs=0.1)
    assert small_pair(flat(4000, 2, (0.1,)), flat(4000, 2, (0.1,))).width == 1
    assert small_pair(flat(20, 20, (0.1,)), flat(20, 20, (0.5,))).hue_change is None


def test_the_change_of_hue_is_in_degrees():
    pair = small_pair(flat(20, 20, (0.2, 0.0, 0.0)), flat(20, 20, (0.0, 0.8, 0.0)))
    assert pair.hue_change == pytest.approx(120, abs=0.1)
    assert level_of(flat(4, 4, (0.0, 1.0, 0.0))) == pytest.approx(0.587)


def test_a_page_is_written_when_some_pictures_fail_and_names_them(tmp_path):
    photos(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "in" / "broken<i>.jpg").write_bytes(b"not a picture")
    page, names = run(tmp_path)
    assert len(names) == 2
    assert "3 pictures, 1 of them could not be enhanced" in page.text
    assert "broken<i>.jpg: not an image" in page.text and not page.all("i")


def test_pictures_of_an_earlier_run_are_shown_too(tmp_path):
    photos(tmp_path / "in", "a.png", "b.png", "c.png")
    run(tmp_path)
    (tmp_path / "out" / "b.png").unlink()
    (tmp_path / "out" / "c.png").write_bytes(b"spoilt")
    page, names = run(tmp_path, skip_existing=True)
    assert [Path(name).name for name in names] == ["a.png", "b.png"]
    assert len(page.all("img")) == 4


def test_a_page_shows_the_first_pictures_of_a_large_batch_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_PICTURES", 3)
    photos(tmp_path / "in", *(f"{number}.png" for number in range(1, 12)))
    page, names = run(tmp_path)
    assert [Path(name).name for name in names] == ["1.png", "2.png", "3.png"]
    assert "This page shows the first 3 of 11 pictures." in page.text


def test_names_that_are_not_text_are_written_out(tmp_path):
    gallery = Gallery(tmp_path / "g.html", frozenset({0}))
    gallery.add(0, "caf\udce9\x1b.png", flat(4, 4, (0.1,)), flat(4, 4, (0.2,)))
    gallery.write(brighter().runtime, BatchFacts(1, [InputError("gone", place="\udce9.png")], True))
    page = Page(tmp_path / "g.html")
    assert r"caf\udce9\x1b.png" in page.text and r"\udce9.png: gone" in page.text
    assert "interrupted" in page.text


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "g.html"
    path.write_text("old")
    gallery = Gallery(path, frozenset())

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_facts", full)
    with pytest.raises((RunError, OSError)):
        gallery.write(brighter().runtime, BatchFacts(0))
    assert path.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == ["g.html"]


def test_a_page_replaces_nothing_but_itself(tmp_path):
    page = tmp_path / "g.html"
    check_gallery(page, force=False, resume=False)
    page.write_text("my notes")
    for force, resume in ((False, False), (False, True)):
        with pytest.raises(UsageError, match="exists"):
            check_gallery(page, force=force, resume=resume)
    check_gallery(page, force=True, resume=False)
    Gallery(page, frozenset()).write(brighter().runtime, BatchFacts(0))
    check_gallery(page, force=False, resume=True)
    with pytest.raises(UsageError, match="exists"):
        check_gallery(page, force=False, resume=False)
    with pytest.raises(UsageError, match="a gallery must be a local file"):
        check_gallery("s3://bucket/g.html", force=False, resume=False)
    with pytest.raises(UsageError, match=r"end in \.html"):
        check_gallery(tmp_path / "g.png", force=False, resume=False)


def test_the_figures_of_all_ranks_come_in_the_order_of_the_plan(tmp_path):
    class Second:
        """The second of two ranks, which is told what the first has."""

        world = 2

        def gather(self, own):
            return [[(0, b"<p>first</p>"), (2, b"<p>third</p>")], own]

        def on_main(self, compute):
            return compute()

    gallery = Gallery(tmp_path / "g.html", frozenset({0, 1, 2}))
    gallery.add(1, "second", flat(4, 4, (0.1,)), flat(4, 4, (0.2,)))
    gallery.write(Second(), BatchFacts(3))  # type: ignore[arg-type]
    assert re.findall("first|third|second", Page(tmp_path / "g.html").text) == ["first", "second", "third"]
