"""What the kernel says about its cameras, to explain why one does not open."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from mla_edge.errors import CaptureError

# From linux/videodev2.h.
_QUERYCAP = 0x80685600  # _IOR('V', 0, struct v4l2_capability), 104 bytes
_REQBUFS = 0xC0145608  # _IOWR('V', 8, struct v4l2_requestbuffers), 20 bytes
_DEVICE_CAPS = 88  # offset of v4l2_capability.device_caps
_CAPTURE = 0x1 | 0x1000  # V4L2_CAP_VIDEO_CAPTURE, …_MPLANE
_BUFFERS_OF = struct.Struct("=5I")  # count, type, memory, capabilities, flags
_TYPE_CAPTURE, _MEMORY_MMAP = 1, 1


def camera_path(source: str) -> str:
    """The device file of ``source``, an index or a path; links such as by-id are followed."""
    return f"/dev/video{int(source)}" if source.isdigit() else os.path.realpath(source)


def list_cameras() -> str:
    """The video devices of this machine, with their names, for an error message."""
    found = []
    for path in sorted(Path("/dev").glob("video*")):
        name = Path("/sys/class/video4linux", path.name, "name")
        title = name.read_text(encoding="utf-8").strip() if name.is_file() else ""
        found.append(f"{path} ({title})" if title else str(path))
    return ", ".join(found) if found else "this machine has no /dev/video*"


def explain(path: str) -> CaptureError:
    """Why ``path`` does not open as a camera, and what to do about it."""
    try:
        device = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        return _explain_code(path, error)
    try:
        capability = bytearray(104)
        fcntl.ioctl(device, _QUERYCAP, capability)
        (abilities,) = struct.unpack_from("=I", capability, _DEVICE_CAPS)
        if not abilities & _CAPTURE:
            return CaptureError(
                f"{path} is a video device but not a camera",
                hint=f"choose another: {list_cameras()}",
            )
        # Freeing no buffers changes nothing, and is refused while another program has some.
        fcntl.ioctl(device, _REQBUFS, _BUFFERS_OF.pack(0, _TYPE_CAPTURE, _MEMORY_MMAP, 0, 0))
    except OSError as error:
        return _explain_code(path, error)
    finally:
        os.close(device)
    return CaptureError(
        f"the camera {path} does not start",
        hint=f"v4l2-ctl -d {path} --all says what it offers; unplug it and plug it in again",
    )


def _explain_code(path: str, error: OSError) -> CaptureError:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return CaptureError(f"no camera at {path}", hint=f"there is: {list_cameras()}")
    if error.errno == errno.EBUSY:
        return CaptureError(
            f"the camera {path} is in use by another program (EBUSY)",
            hint=f"fuser -v {path} says which; end it",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return CaptureError(
            f"no permission to open the camera {path}",
            hint="sudo usermod -aG video $USER, then log in again",
        )
    if error.errno in (errno.ENOTTY, errno.EINVAL):
        return CaptureError(f"{path} is not a camera", hint=f"there is: {list_cameras()}")
    return CaptureError(
        f"the camera {path} does not open: {error.strerror}",
        hint=f"v4l2-ctl -d {path} --all; the kernel's log (dmesg) may say more",
    )
