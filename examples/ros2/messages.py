"""Decisions and faults as ROS 2 messages. Needs no ROS: the classes are given by the caller."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mla_edge

LEAST = 0.01  # of probability; vision_msgs lists what is above some threshold
_BAD = {"lost", "ended"}


def stamp(message: Any, moment_s: float, now_s: float, ros_now_ns: int) -> None:
    """Set a header's time: ``moment_s`` on the monotonic clock, which shows ``now_s`` now."""
    ns = ros_now_ns - round((now_s - moment_s) * 1e9)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(ns, 10**9)


def classification(prediction: mla_edge.Prediction, labels: tuple[str, ...], types: Any) -> Any:
    """``vision_msgs/Classification``: the labels, the likeliest first, without its header.

    ``types`` has the message classes by name.
    """
    message = types.Classification()
    assert prediction.probabilities is not None
    likeliest = sorted(zip(prediction.probabilities.tolist(), labels), reverse=True)
    for probability, label in likeliest:
        if probability >= LEAST or label == prediction.label:
            result = types.ObjectHypothesis()
            result.class_id, result.score = label, probability
            message.results.append(result)
    return message


def diagnostics(
    prediction: mla_edge.Prediction | None,
    faults: Mapping[str, mla_edge.Fault],
    types: Any,
    *,
    name: str,
) -> Any:
    """``diagnostic_msgs/DiagnosticArray``: how the last decision was made, and what is lost.

    ``faults`` holds the last one of each modality.
    """
    level = types.DiagnosticStatus
    status = types.DiagnosticStatus()
    status.name, status.hardware_id = f"mla-edge: {name}", name
    bad = [fault for fault in faults.values() if fault.what != "back"]
    status.level, status.message = level.OK, "deciding"
    if prediction is None:
        status.level, status.message = level.STALE, "no decision yet"
    if bad:
        lost = any(fault.what in _BAD for fault in bad)
        status.level = level.ERROR if lost else level.WARN
        status.message = "; ".join(map(_in_words, bad))
    for key, value in _figures(prediction):
        pair = types.KeyValue()
        pair.key, pair.value = key, value
        status.values.append(pair)
    message = types.DiagnosticArray()
    message.status.append(status)
    return message


def _in_words(fault: mla_edge.Fault) -> str:
    used = "" if fault.masked else ", but used"
    return f"{fault.modality} {fault.what}{used} {fault.why}".strip()


def _figures(prediction: mla_edge.Prediction | None) -> list[tuple[str, str]]:
    if prediction is None:
        return []
    figures = {
        "label": prediction.label,
        "confidence": f"{prediction.confidence:.3f}",
        "modalities": prediction.mode,
        "tier": prediction.tier,
        "reason": prediction.reason,
        "latency_ms": f"{prediction.latency_ms:.1f}",
        "age_ms": f"{prediction.age_ms:.1f}",
    }
    skew_ms = prediction.skew_ms
    if skew_ms is not None and math.isfinite(skew_ms):
        figures["skew_ms"] = f"{skew_ms:.1f}"
    return list(figures.items())
