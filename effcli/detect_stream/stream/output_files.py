"""What is written of a stream while it runs, so that one without an end leaves all that came before it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effcli.core.files import make_folder, write_error
from effcli.detect_stream.data.kitti_labels import object_lines, tracking_lines
from effcli.detect_stream.stream.output import StreamOutput


class StreamFiles:
    """``streaming.jsonl``, and results in KITTI's form: ``data/FRAME.txt``, and all together in ``NAME.txt``.

    Args:
        folder: for them; made if it is not there.
        name: of the stream.

    Raises:
        RunError: the folder or a file cannot be written.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._data = make_folder(folder / "data")
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
        """Write an output, which is ``line`` in JSON."""
        objects = output.detected.objects
        rows = tracking_lines(output.target_frame, objects, with_scores=True)
        try:
            self._lines.write(f"{line}\n")
            self._rows.write("".join(f"{row}\n" for row in rows))
            for file in (self._lines, self._rows):
                file.flush()
            with (self._data / f"{output.target_frame:06d}.txt").open(
                "w", encoding="utf-8", newline="\n"
            ) as file:
                file.write("".join(f"{row}\n" for row in object_lines(objects)))
        except OSError as error:
            raise write_error(error, self._data.parent) from None

    def __enter__(self) -> StreamFiles:
        return self

    def __exit__(self, *error: Any) -> None:
        """Close the files."""
        self._lines.close()
        self._rows.close()
