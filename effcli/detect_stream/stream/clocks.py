"""Always the newest frame, on the real clock or a virtual one (docs/methods/streamdsgn.md, Streaming runner)."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from effcli.core.memory import keep_freed_memory
from effcli.core.runtime import use_one_thread
from effcli.detect_stream.sources.frame_source import Arrival, FrameSource
from effcli.detect_stream.stream.horizon_choice import HorizonChoice
from effcli.detect_stream.stream.output import StreamOutput
from effcli.detect_stream.stream.stream_detector import DetectedFrame, PreparedFrame, StreamDetector

WARM_UPS = 5
_POLL_S = 0.2


@dataclass
class StreamRecord:
    """All that came of a run.

    Attributes:
        outputs: in order; of a stream without an end only the last ones.
        processed: how many there were.
        frames: how many came.
        moments: number of each frame that came, and when, seconds after the first; as many as outputs may be kept.
        damaged: number and reason of those that could not be read.
        mailbox_drops: frames that were overtaken by newer ones.
        was_stopped: whether it ended before the source did.
    """

    outputs: deque[StreamOutput] = field(default_factory=deque)
    processed: int = 0
    frames: int = 0
    moments: deque[tuple[int, float]] = field(default_factory=deque)
    damaged: list[tuple[int, str]] = field(default_factory=list)
    mailbox_drops: int = 0
    was_stopped: bool = False

    def add(self, output: StreamOutput) -> None:
        """One more; its images are not kept."""
        self.outputs.append(output.without_images())
        self.processed += 1

    def came(self, number: int, captured_s: float) -> int:
        """One more frame; its place among all, from 0."""
        self.moments.append((number, captured_s))
        self.frames += 1
        return self.frames - 1


@dataclass(frozen=True)
class _Letter:
    prepared: PreparedFrame
    place: int
    captured_s: float
    interval_s: float
    read_ms: float


class Mailbox:
    """One slot: what is new overwrites what was not fetched, and is counted."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._letter: _Letter | None = None
        self._error: BaseException | None = None
        self._is_closed = False
        self.overwritten = 0

    def put(self, letter: _Letter) -> None:
        """Leave the newest frame."""
        with self._changed:
            self.overwritten += self._letter is not None
            self._letter = letter
            self._changed.notify_all()

    def close(self, error: BaseException | None = None) -> None:
        """Nothing more comes, or the reader failed."""
        with self._changed:
            self._is_closed, self._error = True, error
            self._changed.notify_all()

    def take(self) -> _Letter | None:
        """Wait for the newest frame; None at the end.

        Raises:
            BaseException: what the reader failed with.
        """
        with self._changed:
            while self._letter is None and not self._is_closed:
                self._changed.wait(_POLL_S)  # so that signals are seen
            if self._error is not None:
                raise self._error
            letter, self._letter = self._letter, None
            return letter


def run_wall(
    source: FrameSource,
    detector: StreamDetector,
    arrivals: Iterator[Arrival],
    publish: Callable[[StreamOutput], None],
    most_kept: int | None = None,
    aim: Callable[[StreamOutput], StreamOutput] = lambda output: output,
) -> StreamRecord:
    """On the real clock: a thread reads and prepares, this one detects.

    Args:
        source: the stream.
        detector: shown its frames.
        arrivals: all of them in order.
        publish: called with each output as soon as it is there.
        most_kept: so many outputs are in what is returned, the last ones; None keeps all.
        aim: what is published of each output.
    """
    stream, mailbox, stop = (
        StreamRecord(deque(maxlen=most_kept), moments=deque(maxlen=most_kept)),
        Mailbox(),
        threading.Event(),
    )
    started = time.perf_counter()
    reader = _Reader(source, detector, arrivals, stream, mailbox, stop, started)
    threading.Thread(target=reader.run, daemon=True, name="reader").start()
    last, choice = -1, HorizonChoice(detector.horizons)
    try:
        while (letter := mailbox.take()) is not None:
            begun = time.perf_counter() - started
            ahead = choice.frames(begun - letter.captured_s, letter.interval_s)
            detected = detector.detect(letter.prepared, ahead)
            finished = time.perf_counter() - started
            choice.took(finished - begun)
            output = aim(_output(letter, begun, finished, last, detected))
            last = letter.place
            stream.add(output)
            publish(output)
    except KeyboardInterrupt:
        stream.was_stopped = True
    finally:
        stop.set()
        stream.mailbox_drops = mailbox.overwritten
    return stream


@dataclass(frozen=True)
class _Reader:
    """What the reading thread does: read and prepare each frame, and hand it out when its time has come."""

    source: FrameSource
    detector: StreamDetector
    arrivals: Iterator[Arrival]
    stream: StreamRecord
    mailbox: Mailbox
    stop: threading.Event
    started: float

    def run(self) -> None:
        """Until the end; a failure is left in the mailbox, as the other thread must not wait for ever."""
        try:
            use_one_thread()
            began = time.perf_counter()
            for arrival in self.arrivals:
                if self.stop.is_set():
                    return
                self._hand_out(arrival, began)
                began = time.perf_counter()
            self.mailbox.close()
        except BaseException as error:
            self.mailbox.close(error)

    def _hand_out(self, arrival: Arrival, began: float) -> None:
        captured_s = arrival.due_s(self.source.fps)
        if arrival.frame is None:
            now_s = time.perf_counter() - self.started
            self.stream.came(arrival.number, now_s if self.source.is_live else captured_s)
            self.stream.damaged.append((arrival.number, arrival.damage or ""))
            return
        prepared = self.detector.prepare(arrival)
        read_ms = 1000 * (time.perf_counter() - began)
        now_s = time.perf_counter() - self.started
        if self.source.is_live:
            captured_s = now_s
        self.stop.wait(max(0.0, captured_s - now_s))
        place = self.stream.came(arrival.number, captured_s)
        interval_s = prepared.interval_s or 1 / self.source.fps
        self.mailbox.put(_Letter(prepared, place, captured_s, interval_s, read_ms))


def run_simulated(
    source: FrameSource,
    detector: StreamDetector,
    arrivals: Iterator[Arrival],
    latencies_s: Sequence[float] | None,
    publish: Callable[[StreamOutput], None],
    aim: Callable[[StreamOutput], StreamOutput] = lambda output: output,
) -> StreamRecord:
    """On a virtual clock, faster or slower than the real one; with given latencies the same every time.

    Args:
        source: the stream.
        detector: shown its frames.
        arrivals: all of them in order.
        latencies_s: of the outputs in turn; None takes what each really took.
        publish: called with each output.
        aim: what is published of each output.
    """
    stream = StreamRecord()
    waiting = _Waiting(arrivals, source.fps, stream)
    free, last, choice = 0.0, -1, HorizonChoice(detector.horizons)
    while (newest := waiting.newest(free)) is not None:
        place, chosen = newest
        began = time.perf_counter()
        prepared = detector.prepare(chosen)
        ready = time.perf_counter()
        interval_s = prepared.interval_s or 1 / source.fps
        letter = _Letter(prepared, place, chosen.due_s(source.fps), interval_s, 1000 * (ready - began))
        begun = max(free, letter.captured_s)
        detected = detector.detect(prepared, choice.frames(begun - letter.captured_s, interval_s))
        real_s = time.perf_counter() - ready
        latency_s = real_s if latencies_s is None else latencies_s[stream.processed % len(latencies_s)]
        choice.took(latency_s)
        output = aim(_output(letter, begun, begun + latency_s, last, detected))
        stream.add(output)
        publish(output)
        free, last = output.finished_s, place
    return stream


class _Waiting:
    """Frames that were captured up to a moment of a virtual clock; of those the newest is taken."""

    def __init__(self, arrivals: Iterator[Arrival], fps: float, stream: StreamRecord) -> None:
        self._arrivals, self._fps, self._stream = arrivals, fps, stream
        self._next = self._advance()

    def newest(self, moment_s: float) -> tuple[int, Arrival] | None:
        """Place and content of the newest frame captured by a moment, or the next one; None at the end."""
        found = self._next
        if found is None:
            return None
        self._next = self._advance()
        while self._next is not None and self._next[1].due_s(self._fps) <= moment_s + 1e-9:
            self._stream.mailbox_drops += 1
            found, self._next = self._next, self._advance()
        return found

    def _advance(self) -> tuple[int, Arrival] | None:
        for arrival in self._arrivals:
            place = self._stream.came(arrival.number, arrival.due_s(self._fps))
            if arrival.frame is not None:
                return place, arrival
            self._stream.damaged.append((arrival.number, arrival.damage or ""))
        return None


def warm_up(detector: StreamDetector, arrival: Arrival) -> None:
    """Let caches fill and code be made before the clock starts; from here on the process keeps its memory."""
    keep_freed_memory()
    prepared = detector.prepare(replace(arrival, number=0, pose=None, time_s=None))
    numbers = count()
    detector.tuner.warm_up(lambda: detector.detect(replace(prepared, number=next(numbers))), WARM_UPS)
    detector.reset()
    detector.scene_changes = 0


def _output(
    letter: _Letter,
    begun: float,
    finished: float,
    last: int,
    detected: DetectedFrame,
) -> StreamOutput:
    return StreamOutput(
        letter.prepared.number,
        letter.prepared.number + detected.ahead,
        letter.captured_s,
        begun,
        finished,
        letter.place - last - 1,
        detected,
        letter.read_ms,
        letter.captured_s + detected.ahead * letter.interval_s,
        detected.objects,
    )
