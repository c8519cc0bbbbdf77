"""Which file becomes which: from the inputs and ``--output`` of a command line to a list of jobs.

Planning reads folders but writes nothing. It refuses beforehand what would go wrong later: an output that
exists, that is itself an input, that two inputs share, or that cannot be written.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

from effcli.core.errors import InputError, UsageError
from effcli.core.files import check_writable
from effcli.data.picture_folders import left_out_text, say_once
from effcli.enhance.files.claimed_output import stamp_of
from effcli.enhance.files.input_search import images_in
from effcli.enhance.files.jobs import STREAM, Failure, Job, OutputPlan
from effcli.enhance.files.output_names import (
    Pair,
    checked_suffix,
    is_folder,
    names_folder,
    output_name,
    with_own_outputs,
)
from effcli.enhance.files.picture_files import FORMATS, format_of
from effcli.enhance.files.remote import READ_ONLY, Location, RemotePath, kind_of, list_files, location
from effcli.enhance.files.shards import Shard, input_list
from effcli.enhance.video.names import video_hint

_LONGEST_NAME_BYTES = 255

_Identity: TypeAlias = tuple[int, int] | str


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
    paths = [location(item) for item in inputs]
    if output is None and (remote := [path for path in paths if isinstance(path, RemotePath)]):
        hint = "-o FOLDER, or -o and a URL"
        raise UsageError("pictures read by URL need an output", place=str(remote[0]), hint=hint)
    left_out: Counter[str] = Counter()
    pairs, failures = _find(paths, output, suffix, format, left_out)
    pairs, sharing = with_own_outputs(pairs)
    failures += sharing
    everything = input_list(pairs, len(failures))
    if shard is not None:
        failures = [failure for number, failure in enumerate(failures) if shard.takes(number)]
    outputs = OutputPlaces.of(pairs, output, force=force)
    jobs, skipped = [], []
    for number, (source, destination) in enumerate(pairs):
        if shard is not None and not shard.takes(number):
            continue
        job = outputs.job(source, destination, number)
        if skip_existing and outputs.is_done(destination):
            skipped.append(job)
        elif error := unreadable(source) or outputs.problem(destination):
            failures.append(Failure(source, error))
        else:
            jobs.append(job)
    if len(paths) == 1 and not jobs and not skipped and len(failures) == 1 and shard is None:
        raise failures[0].error
    for folder in dict.fromkeys(job.destination.parent for job in jobs if isinstance(job.destination, Path)):
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
        source = location(inputs[0])
        if is_folder(source):
            raise UsageError("a folder cannot be written to standard output", place=str(source))
        if error := _missing(source) or unreadable(source):
            raise error
        return OutputPlan((Job(source, None, format),))
    if output is None or output == STREAM:
        return OutputPlan((Job(None, None, format),))
    if names_folder(output):
        raise UsageError("is a folder: name a file for the picture from standard input", place=output)
    destination = checked_suffix(output, format)
    outputs = OutputPlaces.of([], output, force=force)
    if error := outputs.problem(destination):
        raise error
    if isinstance(destination, Path):
        check_writable(destination.parent)
    return OutputPlan((outputs.job(None, destination, 0),))


def _find(
    paths: list[Location], output: str | None, suffix: str, format: str | None, left_out: Counter[str]
) -> tuple[list[Pair], list[Failure]]:
    """All source files, each with its destination, and what could not be searched."""
    if output is not None and len(paths) == 1 and not is_folder(paths[0]) and not names_folder(output):
        if missing := _missing(paths[0]):
            raise missing
        return [(paths[0], checked_suffix(output, format))], []
    root = None if output is None else _checked_root(output, len(paths))
    pairs: list[Pair] = []
    failures: list[Failure] = []
    for path in paths:
        if missing := _missing(path):
            failures.append(Failure(path, missing))
            continue
        if not is_folder(path):
            folder = path.parent if root is None else root
            pairs.append((path, folder / output_name(path, suffix if root is None else "", format)))
            continue
        named = path.resolve() if isinstance(path, Path) and path.name in ("", "..") else path
        if root is None:
            below = named.with_name(named.name + suffix) if named.name else named
        else:
            below = root if len(paths) == 1 else root / named.name
        n_failures = len(failures)
        own_left_out: Counter[str] = Counter()
        sources = images_in(path, below if root is None else root, suffix, failures, own_left_out)
        left_out.update(own_left_out)
        if sources and own_left_out:
            more = video_hint(own_left_out)
            say_once(f"{path}: left out: {left_out_text(own_left_out)}" + (f"; {more}" if more else ""))
        pairs += [
            (source, below / inside.parent / output_name(source, "", format)) for source, inside in sources
        ]
        if not sources and len(failures) == n_failures:
            text = left_out_text(own_left_out)
            message = "no images in this folder" + (f" (left out: {text})" if text else "")
            error = InputError(message, place=str(path), hint=video_hint(own_left_out))
            failures.append(Failure(path, error))
    return pairs, failures


def _checked_root(output: str, n_inputs: int) -> Location:
    """The output folder, where ``output`` can be one."""
    root = _writable(output)
    is_new = not _exists(root)
    if n_inputs > 1 and format_of(root) and is_new and not output.endswith(("/", os.sep)):
        hint = "end it with / if the folder really has that name"
        raise UsageError(f"names one picture, but there are {n_inputs} inputs", place=output, hint=hint)
    if not is_new and not is_folder(root):
        raise UsageError("is a file, but the outputs need a folder", place=str(root))
    return root


@dataclass(frozen=True)
class OutputPlaces:
    """What is known of the places of outputs.

    Attributes:
        taken: identities of all inputs.
        objects: URLs of what is in the output folder, where that is remote.
        force: existing outputs are overwritten.
    """

    taken: frozenset[_Identity]
    objects: frozenset[str]
    force: bool

    @classmethod
    def of(cls, pairs: Sequence[Pair], output: str | None, *, force: bool) -> Self:
        """Look at the inputs, and once at a remote output folder."""
        taken = frozenset(identity for source, _ in pairs if (identity := _identity(source)))
        root = None if output is None else _writable(output)
        objects = frozenset[str]()
        if isinstance(root, RemotePath):
            objects = frozenset(map(str, list_files(root)))
            objects |= frozenset([str(root)]) if kind_of(root) == "file" else frozenset()
        return cls(taken, objects, force)

    def job(self, source: Location | None, destination: Location, number: int) -> Job:
        """The job that writes to ``destination``."""
        stamp = stamp_of(destination) if isinstance(destination, Path) else None
        return Job(source, destination, format_of(destination), stamp, self.force, number)

    def is_done(self, destination: Location) -> bool:
        """Whether an output is there, and not an input."""
        is_there = (
            destination.is_file() if isinstance(destination, Path) else str(destination) in self.objects
        )
        return is_there and _identity(destination) not in self.taken

    def problem(self, destination: Location) -> InputError | None:
        """Why a destination may not be written: too long a name, an input, a folder, or there already."""
        place, is_local = str(destination), isinstance(destination, Path)
        if is_local and len(os.fsencode(destination.name)) > _LONGEST_NAME_BYTES:
            return InputError("the name of the output is too long", place=place, hint="name it with -o")
        if _identity(destination) in self.taken:
            hint = "name another output with -o"
            return InputError("the output would overwrite an input", place=place, hint=hint)
        if is_local and is_folder(destination):
            return InputError("the output is a folder", place=place)
        is_there = os.path.lexists(destination) if isinstance(destination, Path) else place in self.objects
        if is_there and not self.force:
            return InputError("already exists", place=place, hint="--force overwrites it")
        return None


def _identity(path: Location) -> _Identity | None:
    """Device and inode of what a path leads to: equal through links and differing case; None if nothing; or the URL."""
    if isinstance(path, RemotePath):
        return str(path)
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _writable(output: str) -> Location:
    place = location(output)
    if isinstance(place, RemotePath) and place.protocol in READ_ONLY:
        raise UsageError(f"{place.protocol} can only be read", place=output)
    return place


def _exists(path: Location) -> bool:
    return kind_of(path) is not None if isinstance(path, RemotePath) else os.path.lexists(path)


def _missing(path: Location) -> InputError | None:
    """Why a URL that was named cannot be read; local files are looked at one by one later."""
    if isinstance(path, RemotePath) and kind_of(path) is None:
        return InputError("no such file or folder", place=str(path))
    return None


def unreadable(source: Location) -> InputError | None:
    """Why a source cannot be read, as far as its directory entry tells; what is remote was found in a listing."""
    if isinstance(source, RemotePath):
        return None
    try:
        source.stat()
    except FileNotFoundError:
        return InputError("no such file", place=str(source))
    except OSError as error:
        return InputError(f"cannot be read: {error.strerror}", place=str(source))
    return None
