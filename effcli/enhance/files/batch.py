"""`effcli enhance run`: many pictures, one after the other; a bad one does not stop the others."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effcli.core.errors import EffcliError, InputError
from effcli.core.files import make_folder
from effcli.core.progress import progress_bar
from effcli.core.resuming.stop import StopSignal
from effcli.data.images import Picture, read_picture
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.files.figures import level_of
from effcli.enhance.files.gallery import Gallery
from effcli.enhance.files.output_plan import Job, OutputPlan
from effcli.enhance.files.picture_files import write_picture

log = logging.getLogger(__name__)

_NEARLY_ALONE = 0.05


@dataclass
class Outcome:
    """What a batch did.

    Attributes:
        done: one entry per picture that was written.
        failures: one error per picture that was not.
        interrupted: Ctrl-C or SIGTERM arrived; the remaining pictures were not started.
    """

    done: list[dict[str, Any]] = field(default_factory=list)
    failures: list[EffcliError] = field(default_factory=list)
    interrupted: bool = False

    def metrics(self, *, n_failed: int, n_skipped: int) -> dict[str, Any]:
        """Counts of pictures, and megapixels per second including reading and writing.

        ``left_nearly_alone`` are those whose level changed by less than a twentieth, as they were well lit already.
        """
        megapixels = sum(entry["width"] * entry["height"] for entry in self.done) / 1e6
        seconds = sum(entry["total_s"] for entry in self.done)
        rate = round(megapixels / seconds, 4) if seconds else None
        return {
            "images": len(self.done),
            "left_nearly_alone": sum(_is_nearly_alone(entry) for entry in self.done),
            "failed": n_failed,
            "skipped": n_skipped,
            "megapixels_per_s": rate,
        }


def enhance_files(
    plan: OutputPlan,
    enhancer: Enhancer,
    *,
    quality: int = 95,
    keep_times: bool = False,
    gallery: Gallery | None = None,
    show_progress: bool = False,
) -> Outcome:
    """Enhance each source of the plan to its destination; with several ranks each takes its share.

    Args:
        plan: which file becomes which.
        enhancer: what brightens the pictures.
        quality: of JPEG and lossy WebP, 1..100.
        keep_times: give each output the times of its input.
        gallery: gets a figure of each picture that it shows, also of those that are skipped.
        show_progress: show a progress bar on stderr.

    Returns:
        the outcome of all ranks together, in every rank.
    """
    outcome = Outcome()
    runtime = enhancer.runtime
    own = plan.jobs[runtime.rank :: runtime.world]
    if gallery is not None:
        _show_skipped(gallery, plan.skipped[runtime.rank :: runtime.world])
    with (
        StopSignal() as stop,
        progress_bar("enhance", len(own), 0, "pictures", show=show_progress) as advance,
    ):
        for job in own:
            if stop.requested:
                outcome.interrupted = True
                break
            try:
                outcome.done.append(_enhance_file(job, enhancer, quality, keep_times, gallery))
            except EffcliError as error:
                outcome.failures.append(error)
            except (MemoryError, RuntimeError) as error:
                message = " ".join(str(error).split())[:200] or "out of memory"
                outcome.failures.append(InputError(message, place=str(job.source or "-")))
            advance()
    return _together(runtime.gather(outcome))


def _copy_times(source: Path, destination: Path) -> None:
    try:
        times = source.stat()
        os.utime(destination, ns=(times.st_atime_ns, times.st_mtime_ns))
    except OSError as error:  # the picture is there all the same
        log.warning("%s: its times are not those of the input: %s", destination, error.strerror)


def _is_nearly_alone(entry: dict[str, Any]) -> bool:
    """Whether the level of a picture hardly changed."""
    change: float = entry["level"] - entry["input_level"]
    return bool(abs(change) <= _NEARLY_ALONE * max(entry["input_level"], 1e-3))


def _together(shares: list[Outcome]) -> Outcome:
    """The outcomes of all ranks as one."""
    return Outcome(
        done=[entry for share in shares for entry in share.done],
        failures=[failure for share in shares for failure in share.failures],
        interrupted=any(share.interrupted for share in shares),
    )


def _show_skipped(gallery: Gallery, skipped: Sequence[Job]) -> None:
    """Add the figures of pictures that an earlier run enhanced."""
    for job in skipped:
        if gallery.shows(job.number) and job.source is not None and job.destination is not None:
            try:
                _show(gallery, job, read_picture(job.source), read_picture(job.destination))
            except InputError as error:
                log.warning("%s: is not in the gallery: %s", job.source, error)


def _show(gallery: Gallery, job: Job, before: Picture, after: Picture) -> None:
    if not gallery.shows(job.number):
        return
    name = str(job.source or "standard input")
    try:
        gallery.add(job.number, name, before, after)
    except OSError as error:  # the picture is there all the same
        log.warning("%s: is not in the gallery: %s", name, error.strerror or error)


def _enhance_file(
    job: Job, enhancer: Enhancer, quality: int, keep_times: bool, gallery: Gallery | None
) -> dict[str, Any]:
    started = time.perf_counter()
    place = str(job.source) if job.source is not None else "standard input"
    try:
        picture = read_picture(job.source if job.source is not None else sys.stdin.buffer.read())
    except InputError as error:
        error.place = place
        raise
    try:
        bright = enhancer.enhance_picture(picture)
    except EffcliError as error:
        error.place = error.place or place
        raise
    if job.destination is not None:
        make_folder(job.destination.parent)  # not before there is something to put into it
    destination = job.destination if job.destination is not None else sys.stdout.buffer
    for note in (*picture.notes, *write_picture(bright, destination, format=job.format, quality=quality)):
        log.warning("%s: %s", place, note)
    if keep_times and job.source is not None and job.destination is not None:
        _copy_times(job.source, job.destination)
    if gallery is not None:
        _show(gallery, job, picture, bright)
    height, width = picture.pixels.shape[:2]
    return {
        "input": str(job.source or "-"),
        "output": str(job.destination or "-"),
        "width": width,
        "height": height,
        "input_level": level_of(picture),
        "level": level_of(bright),
        "total_s": round(time.perf_counter() - started, 3),
    }
