"""`effcli enhance run`: many pictures, one after the other; a bad one does not stop the others."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from effcli.core.errors import EffcliError, InputError, RunError
from effcli.core.progress import progress_bar
from effcli.core.resuming.stop import StopSignal
from effcli.data.images import Picture, identify, read_picture
from effcli.enhance.enhancer import Enhancer
from effcli.enhance.files.claimed_output import TakenError, claimed_output
from effcli.enhance.files.figures import level_of
from effcli.enhance.files.gallery import Gallery
from effcli.enhance.files.jobs import Failure, Job, OutputPlan
from effcli.enhance.files.picture_files import write_picture
from effcli.enhance.files.remote import Location, RemotePath, read_bytes, remote_output
from effcli.enhance.files.shards import is_nearly_alone
from effcli.enhance.walmafa import Brightener

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What a batch did.

    Attributes:
        done: one entry per picture that was written.
        failures: one error per picture that was not.
        taken: pictures that another process writes or wrote meanwhile, one error each.
        interrupted: Ctrl-C or SIGTERM arrived; the remaining pictures were not started.
    """

    done: list[dict[str, Any]] = field(default_factory=list)
    failures: list[EffcliError] = field(default_factory=list)
    taken: list[TakenError] = field(default_factory=list)
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
            "left_nearly_alone": sum(is_nearly_alone(entry) for entry in self.done),
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
            except TakenError as error:
                outcome.taken.append(error)
            except EffcliError as error:
                outcome.failures.append(error)
            except (MemoryError, RuntimeError) as error:
                message = " ".join(str(error).split())[:200] or "out of memory"
                outcome.failures.append(InputError(message, place=str(job.source or "-")))
            advance()
    return _together(runtime.gather(outcome))


def without_too_large(plan: OutputPlan, enhancer: Enhancer) -> OutputPlan:
    """The plan without files that exceed ``--max-memory``, which become failures.

    Their headers are read before any work starts; the hint names the memory that all of them need.
    """
    brighten = enhancer.brighten
    if not isinstance(brighten, Brightener) or brighten.max_memory_mb is None:
        return plan
    too_large = {job: error for job in plan.jobs if (error := _beyond_memory(job, brighten))}
    most = max((_megabytes(error) for error in too_large.values()), default=0)
    failures = []
    for job, error in too_large.items():
        assert isinstance(job.source, Path)
        hint = f"--max-memory {most} is enough for all" if len(too_large) > 1 else error.hint
        failures.append(Failure(job.source, InputError(error.message, place=str(job.source), hint=hint)))
    jobs = tuple(job for job in plan.jobs if job not in too_large)
    return replace(plan, jobs=jobs, failures=(*plan.failures, *failures))


def _beyond_memory(job: Job, brighten: Brightener) -> RunError | None:
    """Why a picture exceeds the bound, whichever way up it is; None where its file does not tell."""
    if not isinstance(job.source, Path):
        return None
    try:
        info = identify(job.source)
        brighten.check_memory(info.height, info.width)
    except InputError:
        return None
    except RunError as error:
        try:
            brighten.check_memory(info.width, info.height)
        except RunError:
            return error
    return None


def _megabytes(error: RunError) -> int:
    """The least ``--max-memory`` that a message of :meth:`Brightener.check_memory` names."""
    found = re.search(r"--max-memory (\d+)", error.hint or "")
    return int(found[1]) if found else 0


def copy_times(source: Path, destination: Path) -> None:
    """Give an output the times of its input; where the file system does not take them, say so."""
    try:
        times = source.stat()
        os.utime(destination, ns=(times.st_atime_ns, times.st_mtime_ns))
    except OSError as error:  # the picture is there all the same
        log.warning(
            "%s: its modification time could not be set to that of the input: %s", destination, error.strerror
        )


def _together(shares: list[Outcome]) -> Outcome:
    """The outcomes of all ranks as one."""
    return Outcome(
        done=[entry for share in shares for entry in share.done],
        failures=[failure for share in shares for failure in share.failures],
        taken=[taken for share in shares for taken in share.taken],
        interrupted=any(share.interrupted for share in shares),
    )


def _show_skipped(gallery: Gallery, skipped: Sequence[Job]) -> None:
    """Add the figures of pictures that an earlier run enhanced."""
    for job in skipped:
        if gallery.shows(job.number) and job.source is not None and job.destination is not None:
            try:
                _show(gallery, job, read_picture(_stored(job.source)), read_picture(_stored(job.destination)))
            except InputError as error:
                log.warning("%s: cannot be shown in the gallery: %s", job.source, error)


def _show(gallery: Gallery, job: Job, before: Picture, after: Picture) -> None:
    if not gallery.shows(job.number):
        return
    name = str(job.source or "standard input")
    try:
        gallery.add(job.number, name, before, after)
    except OSError as error:  # the picture is there all the same
        log.warning("%s: cannot be shown in the gallery: %s", name, error.strerror or error)


@contextlib.contextmanager
def _output(job: Job) -> Iterator[BinaryIO]:
    """What the picture is written to; an output has its content at the end of the block, whole."""
    if job.destination is None:
        yield sys.stdout.buffer
        return
    if isinstance(job.destination, RemotePath):
        with remote_output(job.destination, overwrite=job.overwrite) as stream:
            yield stream
        return
    with claimed_output(job.destination, job.replaces) as stream:
        yield stream


def _stored(source: Location) -> Path | bytes:
    """A local file, or the content of one by URL."""
    return read_bytes(source) if isinstance(source, RemotePath) else source


def _enhance_file(
    job: Job, enhancer: Enhancer, quality: int, keep_times: bool, gallery: Gallery | None
) -> dict[str, Any]:
    started = time.perf_counter()
    place = str(job.source) if job.source is not None else "standard input"
    try:
        picture = read_picture(_stored(job.source) if job.source is not None else sys.stdin.buffer.read())
    except InputError as error:
        error.place = place
        raise
    with _output(job) as stream:  # not before there is something to put into it
        try:
            bright = enhancer.enhance_picture(picture)
        except EffcliError as error:
            error.place = error.place or place
            raise
        to = None if job.destination is None else str(job.destination)
        notes = write_picture(bright, stream, format=job.format, quality=quality, place=to)
    for note in (*picture.notes, *notes):
        log.warning("%s: %s", place, note)
    if keep_times and isinstance(job.source, Path) and isinstance(job.destination, Path):
        copy_times(job.source, job.destination)
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
