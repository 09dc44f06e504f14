"""The files of a data folder for ``digits``, checked array by array.

A data folder holds ``mnist.npz`` (``train_images`` [n, 28, 28] uint8, ``train_labels``,
``test_images``, ``test_labels``), ``spoken_digits.npz`` (``samples`` int16 end to end,
``offsets`` [n + 1], ``labels``, ``speakers``, ``takes``, ``rate_hz`` 8000) and ``noise.npz``
(``samples`` [n, length] int16 at 16 kHz, ``classes``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Mapping

import numpy as np

from mla_edge._arrays import read_arrays
from mla_edge.errors import ConfigError

RATE_HZ = 8000
FILES = ("mnist.npz", "spoken_digits.npz", "noise.npz")

Arrays = Mapping[str, np.ndarray]
_Fits = Callable[[np.ndarray, Arrays], bool]
"""Whether an array is of its form, given those before it in the file."""


def read_file(path: Path) -> Arrays:
    """The arrays of one of ``FILES``; ConfigError names the one that is missing or wrong."""
    if not path.exists():
        raise ConfigError(
            f"{path}: no such file", hint=f"the data folder holds {', '.join(FILES)}"
        )
    arrays = read_arrays(path, ConfigError, "copy it again")
    for name, (form, fits) in _FORMS[path.name].items():
        if name not in arrays:
            raise ConfigError(
                f"{path}: no array {name!r}, {form}",
                hint=f"it has {', '.join(sorted(arrays)) or 'none'}",
            )
        if not fits(arrays[name], arrays):
            found = arrays[name]
            shown = found if found.shape == () else f"{found.dtype} {list(found.shape)}"
            raise ConfigError(
                f"{path}: {name!r} is {shown}, not {form}", hint="make the file again so"
            )
    return arrays


def _pictures(values: np.ndarray, _: Arrays) -> bool:
    return values.dtype == np.uint8 and values.ndim == 3 and values.shape[1:] == (28, 28)


def _offsets(values: np.ndarray, arrays: Arrays) -> bool:
    if values.dtype.kind not in "iu" or values.ndim != 1 or len(values) < 2:
        return False
    inside = values[0] >= 0 and values[-1] <= len(arrays["samples"])
    return bool(inside and (values[1:] > values[:-1]).all())


def _one_each(kinds: str, of: str, more: int = 0) -> _Fits:
    """One value of a dtype of ``kinds`` for each entry of ``of``, but for ``more`` of them."""

    def fits(values: np.ndarray, arrays: Arrays) -> bool:
        return values.dtype.kind in kinds and values.shape == (len(arrays[of]) - more,)

    return fits


def _digits(of: str, more: int = 0) -> _Fits:
    """A digit for each entry of ``of``."""
    one_each = _one_each("iu", of, more)

    def fits(values: np.ndarray, arrays: Arrays) -> bool:
        return one_each(values, arrays) and bool(np.isin(values, range(10)).all())

    return fits


def _sounds(ndim: int) -> _Fits:
    def fits(values: np.ndarray, _: Arrays) -> bool:
        return values.dtype == np.int16 and values.ndim == ndim and values.size > 0

    return fits


def _rate(values: np.ndarray, _: Arrays) -> bool:
    return bool(values.shape == () and values == RATE_HZ)


_FORMS: Mapping[str, Mapping[str, tuple[str, _Fits]]] = {
    "mnist.npz": {
        "train_images": ("uint8 [n, 28, 28]", _pictures),
        "train_labels": ("a digit for each picture", _digits("train_images")),
        "test_images": ("uint8 [n, 28, 28]", _pictures),
        "test_labels": ("a digit for each picture", _digits("test_images")),
    },
    "spoken_digits.npz": {
        "samples": ("int16 [n], end to end", _sounds(1)),
        "offsets": ("where each recording begins and the last one ends", _offsets),
        "labels": ("a digit for each recording", _digits("offsets", 1)),
        "speakers": ("a name for each recording", _one_each("U", "offsets", 1)),
        "takes": ("a number for each recording", _one_each("iu", "offsets", 1)),
        "rate_hz": (f"{RATE_HZ} (resample the recordings)", _rate),
    },
    "noise.npz": {"samples": ("int16 [n, length]", _sounds(2))},
}
