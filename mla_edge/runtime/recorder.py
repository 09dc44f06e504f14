"""Records what a run sees and decides, on a thread that the run does not wait for."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Callable

import numpy as np

from mla_edge import health
from mla_edge.errors import RecordingStopped
from mla_edge.pictures import pack
from mla_edge.recording_format import BUT_USED, Session, decision_to_json
from mla_edge.runtime.bench import memory_mb
from mla_edge.runtime.recording_parts import MB, RecordingParts, Room
from mla_edge.runtime.sense import BACK, ENDED, Fault, Source
from mla_edge.runtime.sound_stream import SoundStream
from mla_edge.runtime.tap import tap
from mla_edge.signals import Frame, Prediction, Signal, Sound

QUEUE_BYTES = 128 * MB
"""What may wait for the disk; what comes when so much does is left out, and counted."""

SPARE_BYTES = 1 * MB
"""Beyond that, for decisions, faults and sound: they are small, and say what is missing."""

FLUSH_S = 1.0
"""A power cut takes no more than so much."""

_SMALL = 1000  # bytes of a decision or fault, roughly

Job = Callable[[], None]


class Recorder:
    """Give a run ``watch(camera)`` and ``watch(microphone)``, and tell each decision and fault.

    When a file cannot be written any more, ``stopped`` says why, and the run goes on.
    """

    def __init__(
        self,
        path: Path,
        session: Session,
        *,
        room: Room | None = None,
        overwrite: bool = False,
        waits: bool = False,
    ) -> None:
        """Begin the file at ``path``; of several, the first.

        ``waits`` is for runs that are as fast as possible: they wait until there is room to
        note more, instead of leaving things out. ConfigError: ``path`` is there already, its
        folder is not, or ``room`` makes no sense.
        """
        self.stopped = ""
        self.failure: RecordingStopped | None = None
        self.counts: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self._session = session
        self._parts = RecordingParts(path, session, room or Room(), overwrite=overwrite)
        self._waits = waits
        self._sources: dict[str, Source] = {}
        self._seen_s: dict[str, float] = {}
        self._bug: BaseException | None = None
        self._news = threading.Condition()
        self._jobs: deque[tuple[str, int, Job]] = deque()
        self._bytes = 0
        self._closing = False
        self._running = True
        # What the thread alone uses.
        self._offset_ns: int | None = None  # of wall time, from the run's clock
        self._last_ns = 0
        self._carried = _carried_s(session)
        self._frames: deque[tuple[float, Job]] = deque()
        self._sound: Sound | None = None
        self._stream = SoundStream()
        self._busy: tuple[float, float | None] = (time.monotonic(), health.busy_s())
        self._thread = threading.Thread(
            target=self._work, name="mla-edge recorder", daemon=True
        )
        self._thread.start()

    def watch(self, source: Any) -> Any:
        """``source``, a camera or microphone, with all that it gives being recorded.

        What it gives must not be written into afterwards: it is kept until the disk has it.
        """
        return tap(source, self.see, every_frame=True)

    def see(self, signal: Signal, source: Source | None = None) -> None:
        """Note what ``source`` gave, unless it is no news; its drops are noted as well."""
        name = "camera" if isinstance(signal, Frame) else "microphone"
        if source is not None:
            self._sources[name] = source
        if signal.time_s <= self._seen_s.get(name, float("-inf")):
            return
        self._seen_s[name] = signal.time_s
        if isinstance(signal, Frame):
            kept = replace(signal, ahead=None)
            self._put("frames", kept.image.nbytes, partial(self._write_frame, kept))
        elif isinstance(signal, Sound):
            heard = signal.heard or signal
            self._put("sounds", heard.samples.nbytes, partial(self._write_sound, signal))

    def add(self, prediction: Prediction) -> None:
        """Note a decision."""
        self._put("decisions", _SMALL, partial(self._write_decision, prediction))

    def add_fault(self, fault: Fault) -> None:
        """Note a fault."""
        self._put("faults", _SMALL, partial(self._write_fault, fault))

    def close(self) -> None:
        """Write what waits, and close the file; safe to call twice."""
        with self._news:
            self._closing = True
            self._news.notify_all()
        self._thread.join()
        if self._bug is not None:
            raise self._bug

    def to_dict(self) -> dict[str, Any]:
        """What came of it, as JSON takes it."""
        return {
            "files": [str(path) for path in self._parts.paths],
            "mb": round(self._parts.size / MB, 3),
            "removed": self._parts.removed,
            "recorded": dict(self.counts),
            "left_out": dict(self.left_out),
            "stopped": self.stopped or None,
        }

    def __enter__(self) -> Recorder:
        """Use it in a ``with``."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _put(self, kind: str, size: int, job: Job) -> None:
        limit = QUEUE_BYTES + (0 if kind == "frames" else SPARE_BYTES)

        def fits() -> bool:
            return not (self._running and self._jobs) or self._bytes + size <= limit

        with self._news:
            if self._waits:
                self._news.wait_for(fits)
            if not self._running:
                return
            if not fits():
                self.left_out[kind] += 1
                return
            self._jobs.append((kind, size, job))
            self._bytes += size
            self._news.notify_all()

    # From here on all runs on the recorder's own thread.

    def _work(self) -> None:
        try:
            flushed_s = time.monotonic()
            while not self.stopped:
                taken = self._take(flushed_s + FLUSH_S - time.monotonic())
                if taken is not None:
                    kind, job = taken
                    job()
                    self.counts[kind] += not self.stopped
                elif self._closing:
                    break
                if time.monotonic() - flushed_s >= FLUSH_S:
                    self._write_health()
                    self._parts.writer.flush()
                    flushed_s = time.monotonic()
            self._parts.writer.close()
        except OSError as error:
            self._parts.writer.abandon()
            self.stopped = f"{self._parts.writer.path}: {error.strerror or error}"
            self.failure = RecordingStopped(
                f"recording stopped: {self.stopped}",
                hint="free some space, or limit it: --max-mb; what was recorded until then "
                "can be replayed",
            )
        except BaseException as error:  # told by close(), on the caller's thread
            self._parts.writer.abandon()
            self._bug, self.stopped = error, repr(error)
        finally:
            with self._news:
                self._running = False
                self._jobs.clear()
                self._news.notify_all()

    def _take(self, timeout_s: float) -> tuple[str, Job] | None:
        with self._news:
            self._news.wait_for(lambda: self._jobs or self._closing, max(timeout_s, 0))
            if not self._jobs:
                return None
            kind, size, job = self._jobs.popleft()
            self._bytes -= size
            self._news.notify_all()
            return kind, job

    def _write_frame(self, frame: Frame) -> None:
        image = frame.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            return  # the run refuses it
        form = "png" if self._session.lossless else "jpeg"
        data = pack(image, form)
        time_ns = self._wall_ns(frame.time_s)
        values = {"source": "camera", "time_s": frame.time_s, "truth": frame.truth}

        def write() -> None:
            self._parts.writer.write_picture(time_ns, data, form)
            self._parts.writer.write_signal(time_ns, values)

        if self._make_room(len(data) + 2 * _SMALL):
            write()
            self._frames.append((frame.time_s, write))
            while self._frames[0][0] < frame.time_s - self._carried:
                self._frames.popleft()

    def _write_sound(self, sound: Sound) -> None:
        heard = sound.heard or sound
        window = np.asarray(heard.samples, np.float32)
        if not np.isfinite(window).all():  # the run does not use it either
            return
        if self._make_room(6 * len(window) + 3 * _SMALL):
            self._sound = sound
            self._write_stream(sound, heard, window)

    def _write_stream(self, sound: Sound, heard: Sound, window: np.ndarray) -> None:
        fresh = self._stream.add(window, heard.rate_hz, sound.time_s)
        first_s = sound.time_s - max(len(fresh) - 1, 0) / heard.rate_hz
        time_ns = self._wall_ns(first_s)
        if len(fresh):
            self._parts.writer.write_sound(time_ns, fresh, heard.rate_hz)
        values = {
            "source": "microphone",
            "time_s": sound.time_s,
            "truth": sound.truth,
            "rate_hz": heard.rate_hz,
            "window": len(window),
            "end": self._stream.length,
            "given_hz": sound.rate_hz,
            "given": len(sound.samples),
        }
        self._parts.writer.write_signal(self._wall_ns(sound.time_s), values)

    def _write_decision(self, prediction: Prediction) -> None:
        if self._make_room(_SMALL):
            time_ns = self._wall_ns(prediction.decision_time_s)
            self._parts.writer.write_decision(time_ns, decision_to_json(prediction))

    def _write_fault(self, fault: Fault) -> None:
        if self._make_room(_SMALL):
            self._parts.writer.write_fault(
                self._wall_ns(fault.time_s),
                fault.modality,
                f"{fault.what}{'' if fault.masked else BUT_USED}: {fault.why}",
                is_bad=fault.what not in (BACK, ENDED),
            )

    def _write_health(self) -> None:
        if not self._make_room(_SMALL):
            return
        (before_s, before), now_s, busy = self._busy, time.monotonic(), health.busy_s()
        self._busy = now_s, busy
        cores = None if busy is None or before is None else (busy - before) / (now_s - before_s)
        values = {
            "temperatures_c": health.temperatures_c(),
            "power_w": health.power_w(),
            "cores_busy": None if cores is None else round(cores, 3),
            "memory_mb": memory_mb(),
            "drops": {kind: source.drops for kind, source in self._sources.items()},
            "left_out": dict(self.left_out),
        }
        self._parts.writer.write_health(self._last_ns or time.time_ns(), values)

    def _make_room(self, count: int) -> bool:
        """Begin a new file where it is time for one; False, and the end, without room."""
        is_new = self._parts.make_room(count)
        if is_new is None:
            self.stopped = f"{self._parts.path} has reached its --max-mb"
        elif is_new:  # a decision may use what came before: it must be in this file as well
            self._stream = SoundStream()
            for _, write in self._frames:
                write()
            if self._sound is not None:
                heard = self._sound.heard or self._sound
                self._write_stream(self._sound, heard, np.asarray(heard.samples, np.float32))
        return is_new is not None

    def _wall_ns(self, time_s: float) -> int:
        time_ns = round(time_s * 1e9)
        if self._offset_ns is None:
            self._offset_ns = time.time_ns() - time_ns
        self._last_ns = max(self._last_ns, time_ns + self._offset_ns)
        return time_ns + self._offset_ns


def _carried_s(session: Session) -> float:
    """How much a decision may look back on frames: as much as a clip is made of."""
    clips = [spec for spec in session.inputs if spec.kind == "clip" and spec.rate_hz]
    return max((spec.window_s + 4 / (spec.rate_hz or 1) for spec in clips), default=0.0)
