"""What is written of a stream while it runs, so that one without an end leaves all that came before it was stopped."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from effcli.core.files import make_folder, write_error
from effcli.detect_stream.data.frame_objects import FrameObjects
from effcli.detect_stream.data.kitti_labels import object_lines, result_lines
from effcli.detect_stream.stream.output import StreamOutput


class StreamFiles:
    """``streaming.jsonl``, and results in KITTI's form: ``data/FRAME.txt``, and all together in ``NAME.txt``.

    Results for a frame that does not exist, such as the one after the last, are not written: tracking tools refuse
    them. Where the frames are not known before, results wait until their frame, or a later one, has come. Of two
    results for one frame the later one, made of a newer frame, is written. ``NAME.txt`` has only objects that belong to
    a track.

    Args:
        folder: for them; made if it is not there.
        name: of the stream.
        numbers: of all frames; None where they are not known.

    Raises:
        RunError: the folder or a file cannot be written.
    """

    def __init__(self, folder: Path, name: str, numbers: Collection[int] | None = None) -> None:
        self._data = make_folder(folder / "data")
        self._numbers = None if numbers is None else frozenset(numbers)
        self._waiting: dict[int, FrameObjects] = {}
        self._files = [folder / "streaming.jsonl", folder / f"{name}.txt"]
        try:
            self._lines, self._rows = (file.open("w", encoding="utf-8", newline="\n") for file in self._files)
        except OSError as error:
            raise write_error(error, folder) from None

    @property
    def paths(self) -> list[str]:
        """Of everything."""
        return [str(self._files[0]), str(self._data), str(self._files[1])]

    def add(self, line: str, output: StreamOutput) -> None:
        """Write an output, which is ``line`` in JSON, and keep its objects until their frame has come."""
        if self._numbers is None or output.target_frame in self._numbers:
            self._waiting[output.target_frame] = output.detected.objects
        try:
            self._lines.write(f"{line}\n")
            self._lines.flush()
        except OSError as error:
            raise write_error(error, self._data.parent) from None
        # no later output is for the next frame or one before
        self.came(output.frame + (self._numbers is not None))

    def came(self, number: int) -> None:
        """Write the results for all frames up to this number, which has come."""
        ready = sorted(frame for frame in self._waiting if frame <= number)
        try:
            for frame in ready:
                objects = self._waiting.pop(frame)
                rows = result_lines(frame, objects)
                self._rows.write("".join(f"{row}\n" for row in rows))
                self._rows.flush()
                with (self._data / f"{frame:06d}.txt").open("w", encoding="utf-8", newline="\n") as file:
                    file.write("".join(f"{row}\n" for row in object_lines(objects)))
        except OSError as error:
            raise write_error(error, self._data.parent) from None

    def __enter__(self) -> StreamFiles:
        return self

    def __exit__(self, *error: Any) -> None:
        """Close the files."""
        self._lines.close()
        self._rows.close()
