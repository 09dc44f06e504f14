import numpy as np
import pytest
from colours import make_bundle


@pytest.fixture
def small_bundle(tmp_path):
    return make_bundle(tmp_path / "colours-host")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a bundle in it, which is the current one."""
    make_bundle(tmp_path / "bundles" / "colours-host")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def counting_video(tmp_path):
    """Frame ``i`` shows ``i % 128`` as seven black or white bars."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "count.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (640, 480))
    for number in range(300):
        image = np.zeros((480, 640, 3), np.uint8)
        for bit in range(7):
            image[:, bit * 90 : bit * 90 + 90] = 255 * (number >> bit & 1)
        writer.write(image)
    writer.release()
    return path
