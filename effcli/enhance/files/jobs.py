"""What a batch is to do: one job per picture, and what cannot be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from effcli.core.errors import InputError
from effcli.enhance.files.claimed_output import Stamp
from effcli.enhance.files.remote import Location
from effcli.enhance.files.shards import InputList, Shard

STREAM = "-"


@dataclass(frozen=True)
class Job:
    """One picture to make.

    Attributes:
        source: the file to read; None is standard input.
        destination: the file to write; None is standard output.
        format: what to write ("PNG", "JPEG", ...); None is the format of the source.
        replaces: the local file that the output takes the place of.
        overwrite: an object that is there is replaced.
        number: its place among all pictures of the plan, also those that are skipped or cannot be done.
    """

    source: Location | None
    destination: Location | None
    format: str | None = None
    replaces: Stamp | None = field(default=None, compare=False)
    overwrite: bool = field(default=False, compare=False)
    number: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Failure:
    """An input that cannot be done, and why."""

    source: Location
    error: InputError


@dataclass(frozen=True)
class OutputPlan:
    """What will be done, in order, and what cannot be.

    Attributes:
        jobs: one per picture.
        failures: inputs that cannot be done.
        skipped: pictures whose output exists already.
        left_out: number of files in the folders that cannot be read as pictures, by extension.
        shard: the share of the inputs that this is; None is all.
        inputs: what all shares have in common; None for standard input and output.
    """

    jobs: tuple[Job, ...]
    failures: tuple[Failure, ...] = ()
    skipped: tuple[Job, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    shard: Shard | None = None
    inputs: InputList | None = None
