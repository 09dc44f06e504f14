"""Read an ``.npz`` that somebody else wrote: all that can be wrong with it is one error."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.errors import MlaEdgeError

_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,  # a header that promises more than there is
    RuntimeError,  # encrypted, or compressed in a way that zipfile does not know
    AttributeError,  # numpy reads one array, not a zip of them: it is no context manager,
    TypeError,  # which Python calls an AttributeError up to 3.10, a TypeError from 3.11 on
)


def read_arrays(path: Path, kind: type[MlaEdgeError], hint: str) -> dict[str, np.ndarray]:
    """The arrays of the file at ``path`` by name; ``kind``, with ``hint``, if it is damaged."""
    try:
        # Read first: numpy leaves a file open that turns out to be cut off.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive}
    except _UNREADABLE as error:
        raise kind(f"{path}: cannot be read: {error}", hint=hint) from error
    for name, values in arrays.items():
        if not isinstance(values, np.ndarray):  # a member of the zip that numpy did not write
            raise kind(f"{path}: {name!r} is no array", hint=hint)
    return arrays
