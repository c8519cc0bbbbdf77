from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_task import ToyRecipe

from effcli.core.errors import InterruptedRunError, RecipeError, UsageError
from effcli.core.evidence.claims import (
    Claim,
    Expectation,
    arm_recipe,
    judge,
    load_claim,
    metric_of,
    summarise,
    verify,
)
from effcli.core.plan import Plan
from effcli.core.recipe import load_recipe
from effcli.core.registry import TASKS, Method, Task
from effcli.core.run import Run

CLAIM = """
task: toy
title: a | b
source: Paper, Table 1
base: BASE
overrides: {train.steps: 2}
arms:
  plain: {}
  better: {train.learning_rate: 0.5}
seeds: [3, 1]
expect:
  - {arm: better, metric: scores.x, above: plain, by: 0.1}
  - {arm: plain, metric: scores.x, at_least: 0.5}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text("task: toy\nmethod: sgd\n")
    return path


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[ToyRecipe, Run], Any]]]:
    """The toy as a task; its function is the last one in the list."""
    functions: list[Callable[[ToyRecipe, Run], Any]] = [score]
    monkeypatch.setitem(TASKS, "toy", Task("toy", "", (Method("sgd", "toy_task", "toy_task:ToyRecipe"),)))
    monkeypatch.setattr(Task, "recipe_module", "toy_task")
    monkeypatch.setattr(Task, "plan_function", lambda self, recipe: lambda recipe: Plan({}, None))
    monkeypatch.setattr(
        Task, "run_function", lambda self, recipe: lambda recipe, inputs, run: functions[-1](recipe, run)
    )
    yield functions


def score(recipe: ToyRecipe, run: Run) -> None:
    """A result that depends on the arm and the seed, as a real one does."""
    run.finish({"scores": {"x": recipe.train.learning_rate + 0.6 + recipe.seed / 100}, "parameters": 3})


def claim_of(base: Path, **changes: str) -> Claim:
    text = CLAIM.replace("BASE", str(base))
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return load_recipe(Claim, text, "claim.yaml")


def rows_of(values: list[float], other: list[float] | None = None) -> list[dict[str, Any]]:
    others = other or values
    return [{"metrics": {"x": a, "y": b}, "output": "run"} for a, b in zip(values, others, strict=True)]


# --- verdicts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "by", "verdict"),
    [
        ([1.0, 1.1, 1.2], [0.5, 0.6, 0.7], 0.0, "holds"),
        ([1.0, 1.1, 1.2], [0.5, 0.6, 0.7], 0.4, "holds"),
        ([1.0, 1.1, 1.2], [0.5, 0.6, 0.7], 0.6, "does not hold"),
        ([0.5, 0.6, 0.7], [1.0, 1.1, 1.2], 0.0, "does not hold"),
        ([1.0, 2.0, 3.0], [1.5, 1.5, 1.5], 0.0, "not decided"),  # mean difference 0.5, spread 1
        ([1.0, 5.0, 9.0], [0.5, 4.5, 8.5], 0.0, "holds"),  # seeds differ much, the pairs do not
        ([1.0], [0.0], 0.0, "not decided"),  # one seed decides nothing
        ([1.0, 2.0], [1.0, 2.0], 0.0, "does not hold"),  # the same numbers are not above each other
        ([1.0, 1.0], [0.5, 0.5], 0.0, "holds"),
    ],
)
def test_one_arm_above_another(ours: list[float], theirs: list[float], by: float, verdict: str) -> None:
    expectation = Expectation(arm="a", metric="x", above="b", by=by)
    finding = judge(expectation, {"a": rows_of(ours), "b": rows_of(theirs)})
    assert finding.verdict == verdict
    assert finding.differences == pytest.approx([a - b for a, b in zip(ours, theirs, strict=True)])
    assert finding.mean == pytest.approx(sum(finding.differences) / len(ours))
    assert (finding.spread is None) == (len(ours) == 1)
    assert finding.expectation == "a: x above b" + (f" by {by:g}" if by else "")


def test_a_multiple_of_another_arm() -> None:
    expectation = Expectation(arm="a", metric="x", above="b", times=2)
    finding = judge(expectation, {"a": rows_of([5.0, 7.0]), "b": rows_of([2.0, 3.0])})
    assert (finding.differences, finding.verdict) == ([1.0, 1.0], "holds")
    assert finding.expectation == "a: x above 2 times b"
    finding = judge(expectation, {"a": rows_of([3.0, 5.0]), "b": rows_of([2.0, 3.0])})
    assert (finding.differences, finding.verdict) == ([-1.0, -1.0], "does not hold")


@pytest.mark.parametrize(
    ("values", "bound", "verdict"),
    [
        ([0.6, 0.61], 0.5, "holds"),
        ([0.4, 0.41], 0.5, "does not hold"),
        ([0.5, 0.5], 0.5, "holds"),  # at least
        ([0.0, 0.0], 0.0, "holds"),
        ([0.4, 0.61], 0.5, "not decided"),
    ],
)
def test_at_least_a_constant(values: list[float], bound: float, verdict: str) -> None:
    finding = judge(Expectation(arm="a", metric="x", at_least=bound), {"a": rows_of(values)})
    assert (finding.verdict, finding.expectation) == (verdict, f"a: x at least {bound:g}")


def test_above_a_metric_of_the_same_run() -> None:
    expectation = Expectation(arm="a", metric="x", above_metric="y", by=1)
    finding = judge(expectation, {"a": rows_of([3.0, 30.0], [1.0, 28.5])})
    assert (finding.verdict, finding.differences) == ("holds", [2.0, 1.5])


def test_a_metric_is_found_or_named() -> None:
    result = {
        "metrics": {"psnr": 1, "b": {"ssim": 0.5, "bad": None}, "flag": True, "text": "x"},
        "output": "runs/a",
    }
    assert (metric_of(result, "psnr"), metric_of(result, "b.ssim")) == (1.0, 0.5)
    for name, hint in [
        ("psrn", "did you mean 'psnr'?"),
        ("b", "available: psnr, b.ssim"),
        ("b.bad", None),
        ("flag", None),
    ]:
        with pytest.raises(UsageError, match="no finite number") as caught:
            metric_of(result, name)
        assert caught.value.place == "runs/a"
        assert hint is None or caught.value.hint == hint


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [((5, 5), "holds"), ((5, 0), "not decided"), ((5, -5), "does not hold"), ((0, -5), "does not hold")],
)
def test_the_claim_is_as_good_as_its_weakest_sentence(
    base: Path, verdicts: tuple[int, int], expected: str
) -> None:
    differences = [[float(one) - 0.4, float(one) + 0.4] for one in verdicts]
    claim = claim_of(base).model_copy(
        update={"expect": [Expectation(arm=arm, metric="x", at_least=0.0) for arm in ("plain", "better")]}
    )
    results = {
        arm: [{**row, "timing": {"total_s": 2.04}, "environment": {"seed": 0}} for row in rows_of(values)]
        for arm, values in zip(("plain", "better"), differences, strict=True)
    }
    content = summarise(claim, "name", [0, 1], results)
    assert content["verdict"] == expected
    assert content["timing"] == {"total_s": 8.2}
    assert (content["environment"], content["commit"]) == ({}, None)


# --- claim files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title:", "titel:", "claim.yaml:3: titel: unknown key, did you mean 'title'?"),
        ("at_least: 0.5", "at_least: 0.5, above: better", "give one of above, above_metric and at_least"),
        ("above: plain", "above: plane", "expect names an arm that this claim does not have: 'plane'"),
        ("better:", "../better:", "arms.../better"),
        ("seeds: [3, 1]", "seeds: []", "claim.yaml:10: seeds: List should have at least 1 item"),
        ("seeds: [3, 1]", "seeds: [3, 1]\nseeds: [3]", "claim.yaml:11: seeds: key given twice"),
        ("by: 0.1", "by: .nan", "expect.0.by: Input should be a finite number"),
    ],
)
def test_mistakes_in_a_claim_file_have_their_line(base: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        claim_of(base, **{old: new})
    assert message in str(caught.value)


def test_a_claim_file_is_read_by_path(tmp_path: Path, base: Path) -> None:
    file = tmp_path / "my-claim.yaml"
    file.write_text(CLAIM.replace("BASE", str(base)))
    claim, name = load_claim("", str(file))
    assert (claim, name) == (claim_of(base), str(file))


@pytest.mark.usefixtures("toy")
def test_the_command_of_a_claim_file_names_the_file(tmp_path: Path, base: Path) -> None:
    content = verify(claim_of(base), "mine/a.yaml", output=tmp_path / "out", data=None, device="cpu")
    assert content["command"] == "effcli verify mine/a.yaml"


@pytest.mark.usefixtures("toy")
def test_arms_resolve(tmp_path: Path, base: Path) -> None:
    claim = claim_of(base, **{"overrides: {": "data: {train.note: a.tar}\noverrides: {"})
    with pytest.raises(UsageError, match="data that is not in the package") as caught:
        arm_recipe(claim, "plain", 0, None)
    assert caught.value.hint == "--data FOLDER with a.tar"
    with pytest.raises(UsageError, match=r"has no a\.tar"):
        arm_recipe(claim, "plain", 0, tmp_path)
    (tmp_path / "a.tar").touch()
    recipe = arm_recipe(claim, "better", 4, tmp_path)
    assert isinstance(recipe, ToyRecipe)
    assert (recipe.seed, recipe.train.steps, recipe.train.learning_rate) == (4, 2, 0.5)
    assert recipe.train.note == str(tmp_path / "a.tar")


@pytest.mark.usefixtures("toy")
def test_data_named_from_another_folder_is_the_same_recipe(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claim_of(base, **{"overrides: {": "data: {train.note: a.tar}\noverrides: {"})
    (tmp_path / "a.tar").touch()
    monkeypatch.chdir(tmp_path)
    assert arm_recipe(claim, "plain", 0, Path()) == arm_recipe(claim, "plain", 0, tmp_path)


# --- verify -------------------------------------------------------------------------------------------


def run_verify(claim: Claim, tmp_path: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    content = verify(
        claim, "name", output=tmp_path / "out", data=None, device="cpu", announce=lines.append, **options
    )
    return content, lines


def test_verify_runs_every_arm_and_seed_and_judges(tmp_path: Path, base: Path, toy: list[Any]) -> None:
    content, lines = run_verify(claim_of(base), tmp_path)
    assert lines == [f"name: {arm}, seed {seed}" for seed in (3, 1) for arm in ("plain", "better")]
    assert content["seeds"] == [3, 1]
    assert content["arms"]["plain"]["scores.x"] == pytest.approx([0.64, 0.62])  # in the order of the seeds
    assert content["arms"]["plain"]["parameters"] == [3.0, 3.0]  # every number is kept
    assert [finding["verdict"] for finding in content["findings"]] == ["holds", "holds"]
    assert content["verdict"] == "holds"
    assert json.loads((tmp_path / "out" / "claim.json").read_text(), parse_constant=pytest.fail) == content
    assert (content["title"], content["source"]) == ("a | b", "Paper, Table 1")
    assert content["command"] == "effcli verify toy/name"
    assert content["machine"]["processor"] and content["commit"] == content["environment"]["commit"]


def test_verify_skips_what_is_finished_and_resumes_what_is_not(
    tmp_path: Path, base: Path, toy: list[Any]
) -> None:
    calls: list[tuple[float, int]] = []

    def interrupted(recipe: ToyRecipe, run: Run) -> None:
        calls.append((recipe.train.learning_rate, recipe.seed))
        for step in run.steps("train", 3, {}):
            if len(calls) == 2 and step == 1:
                os.kill(os.getpid(), signal.SIGINT)
        score(recipe, run)

    toy.append(interrupted)
    with pytest.raises(InterruptedRunError) as caught:
        run_verify(claim_of(base), tmp_path)
    assert caught.value.hint == "the same command continues from there"  # verify has no --resume
    content, lines = run_verify(claim_of(base), tmp_path)
    assert calls == [(0.01, 3), (0.5, 3), (0.5, 3), (0.01, 1), (0.5, 1)]
    assert lines == ["name: better, seed 3", "name: plain, seed 1", "name: better, seed 1"]
    toy.append(lambda recipe, run: pytest.fail("everything is there"))
    again, lines = run_verify(claim_of(base), tmp_path)
    assert (again, lines) == (content, [])


def test_a_misspelt_metric_costs_one_run_not_all(tmp_path: Path, base: Path, toy: list[Any]) -> None:
    calls = []

    def counted(recipe: Any, run: Any) -> None:
        calls.append(recipe)
        score(recipe, run)

    toy.append(counted)
    with pytest.raises(UsageError, match=r"no finite number 'scores.xx'") as caught:
        run_verify(claim_of(base, **{"metric: scores.x, above": "metric: scores.xx, above"}), tmp_path)
    assert len(calls) == 1
    assert caught.value.hint == "did you mean 'scores.x'?"
    content, _ = run_verify(claim_of(base), tmp_path)  # mended: the run that is there is used
    assert (len(calls), content["verdict"]) == (4, "holds")


def test_a_metric_that_is_not_finite_is_no_evidence(tmp_path: Path, base: Path, toy: list[Any]) -> None:
    toy.append(lambda recipe, run: run.finish({"scores": {"x": math.nan}}))
    with pytest.raises(UsageError, match=r"no finite number 'scores.x'"):
        run_verify(claim_of(base), tmp_path)


def test_a_metric_may_be_of_one_arm_alone(tmp_path: Path, base: Path, toy: list[Any]) -> None:
    def only_the_better_counts(recipe: ToyRecipe, run: Run) -> None:
        found = {"found": 0.9} if recipe.train.learning_rate > 0.1 else {}
        run.finish({"scores": {"x": recipe.train.learning_rate}, **found})

    toy.append(only_the_better_counts)
    changed = {"metric: scores.x, at_least: 0.5": "metric: scores.x, at_least: 0.0"}
    claim = claim_of(base, **changed)
    claim.expect.append(Expectation(arm="better", metric="found", at_least=0.5))
    content, _ = run_verify(claim, tmp_path)
    assert content["arms"]["plain"] == {"scores.x": [0.01, 0.01]}
    assert content["arms"]["better"] == {"found": [0.9, 0.9], "scores.x": [0.5, 0.5]}
    assert content["verdict"] == "holds"


def test_a_mistake_in_any_arm_is_found_before_anything_runs(
    tmp_path: Path, base: Path, toy: list[Any]
) -> None:
    toy.append(lambda recipe, run: pytest.fail("nothing may run"))
    with pytest.raises(RecipeError, match=r"arm better: train\.lr: unknown key"):
        run_verify(claim_of(base, **{"train.learning_rate": "train.lr"}), tmp_path)
    assert not (tmp_path / "out").exists()


def test_seeds_of_the_command_line(tmp_path: Path, base: Path, toy: list[Any]) -> None:
    content, lines = run_verify(claim_of(base), tmp_path, seeds=[5, 5])
    assert (content["seeds"], len(lines), content["verdict"]) == ([5], 2, "not decided")
    assert {finding["spread"] for finding in content["findings"]} == {None}


def test_runs_of_a_claim_that_was_changed_are_refused(tmp_path: Path, base: Path, toy: list[Any]) -> None:
    run_verify(claim_of(base), tmp_path)
    with pytest.raises(UsageError, match=r"another recipe \(train.steps: 2 -> 3\)"):
        run_verify(claim_of(base, **{"train.steps: 2": "train.steps: 3"}), tmp_path)


@pytest.mark.usefixtures("toy")
def test_an_arm_may_start_from_another_recipe(tmp_path: Path, base: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("task: toy\nmethod: sgd\ntrain: {learning_rate: 0.25}\n")
    claim = claim_of(base, **{"plain: {}": f"plain: {{recipe: {other}}}"})
    rates = [arm_recipe(claim, arm, 0, None).train.learning_rate for arm in claim.arms]  # type: ignore[attr-defined]
    assert rates == [0.25, 0.5]
