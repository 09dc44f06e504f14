"""Samples as a network's own function gives them, checked before anything relies on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

import numpy as np

from mla_edge.errors import ConfigError, MlaEdgeError
from mla_edge.signals import Clip, Frame, Reading, Sample, Sound, values_of

if TYPE_CHECKING:
    from mla_edge.networks.network import Network


def draw_samples(network: Network, split: str, count: int, seed: int) -> list[Sample]:
    """``count`` samples of ``split`` from the network's function.

    ConfigError names the function where it raises, or gives another number of samples or
    something else than samples. An error in a function of ours is a bug, and shows as one.
    """
    from mla_edge.networks.network import is_ours, place_of

    function = getattr(network.samples, "__qualname__", type(network.samples).__name__)
    call = f"{network.name}: {function}({split!r}, {count}, {seed})"
    try:
        samples = list(network.samples(split, count, seed))
    except MlaEdgeError:
        raise
    except Exception as error:
        if is_ours(network.samples):
            raise
        raise ConfigError(
            f"{call} raises {type(error).__name__}: {error}{place_of(error)}",
            hint="the network's samples(split, count, seed) must give samples of the splits "
            "train (for --data), calibrate, tune and test; call it in Python to see",
        ) from error
    for number, sample in enumerate(samples):
        fault = _fault(sample)
        if fault:
            raise ConfigError(
                f"{call}: sample {number} {fault}",
                hint="give mla_edge.signals.Sample of Frame, Clip, Sound and Reading by input",
            )
    if len(samples) != count:
        raise ConfigError(
            f"{call} gave {len(samples)} samples of the {count} that were asked for",
            hint=f"let it give {count}, or ask for fewer in a calibration set (--calibration)",
        )
    return samples


def _fault(sample: Any) -> str:
    """What is wrong with the form of ``sample``; empty where nothing is."""
    if not isinstance(sample, Sample) or not isinstance(sample.signals, Mapping):
        return f"is a {type(sample).__name__}, not a Sample with its signals by name"
    for name, signal in sample.signals.items():
        if not isinstance(signal, (Frame, Clip, Sound, Reading)):
            return f"has a {type(signal).__name__} as {name!r}"
        if isinstance(signal, (Clip, Sound)) and not _is_rate(signal):
            return f"has {name!r} at a rate of {signal.rate_hz!r}"
        values = values_of(signal)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "buif":
            what = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
            return f"has {what} in {name!r}, not an array of numbers"
        if not isinstance(signal.truth, (str, type(None))):
            return f"has the truth {signal.truth!r} in {name!r}, not a label"
    return ""


def _is_rate(signal: Clip | Sound) -> bool:
    """Whether the rate of ``signal`` is one; sound has a whole number of samples a second."""
    rate_hz: Any = signal.rate_hz
    if isinstance(signal, Sound):
        return isinstance(rate_hz, (int, np.integer)) and bool(rate_hz >= 1)
    return isinstance(rate_hz, (int, float, np.number)) and bool(0 < rate_hz < np.inf)
