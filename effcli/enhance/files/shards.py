"""Shares of a batch for array jobs: ``--shard 3/64``, the summary that each writes, and their sum."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from effcli.core.errors import InputError, UsageError
from effcli.core.files import make_folder, read_json, write_text
from effcli.enhance.files.remote import Location, RemotePath, location, read_bytes, write_bytes

_MOST_SHARDS = 100_000
_NEARLY_ALONE = 0.05
_HINT = "give the summary-*-of-*.json of all shards, as `effcli enhance --shard` writes them"
_ENTRY = ("total_s", "width", "height", "input_level", "level")
_COUNTS = ("images", "left_nearly_alone", "failed", "skipped")


@dataclass(frozen=True)
class Shard:
    """One of ``of`` shares of the inputs, numbered from 1: every ``of``-th input, from the ``index``-th on."""

    index: int
    of: int

    def takes(self, number: int) -> bool:
        """Whether the input at this place of the list, counted from 0, is in this share."""
        return number % self.of == self.index - 1

    @property
    def summary_name(self) -> str:
        """The file name of this share's summary."""
        return f"summary-{self.index:0{len(str(self.of))}}-of-{self.of}.json"


@dataclass(frozen=True)
class InputList:
    """What all shares of a batch have in common.

    Attributes:
        n_inputs: pictures, and inputs that cannot be read, of all shares together.
        inputs_sha256: of the names of all inputs and their outputs.
    """

    n_inputs: int
    inputs_sha256: str


def parse_shard(text: str) -> Shard:
    """Read ``3/64``, the third of 64 shares.

    Raises:
        UsageError: it is something else.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip(), re.ASCII)
    index, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= of <= _MOST_SHARDS:
        raise UsageError(
            f"{text!r} is not a shard such as 3/64",
            place="--shard",
            hint=f"the number of this job, from 1, a slash, and the number of jobs, up to {_MOST_SHARDS}",
        )
    return Shard(index, of)


def input_list(pairs: Iterable[tuple[object, object]], n_unusable: int) -> InputList:
    """What identifies a list of (input, output)."""
    digest, n_inputs = hashlib.sha256(), n_unusable
    for source, destination in pairs:
        digest.update(os.fsencode(f"{source}\0{destination}\0"))
        n_inputs += 1
    return InputList(n_inputs, digest.hexdigest())


def summary_of(
    result: Mapping[str, Any], shard: Shard, inputs: InputList, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of a share's summary: the result of its run, and what must be the same in all shares."""
    return {**result, "shard": {**asdict(shard), **asdict(inputs)}, "settings": dict(settings)}


def write_summary(folder: str, shard: Shard, summary: dict[str, Any]) -> None:
    """Write a share's summary into the output folder, in place of the one of an earlier run.

    What the earlier run of the same inputs and settings made, and this one skipped, stays in it.

    Raises:
        RunError: it cannot be written.
    """
    to = location(folder)
    file = (to if isinstance(to, RemotePath) else make_folder(to)) / shard.summary_name
    try:
        earlier = _read_summary(file)
    except InputError:
        earlier = None
    if earlier and all(earlier[key] == summary[key] for key in ("shard", "settings")):
        summary = _with_earlier(summary, earlier)
    text = json.dumps(summary) + "\n"
    if isinstance(file, RemotePath):
        write_bytes(file, text.encode(), overwrite=True)
    else:
        write_text(file, text)


def _with_earlier(summary: dict[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """A summary in which pictures that were skipped, and that an earlier run made, count as made."""
    made = {entry["output"] for entry in summary["files"]}
    kept = [entry for entry in earlier["files"] if entry["output"] not in made]
    kept = kept[: summary["metrics"]["skipped"]]
    metrics = dict(summary["metrics"])
    metrics["images"] += len(kept)
    metrics["skipped"] -= len(kept)
    metrics["left_nearly_alone"] += sum(is_nearly_alone(entry) for entry in kept)
    timing = {**summary["timing"], "total_s": summary["timing"]["total_s"] + earlier["timing"]["total_s"]}
    return {**summary, "metrics": metrics, "timing": timing, "files": [*kept, *summary["files"]]}


def is_nearly_alone(entry: Mapping[str, Any]) -> bool:
    """Whether the level of a picture hardly changed."""
    change: float = entry["level"] - entry["input_level"]
    return bool(abs(change) <= _NEARLY_ALONE * max(entry["input_level"], 1e-3))


def merge_summaries(paths: Sequence[Location]) -> dict[str, Any]:
    """The sum of the summaries of all shares of a batch, in the form of one result.

    Raises:
        InputError: a file is not a summary.
        UsageError: a share is missing or there twice, or they are not of one batch.
    """
    found = [(path, _read_summary(path)) for path in paths]
    _check_one_batch(found)
    summaries = sorted((summary for _, summary in found), key=lambda one: one["shard"]["index"])
    files = [entry for one in summaries for entry in one["files"]]
    metrics = {name: sum(one["metrics"][name] for one in summaries) for name in _COUNTS}
    seconds = sum(entry["total_s"] for entry in files)
    megapixels = sum(entry["width"] * entry["height"] for entry in files) / 1e6
    n_inputs = summaries[0]["shard"]["n_inputs"]
    return {
        **{key: summaries[0][key] for key in ("schema", "task", "method", "recipe", "output")},
        "verb": "merge",
        "metrics": {
            **metrics,
            "not_done": n_inputs - metrics["images"] - metrics["failed"] - metrics["skipped"],
            "megapixels_per_s": round(megapixels / seconds, 4) if seconds else None,
        },
        "timing": {
            "total_s": round(sum(one["timing"]["total_s"] for one in summaries), 3),
            "longest_shard_s": max(one["timing"]["total_s"] for one in summaries),
        },
        "environment": summaries[0]["environment"],
        "shards": summaries[0]["shard"]["of"],
        "interrupted": [one["shard"]["index"] for one in summaries if one["interrupted"]],
        "files": files,
        "left_out": summaries[0]["left_out"],
        "failures": [failure for one in summaries for failure in one["failures"]],
    }


def _read_summary(path: Location) -> dict[str, Any]:
    try:
        content: Any = (
            json.loads(read_bytes(path)) if isinstance(path, RemotePath) else read_json(path, hint=_HINT)
        )
        shard = Shard(int(content["shard"]["index"]), int(content["shard"]["of"]))
        numbers = [content["metrics"][name] for name in _COUNTS] + [content["timing"]["total_s"]]
        numbers += [
            entry[key]
            for entry in content["files"]
            for key in ("total_s", "width", "height", "input_level", "level")
        ]
        is_one = 1 <= shard.index <= shard.of <= _MOST_SHARDS and all(
            isinstance(number, int | float) and number >= 0 for number in numbers
        )
        is_one = is_one and isinstance(content["shard"]["n_inputs"], int)
        needed = ("schema", "task", "method", "recipe", "output", "environment", "interrupted", "settings")
        is_one = is_one and all(key in content for key in (*needed, "left_out", "failures"))
    except (KeyError, TypeError, ValueError):
        is_one = False
    if not is_one:
        raise InputError("is not the summary of a shard", place=str(path), hint=_HINT)
    return cast("dict[str, Any]", content)


def _check_one_batch(found: Sequence[tuple[Location, dict[str, Any]]]) -> None:
    """Refuse summaries that do not make up one batch."""
    first_path, first = found[0]
    of = first["shard"]["of"]
    places: dict[int, Location] = {}
    for path, summary in found:
        shard = summary["shard"]
        if shard["of"] != of:
            message = f"is of {shard['of']} shards, {first_path} of {of}"
            raise UsageError(message, place=str(path), hint="merge the shards of one batch")
        if difference := _difference(first["settings"], summary["settings"]):
            raise UsageError(
                f"was made with settings other than those of {first_path}: {difference}", place=str(path)
            )
        if shard["index"] in places:
            message = f"shard {shard['index']} of {of} is in {places[shard['index']]} too"
            raise UsageError(message, place=str(path), hint="give each shard once")
        if (shard["inputs_sha256"], shard["n_inputs"]) != (
            first["shard"]["inputs_sha256"],
            first["shard"]["n_inputs"],
        ):
            hint = "files came or went between the jobs: run the shards again with --resume"
            raise UsageError(
                f"was made from another list of inputs than {first_path}", place=str(path), hint=hint
            )
        places[shard["index"]] = path
    if missing := [index for index in range(1, of + 1) if index not in places]:
        word = "shard" if len(missing) == 1 else "shards"
        hint = f"run {'it' if len(missing) == 1 else 'them'}, with --resume where it was stopped, then merge"
        raise UsageError(f"missing: {word} {_ranges(missing)} of {of}", hint=hint)


def _difference(one: Any, other: Any, key: str = "") -> str | None:
    """The first key whose value differs, with both values; None where all are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            if found := _difference(one.get(name), other.get(name), f"{key}.{name}".lstrip(".")):
                return found
        return None
    return None if one == other else f"{key} {json.dumps(other)}, not {json.dumps(one)}"


def _ranges(numbers: Sequence[int]) -> str:
    """``1, 3-5`` for 1, 3, 4, 5."""
    text: list[str] = []
    start = numbers[0]
    for number, following in zip(numbers, [*numbers[1:], None], strict=True):
        if following != number + 1:
            text.append(f"{start}" if start == number else f"{start}-{number}")
            start = following or 0
    return ", ".join(text)
