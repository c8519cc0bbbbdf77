"""`effcli enhance run` on videos: one after the other, each frame by frame; a bad one does not stop the others."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av

from effcli import __version__
from effcli.core.errors import EffcliError, InputError
from effcli.core.files import sha256
from effcli.core.progress import NOTICE, progress_bar
from effcli.core.resuming.stop import StopSignal
from effcli.core.text import counted
from effcli.data.video.source import InputVideo, VideoFacts, open_source
from effcli.data.video.yuv import Planes, from_rgb
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.files.batch import copy_times
from effcli.enhance.files.jobs import Job, OutputPlan
from effcli.enhance.video.encoding import Encoding, choose_encoding, encode_segment
from effcli.enhance.video.joining import Joined, join
from effcli.enhance.video.plan import unfinished
from effcli.enhance.video.steady import SteadyEnhancer, summary
from effcli.enhance.video.work_folder import SEGMENT_FRAMES, DoneFrame, WorkFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoOptions:
    """How videos are enhanced.

    Attributes:
        settings: the keys of the recipe that decide the result; what is unfinished is continued with the same alone.
        quality: of the encoding, 1..100.
        keep_times: give each output the times of its input.
        resume: continue what is unfinished.
        force: begin anew what cannot be continued.
        show_progress: show a progress bar on stderr.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    quality: int = 95
    keep_times: bool = False
    resume: bool = False
    force: bool = False
    show_progress: bool = False


@dataclass
class VideoOutcome:
    """What became of the videos.

    Attributes:
        done: one entry per video that was written, also of one that is damaged from some frame on.
        failures: one error per video that was not, or that is damaged.
        interrupted: Ctrl-C or SIGTERM arrived; the remaining frames were not done.
    """

    done: list[dict[str, Any]] = field(default_factory=list)
    failures: list[EffcliError] = field(default_factory=list)
    interrupted: bool = False

    def metrics(self, *, n_failed: int, n_skipped: int) -> dict[str, Any]:
        """Counts of videos and frames, and frames per second including reading and writing."""
        n_frames = sum(entry["new_frames"] for entry in self.done)
        seconds = sum(entry["total_s"] for entry in self.done)
        return {
            "videos": len(self.done),
            "frames": sum(entry["frames"] for entry in self.done),
            "failed": n_failed,
            "skipped": n_skipped,
            "frames_per_s": round(n_frames / seconds, 4) if seconds else None,
        }


def enhance_videos(plan: OutputPlan, enhancer: Enhancer, options: VideoOptions) -> VideoOutcome:
    """Enhance each source of the plan to its destination; with several ranks each takes its share.

    Returns:
        the outcome of all ranks together, in every rank.
    """
    outcome, runtime = VideoOutcome(), enhancer.runtime
    if runtime.is_main:
        for job in plan.skipped:  # killed when the output had just been moved to its place
            if isinstance(job.destination, Path):
                shutil.rmtree(unfinished(job.destination), ignore_errors=True)
    with StopSignal() as stop:
        for job in plan.jobs[runtime.rank :: runtime.world]:
            if stop.requested:
                outcome.interrupted = True
                break
            try:
                _enhance_video(job, enhancer, options, stop, outcome)
            except EffcliError as error:
                error.place = error.place or str(job.source)
                outcome.failures.append(error)
            except (MemoryError, RuntimeError, av.FFmpegError) as error:
                message = " ".join(str(error).split())[:200] or "out of memory"
                outcome.failures.append(InputError(message, place=str(job.source)))
    shares = runtime.gather(outcome)
    return VideoOutcome(
        done=[entry for share in shares for entry in share.done],
        failures=[failure for share in shares for failure in share.failures],
        interrupted=any(share.interrupted for share in shares),
    )


def _enhance_video(
    job: Job, enhancer: Enhancer, options: VideoOptions, stop: StopSignal, outcome: VideoOutcome
) -> None:
    assert isinstance(job.source, Path) and isinstance(job.destination, Path) and job.format is not None
    started = time.perf_counter()
    source = open_source(job.source)
    encoding = choose_encoding(source.facts, job.format, options.quality)
    settings = _settings(source, encoding, enhancer, options)
    with WorkFolder(job.destination, settings, resume=options.resume, force=options.force) as work:
        n_before = work.n_frames
        if n_before:
            log.log(NOTICE, "%s: continued after %d frames", job.destination, n_before)
        if not _all_frames(source, work, enhancer, encoding, stop, options.show_progress):
            outcome.interrupted = True
            return
        if not work.n_frames:
            work.remove()
            raise InputError(f"no frame can be read: {source.damage}", place=str(job.source))
        finished = work.path / f"output{job.destination.suffix}"
        joined = join(work, source, job.format, finished)
        entry = _entry(job, source.facts, encoding, work, joined)
        if options.keep_times:
            copy_times(job.source, finished)
        finished.replace(job.destination)
        work.remove()
    entry |= {"new_frames": work.n_frames - n_before, "total_s": round(time.perf_counter() - started, 3)}
    _say(job, source, entry)
    outcome.done.append(entry)
    if source.damage:
        outcome.failures.append(_damaged(job.source, source, entry))


def _settings(
    source: InputVideo, encoding: Encoding, enhancer: Enhancer, options: VideoOptions
) -> dict[str, Any]:
    """What the frames of an unfinished output depend on."""
    status = source.path.stat()
    weights = Path(str(options.settings.get("weights", "")))
    return {
        **options.settings,
        "weights_sha256": sha256(weights) if weights.is_file() else None,
        "device": enhancer.runtime.device.type,
        "precision": enhancer.runtime.precision,
        "input": str(source.path.absolute()),
        "input_bytes": status.st_size,
        "input_modified_ns": status.st_mtime_ns,
        "encoder": f"{encoding.codec} {encoding.pixel_format} {encoding.options}",
        "effcli": __version__,
        "av": av.__version__,
    }


def _all_frames(
    source: InputVideo,
    work: WorkFolder,
    enhancer: Enhancer,
    encoding: Encoding,
    stop: StopSignal,
    show_progress: bool,
) -> bool:
    """Do the frames that are not done; False if a signal arrived first."""
    steady, facts = SteadyEnhancer(enhancer), source.facts

    def encode(path: Path, frames: Iterator[Planes]) -> None:
        encode_segment(path, frames, encoding, facts)

    work.encode(encode, is_end=False)
    n_done = work.n_frames
    name, total = f"enhance {source.path.name}", max(facts.n_frames, n_done)
    with progress_bar(name, total, n_done, "frames", show=show_progress) as advance:
        for number, (pts, duration, frame) in enumerate(source.frames()):
            time_s = float(pts * facts.time_base)
            if number < n_done:
                if number == n_done - 1 and work.last is not None:
                    steady.resume(source.rgb(frame), time_s, work.last.levels)
                continue
            if stop.requested:
                return False
            bright, levels = steady.enhance(source.rgb(frame), time_s)
            if facts.layout.cell is None:
                bright = bright.mean(1, keepdim=True).expand(-1, 3, -1, -1)
            planes = from_rgb(bright[..., : encoding.height, : encoding.width], encoding.layout)
            work.add(planes, DoneFrame(pts, duration, levels))
            if work.n_frames % SEGMENT_FRAMES == 0:
                work.encode(encode, is_end=False)
            advance()
    work.encode(encode, is_end=True)
    return True


def _entry(
    job: Job, facts: VideoFacts, encoding: Encoding, work: WorkFolder, joined: Joined
) -> dict[str, Any]:
    """What the result says of a video."""
    assert work.last is not None
    levels = summary(frame.levels for frame in work.frames())
    return {
        "input": str(job.source),
        "output": str(job.destination),
        "width": encoding.width,
        "height": encoding.height,
        "frames": work.n_frames,
        **levels,
        "copied_streams": dict(joined.copied),
        "notes": [*facts.notes, *encoding.notes, *joined.notes],
    }


def _say(job: Job, source: InputVideo, entry: dict[str, Any]) -> None:
    """Say what is not as in the input, and how the levels changed."""
    if source.n_retimed:
        entry["notes"].append(
            f"{source.n_retimed} frames had no time stamp that is later than the one before"
        )
    for note in entry["notes"]:
        log.warning("%s: %s", job.source, note)
    change = entry["level_change"]
    said = ", ".join(
        f"{change[name]:.4f} {text}" for name, text in _CHANGES.items() if change[name] is not None
    )
    log.log(
        NOTICE,
        "%s: %s, level %.3f -> %.3f%s",
        job.destination,
        counted(entry["frames"], "frame"),
        entry["input_level"],
        entry["level"],
        f"; change of the level from frame to frame: {said}" if said else "",
    )


_CHANGES = {
    "input": "in the input",
    "unsmoothed": "if frames were enhanced one by one",
    "output": "in the output",
}


def _damaged(path: Path, source: InputVideo, entry: dict[str, Any]) -> InputError:
    n_frames = entry["frames"]
    return InputError(
        f"is damaged: {source.damage}",
        place=str(path),
        hint=f"what is before the damage is in {entry['output']}: {counted(n_frames, 'frame')}",
    )
