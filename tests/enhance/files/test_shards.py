"""Shards of a batch: every input in exactly one, and summaries that add up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effcli.core.errors import InputError, UsageError
from effcli.enhance.files.output_plan import plan_outputs
from effcli.enhance.files.shards import Shard, input_list, merge_summaries, parse_shard, write_summary


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(1, 30))
def test_every_input_is_in_exactly_one_shard_and_shares_are_even(n_inputs, of):
    shares = [[n for n in range(n_inputs) if Shard(index, of).takes(n)] for index in range(1, of + 1)]
    assert sorted(n for share in shares for n in share) == list(range(n_inputs))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_shard_is_written_as_number_of_number():
    assert parse_shard("3/64") == Shard(3, 64) and parse_shard("1/1") == Shard(1, 1)
    assert Shard(3, 64).summary_name == "summary-03-of-64.json"
    for text in ("0/4", "5/4", "3", "3/", "-1/4", "a/b", "1/0", "1/1000000", "³/4", "1.0/2"):
        with pytest.raises(UsageError, match="is not a shard") as caught:
            parse_shard(text)
        assert caught.value.place == "--shard"


def test_plans_of_shards_share_the_inputs_and_know_the_same_list(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "a.jpg", "b.png", "c.png", "d.png"):
        (folder / name).write_bytes(b"x")
    inputs = [folder, tmp_path / "missing.png"]
    plans = [plan_outputs(inputs, str(tmp_path / "out"), format="png", shard=Shard(k, 3)) for k in (1, 2, 3)]
    whole = plan_outputs(inputs, f"{tmp_path / 'out'}/", format="png")
    assert sorted(str(job.destination) for plan in plans for job in plan.jobs) == sorted(
        str(job.destination) for job in whole.jobs
    )
    assert sum(len(plan.failures) for plan in plans) == len(whole.failures) == 1
    assert {plan.inputs for plan in plans} == {whole.inputs} and whole.inputs.n_inputs == 6
    (tmp_path / "out" / "in").mkdir(parents=True)
    (tmp_path / "out" / "in" / "a.png").write_bytes(b"x")
    again = plan_outputs(inputs, str(tmp_path / "out"), format="png", shard=Shard(1, 3), skip_existing=True)
    assert again.inputs == whole.inputs  # what is done already is in the list
    (folder / "e.png").write_bytes(b"x")
    assert plan_outputs(inputs, str(tmp_path / "out"), format="png").inputs != whole.inputs


@pytest.mark.parametrize(("inputs", "output"), [(["a.png"], None), (["a.png"], "-"), (["-"], "out")])
def test_shards_need_an_output_folder(inputs, output):
    with pytest.raises(UsageError, match="output folder"):
        plan_outputs(inputs, output, shard=Shard(1, 2))


def entry(name: str) -> dict[str, object]:
    sizes = {"width": 1000, "height": 500, "input_level": 0.2, "level": 0.2, "total_s": 0.5}
    return {"input": f"in/{name}", "output": f"out/{name}", **sizes}


def summary(index: int, of: int, *names: str, **changes: object) -> dict[str, object]:
    shard = {"index": index, "of": of, "n_inputs": 4, "inputs_sha256": "abc"}
    metrics = {"images": len(names), "left_nearly_alone": len(names), "failed": 0, "skipped": 0}
    common = {"schema": 1, "task": "enhance", "method": "walmafa", "recipe": "default", "output": "out/"}
    return {
        **common,
        "metrics": metrics,
        "timing": {"total_s": 2.0 * index},
        "environment": {"effcli": "0.1.0"},
        "interrupted": False,
        "files": [entry(name) for name in names],
        "left_out": {".txt": 1},
        "failures": [],
        "shard": shard,
        "settings": {"recipe": {"strength": 1.0, "seed": 0}, "quality": 95},
        **changes,
    }


def files(folder: Path, *summaries: dict[str, object]) -> list[Path]:
    paths = []
    for number, content in enumerate(summaries):
        paths.append(folder / f"{number}.json")
        paths[-1].write_text(json.dumps(content))
    return paths


def test_summaries_add_up(tmp_path):
    failure = {"code": "bad-input", "place": "in/x.png", "message": "is empty"}
    metrics = {"images": 1, "left_nearly_alone": 0, "failed": 1, "skipped": 0}
    second = summary(2, 2, "c.png", metrics=metrics, failures=[failure])
    merged = merge_summaries(files(tmp_path, second, summary(1, 2, "a.png", "b.png")))
    assert merged["metrics"] == {
        "images": 3,
        "left_nearly_alone": 2,
        "failed": 1,
        "skipped": 0,
        "not_done": 0,
        "megapixels_per_s": 1.0,
    }
    assert merged["timing"] == {"total_s": 6.0, "longest_shard_s": 4.0}
    assert [one["output"] for one in merged["files"]] == ["out/a.png", "out/b.png", "out/c.png"]
    assert merged["failures"] == [failure] and merged["left_out"] == {".txt": 1}


def test_what_an_interrupted_shard_left_is_counted(tmp_path):
    merged = merge_summaries(
        files(tmp_path, summary(1, 2, "a.png", interrupted=True), summary(2, 2, "b.png"))
    )
    assert merged["interrupted"] == [1] and merged["metrics"]["not_done"] == 2


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([summary(2, 5), summary(5, 5)], "missing: shards 1, 3-4 of 5"),
        ([summary(1, 2)], "missing: shard 2 of 2"),
        ([summary(1, 2), summary(2, 2), summary(2, 2)], "shard 2 of 2 is in .*1.json too"),
        ([summary(1, 2), summary(2, 3)], "is of 3 shards, .*0.json of 2"),
        (
            [summary(1, 2), summary(2, 2, settings={"recipe": {"strength": 0.5, "seed": 0}, "quality": 95})],
            "was made with settings other than those of .*0.json: recipe.strength 0.5, not 1.0",
        ),
        (
            [
                summary(1, 2),
                summary(2, 2, shard={"index": 2, "of": 2, "n_inputs": 4, "inputs_sha256": "abd"}),
            ],
            "was made from another list of inputs",
        ),
    ],
)
def test_summaries_that_are_not_one_batch_are_refused(tmp_path, others, message):
    with pytest.raises(UsageError, match=message):
        merge_summaries(files(tmp_path, *others))


def test_other_files_are_no_summaries(tmp_path):
    (tmp_path / "not.json").write_text("{")
    contents: list[dict[str, object]] = [{}, {"shard": 3}, summary(3, 2), summary(1, 1, metrics={})]
    for content in (*contents, summary(1, 1, files=[{}])):
        with pytest.raises(InputError, match="is not the summary of a shard"):
            merge_summaries(files(tmp_path, content))
    with pytest.raises(InputError, match="not valid JSON"):
        merge_summaries([tmp_path / "not.json"])


def test_a_shard_that_continues_keeps_what_its_earlier_run_did(tmp_path):
    shard = Shard(1, 1)
    write_summary(str(tmp_path), shard, summary(1, 1, "a.png", "b.png", interrupted=True))
    metrics = {"images": 1, "left_nearly_alone": 1, "failed": 0, "skipped": 3}
    write_summary(str(tmp_path), shard, summary(1, 1, "c.png", metrics=metrics))
    merged = merge_summaries([tmp_path / shard.summary_name])
    assert merged["metrics"]["images"] == 3 and merged["metrics"]["skipped"] == 1
    assert merged["interrupted"] == [] and merged["timing"]["total_s"] == 4.0
    other = {"recipe": {"strength": 0.5}, "quality": 95}
    write_summary(str(tmp_path), shard, summary(1, 1, "c.png", metrics=metrics, settings=other))
    assert merge_summaries([tmp_path / shard.summary_name])["metrics"]["images"] == 1


def test_the_list_depends_on_names_and_their_order():
    assert input_list([("a", "b")], 0) != input_list([("a", "c")], 0)
    assert input_list([("a", "b")], 2).n_inputs == 3
