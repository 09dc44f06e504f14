"""The loop: newest frame and sound in, predictions out."""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import ExitStack
from typing import (
    TYPE_CHECKING,
    Callable,
    Generator,
    Iterator,
    Protocol,
    Sequence,
    runtime_checkable,
)

import numpy as np

from mla_edge.errors import ConfigError
from mla_edge.runtime.capture import (
    MEDIA_START_S,
    Camera,
    Microphone,
    Prepare,
    Prepares,
    check_pace,
)
from mla_edge.runtime.model import Clock
from mla_edge.runtime.sense import ENDED, FILLING, OK, WAITING, Fault, Sense, Source
from mla_edge.runtime.vitals import Vitals, look_at_picture
from mla_edge.signals import SENSES, Ahead, InputSpec, Prediction, Sample, find_inputs

if TYPE_CHECKING:
    from mla_edge.bundle import Bundle

STEP_S = 0.05
"""Without a camera, so much new sound is worth a decision; also the pause while all is lost."""

LEADING = (WAITING, FILLING, OK)
"""States of a modality whose news make the ticks; while it fills, it does so masked."""

PAUSE_S = 0.005
"""Before asking again a source that has news at any moment, but less of it than a step."""


class Model(Protocol):
    """What the loop needs of a model."""

    @property
    def bundle(self) -> Bundle:
        """The bundle that decides."""
        ...

    def infer(self, sample: Sample, *, clock: Clock = ...) -> Prediction:
        """What it says of ``sample``."""
        ...


@runtime_checkable
class Settles(Protocol):
    """A model that has something to do between two decisions."""

    def settle(self) -> None:
        """Do it now."""
        ...


def run(  # noqa: PLR0913 - each is a setting of the loop
    model: Model,
    camera: Camera | None,
    microphone: Microphone | None,
    *,
    rate_hz: float | None = None,
    max_age_ms: float = 500.0,
    duration_s: float | None = None,
    as_fast_as_possible: bool = False,
    mask_suspect: bool = False,
    clock: Clock = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    on_fault: Callable[[Fault], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> Generator[Prediction, None, None]:
    """Predictions on the newest frame and the last window of sound, until the sources end.

    There is one for each new frame; without a camera, for each 50 ms of new sound; with
    ``rate_hz``, for each moment of a schedule that does not drift; what is decided on again
    then, for there is nothing newer, is named in ``repeated``. A clip is made of the frames
    since the last gap; until it is whole, its input is masked.

    A modality that is lost, has ended, or whose newest signal is older than ``max_age_ms`` is
    masked, and used again when it is back; the loop does not wait for it. Each change is told
    to ``on_fault`` once. While no modality is left there are no predictions.

    For 2 s pictures that are black or repeat bit for bit, or sound that repeats, is nothing but
    zeros or is clipped: that is told to ``on_fault`` too; ``mask_suspect`` masks it as well.

    ``as_fast_as_possible`` is for files and simulators that were opened so: the time is then
    that of the newest signal, and sound is read up to the moment of the frame. A device and a
    file have no clock in common then, and are refused.

    ``stopped`` ends it from another thread, where it gives True: it is asked at every turn of
    the loop, which is each 50 ms or sooner, also while nothing comes in.

    ``clock`` and ``sleep`` are for tests. Nothing is opened or closed here. ConfigError: the
    options do not fit each other, or the sources not the model.
    """
    options = {"rate_hz": rate_hz, "max_age_ms": max_age_ms, "duration_s": duration_s}
    for name, value in options.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{name} is {value}", hint="give a number above 0")
    if rate_hz is not None and as_fast_as_possible:
        raise ConfigError(
            "rate_hz sets the pace of a live run, so it cannot be as fast as possible",
            hint="leave one of the two away",
        )
    loop = _Loop(
        max_age_s=max_age_ms / 1e3,
        duration_s=duration_s or math.inf,
        clock=clock,
        sleep=sleep,
        on_fault=on_fault or _ignore,
        mask_suspect=mask_suspect,
        stopped=stopped or _never,
    )
    if camera is not None:
        # On a schedule few frames may be used: those alone are worth the work then.
        ahead = rate_hz is None
        loop.add(_input(model, "camera"), camera, step_s=0.0, prepares_ahead=ahead)
    if microphone is not None:
        loop.add(_input(model, "microphone"), microphone, step_s=STEP_S)
    if not loop.senses:
        raise ConfigError("no camera and no microphone", hint="give at least one of them")
    if as_fast_as_possible:
        check_pace(camera, microphone)
        return _predict(model, loop.senses, loop.ticks_of_files(), loop.newest_s)
    if rate_hz is not None:
        return _predict(model, loop.senses, loop.ticks_at(rate_hz), clock)
    return _predict(model, loop.senses, loop.ticks_of_news(), clock)


def _input(model: Model, source: str) -> InputSpec:
    spec = find_inputs(model.bundle.inputs).get(source)
    if spec is None:
        raise ConfigError(
            f"{model.bundle.name} has no {' or '.join(SENSES[source])} input, so it cannot use "
            f"a {source}",
            hint=f"run it without a {source}",
        )
    return spec


def _predict(
    model: Model, senses: Sequence[Sense], ticks: Iterator[None], clock: Clock
) -> Generator[Prediction, None, None]:
    settle = model.settle if isinstance(model, Settles) else None
    with ExitStack() as stack:
        for sense in senses:
            stack.enter_context(sense.watching())
        for _ in ticks:
            signals = {sense.modality: sense.use() for sense in senses}
            usable = {name: signal for name, signal in signals.items() if signal is not None}
            if usable:
                made = model.infer(Sample(usable), clock=clock)
                repeated = tuple(sense.modality for sense in senses if sense.repeated)
                yield dataclasses.replace(made, repeated=repeated) if repeated else made
                if settle is not None:  # the decision was given: now there is time
                    settle()


class _Loop:
    """The senses, and the ways to wait for the next tick; each ends when the run is over."""

    def __init__(  # noqa: PLR0913 - what `run` was given
        self,
        *,
        max_age_s: float,
        duration_s: float,
        clock: Clock,
        sleep: Callable[[float], None],
        on_fault: Callable[[Fault], None],
        mask_suspect: bool,
        stopped: Callable[[], bool],
    ) -> None:
        self.senses: list[Sense] = []  # the camera first: it leads while it is well
        self._max_age_s = max_age_s
        self._duration_s = duration_s
        self._clock = clock
        self._sleep = sleep
        self._on_fault = on_fault
        self._mask_suspect = mask_suspect
        self._stopped = stopped
        self._start_s = clock()

    def add(
        self, spec: InputSpec, source: Source, *, step_s: float, prepares_ahead: bool = False
    ) -> None:
        """Watch ``spec`` through ``source``; its own thread prepares pictures, if asked to."""
        history = prepare = None
        if spec.kind == "clip":
            from mla_edge.history import History  # needs OpenCV, as nothing else here

            history = History(spec)
        elif prepares_ahead and spec.kind == "image" and isinstance(source, Prepares):
            prepare = _preparation(spec)
        # One picture that is repeated is what the user asked for.
        is_still = getattr(source, "still", False)
        self.senses.append(
            Sense(
                spec.name,
                source,
                step_s=step_s,
                start_s=self._start_s,
                on_fault=self._on_fault,
                history=history,
                vitals=None if is_still else Vitals(masks=self._mask_suspect),
                prepare=prepare,
            )
        )

    def newest_s(self) -> float:
        """The time of files: that of the newest signal."""
        times = [sense.newest.time_s for sense in self.senses if sense.newest is not None]
        return max(times, default=MEDIA_START_S)

    def ticks_of_news(self) -> Iterator[None]:
        """A tick whenever the leading modality has news."""
        end_s = self._start_s + self._duration_s
        while True:
            left_s = end_s - self._clock()
            if left_s <= 0 or self._ended():
                return
            leader = self._leader()
            if leader is None:
                self._sleep(min(STEP_S, left_s))
            else:
                leader.poll(min(STEP_S, left_s))
            for sense in self.senses:
                if sense is not leader:
                    sense.poll(0.0)
            self._judge(self._clock())
            leader = self._leader()
            if leader is not None and leader.due:
                yield
            elif leader is not None:
                self._sleep(PAUSE_S)

    def ticks_at(self, rate_hz: float) -> Iterator[None]:
        """A tick at each moment of the schedule; one that was missed is left out."""
        end_s = self._start_s + self._duration_s
        number = 0
        while True:
            due_s = self._start_s + number / rate_hz
            while (wait_s := min(due_s, end_s) - self._clock()) > 0 and not self._stopped():
                self._sleep(min(STEP_S, wait_s))
            if due_s >= end_s or self._ended():
                return
            for sense in self.senses:
                sense.poll(0.0)
            self._judge(self._clock())
            yield
            passed = math.ceil((self._clock() - self._start_s) * rate_hz)
            number = max(number + 1, passed)

    def ticks_of_files(self) -> Iterator[None]:
        """A tick for each signal of the leading modality, the others read up to its moment."""
        first_s = None
        while not self._ended():
            leader = self._leader()
            if leader is None:
                self._sleep(STEP_S)
                for sense in self.senses:
                    sense.poll(0.0)
            elif not leader.poll(self._max_age_s):
                leader.give_up()
            for sense in self.senses:
                if sense is not leader:
                    self._catch_up(sense, self.newest_s())
            now_s = self.newest_s()
            first_s = now_s if first_s is None else first_s
            if now_s - first_s >= self._duration_s:
                return
            self._judge(now_s)
            leader = self._leader()
            if leader is not None and leader.due:
                yield

    def _catch_up(self, sense: Sense, moment_s: float) -> None:
        while sense.newest is None or sense.newest.time_s < moment_s:
            if not sense.poll(self._max_age_s):
                sense.give_up()
                return

    def _leader(self) -> Sense | None:
        return next((sense for sense in self.senses if sense.state in LEADING), None)

    def _ended(self) -> bool:
        return self._stopped() or all(sense.state == ENDED for sense in self.senses)

    def _judge(self, now_s: float) -> None:
        for sense in self.senses:
            sense.judge(now_s, self._max_age_s)


def _preparation(spec: InputSpec) -> Prepare:
    """What the camera's thread makes of a picture, so that the loop only has to decide."""
    from mla_edge.preprocess import PictureShrinker  # needs OpenCV

    shrink = PictureShrinker(spec)

    def prepare(picture: np.ndarray) -> Ahead:
        picture.flags.writeable = False  # else what is made of it could be of another one
        planes = np.empty(spec.shape[1:], np.uint8)
        shrink(picture, planes)
        return Ahead(picture, planes, *look_at_picture(picture))

    return prepare


def _never() -> bool:
    return False


def _ignore(fault: Fault) -> None:
    """Nobody wants to know."""
