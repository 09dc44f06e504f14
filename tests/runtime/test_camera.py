"""Videos, pictures and network cameras, with real files and a real server."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from network_camera import FPS, NetworkCamera, grey

from mla_edge.errors import (
    CaptureEnded,
    CaptureError,
    CaptureTimeout,
    ConfigError,
    MissingDependency,
)
from mla_edge.runtime.capture import open_camera

cv2 = pytest.importorskip("cv2")


def write_video(path, count, fps=FPS):
    """Frame ``i`` is of grey ``4 * i``."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (64, 48))
    for number in range(count):
        writer.write(grey(4 * number))
    writer.release()
    return path


def number_of(frame):
    return round(float(frame.image.mean()) / 4)


@pytest.fixture(autouse=True)
def nothing_left_over():
    """No test leaves a thread or an open file."""
    before = set(threading.enumerate())
    files = len(os.listdir("/proc/self/fd"))
    yield
    until = time.monotonic() + 3
    while (
        set(threading.enumerate()) - before or len(os.listdir("/proc/self/fd")) > files
    ) and time.monotonic() < until:
        time.sleep(0.02)
    assert not set(threading.enumerate()) - before
    assert len(os.listdir("/proc/self/fd")) <= files


@pytest.fixture
def network_camera():
    with contextlib.closing(NetworkCamera()) as server:
        yield server


def test_as_fast_as_possible_gives_every_frame_with_its_own_time(tmp_path):
    path = write_video(tmp_path / "video.avi", 40)
    with open_camera(str(path), as_fast_as_possible=True) as camera:
        started_s = time.monotonic()
        frames = [camera.read(0) for _ in range(40)]
        with pytest.raises(CaptureEnded, match="video.avi has no more frames"):
            camera.read(0)
        assert time.monotonic() - started_s < 1
        assert camera.drops == 0
    assert [number_of(frame) for frame in frames] == list(range(40))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(40) / FPS)
    assert frames[0].image.shape == (48, 64, 3)
    assert frames[0].image.dtype == np.uint8


def test_a_video_plays_at_its_own_pace(tmp_path):
    path = write_video(tmp_path / "video.avi", 25)
    started_s = time.monotonic()
    frames = []
    with open_camera(str(path)) as camera:
        with pytest.raises(CaptureEnded):
            while True:
                frames.append(camera.read(1))
                assert time.monotonic() - frames[-1].time_s < 0.2
        assert camera.drops == 25 - len(frames)
    assert 0.95 <= time.monotonic() - started_s < 1.5
    assert len(frames) >= 20  # 25 unless the machine is busy
    for frame in frames:
        assert frame.time_s - frames[0].time_s == pytest.approx(
            (number_of(frame) - number_of(frames[0])) / FPS, abs=1e-6
        )


def test_a_slow_reader_gets_the_newest_frame_and_drops_are_counted(tmp_path):
    path = write_video(tmp_path / "video.avi", 50)
    with open_camera(str(path)) as camera:
        camera.read(1)
        for _ in range(3):
            time.sleep(0.4)
            frame = camera.read(1)
            assert time.monotonic() - frame.time_s < 0.2
        assert 20 <= camera.drops <= 32


def test_a_frame_is_given_once(tmp_path):
    path = write_video(tmp_path / "slow.avi", 3, fps=1)
    with open_camera(str(path)) as camera:
        camera.read(1)
        started_s = time.monotonic()
        with pytest.raises(CaptureTimeout, match="gave nothing in 0.2 s"):
            camera.read(0.2)
        assert 0.15 < time.monotonic() - started_s < 0.4
        with pytest.raises(CaptureTimeout):
            camera.read(0)


def test_a_frame_is_not_overwritten_by_later_ones(tmp_path):
    path = write_video(tmp_path / "video.avi", 50, fps=100)
    with open_camera(str(path)) as camera:
        first = camera.read(1)
        copy = first.image.copy()
        for _ in range(5):
            camera.read(1)
        np.testing.assert_array_equal(first.image, copy)


def test_a_picture_is_repeated_30_times_a_second_in_rgb(tmp_path):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), np.full((10, 20, 3), (1, 2, 3), np.uint8))  # blue, green, red
    with open_camera(str(path)) as camera:
        started_s = time.monotonic()
        times = []
        while time.monotonic() - started_s < 1:
            frame = camera.read(1)
            times.append(frame.time_s)
        assert (frame.image == (3, 2, 1)).all()
        assert 25 <= len(times) <= 32
        steps = np.diff(times) * 30
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)


def test_a_picture_as_fast_as_possible(tmp_path):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), grey(7))
    with open_camera(str(path), as_fast_as_possible=True) as camera:
        times = [camera.read(0).time_s for _ in range(4)]
    np.testing.assert_allclose(times, np.arange(4) / 30)


@pytest.mark.parametrize("fast", [False, True])
def test_close_is_idempotent_and_final(tmp_path, fast):
    path = write_video(tmp_path / "slow.avi", 3, fps=0.2)
    with open_camera(str(path), as_fast_as_possible=fast) as camera:
        camera.read(1)
        started_s = time.monotonic()
    camera.close()
    assert time.monotonic() - started_s < 0.5
    with pytest.raises(CaptureError, match="is closed"):
        camera.read(0.1)


def test_close_wakes_up_a_reader(tmp_path):
    path = write_video(tmp_path / "slow.avi", 3, fps=0.2)
    with open_camera(str(path)) as camera:
        camera.read(1)
        threading.Timer(0.2, camera.close).start()
        started_s = time.monotonic()
        with pytest.raises(CaptureError, match="is closed"):
            camera.read(4)
        assert time.monotonic() - started_s < 1


def test_a_network_camera_gives_frames(network_camera):
    with open_camera(network_camera.url) as camera:
        frames = [camera.read(2) for _ in range(10)]
        assert time.monotonic() - frames[-1].time_s < 0.2
    numbers = [number_of(frame) for frame in frames]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 5


def test_a_slow_reader_of_a_network_camera_is_not_behind(network_camera):
    with open_camera(network_camera.url) as camera:
        first = camera.read(2)
        time.sleep(1)
        later = camera.read(2)
        assert number_of(later) - number_of(first) >= 0.7 * FPS
        assert camera.drops >= 0.6 * FPS


def read_until_it_is_back(camera, patience_s):
    """Reads as a loop would, and says what it was told meanwhile."""
    told = set()
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s:
        try:
            return camera.read(0.1), told
        except CaptureError as error:
            told.add(str(error))
    raise AssertionError(f"it did not come back: {told}")


def test_a_killed_server_is_told_and_its_return_is_noticed():
    server = NetworkCamera()
    try:
        with open_camera(server.url) as camera:
            camera.read(2)
            server.close()
            told = ""
            while "trying to reopen" not in told:  # by then one try may have failed already
                with pytest.raises(CaptureError) as caught:
                    for _ in range(100):
                        camera.read(0.1)
                told = str(caught.value)
            assert "stopped giving frames" in told or "no video from" in told
            lost_s = time.monotonic()
            time.sleep(0.8)  # a first try to reopen it fails
            server = NetworkCamera(port=server.port)
            frame, told = read_until_it_is_back(camera, 8)
            assert frame.time_s > lost_s
            assert any("no video from" in line for line in told)
    finally:
        server.close()


def test_a_stalled_server_times_out_in_2_s_and_is_reopened(network_camera):
    with open_camera(network_camera.url) as camera:
        camera.read(2)
        network_camera.stalled.set()
        stalled_s = time.monotonic()
        told = ""
        while "stopped giving frames" not in told:
            started_s = time.monotonic()
            with pytest.raises(CaptureError) as caught:
                while True:
                    camera.read(0.1)
            assert time.monotonic() - started_s < 0.5
            told = str(caught.value)
            assert time.monotonic() - stalled_s < 4
        network_camera.stalled.clear()
        frame, _ = read_until_it_is_back(camera, 8)
        assert frame.time_s > stalled_s
        assert network_camera.clients > 1


def test_close_does_not_wait_for_a_stalled_server(network_camera):
    with open_camera(network_camera.url) as camera:
        camera.read(2)
        network_camera.stalled.set()
        time.sleep(0.2)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 2


@pytest.mark.parametrize("closes", [True, False])
def test_a_program_that_ends_during_a_stall_ends_well(network_camera, closes):
    """A thread that is in OpenCV when Python ends would abort the program."""
    code = (
        "import sys, time\n"
        "from mla_edge.runtime.capture import open_camera\n"
        f"camera = open_camera({network_camera.url!r}).__enter__()\n"
        "camera.read(5)\n"
        "print('read', flush=True)\n"
        "sys.stdin.readline()\n"
        "time.sleep(0.45)\n"  # so that the thread outlives the closing by a moment
        f"{'camera.close()' if closes else ''}\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    program.stdout.readline()
    network_camera.stalled.set()
    _, words = program.communicate("\n", timeout=20)
    assert (program.returncode, words) == (0, "")


def test_no_server_and_no_secret_in_the_message():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(CaptureError, match=f"no video from http://127.0.0.1:{port}/") as caught:
        open_camera(f"http://me:secret@127.0.0.1:{port}/")
    assert "secret" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("fast", [False, True])
def test_no_such_file(tmp_path, fast):
    with pytest.raises(CaptureError, match="no such file: .*film.mp4") as caught:
        open_camera(str(tmp_path / "film.mp4"), as_fast_as_possible=fast)
    assert caught.value.exit_code == 6
    assert "/dev/video" in caught.value.hint


@pytest.mark.parametrize("name", ["film.mp4", "film.avi"])
def test_a_file_that_is_no_video(tmp_path, name):
    path = tmp_path / name
    path.write_text("no pictures here\n" * 100)
    with pytest.raises(
        CaptureError, match="is no video or picture that OpenCV can read"
    ) as caught:
        open_camera(str(path))
    assert str(path) in str(caught.value)
    assert "ffmpeg" in caught.value.hint


def test_a_damaged_picture(tmp_path):
    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), grey(7))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CaptureError, match="picture.png is damaged"):
        open_camera(str(path))


def test_a_folder_is_not_a_video(tmp_path):
    with pytest.raises(CaptureError, match="is not a file"):
        open_camera(str(tmp_path))


def test_no_camera_at_this_index():
    with pytest.raises(CaptureError, match="no camera at /dev/video77") as caught:
        open_camera("77")
    assert "/dev/video" in caught.value.hint


def test_a_device_that_is_no_camera(tmp_path):
    with pytest.raises(CaptureError, match="no camera at /dev/null") as caught:
        open_camera("/dev/null")
    assert "there is" in caught.value.hint or "/dev/video" in caught.value.hint


@pytest.mark.parametrize(
    "source", ["csi://", "csi://zero", "csi://0/1", "csi://0?sizes=3", "csi://0?width=wide"]
)
def test_a_wrong_csi_address_says_how_it_is_written(source):
    with pytest.raises(ConfigError, match="is not a CSI camera") as caught:
        open_camera(source)
    assert "csi://0?width=1280&height=720&fps=30" in caught.value.hint


def test_csi_without_gstreamer_says_how_to_get_it():
    if cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(MissingDependency, match="csi://0 needs GStreamer") as caught:
        open_camera("csi://0")
    assert "apt-get install python3-opencv" in caught.value.hint
    assert caught.value.exit_code == 3


def test_csi_pipeline_keeps_only_the_newest_frame():
    from mla_edge.runtime.camera import csi_pipeline

    pipeline = csi_pipeline("csi://1?fps=60&width=640&height=360")
    assert "nvarguscamerasrc sensor-id=1 !" in pipeline
    assert "width=640,height=360,framerate=60/1" in pipeline
    assert pipeline.endswith("appsink drop=true max-buffers=1 sync=false")


def test_an_unknown_scheme():
    with pytest.raises(ConfigError, match="opened by ftp://"):
        open_camera("ftp://host/film.mp4")


class StampedCapture:
    """Stands in for cv2.VideoCapture: frames whose stamps are so old, or of another clock."""

    def __init__(self, *stamps):
        self._stamps = iter(stamps)

    def grab(self):
        self._stamp = next(self._stamps)
        return True

    def get(self, _):
        return self._stamp() * 1e3


def aged(seconds):
    return lambda: time.monotonic() - seconds


def ages(*stamps):
    from mla_edge.runtime.device_feed import DeviceFeed

    feed = DeviceFeed("camera", StampedCapture(*stamps), kernel_clock=True)
    return [time.monotonic() - feed.grab() for _ in stamps]


def test_frames_that_were_buffered_during_a_stall_keep_their_age(monkeypatch):
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    from mla_edge.runtime.device_feed import DeviceFeed

    stamps = [lambda: 999.97, lambda: 1000.03, lambda: 1000.06, lambda: 1003.99]
    feed = DeviceFeed("camera", StampedCapture(*stamps), kernel_clock=True)
    assert feed.grab() == pytest.approx(999.97)
    now_s = 1004.0  # the process was held up for 4 s
    assert [feed.grab() for _ in range(3)] == pytest.approx([1000.03, 1000.06, 1003.99])


def test_a_device_whose_pictures_cannot_be_decoded_is_opened_anew(monkeypatch):
    """FFmpeg may stay so behind a picture that was cut, and grabs well meanwhile."""
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    from mla_edge.runtime.device_feed import DAMAGED_S, DeviceFeed

    picture = np.zeros((2, 2, 3), np.uint8)
    given = iter([picture, None, None, picture, None, None, None])

    class Capture:
        def retrieve(self, spare):
            found = next(given)
            return found is not None, found

    feed = DeviceFeed("camera", Capture())
    assert feed.retrieve(None) is picture
    assert feed.retrieve(None) is None
    now_s += 0.9 * DAMAGED_S
    assert feed.retrieve(None) is None
    assert feed.retrieve(None) is picture  # one that is well in between begins anew
    assert feed.retrieve(None) is None
    now_s += 0.9 * DAMAGED_S
    assert feed.retrieve(None) is None
    now_s += 0.2 * DAMAGED_S
    with pytest.raises(CaptureError, match="cannot be decoded"):
        feed.retrieve(None)


def test_a_driver_with_another_clock_is_never_believed():
    wall = [time.time] * 3
    since_start = [lambda: 0.1, lambda: 0.2, lambda: 0.3]
    found = ages(*wall, *since_start, aged(0.5))
    assert found == pytest.approx([0] * 7, abs=0.05)


def test_a_frame_that_comes_again_means_the_camera_is_gone():
    at_s = time.monotonic()
    with pytest.raises(CaptureError, match="camera repeats its last frame"):
        ages(lambda: at_s, lambda: at_s)


@pytest.mark.parametrize("size", [(1, 1), (240, 320), (480, 640), (3, 90_000), (720, 1280)])
def test_pictures_of_any_size_are_turned_to_rgb(size, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    path = tmp_path / "picture.bmp"
    cv2.imwrite(str(path), picture)
    with open_camera(str(path), as_fast_as_possible=True) as camera:
        image = camera.read(0).image
    assert image.flags.c_contiguous
    assert np.array_equal(image, picture[:, :, ::-1])
