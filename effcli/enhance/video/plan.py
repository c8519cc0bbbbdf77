"""Which video becomes which; imports nothing heavy and not PyAV, so that it can say when that is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from effcli.core.errors import InputError, UsageError
from effcli.core.files import check_writable
from effcli.data.picture_folders import is_picture_name
from effcli.data.video.names import CONTAINERS
from effcli.enhance.files.jobs import STREAM, Failure, Job, OutputPlan
from effcli.enhance.files.output_names import names_folder, with_own_outputs
from effcli.enhance.files.output_plan import OutputPlaces, unreadable
from effcli.enhance.files.remote import RemotePath, location
from effcli.enhance.video.names import INSTEAD, container_of

FRAMES_FILE = "frames.jsonl"
"""In the folder of unfinished output: a line per frame that is done."""
_LONGEST_NAME_BYTES = 255


def unfinished(destination: Path) -> Path:
    """Where the unfinished output of a video is: a hidden folder beside it."""
    return destination.with_name(f".{destination.name}.part")


def plan_videos(
    inputs: Sequence[str | Path],
    output: str | None = None,
    *,
    force: bool = False,
    resume: bool = False,
    suffix: str = "-enhanced",
) -> OutputPlan:
    """Decide what is read from where and written to where; names are chosen as those of pictures are.

    Args:
        inputs: files.
        output: a file, or a folder.
        force: overwrite existing outputs, and begin anew what is unfinished.
        resume: skip what has its output, and continue what is unfinished.
        suffix: added to the name of an output that lies beside its input.

    Raises:
        UsageError: the combination makes no sense, PyAV is not installed, or the output is not writable.
        InputError: the only input cannot be done; one of several is a failure of the plan instead.
    """
    _check(inputs, output)
    paths = [Path(item) for item in inputs]
    pairs = _pairs(paths, output, suffix)
    errors = {to: _too_long(to) or (None if resume or force else _begun(to)) for _, to in pairs}
    failures = [Failure(source, error) for source, to in pairs if (error := errors[to])]
    own, sharing = with_own_outputs([(source, to) for source, to in pairs if errors[to] is None])
    failures += sharing
    outputs = OutputPlaces.of(own, None, force=force)
    jobs, skipped = [], []
    for number, (source, destination) in enumerate(own):
        assert isinstance(destination, Path)
        job = Job(source, destination, container_of(destination), number=number)
        if resume and outputs.is_done(destination) and not _is_unfinished(destination):
            skipped.append(job)
        elif error := unreadable(source) or outputs.problem(destination):
            failures.append(Failure(source, error))
        else:
            jobs.append(job)
    if len(paths) == 1 and not jobs and len(failures) == 1:
        raise failures[0].error
    for folder in dict.fromkeys(job.destination.parent for job in jobs if isinstance(job.destination, Path)):
        check_writable(folder)
    return OutputPlan(tuple(jobs), tuple(failures), tuple(skipped))


def _pairs(paths: list[Path], output: str | None, suffix: str) -> list[tuple[Path, Path]]:
    """Each input with its output."""
    if output is not None and len(paths) == 1 and not names_folder(output):
        if container_of(Path(output)) is None:
            hint = f"supported: {' '.join(CONTAINERS)}; a folder ends in /"
            raise UsageError(f"suffix {Path(output).suffix!r} is not a video format", place=output, hint=hint)
        return [(paths[0], Path(output))]
    if output is None:
        return [(path, path.parent / _output_name(path, suffix)) for path in paths]
    root = Path(output)
    if os.path.lexists(root) and not root.is_dir():
        raise UsageError("is a file, but the outputs need a folder", place=output)
    if container_of(root) and not names_folder(output):
        raise UsageError(f"names one video, but there are {len(paths)} inputs", place=output)
    return [(path, root / _output_name(path, "")) for path in paths]


def _check(inputs: Sequence[str | Path], output: str | None) -> None:
    if output == "":
        raise UsageError("the name of the output is empty", place="--output")
    if STREAM in inputs or output == STREAM:
        raise UsageError("videos are not read from or written to pipes", place=STREAM, hint="name a file")
    for item in (*inputs, output or "."):
        if isinstance(location(item), RemotePath):
            raise UsageError("videos are not read or written by URL", place=str(item), hint="copy it first")
    for item in inputs:
        if Path(item).is_dir() or is_picture_name(str(Path(item).name)):
            kind = "a folder" if Path(item).is_dir() else "a picture"
            raise UsageError(
                f"is {kind}: videos cannot be mixed with other inputs",
                place=str(item),
                hint="run them separately",
            )
    try:
        import av  # noqa: F401
    except ImportError:
        raise UsageError(
            "videos need PyAV", place=str(inputs[0]), hint="pip install 'effcli[video]'"
        ) from None


def _output_name(source: Path, suffix: str) -> str:
    if container_of(source) is not None:
        return source.stem + suffix + source.suffix
    return source.name + suffix + INSTEAD


def _too_long(destination: Path) -> InputError | None:
    if len(os.fsencode(unfinished(destination).name)) <= _LONGEST_NAME_BYTES:
        return None
    return InputError("the name of the output is too long", place=str(destination), hint="name it with -o")


def _begun(destination: Path) -> InputError | None:
    if not _is_unfinished(destination):
        return None
    hint = "--resume continues it, --force starts anew"
    return InputError(f"is unfinished: {unfinished(destination)}", place=str(destination), hint=hint)


def _is_unfinished(destination: Path) -> bool:
    """Whether a folder of unfinished output is there, and not one that was only left when the output was moved."""
    frames = unfinished(destination) / FRAMES_FILE
    try:
        begun_ns = frames.stat().st_ctime_ns
    except OSError:
        return False
    try:
        return destination.stat().st_ctime_ns < begun_ns
    except OSError:
        return True
