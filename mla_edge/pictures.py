"""Pictures as files hold them: JPEG and PNG."""

from __future__ import annotations

import numpy as np

from mla_edge.errors import MissingDependency

try:
    import cv2
except ImportError as error:
    raise MissingDependency(
        f"OpenCV cannot be loaded, and pictures are packed with it: {error}",
        hint="pip install opencv-python-headless",
    ) from error

JPEG_QUALITY = 90
_SUFFIXES = {"jpeg": ".jpg", "png": ".png"}


def pack(image: np.ndarray, form: str, *, quality: int = JPEG_QUALITY) -> bytes:
    """``image``, uint8 RGB [height, width, 3], as ``jpeg`` or, with nothing lost, ``png``."""
    suffix = _SUFFIXES[form]
    options = (cv2.IMWRITE_JPEG_QUALITY, quality) if form == "jpeg" else ()
    _, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return data.tobytes()


def fit(image: np.ndarray, most: int) -> np.ndarray:
    """``image`` [height, width, 3], smaller if a side of it is longer than ``most``."""
    height, width = image.shape[:2]
    scale = most / max(height, width)
    if scale >= 1:
        return image
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def unpack(data: bytes) -> np.ndarray:
    """The picture in ``data``, uint8 RGB [height, width, 3]; ValueError where it is damaged."""
    image = unpack_bgr(data)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def unpack_bgr(data: bytes) -> np.ndarray:
    """As ``unpack``, with blue first, as OpenCV has it."""
    packed = np.frombuffer(data, np.uint8)
    image = cv2.imdecode(packed, cv2.IMREAD_COLOR) if packed.size else None
    if image is None:
        raise ValueError("it is no picture, or damaged")
    return np.asarray(image)
