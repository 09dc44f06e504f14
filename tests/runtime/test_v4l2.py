"""Why a camera does not open: what the kernel answers, and what is said of it."""

import errno
import os

import pytest

from mla_edge.runtime import v4l2

ANSWERS = {
    errno.EBUSY: ("in use by another program (EBUSY)", "fuser -v /dev/video0 says which"),
    errno.ENOENT: ("no camera at /dev/video0", "there is: "),
    errno.ENODEV: ("no camera at /dev/video0", "there is: "),
    errno.EACCES: ("no permission to open the camera", "sudo usermod -aG video $USER"),
    errno.EPERM: ("no permission to open the camera", "sudo usermod -aG video $USER"),
    errno.ENOTTY: ("/dev/video0 is not a camera", "there is: "),
    errno.EIO: ("does not open: Input/output error", "v4l2-ctl -d /dev/video0 --all"),
}


@pytest.mark.parametrize("code", ANSWERS)
def test_each_answer_of_the_kernel_is_explained(monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(v4l2.os, "open", refuse)
    error = v4l2.explain("/dev/video0")
    message, hint = ANSWERS[code]
    assert message in str(error)
    assert hint in error.hint
    assert error.exit_code == 6


def test_a_camera_whose_buffers_another_program_has_is_busy(monkeypatch, tmp_path):
    path = tmp_path / "video0"
    path.touch()

    def answer(device, request, data):
        if request == v4l2._REQBUFS:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        data[v4l2._DEVICE_CAPS] = v4l2._CAPTURE & 0xFF

    monkeypatch.setattr(v4l2.fcntl, "ioctl", answer)
    error = v4l2.explain(str(path))
    assert str(error) == f"the camera {path} is in use by another program (EBUSY)"


def test_a_device_that_is_not_there_is_named():
    error = v4l2.explain("/dev/video77")
    assert str(error) == "no camera at /dev/video77"
    assert error.hint == f"there is: {v4l2.list_cameras()}"


def test_a_file_is_not_a_camera(tmp_path):
    path = tmp_path / "file"
    path.touch()
    assert str(v4l2.explain(str(path))) == f"{path} is not a camera"
