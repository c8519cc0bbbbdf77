from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from toy_task import ToyRecipe, ToyTrain

from effcli.core.errors import UsageError
from effcli.core.evidence.report import MetricGroup, flatten, groups_of, without_groups, write_report
from effcli.core.run import open_run
from effcli.core.runtime import Runtime

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
NASTY = "<script>alert('1')</script> & \"x\""


class Page(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "a run"
    recipe = ToyRecipe(train=ToyTrain(note=NASTY), seed=7)
    runtime = Runtime(torch.device("cpu"), "fp32", 7)
    with open_run(path, recipe, runtime, verb="run", recipe_name=NASTY) as opened:
        for step in range(1200):
            opened.log("train", step, loss=1 / (step + 1), rate=0.1)
        opened.log(f"--> {NASTY} $x_$", 0, once=1.0)
        opened.log(f"--> {NASTY} $x_$", 1, once=1.0)
        opened.log("single", 0, value=1.0)
        (path / "picture.png").write_bytes(PNG)
        opened.finish({"psnr": 20.123456, NASTY: {"worst": float("nan")}}, lambda: {NASTY: "picture.png"})
    return path


def test_the_page_holds_everything_itself(run: Path) -> None:
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    sources = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name.endswith(("src", "href"))
    ]
    assert sources
    assert all(str(source).startswith(("data:image/png;base64,", "#")) for source in sources)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert "url(http" not in page.text


def test_names_are_escaped(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert Page(text).text.count(NASTY) >= 3  # recipe name, metric, caption


def test_the_page_shows_curves_pictures_and_numbers(run: Path) -> None:
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert page.count("svg") == 3  # loss, rate and once; not the single value
    assert page.text.count("train: loss") == 1
    assert page.count("input") == 4  # pictures and curves are enlarged by a click
    pictures = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert pictures == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"]
    assert "20.12" in page.text
    assert f"effcli toy run -r '{run}/recipe.yaml' --seed 7" in page.text
    assert "# Steps of the first loop." in page.text


def test_rebuilding_gives_the_page_again(run: Path) -> None:
    (run / "report.html").unlink()
    assert write_report(run) == run / "report.html"
    assert Page((run / "report.html").read_text(encoding="utf-8")).count("svg") == 3


def test_a_missing_picture_is_a_clear_error(run: Path) -> None:
    (run / "picture.png").unlink()
    with pytest.raises(UsageError, match="cannot be read: No such file") as caught:
        write_report(run)
    assert caught.value.place == str(run / "picture.png")


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname"])
def test_a_picture_outside_the_run_is_not_taken_in(run: Path, name: str) -> None:
    (run.parent / "secret.png").write_bytes(PNG)
    content = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**content, "figures": {"x": name}}))
    with pytest.raises(UsageError, match="outside the run directory"):
        write_report(run)


def test_a_run_without_metrics_or_recipe_file_still_has_a_page(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    (run / "recipe.yaml").unlink()
    assert Page(write_report(run).read_text(encoding="utf-8")).count("svg") == 0


def test_an_unfinished_run_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_flatten() -> None:
    metrics = {"a": 1.23456, "b": {"c": None, "d": {"e": "x"}}, "n": 12345678, "list": [1]}
    expected = [("a", "1.235"), ("b.c", "-"), ("b.d.e", "x"), ("n", "12345678"), ("list", "[1]")]
    assert list(flatten(metrics)) == expected


def test_metrics_of_several_things_are_columns_of_one_table() -> None:
    baselines = {"gamma": {"psnr": 12.0, "level": 0.5}, "input": {"psnr": 7.25, "level": None}}
    metrics = {"psnr": 20.0, "eval": {"pairs": 8, "baselines": baselines}}

    (group,) = groups_of(metrics)

    assert group == MetricGroup(
        "eval.baselines", ["gamma", "input"], [("psnr", ["12", "7.25"]), ("level", ["0.5", "-"])]
    )
    assert without_groups(metrics) == {"psnr": 20.0, "eval": {"pairs": 8}}


@pytest.mark.parametrize(
    "metrics",
    [
        {"one": {"gamma": {"psnr": 1.0, "level": 1.0}}},
        {"lists": {"a": {"psnr": 1.0}, "b": {"psnr": 1.0}}},
        {"unlike": {"a": {"psnr": 1.0, "level": 1.0}, "b": {"psnr": 1.0, "hue": 1.0}}},
        {"mixed": {"a": {"psnr": 1.0, "level": 1.0}, "b": 2.0}},
        {"many": {str(n): {"psnr": 1.0, "level": 1.0} for n in range(9)}},
    ],
    ids=lambda metrics: next(iter(metrics)),
)
def test_other_metrics_stay_a_list(metrics: dict[str, object]) -> None:
    assert list(groups_of(metrics)) == []
    assert without_groups(metrics) == metrics


def test_the_page_shows_pictures_first_and_groups_as_tables(run: Path) -> None:
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    result["metrics"]["baselines"] = {name: {"psnr": 12.5, "level": 0.5} for name in ("gamma", "histeq")}
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")

    page = Page(write_report(run).read_text(encoding="utf-8"))

    assert page.text.index("Pictures") < page.text.index("Numbers") < page.text.index("histeq")
    assert "baselines.gamma.psnr" not in page.text
