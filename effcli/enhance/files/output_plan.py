"""Which file becomes which: from the inputs and ``--output`` of a command line to a list of jobs.

Planning reads folders but writes nothing. It refuses beforehand what would go wrong later: an output that
exists, that is itself an input, that two inputs share, or that cannot be written.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from effcli.core.errors import InputError, UsageError
from effcli.core.files import check_writable
from effcli.data.picture_folders import left_out_text, say_once
from effcli.enhance.files.claimed_output import stamp_of
from effcli.enhance.files.input_search import images_in
from effcli.enhance.files.jobs import STREAM, Failure, Job, OutputPlan
from effcli.enhance.files.output_names import (
    checked_suffix,
    is_folder,
    names_folder,
    output_name,
    with_own_outputs,
)
from effcli.enhance.files.picture_files import FORMATS, format_of
from effcli.enhance.files.shards import Shard, input_list

_LONGEST_NAME_BYTES = 255


def plan_outputs(
    inputs: Sequence[str | Path],
    output: str | None = None,
    *,
    force: bool = False,
    skip_existing: bool = False,
    suffix: str = "-enhanced",
    format: str | None = None,
    shard: Shard | None = None,
) -> OutputPlan:
    """Decide what is read from where and written to where.

    Without ``output``, ``a/night.png`` becomes ``a/night-enhanced.png``, the pictures in ``photos/`` go to
    ``photos-enhanced/`` under their own names, and standard input goes to standard output. An ``output``
    that ends in a slash, is a folder already, or belongs to a folder or to several inputs is a folder:
    pictures keep their names, and those of ``photos/`` go to ``output/``, or to ``output/photos/`` as one of
    several inputs.
    Otherwise ``output`` names the file, and ``"-"`` is standard output.

    Folders are searched recursively, through links too, in natural order; sub-folders are kept below the output.
    Left out are hidden and system files, names without the extension of a picture (which are counted), the output
    folder itself, and what an earlier run made (a name ending in ``suffix`` beside its original).

    Args:
        inputs: files and folders; the string ``"-"`` is standard input, ``Path("-")`` a file of that name.
        output: a file, a folder or ``"-"``.
        force: overwrite existing outputs (inputs never are).
        suffix: added to the name of an output that lies beside its input.
        format: what to write, whatever the inputs are: png, jpeg, webp, tiff or bmp.
        shard: plan this share of the inputs alone; ``output`` is a folder then.

    Raises:
        UsageError: the combination makes no sense, or the output is not writable.
        InputError: the only input cannot be done; one of several is a :class:`Failure` of the plan instead.
    """
    format = _known_format(format)
    if output == "":
        raise UsageError("the name of the output is empty", place="--output")
    if not inputs or "" in inputs:
        raise UsageError("no input", hint="name an image, a folder, or - for standard input")
    if shard is not None:
        output = _folder_of_shards(inputs, output)
    if STREAM in inputs or output == STREAM:
        return _plan_stream(inputs, output, force, format)
    paths = [Path(item) for item in inputs]
    left_out: Counter[str] = Counter()
    pairs, failures = _find(paths, output, suffix, format, left_out)
    pairs, sharing = with_own_outputs(pairs)
    failures += sharing
    everything = input_list(pairs, len(failures))
    if shard is not None:
        failures = [failure for number, failure in enumerate(failures) if shard.takes(number)]
    taken = {identity for source, _ in pairs if (identity := _identity(source))}
    jobs, skipped = [], []
    for number, (source, destination) in enumerate(pairs):
        if shard is not None and not shard.takes(number):
            continue
        job = Job(source, destination, format_of(destination), stamp_of(destination), number)
        if skip_existing and destination.is_file() and _identity(destination) not in taken:
            skipped.append(job)
        elif error := _unreadable(source) or _unavailable(destination, taken, force):
            failures.append(Failure(source, error))
        else:
            jobs.append(job)
    if len(paths) == 1 and not jobs and len(failures) == 1 and shard is None:
        raise failures[0].error
    for folder in dict.fromkeys(job.destination.parent for job in jobs if job.destination):
        check_writable(folder)
    return OutputPlan(tuple(jobs), tuple(failures), tuple(skipped), dict(left_out), shard, everything)


def _known_format(format: str | None) -> str | None:
    if format is None:
        return None
    known = FORMATS.get(f".{format.lower()}")
    if known is None:
        raise UsageError(
            f"format {format!r} is not one of {', '.join(dict.fromkeys(FORMATS.values())).lower()}"
        )
    return known


def _folder_of_shards(inputs: Sequence[str | Path], output: str | None) -> str:
    """The output as a folder, which shards need for their summaries."""
    if output in (None, STREAM) or STREAM in inputs:
        raise UsageError(
            "shards need files as inputs and an output folder", place="--shard", hint="-o FOLDER"
        )
    return f"{output}/"


def _plan_stream(
    inputs: Sequence[str | Path], output: str | None, force: bool, format: str | None
) -> OutputPlan:
    """One picture from standard input, to standard output, or both."""
    if len(inputs) > 1:
        raise UsageError("standard input or output (-) goes with exactly one input")
    if inputs[0] != STREAM:
        source = Path(inputs[0])
        if is_folder(source):
            raise UsageError("a folder cannot be written to standard output", place=str(source))
        if error := _unreadable(source):
            raise error
        return OutputPlan((Job(source, None, format),))
    if output is None or output == STREAM:
        return OutputPlan((Job(None, None, format),))
    if names_folder(output):
        raise UsageError("is a folder: name a file for the picture from standard input", place=output)
    destination = checked_suffix(output, format)
    if error := _unavailable(destination, set(), force):
        raise error
    check_writable(destination.parent)
    return OutputPlan((Job(None, destination, format_of(destination), stamp_of(destination)),))


def _find(
    paths: list[Path], output: str | None, suffix: str, format: str | None, left_out: Counter[str]
) -> tuple[list[tuple[Path, Path]], list[Failure]]:
    """All source files, each with its destination, and what could not be searched."""
    if output is not None and len(paths) == 1 and not is_folder(paths[0]) and not names_folder(output):
        return [(paths[0], checked_suffix(output, format))], []
    root = None if output is None else Path(output)
    if root is not None and len(paths) > 1 and format_of(root) and not root.exists():
        hint = "end it with / if the folder really has that name"
        if not str(output).endswith(("/", os.sep)):
            raise UsageError(
                f"is the name of one picture, but there are {len(paths)} inputs", place=str(output), hint=hint
            )
    if root is not None and os.path.lexists(root) and not is_folder(root):
        raise UsageError("is a file, but the outputs need a folder", place=str(root))
    pairs: list[tuple[Path, Path]] = []
    failures: list[Failure] = []
    for path in paths:
        if not is_folder(path):
            folder = path.parent if root is None else root
            pairs.append((path, folder / output_name(path, suffix if root is None else "", format)))
            continue
        named = path if path.name not in ("", "..") else path.resolve()
        if root is None:
            below = named.with_name(named.name + suffix) if named.name else named
        else:
            below = root if len(paths) == 1 else root / named.name
        n_failures = len(failures)
        own_left_out: Counter[str] = Counter()
        sources = images_in(path, below if root is None else root, suffix, failures, own_left_out)
        left_out.update(own_left_out)
        if sources and own_left_out:
            say_once(f"{path}: left out: {left_out_text(own_left_out)}")
        pairs += [
            (source, below / source.relative_to(path).parent / output_name(source, "", format))
            for source in sources
        ]
        if not sources and len(failures) == n_failures:
            text = left_out_text(own_left_out)
            message = "no images in this folder" + (f" (left out: {text})" if text else "")
            failures.append(Failure(path, InputError(message, place=str(path))))
    return pairs, failures


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of what a path leads to: equal through links and differing case; None if nothing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _unreadable(source: Path) -> InputError | None:
    """Why a source cannot be read, as far as its directory entry tells."""
    try:
        source.stat()
    except FileNotFoundError:
        return InputError("no such file", place=str(source))
    except OSError as error:
        return InputError(f"cannot be read: {error.strerror}", place=str(source))
    return None


def _unavailable(destination: Path, taken: set[tuple[int, int]], force: bool) -> InputError | None:
    """Why a destination may not be written: too long a name, an input, a folder, or there already."""
    place = str(destination)
    if len(os.fsencode(destination.name)) > _LONGEST_NAME_BYTES:
        return InputError("the name of the output is too long", place=place, hint="name it with -o")
    if _identity(destination) in taken:
        hint = "name another output with -o"
        return InputError("the output would overwrite an input", place=place, hint=hint)
    if is_folder(destination):
        return InputError("the output is a folder", place=place)
    if os.path.lexists(destination) and not force:
        return InputError("exists already", place=place, hint="--force overwrites it")
    return None
