"""Whole videos, with functions that brighten in place of networks: what is kept, and what is said."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from effcli.core.runtime import create_runtime
from effcli.data.video.yuv import from_rgb
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.video.plan import plan_videos, unfinished
from tests.enhance.video.video_files import (
    SIDE,
    av,
    flickering,
    frames_of,
    packets_of,
    save_video,
    scene,
    times_of,
    turn_by_metadata,
)

from effcli.enhance.video import videos, work_folder  # isort: skip  after PyAV was found
from effcli.enhance.video.encoding import choose_encoding, encode_segment  # isort: skip
from effcli.data.video.source import open_source  # isort: skip
from effcli.enhance.video.videos import VideoOptions, VideoOutcome, enhance_videos  # isort: skip


def doubled(x: Tensor) -> Tensor:
    return (2 * x).clamp(0, 1)


def same(x: Tensor) -> Tensor:
    return x


def enhance(
    source: Path, output: Path, brighten: Callable[[Tensor], Tensor] = doubled, **options: Any
) -> VideoOutcome:
    plan = plan_videos(
        [source], str(output), force=options.get("force", False), resume=options.get("resume", False)
    )
    runtime = create_runtime(device="cpu", precision="fp32")
    return enhance_videos(plan, Enhancer(brighten, runtime=runtime), VideoOptions(**options))


def entry_of(outcome: VideoOutcome) -> dict[str, Any]:
    assert not outcome.failures
    (entry,) = outcome.done
    return entry


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_frames_get_brighter_and_sound_is_kept_bit_by_bit(tmp_path: Path) -> None:
    source = save_video(tmp_path / "night.mp4", flickering(20), sound=True)
    entry = entry_of(enhance(source, tmp_path / "day.mp4"))
    assert entry["frames"] == 20
    assert 1.8 < entry["level"] / entry["input_level"] < 2.6  # the first frame is a bright one
    assert entry["level_change"]["output"] < 0.3 * entry["level_change"]["input"]
    assert entry["copied_streams"] == {"audio": 1}
    assert packets_of(tmp_path / "day.mp4") == packets_of(source)
    assert times_of(tmp_path / "day.mp4") == times_of(source)
    assert {path.name for path in tmp_path.iterdir()} == {"night.mp4", "day.mp4"}


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
def test_uneven_time_stamps_are_kept(tmp_path: Path, ending: str) -> None:
    times = [0, 40, 80, 90, 250, 251, 1000]
    source = save_video(
        tmp_path / f"a{ending}", [scene(n) for n in range(7)], times=times, time_base=Fraction(1, 1000)
    )
    entry_of(enhance(source, tmp_path / f"b{ending}"))
    assert times_of(tmp_path / f"b{ending}") == times_of(source) == [Fraction(time, 1000) for time in times]


def test_what_is_not_changed_comes_out_nearly_as_it_was(tmp_path: Path) -> None:
    source = save_video(tmp_path / "a.mp4", [scene(0, 250), scene(1, 250)])
    enhance(source, tmp_path / "b.mp4", same, quality=100)
    for before, after in zip(frames_of(source), frames_of(tmp_path / "b.mp4"), strict=True):
        assert distance(before, after) < 8


def test_tags_and_the_shape_of_pixels_are_kept(tmp_path: Path) -> None:
    tags: dict[str, Any] = {"color_range": 2, "colorspace": 1, "color_primaries": 9, "color_trc": 1}
    aspect = Fraction(4, 3)
    source = save_video(
        tmp_path / "a.mp4", [scene()] * 3, pixel_format="yuv444p", sample_aspect_ratio=aspect, **tags
    )
    entry = entry_of(enhance(source, tmp_path / "b.mp4"))
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.sample_aspect_ratio == aspect
        assert stream.pix_fmt.replace("yuvj", "yuv") == "yuv444p"
        assert {name: getattr(stream.codec_context, name) for name in tags} == tags
    assert entry["notes"] == []


TURNS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (0, 1, 1, 0)]


@pytest.mark.parametrize("matrix", TURNS)
def test_frames_are_turned_as_a_player_shows_them(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    source = save_video(tmp_path / "a.mp4", [scene(0, 250)] * 2, sample_aspect_ratio=Fraction(4, 3))
    stored = frames_of(source)[0]
    turn_by_metadata(source, matrix)
    enhance(source, tmp_path / "b.mp4", same)
    shown = {
        (1, 0, 0, 1): stored,
        (0, 1, -1, 0): np.rot90(stored, -1),
        (-1, 0, 0, -1): np.rot90(stored, 2),
        (0, -1, 1, 0): np.rot90(stored, 1),
        (-1, 0, 0, 1): stored[:, ::-1],
        (0, 1, 1, 0): stored.swapaxes(0, 1),
    }[matrix]
    result = frames_of(tmp_path / "b.mp4")[0]
    assert result.shape == shown.shape
    assert distance(result, shown) < 8
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.sample_aspect_ratio == (Fraction(4, 3) if matrix[0] else Fraction(3, 4))
        assert not next(container.decode(stream)).side_data.get("DISPLAYMATRIX")


def test_ten_bits_stay_ten_bits(tmp_path: Path) -> None:
    ramp = np.linspace(0, 20000, SIDE[1]).astype(np.uint16)[None, :, None].repeat(SIDE[0], 0).repeat(3, 2)
    source = save_video(tmp_path / "a.mp4", [ramp] * 2, pixel_format="yuv420p10le")
    entry = entry_of(enhance(source, tmp_path / "b.mp4", quality=100))
    assert entry["notes"] == []
    with av.open(str(tmp_path / "b.mp4")) as container:
        frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p10le"
        luma = np.frombuffer(frame.planes[0], np.uint16)
    assert len(np.unique(luma % 4)) == 4


def test_webm_gets_vp9_and_says_what_it_cannot_hold(tmp_path: Path) -> None:
    source = save_video(tmp_path / "a.mp4", [scene()] * 3, pixel_format="yuv420p10le", sound=True)
    entry = entry_of(enhance(source, tmp_path / "b.webm"))
    with av.open(str(tmp_path / "b.webm")) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["libdav1d"] or [
            stream.codec_context.codec.canonical_name for stream in container.streams
        ] == ["vp9"]
    assert len(frames_of(tmp_path / "b.webm")) == 3
    assert any("streams left out: audio (aac)" in note for note in entry["notes"])
    assert any("10-bit samples become 8-bit" in note for note in entry["notes"])


def test_grey_stays_grey_though_the_network_tints(tmp_path: Path) -> None:
    def tinted(x: Tensor) -> Tensor:
        return (x * x.new_tensor([2, 1.5, 1])[:, None, None]).clamp(0, 1)

    source = save_video(tmp_path / "a.mkv", [scene()] * 2, codec="ffv1", pixel_format="gray")
    enhance(source, tmp_path / "b.mp4", tinted)
    (first, _) = frames_of(tmp_path / "b.mp4")
    assert np.ptp(first.astype(int), axis=2).max() <= 2


def test_odd_sides_lose_a_row_and_that_is_said(tmp_path: Path) -> None:
    source = save_video(tmp_path / "a.mkv", [scene()[:47, :61]] * 2, codec="ffv1")
    entry = entry_of(enhance(source, tmp_path / "b.mp4"))
    assert (entry["width"], entry["height"]) == (60, 46)
    assert any("cropped to 60x46" in note for note in entry["notes"])


def test_without_x264_it_is_said_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effcli.enhance.video.encoding._H264", ("mpeg4",))
    source = save_video(tmp_path / "a.mp4", [scene()] * 3)
    entry = entry_of(enhance(source, tmp_path / "b.mp4"))
    assert len(frames_of(tmp_path / "b.mp4")) == 3
    assert any("MPEG-4 part 2" in note for note in entry["notes"])


def test_times_of_the_file_are_kept_when_asked_for(tmp_path: Path) -> None:
    source = save_video(tmp_path / "a.mp4", [scene()] * 2)
    os.utime(source, (1e9, 1e9))
    enhance(source, tmp_path / "b.mp4", keep_times=True)
    assert (tmp_path / "b.mp4").stat().st_mtime == 1e9


def test_frames_before_the_damage_are_used_and_it_is_said(tmp_path: Path) -> None:
    source = save_video(tmp_path / "a.mkv", [scene(n) for n in range(30)], sound=True)
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 2 // 3])
    outcome = enhance(source, tmp_path / "b.mkv")
    (failure,) = outcome.failures
    assert "is damaged" in failure.message
    n_frames = len(frames_of(tmp_path / "b.mkv"))
    assert 5 < n_frames < 30
    assert str(n_frames) in str(failure.hint)
    assert outcome.done[0]["frames"] == n_frames
    kept = packets_of(tmp_path / "b.mkv")
    assert kept == packets_of(source)[: len(kept)]


def _named_as_video(folder: Path, kind: str) -> Path:
    path = folder / "a.mp4"
    if kind == "text":
        path.write_text("not a video\n" * 100)
    elif kind == "empty":
        path.touch()
    elif kind == "picture":
        from PIL import Image

        Image.fromarray(scene()).save(path, "PNG")
    elif kind == "audio":
        save_video(folder / "b.mkv", [scene()] * 10, sound=True)
        with av.open(str(folder / "b.mkv")) as whole, av.open(str(path), "w") as alone:
            stream = alone.add_stream_from_template(whole.streams.audio[0])
            for packet in whole.demux(audio=0):
                if packet.size:
                    packet.stream = stream
                    alone.mux(packet)
    elif kind == "PQ":
        save_video(path, [scene()] * 2, color_trc=16)
    elif kind == "ICtCp":
        save_video(path, [scene()] * 2, colorspace=14)
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("text", "cannot be read as a video"),
        ("empty", "cannot be read as a video"),
        ("picture", "is not a video (png_pipe)"),
        ("audio", "holds no video"),
        ("PQ", "not supported: PQ"),
        ("ICtCp", "matrix 14"),
    ],
)
def test_what_is_not_a_video_or_not_understood_is_refused_by_name(
    tmp_path: Path, kind: str, said: str
) -> None:
    outcome = enhance(_named_as_video(tmp_path, kind), tmp_path / "out" / "b.mp4")
    (failure,) = outcome.failures
    assert (failure.exit_code, outcome.done) == (2, [])
    assert said in failure.message
    assert failure.place == str(tmp_path / "a.mp4")
    assert not (tmp_path / "out").exists()


class Killed(BaseException):
    pass


def killed_after(n_frames: int) -> Callable[[Tensor], Tensor]:
    calls = iter(range(n_frames))

    def brighten(x: Tensor) -> Tensor:
        if next(calls, None) is None:
            raise Killed
        return doubled(x)

    return brighten


@pytest.mark.parametrize("kills", [(3,), (4, 1), (9, 2, 1)])
def test_killed_and_resumed_it_has_the_frames_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: tuple[int, ...]
) -> None:
    monkeypatch.setattr(work_folder, "SEGMENT_FRAMES", 4)
    monkeypatch.setattr(videos, "SEGMENT_FRAMES", 4)
    source = save_video(tmp_path / "a.mp4", flickering(14), sound=True)
    entry = entry_of(enhance(source, tmp_path / "whole.mp4"))
    output = tmp_path / "b.mp4"
    for n_frames in kills:
        with pytest.raises(Killed):
            enhance(source, output, killed_after(n_frames), resume=True)
        assert not output.exists()
        with (unfinished(output) / "frames.jsonl").open("ab") as lines:
            lines.write(b'{"pts": 5, "dura')  # as a kill in the middle of a line leaves it
    resumed = entry_of(enhance(source, output, resume=True))
    assert resumed["new_frames"] == 14 - sum(kills)
    assert packets_of(output, "video") == packets_of(tmp_path / "whole.mp4", "video")
    assert times_of(output) == times_of(tmp_path / "whole.mp4")
    assert packets_of(output) == packets_of(source)
    assert {name: resumed[name] for name in ("level", "level_change")} == {
        name: entry[name] for name in ("level", "level_change")
    }
    assert not unfinished(output).exists()


def test_the_same_frames_are_always_encoded_in_the_same_way(tmp_path: Path) -> None:
    source = open_source(save_video(tmp_path / "a.mp4", flickering(4)))
    encoding = choose_encoding(source.facts, "mp4", 95)
    frames = [from_rgb(source.rgb(frame), encoding.layout) for _, _, frame in source.frames()]
    encoded = []
    for _ in range(60):  # beside other work, one in a hundred differed when x264 chose its threads
        encode_segment(tmp_path / "b.mp4", frames, encoding, source.facts)
        encoded.append(packets_of(tmp_path / "b.mp4", "video"))
    assert all(one == encoded[0] for one in encoded)
    assert encoding.options["threads"] == "1"


def test_unfinished_output_of_other_settings_is_continued_by_nobody(tmp_path: Path) -> None:
    source, output = save_video(tmp_path / "a.mp4", [scene()] * 6), tmp_path / "b.mp4"
    with pytest.raises(Killed):
        enhance(source, output, killed_after(3), settings={"strength": 1.0})
    (failure,) = enhance(source, output, resume=True, settings={"strength": 0.5}).failures
    assert "strength was 1.0, is 0.5" in failure.message
    assert failure.hint == "--force starts anew"
    done = enhance(source, output, resume=True, force=True, settings={"strength": 0.5})
    assert entry_of(done)["new_frames"] == 6


def test_a_signal_stops_after_the_frame_and_keeps_it(tmp_path: Path) -> None:
    def interrupted(x: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return doubled(x)

    source, output = save_video(tmp_path / "a.mp4", [scene()] * 4), tmp_path / "b.mp4"
    outcome = enhance(source, output, interrupted)
    assert (outcome.interrupted, outcome.done, outcome.failures) == (True, [], [])
    lines = (unfinished(output) / "frames.jsonl").read_text().splitlines()
    assert [json.loads(line)["pts"] for line in lines] == [0]
    assert entry_of(enhance(source, output, resume=True))["new_frames"] == 3
