"""Which file becomes which: from the inputs and ``--output`` of a command line to a list of jobs.

Planning reads folders but writes nothing. It refuses beforehand what would go wrong later: an output that
exists, that is itself an input, that two inputs share, or that cannot be written.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from effcli.core.errors import InputError, UsageError
from effcli.core.files import check_writable
from effcli.data.picture_folders import left_out_text, list_pictures, say_once
from effcli.enhance.files.picture_files import FORMATS, format_of

STREAM = "-"
_LONGEST_NAME_BYTES = 255


@dataclass(frozen=True)
class Job:
    """One picture to make.

    Attributes:
        source: the file to read; None is standard input.
        destination: the file to write; None is standard output.
        format: what to write ("PNG", "JPEG", ...); None is the format of the source.
        number: its place among all pictures of the plan, also those that are skipped or cannot be done.
    """

    source: Path | None
    destination: Path | None
    format: str | None = None
    number: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Failure:
    """An input that cannot be done, and why."""

    source: Path
    error: InputError


@dataclass(frozen=True)
class OutputPlan:
    """What will be done, in order, and what cannot be.

    Attributes:
        jobs: one per picture.
        failures: inputs that cannot be done.
        skipped: pictures whose output exists already.
        left_out: number of files in the folders that cannot be read as pictures, by extension.
    """

    jobs: tuple[Job, ...]
    failures: tuple[Failure, ...] = ()
    skipped: tuple[Job, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


def plan_outputs(
    inputs: Sequence[str | Path],
    output: str | None = None,
    *,
    force: bool = False,
    skip_existing: bool = False,
    suffix: str = "-enhanced",
    format: str | None = None,
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

    Raises:
        UsageError: the combination makes no sense, or the output is not writable.
        InputError: the only input cannot be done; one of several is a :class:`Failure` of the plan instead.
    """
    if format is not None:
        known = FORMATS.get(f".{format.lower()}")
        if known is None:
            raise UsageError(
                f"format {format!r} is not one of {', '.join(dict.fromkeys(FORMATS.values())).lower()}"
            )
        format = known
    if output == "":
        raise UsageError("the name of the output is empty", place="--output")
    if not inputs or "" in inputs:
        raise UsageError("no input", hint="name an image, a folder, or - for standard input")
    if STREAM in inputs or output == STREAM:
        return _plan_stream(inputs, output, force, format)
    paths = [Path(item) for item in inputs]
    left_out: Counter[str] = Counter()
    pairs, failures = _find(paths, output, suffix, format, left_out)
    pairs, sharing = _with_own_outputs(pairs)
    failures += sharing
    taken = {identity for source, _ in pairs if (identity := _identity(source))}
    jobs, skipped = [], []
    for number, (source, destination) in enumerate(pairs):
        job = Job(source, destination, format_of(destination), number)
        if skip_existing and destination.is_file() and _identity(destination) not in taken:
            skipped.append(job)
        elif error := _unreadable(source) or _unavailable(destination, taken, force):
            failures.append(Failure(source, error))
        else:
            jobs.append(job)
    if len(paths) == 1 and not jobs and len(failures) == 1:
        raise failures[0].error
    for folder in dict.fromkeys(job.destination.parent for job in jobs if job.destination):
        check_writable(folder)
    return OutputPlan(tuple(jobs), tuple(failures), tuple(skipped), dict(left_out))


def _plan_stream(
    inputs: Sequence[str | Path], output: str | None, force: bool, format: str | None
) -> OutputPlan:
    """One picture from standard input, to standard output, or both."""
    if len(inputs) > 1:
        raise UsageError("standard input or output (-) goes with exactly one input")
    if inputs[0] != STREAM:
        source = Path(inputs[0])
        if _is_folder(source):
            raise UsageError("a folder cannot be written to standard output", place=str(source))
        if error := _unreadable(source):
            raise error
        return OutputPlan((Job(source, None, format),))
    if output is None or output == STREAM:
        return OutputPlan((Job(None, None, format),))
    if _names_folder(output):
        raise UsageError("is a folder: name a file for the picture from standard input", place=output)
    destination = _checked_suffix(output, format)
    if error := _unavailable(destination, set(), force):
        raise error
    check_writable(destination.parent)
    return OutputPlan((Job(None, destination, format_of(destination)),))


def _find(
    paths: list[Path], output: str | None, suffix: str, format: str | None, left_out: Counter[str]
) -> tuple[list[tuple[Path, Path]], list[Failure]]:
    """All source files, each with its destination, and what could not be searched."""
    if output is not None and len(paths) == 1 and not _is_folder(paths[0]) and not _names_folder(output):
        return [(paths[0], _checked_suffix(output, format))], []
    root = None if output is None else Path(output)
    if root is not None and len(paths) > 1 and format_of(root) and not root.exists():
        hint = "end it with / if the folder really has that name"
        if not str(output).endswith(("/", os.sep)):
            raise UsageError(
                f"is the name of one picture, but there are {len(paths)} inputs", place=str(output), hint=hint
            )
    if root is not None and os.path.lexists(root) and not _is_folder(root):
        raise UsageError("is a file, but the outputs need a folder", place=str(root))
    pairs: list[tuple[Path, Path]] = []
    failures: list[Failure] = []
    for path in paths:
        if not _is_folder(path):
            folder = path.parent if root is None else root
            pairs.append((path, folder / _output_name(path, suffix if root is None else "", format)))
            continue
        named = path if path.name not in ("", "..") else path.resolve()
        if root is None:
            below = named.with_name(named.name + suffix) if named.name else named
        else:
            below = root if len(paths) == 1 else root / named.name
        n_failures = len(failures)
        own_left_out: Counter[str] = Counter()
        sources = _images_in(path, below if root is None else root, suffix, failures, own_left_out)
        left_out.update(own_left_out)
        if sources and own_left_out:
            say_once(f"{path}: left out: {left_out_text(own_left_out)}")
        pairs += [
            (source, below / source.relative_to(path).parent / _output_name(source, "", format))
            for source in sources
        ]
        if not sources and len(failures) == n_failures:
            text = left_out_text(own_left_out)
            message = "no images in this folder" + (f" (left out: {text})" if text else "")
            failures.append(Failure(path, InputError(message, place=str(path))))
    return pairs, failures


def _images_in(
    folder: Path, output: Path, suffix: str, failures: list[Failure], left_out: Counter[str]
) -> list[Path]:
    """The images below a folder, in natural order, without those that are outputs."""
    own_output = os.path.realpath(output)
    if os.path.realpath(folder) == own_output:
        hint = "name another folder with -o"
        raise UsageError("the folder would be its own output", place=str(folder), hint=hint)
    try:
        found = list_pictures(folder)
    except InputError as error:
        failures.append(Failure(folder, error))
        return []
    failures += [Failure(Path(error.place or folder), error) for error in found.unreadable]
    left_out.update(found.left_out)
    files = [file for file in found.files if not _is_below(file, own_output)]
    originals = {file.parent: set[str]() for file in files}
    for file in files:
        originals[file.parent] |= {file.stem, file.name}
    own = [file for file in files if not _is_made(file, folder, suffix, originals[file.parent])]
    return sorted(own, key=lambda file: _walking_order(file.relative_to(folder)))


def _is_below(file: Path, folder: str) -> bool:
    """Whether a file is in a folder, given by its real path, or below it."""
    return Path(os.path.realpath(file.parent)).is_relative_to(folder)


def _is_made(file: Path, folder: Path, suffix: str, originals: set[str]) -> bool:
    """Whether the name of a file, or of a folder that it is in, is that of an output beside its original."""
    if not suffix:
        return False
    if file.stem.endswith(suffix) and file.stem.removesuffix(suffix) in originals:
        return True
    above = file.parents[: len(file.relative_to(folder).parts) - 1]
    return any(
        one.name.endswith(suffix) and one.with_name(one.name.removesuffix(suffix)).is_dir()
        for one in above
        if one.name != suffix
    )


def _walking_order(path: Path) -> list[tuple[int, tuple[list[tuple[str, int]], str]]]:
    """Sort key of a path inside a folder: its files, then its sub-folders, each in natural order."""
    *folders, name = path.parts
    return [*((1, _natural(one)) for one in folders), (0, _natural(name))]


def _natural(name: str) -> tuple[list[tuple[str, int]], str]:
    """Sort key that puts ``2.png`` before ``10.png``."""
    parts = re.findall(r"(\D*)(\d*)", name)
    return [(text.casefold(), int(digits or 0)) for text, digits in parts], name


def _output_name(source: Path, suffix: str, format: str | None) -> str:
    """Name of an output, with the extension of the source where that says the format to write."""
    own = format_of(source)
    if own is not None and format in (None, own):
        return source.stem + suffix + source.suffix
    extension = next(key for key, value in FORMATS.items() if value == (format or "PNG"))
    return (source.name if own is None else source.stem) + suffix + extension


def _names_folder(output: str) -> bool:
    """Whether an ``output`` for one file is a folder."""
    return output.endswith(("/", os.sep)) or _is_folder(Path(output))


def _checked_suffix(output: str, format: str | None) -> Path:
    """The output file, when its suffix says a format that can be written, and no other than ``format``."""
    path = Path(output)
    written = format_of(path)
    if written is None:
        hint = f"supported: {' '.join(FORMATS)}; a folder ends in /"
        raise UsageError(f"suffix {path.suffix!r} is not an image format", place=output, hint=hint)
    if format not in (None, written):
        raise UsageError(f"the name says {written}, the format asked for is {format}", place=output)
    return path


def _with_own_outputs(
    pairs: list[tuple[Path, Path]],
) -> tuple[list[tuple[Path, Path]], list[Failure]]:
    """Give inputs that would become one file their whole names: a.jpg becomes a.jpg.png where there is an a.webp.

    One that keeps its name anyway (a.png) keeps it. Of an input that was named twice the first counts. Inputs that
    still share an output, as they have one name, fail.
    """
    once = list(
        {(os.path.realpath(source), _place(to)): (source, to) for source, to in reversed(pairs)}.values()
    )
    count = Counter(_place(destination) for _, destination in once)
    named: list[tuple[Path, Path]] = []
    for source, destination in reversed(once):
        if count[_place(destination)] > 1 and source.name != destination.name:
            added = destination.stem.removeprefix(source.stem)
            destination = destination.with_name(source.name + added + destination.suffix)
        named.append((source, destination))
    owners: dict[str, list[tuple[Path, Path]]] = {}
    for source, destination in named:
        owners.setdefault(_place(destination), []).append((source, destination))
    alone = [pair for pair in named if len(owners[_place(pair[1])]) == 1]
    return alone, [
        _shared(source, sharing) for sharing in owners.values() if len(sharing) > 1 for source, _ in sharing
    ]


def _shared(source: Path, sharing: list[tuple[Path, Path]]) -> Failure:
    """Why one of several inputs with one output is not done."""
    others = " and ".join(str(other) for other, _ in sharing if other != source)
    message = f"would become {sharing[0][1]}, as {others} would"
    hint = "use another output folder, or run them separately"
    return Failure(source, InputError(message, place=str(source), hint=hint))


def _place(destination: Path) -> str:
    """Where an output would be, through links, in the case that the system takes for one."""
    return os.path.normcase(Path(os.path.realpath(destination.parent), destination.name))


def _is_folder(path: Path) -> bool:
    """Whether a folder is there; False, too, for a name too long to exist."""
    try:
        return path.is_dir()
    except OSError:
        return False


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
    if _is_folder(destination):
        return InputError("the output is a folder", place=place)
    if os.path.lexists(destination) and not force:
        return InputError("exists already", place=place, hint="--force overwrites it")
    return None
