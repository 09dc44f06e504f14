"""TensorRT's INT8 calibration cache as text: the scale of each tensor of a graph without Q/DQ.

Not to be mixed up with ``calibration_cache``, which writes our own ranges as JSON. The first
line names TensorRT's version and its calibrator; then a line a tensor, ``name: hex``, the hex
being the scale (the amplitude of the tensor / 127) as a big-endian float32. TensorRT may
refuse a cache that names another version than its own: read it, and write it for that one.
The format is as in https://github.com/NVIDIA/Deep-Learning-Accelerator-SW (qdq-translator).
"""

from __future__ import annotations

import math
import re
import struct
from typing import Mapping

from mla_edge.errors import BundleError, ConfigError

CALIBRATOR = "EntropyCalibration2"

_HEADER = re.compile(rf"TRT-(\d+)-{CALIBRATOR}")
_HEX = re.compile(r"[0-9a-f]{1,8}")  # TensorRT leaves leading zeros out


def write_cache(scales: Mapping[str, float], version: str) -> str:
    """The text of the cache for TensorRT ``version`` (``8.5.2``); equal scales, equal text.

    ConfigError for a version that is not three numbers, for a name that does not fit on a line,
    and for a scale that is not a finite float32 above 0.
    """
    lines = [f"TRT-{_to_number(version)}-{CALIBRATOR}"]
    for name, scale in sorted(scales.items()):
        if not name or name != name.strip() or len(name.splitlines()) != 1:
            raise ConfigError(
                f"calibration cache: tensor {name!r} does not fit on a line",
                hint="rename it: no line breaks, and no spaces at its ends",
            )
        lines.append(f"{name}: {_packed(name, scale).hex()}")
    return "\n".join(lines) + "\n"


def read_cache(text: str) -> tuple[str, dict[str, float]]:
    """The version and the scales that `write_cache` was given, or TensorRT wrote.

    BundleError names the first line that is damaged.
    """
    lines = text.splitlines()
    header = _HEADER.fullmatch(lines[0]) if lines else None
    if header is None:
        raise _damaged(1, f"expected TRT-<version>-{CALIBRATOR}, found {lines[:1]}")
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        name, colon, value = line.rpartition(": ")  # a name may have colons of its own
        if not (name and colon and _HEX.fullmatch(value)):
            raise _damaged(number, f"expected 'name: float32 in hex', found {line!r}")
        if name in scales:
            raise _damaged(number, f"{name!r} is there twice")
        (scale,) = struct.unpack(">f", bytes.fromhex(value.zfill(8)))
        if not 0 < scale < math.inf:
            raise _damaged(number, f"{name!r} has the scale {scale:g}")
        scales[name] = scale
    if not text.endswith("\n"):
        raise _damaged(len(lines), "the line is cut off")
    return _to_version(header.group(1)), scales


def _packed(name: str, scale: float) -> bytes:
    try:
        packed = struct.pack(">f", scale)
    except (OverflowError, struct.error):
        packed = b""
    if not packed or not 0 < struct.unpack(">f", packed)[0] < math.inf:
        raise ConfigError(
            f"calibration cache: the scale of {name!r} is {scale!r}",
            hint="a scale is a number above 0: leave tensors out that were always 0",
        )
    return packed


def _to_number(version: str) -> int:
    """As in TensorRT's NvInferVersion.h: 8.5.2 is 8502, 10.3.0 is 100300."""
    if not re.fullmatch(r"\d+\.\d{1,2}\.\d{1,2}", version):
        raise ConfigError(
            f"calibration cache: TensorRT version {version!r}", hint="write it as 8.5.2"
        )
    major, minor, patch = (int(part) for part in version.split("."))
    # Until 9 the minor version had one digit.
    return (major * 10000 if major > 9 else major * 1000) + minor * 100 + patch


def _to_version(number: str) -> str:
    major = int(number) // (10000 if len(number) > 4 else 1000)
    minor, patch = divmod(int(number) - major * (10000 if major > 9 else 1000), 100)
    return f"{major}.{minor}.{patch}"


def _damaged(line: int, what: str) -> BundleError:
    return BundleError(
        f"calibration cache, line {line}: {what}", hint="export the bundle again"
    )
