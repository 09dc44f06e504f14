"""What a browser is told of a run, as JSON: what it is, then what it is at."""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from mla_edge.pictures import fit, pack
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.sense import BACK
from mla_edge.runtime.web.spectrogram import FLOOR_DB, LOWEST_HZ, spectrogram
from mla_edge.runtime.web.view import Moment, Row, Told, View
from mla_edge.signals import (
    GATE,
    Frame,
    InputSpec,
    Prediction,
    Sound,
    attention_of,
    find_inputs,
)

PERIOD_S = 0.1
"""So often there is something new for a browser, and no more."""

LONGEST_SIDE = 480  # of the picture, in pixels
QUALITY = 75  # of its JPEG
BEST = 5  # labels with their probabilities


@dataclass(frozen=True)
class Place:
    """How far a browser has been told."""

    row: int = 0
    fault: int = 0
    moment: Moment | None = None
    model: FusedModel | None = None  # that decided; after a reload it is another


class Events:
    """Messages about ``view``; a picture is packed once, however many look at it."""

    def __init__(self, view: View, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is packed until somebody asks."""
        self._view = view
        self._clock = clock
        self._lock = threading.Lock()
        self._moment: Moment | None = None
        self._packed = ""
        self._due_s = 0.0

    def hello(self, place: Place) -> tuple[str, Place]:
        """What runs, and on what, for who does not know; "" for who was told at ``place``.

        It makes a browser begin anew, so the place after it is the beginning.
        """
        model = self._view.model
        if place.model is model:
            return "", place
        bundle, specs = model.bundle, find_inputs(model.bundle.inputs)
        text = json.dumps(
            {
                "bundle": bundle.name,
                "profile": bundle.profile,
                "runs_on": model.runs_on,
                "labels": bundle.labels,
                "tiers": [tier.name for tier in bundle.tiers],
                "inputs": {
                    spec.name: {"sensor": sensor, "kind": spec.kind, "window_s": spec.window_s}
                    for sensor, spec in specs.items()
                },
                "gated": [spec.name for spec in bundle.inputs],
            }
        )
        return text, Place(model=model)

    def tick(self, place: Place) -> tuple[str, Place]:
        """What is new since ``place``, and the place after it."""
        view = self._view
        moment, packed = self._newest()
        rows = view.rows(place.row)
        end = rows[-1].number + 1 if rows else place.row
        faults = [told for told in view.faults if told.number >= place.fault]
        health, guard = view.health(), view.guard
        start_s = view.start_s or 0.0
        small = {
            "decisions": end,
            "rate_hz": round(view.rate_hz(), 2),
            "health": {"ok": health.ok, "reason": health.reason, "age_s": health.age_s},
            "states": {
                name: {"state": state, "why": why, "used": used}
                for name, (state, why, used) in view.states().items()
            },
            "board": "" if guard is None else guard.in_words(),
            "drops": dict(view.drops()),
            "rows": [_row(row, start_s) for row in rows],
            "faults": [_fault(told) for told in faults],
        }
        text = json.dumps(small)
        if packed and moment is not place.moment:
            text = f"{text[:-1]}, {packed[1:]}"
        return text, Place(
            end,
            faults[-1].number + 1 if faults else place.fault,
            moment,
            place.model,
        )

    def _newest(self) -> tuple[Moment | None, str]:
        """The newest decision, and what is told of it, packed at most once a period."""
        with self._lock:
            newest, now_s = self._view.newest, self._clock()
            if newest is not None and newest is not self._moment and now_s >= self._due_s:
                self._packed = json.dumps(self._pack(newest))
                self._moment = newest
                self._due_s = now_s + 0.9 * PERIOD_S  # browsers are never quite in step
            return self._moment, self._packed

    def _pack(self, moment: Moment) -> dict[str, Any]:
        prediction, bundle = moment.prediction, moment.bundle
        specs = find_inputs(bundle.inputs)
        return {
            "decision": _decision(prediction, bundle.labels, self._view.start_s or 0.0),
            "gate": _gate(prediction, bundle.inputs),
            "picture": _picture(moment.frame, specs.get("camera"), prediction),
            "sound": _sound(moment.sound, specs.get("microphone"), prediction),
        }


def _row(row: Row, start_s: float) -> list[Any]:
    return [
        round(row.time_s - start_s, 3),
        round(row.latency_ms, 2),
        round(row.age_ms, 1),
        row.tier,
    ]


def _fault(told: Told) -> dict[str, Any]:
    fault = told.fault
    return {
        "clock": told.clock,
        "modality": fault.modality,
        "what": fault.what,
        "why": fault.why,
        "masked": fault.masked,
        "good": fault.what == BACK,
    }


def _decision(prediction: Prediction, labels: Sequence[str], start_s: float) -> dict[str, Any]:
    sure = prediction.probabilities
    best: list[list[object]] = []
    if sure is not None:
        order = np.argsort(-sure, kind="stable")[:BEST]
        best = [[labels[i], round(float(sure[i]), 4)] for i in order]
    return {
        "label": prediction.label,
        "confidence": round(prediction.confidence, 4),
        "tier": prediction.tier,
        "reason": prediction.reason,
        "mode": prediction.mode,
        "truth": prediction.truth,
        "certificate": prediction.certificate,
        "reused_ms": round(prediction.reused_ms, 1),
        "repeated": list(prediction.repeated),
        "degraded": list(prediction.degraded),
        "time_s": round(prediction.decision_time_s - start_s, 3),
        "latency_ms": round(prediction.latency_ms, 2),
        "age_ms": round(prediction.age_ms, 1),
        "ages_ms": {name: round(age, 1) for name, age in prediction.ages_ms.items()},
        "skew_ms": round(prediction.skew_ms, 1),
        "best": best,
    }


def _gate(prediction: Prediction, inputs: Sequence[InputSpec]) -> dict[str, float] | None:
    weights = (prediction.shown or {}).get(GATE)
    if weights is None:
        return None
    return {spec.name: round(float(w), 4) for spec, w in zip(inputs, weights.ravel())}


def _picture(
    frame: Frame | None, spec: InputSpec | None, prediction: Prediction
) -> dict[str, Any] | None:
    image = None if frame is None else frame.image
    if (
        spec is None
        or image is None
        or image.ndim != 3
        or image.shape[2] != 3
        or not image.size
    ):
        return None
    if image.dtype != np.uint8:  # the run refuses it
        return None
    height, width = image.shape[:2]
    aspect = spec.shape[-1] / spec.shape[-2]
    return {
        "jpeg": _base64(pack(fit(image, LONGEST_SIDE), "jpeg", quality=QUALITY)),
        "size": [width, height],
        # The part that the network sees, of the whole: the largest of its shape, in the middle.
        "seen": [min(1.0, height * aspect / width), min(1.0, width / aspect / height)],
        "attention": _attention(prediction, spec),
    }


def _sound(
    sound: Sound | None, spec: InputSpec | None, prediction: Prediction
) -> dict[str, Any] | None:
    if spec is None or sound is None or not len(sound.samples):
        return None
    samples = np.asarray(sound.samples, np.float32)
    if samples.ndim != 1 or not np.isfinite(samples).all():
        return None
    bands = spectrogram(samples, sound.rate_hz)
    loudest = float(np.abs(samples).max())
    return {
        "bands": _base64(bands.tobytes()),
        "shape": list(bands.shape),
        "window_s": round(len(samples) / sound.rate_hz, 3),
        "from_hz": LOWEST_HZ,
        "to_hz": sound.rate_hz / 2,
        "peak_db": round(20 * float(np.log10(max(loudest, 10 ** (FLOOR_DB / 20)))), 1),
        "attention": _attention(prediction, spec),
    }


def _attention(prediction: Prediction, spec: InputSpec) -> dict[str, Any] | None:
    """The weights of the tokens of an input, by row; 1 where all would be equal."""
    shown: Mapping[str, np.ndarray] = prediction.shown or {}
    weights = shown.get(attention_of(spec.name))
    if weights is None or spec.name not in prediction.capture_time_s:
        return None
    rows, columns = weights.shape[-2:]
    scaled = weights.ravel() * weights.size / max(float(weights.sum()), 1e-9)
    return {"shape": [rows, columns], "values": [round(float(value), 3) for value in scaled]}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
