from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from effcli.core.errors import UsageError
from effcli.enhance.files.output_plan import plan_outputs
from effcli.enhance.video.names import asks_for_video, video_hint
from effcli.enhance.video.plan import plan_videos, unfinished

pytest.importorskip("av", reason="videos need PyAV")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.MOV", "c.avi", "night.png"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def planned(folder: Path, names: list[str], output: str | None = None, **options: Any) -> dict[str, str]:
    plan = plan_videos([folder / name for name in names], None if output is None else str(output), **options)
    return {job.source.name: Path(str(job.destination)).relative_to(folder).as_posix() for job in plan.jobs}


def test_a_command_line_is_about_videos_when_a_name_says_so() -> None:
    assert asks_for_video(["a.MP4"], None)
    assert asks_for_video(["odd.bin"], "b.mkv")
    assert not asks_for_video(["a.png", "photos"], "out.png")


def test_names_are_chosen_as_those_of_pictures(clips: Path) -> None:
    assert planned(clips, ["a.mp4"]) == {"a.mp4": "a-enhanced.mp4"}
    assert planned(clips, ["a.mp4"], f"{clips}/day.mkv") == {"a.mp4": "day.mkv"}
    assert planned(clips, ["a.mp4"], f"{clips}/out/") == {"a.mp4": "out/a.mp4"}
    assert planned(clips, ["a.mp4", "b.MOV", "c.avi"], f"{clips}/out") == {
        "a.mp4": "out/a.mp4",
        "b.MOV": "out/b.MOV",
        "c.avi": "out/c.avi.mkv",
    }


@pytest.mark.parametrize(
    ("names", "output", "options", "said"),
    [
        (["a.mp4"], "day.xyz", {}, "suffix '.xyz' is not a video format"),
        (["a.mp4"], "day.png", {}, "suffix '.png' is not a video format"),
        (["a.mp4"], "-", {}, "not read from or written to pipes"),
        (["a.mp4", "night.png"], "out/", {}, "is a picture"),
        (["a.mp4", "."], "out/", {}, "is a folder"),
        (["a.mp4", "b.MOV"], "day.mp4", {}, "names one video"),
        (["memory://bucket/a.mp4"], "out/", {}, "by URL"),
        (["a.mp4"], "", {}, "is empty"),
        (["none.mp4"], None, {}, "no such file"),
        (["a.mp4"], "a.mp4", {}, "would overwrite an input"),
        (["a.mp4"], "b.MOV", {}, "already exists"),
        (["a.mp4"], "x" * 250 + ".mp4", {}, "too long"),
    ],
)
def test_what_makes_no_sense_is_refused(
    clips: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    output: str | None,
    options: dict,
    said: str,
) -> None:
    monkeypatch.chdir(clips)
    with pytest.raises(UsageError) as caught:
        plan_videos(names, output, **options)
    assert said in str(caught.value)


def test_without_pyav_the_line_that_installs_it_is_said(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError) as caught:
        plan_videos([clips / "a.mp4"])
    assert caught.value.hint == "pip install 'effcli[video]'"


def test_unfinished_output_is_continued_or_begun_anew_only_when_told(clips: Path) -> None:
    work = unfinished(clips / "a-enhanced.mp4")
    work.mkdir()
    (work / "frames.jsonl").write_text("{}\n")
    with pytest.raises(UsageError) as caught:
        planned(clips, ["a.mp4"])
    assert "is unfinished" in str(caught.value)
    assert caught.value.hint == "--resume continues it, --force starts anew"
    options: list[dict[str, Any]] = [{"resume": True}, {"force": True}]
    for option in options:
        assert planned(clips, ["a.mp4"], **option) == {"a.mp4": "a-enhanced.mp4"}


def test_resume_skips_what_is_finished(clips: Path) -> None:
    work = unfinished(clips / "a-enhanced.mp4")
    work.mkdir()
    (work / "frames.jsonl").write_text("{}\n")
    (work / "output.mp4").write_bytes(b"video")
    (work / "output.mp4").replace(clips / "a-enhanced.mp4")
    plan = plan_videos([clips / "a.mp4", clips / "b.MOV"], resume=True)
    assert [job.destination.name for job in plan.skipped] == ["a-enhanced.mp4"]
    assert [job.source.name for job in plan.jobs] == ["b.MOV"]


def test_a_folder_of_pictures_says_how_to_enhance_its_videos(
    clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_outputs([clips], str(clips / "out"))
    assert plan.left_out == {".mp4": 1, ".mov": 1, ".avi": 1}
    assert "videos are named one by one: effcli enhance NAME.avi" in caplog.text
    (clips / "night.png").unlink()
    with pytest.raises(UsageError) as caught:
        plan_outputs([clips], str(clips / "out"))
    assert "effcli enhance NAME.avi" in str(caught.value.hint)
    assert video_hint({".txt": 1}) is None
