"""Frames from OpenCV: devices, network cameras, videos and pictures."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Protocol
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from mla_edge.errors import CaptureEnded, CaptureError, ConfigError, MissingDependency
from mla_edge.recordings import is_session
from mla_edge.runtime import v4l2
from mla_edge.runtime.buffers import Buffers
from mla_edge.runtime.capture import MEDIA_START_S, Prepare
from mla_edge.runtime.keeper import Keeper
from mla_edge.signals import Frame

try:
    import cv2
except ImportError as error:
    raise MissingDependency(
        "OpenCV is not installed", hint="pip install 'mla-edge[run]'"
    ) from error
from mla_edge.runtime.device_feed import DeviceFeed  # needs OpenCV too

if TYPE_CHECKING:
    import threading

OPEN_TIMEOUT_MS = 3000  # of a URL; OpenCV's default is 30 s
READ_TIMEOUT_MS = 2000
V4L2_TIMEOUT_S = 2  # of a stalled device; OpenCV's default is 10 s
PICTURE_FPS = 30.0
# Where no camera is, OpenCV says so within some 12 ms, so asking often costs little.
DELAYS_S = (0.1, 0.3)
# From so many pixels on OpenCV shares a picture among threads. They then wait for more at full
# speed, 0.7 ms of a processor for 0.1 ms gained: one that is not large is given to it in parts.
_SHARED, _LARGE, _PART = 3 << 15, 1 << 20, 1 << 16
# Held at once at most. As decoded: the newest, the next one while it is decoded, the one before
# while it is read. As RGB: the newest, the next one, and of the reader the last two.
_MOST_DECODED, _MOST_RGB = 3, 4
URL_SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "udp", "tcp", "srt")
CSI_DEFAULTS = {"width": 1280, "height": 720, "fps": 30}

# OpenCV reads these when it opens something. It and FFmpeg would warn at every try to reopen a
# lost device, of which our errors tell already.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(V4L2_TIMEOUT_S))
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
if "OPENCV_LOG_LEVEL" not in os.environ:
    _set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # 4, 5
    _set_log_level(2)  # errors


class Feed(Protocol):
    """Where pictures come from, one after the other."""

    def grab(self) -> float:
        """Take the next picture, and say when it was captured; a file's may be yet to come.

        Raises CaptureEnded when a file has no more, CaptureError when a device is lost.
        """
        ...

    def retrieve(self, spare: np.ndarray | None) -> np.ndarray | None:
        """The picture, BGR, decoded into ``spare`` where that fits; None if it is damaged."""
        ...

    def release(self) -> None:
        """Let go of the device or file."""
        ...


@dataclass(frozen=True)
class _Taken:
    """A picture, BGR, and its frame where somebody has asked the reader's thread for it."""

    picture: np.ndarray
    time_s: float
    frame: Frame | None


class LiveCamera:
    """The newest frame of a feed; a thread reads it, keeps one frame and drops older ones."""

    live = True  # its times are of now, however it is read

    def __init__(self, name: str, open_feed: Callable[[], Feed]) -> None:
        """Open the feed; when it is lost later, it is opened again."""
        self.drops = 0
        self.still = False  # whether its pictures are the same on purpose
        self._newest: _Taken | None = None
        self._awaited = False  # whether a read waits
        self._shape: tuple[int, ...] = ()  # of what was decoded last
        self._decoded, self._rgb = Buffers(_MOST_DECODED), Buffers(_MOST_RGB)
        self._see: Callable[[Frame], object] | None = None
        self._prepare: Prepare | None = None
        self._keeper = Keeper(
            name, open_feed, self._pump, lambda feed: feed.release(), delays_s=DELAYS_S
        )
        self._keeper.start()

    def read(self, timeout_s: float) -> Frame:
        """The newest frame not read before."""
        news = self._keeper.news
        with news:
            self._awaited = True
            news.wait_for(lambda: self._newest or self._keeper.finished, timeout_s)
            self._awaited = False
            newest, self._newest = self._newest, None
        if newest is None:
            raise self._keeper.failure(timeout_s)
        return newest.frame or self._frame(newest.picture, newest.time_s)

    def watch(self, see: Callable[[Frame], object] | None) -> None:
        """Show every frame to ``see``, on the reader's thread; as ``capture.Watched``."""
        self._see = see

    def prepare_by(self, prepare: Prepare | None) -> None:
        """``prepare`` pictures on the reader's thread; as ``capture.Prepares``."""
        self._prepare = prepare

    def close(self) -> None:
        """Let go of the feed within 2 s; safe to call twice."""
        self._newest = None
        self._keeper.close()

    def _pump(self, feed: Feed, closing: threading.Event) -> None:
        while not closing.is_set():
            time_s = feed.grab()
            picture = feed.retrieve(self._decoded.take(self._shape) if self._shape else None)
            early_s = time_s - time.monotonic()  # only a file's frame is early: hold it
            if early_s > 0 and closing.wait(early_s):
                return
            if picture is None:
                self.drops += 1
            else:
                self._shape = picture.shape
                self._put(picture, time_s)

    def _put(self, picture: np.ndarray, time_s: float) -> None:
        see, prepare = self._see, self._prepare
        frame = None
        if see is not None:
            frame = self._frame(picture, time_s)
            see(frame)
        taken = _Taken(picture, time_s, frame)
        with self._keeper.news:
            if self._newest is not None:
                self.drops += 1
            self._newest = taken
            is_awaited = self._awaited
            self._keeper.recovered()
            self._keeper.news.notify()
        if prepare is not None and not is_awaited:
            self._make_ready(taken, prepare)

    def _make_ready(self, taken: _Taken, prepare: Prepare) -> None:
        """Put what is there in a form that costs the reader less; it may read meanwhile."""
        image = (taken.frame or self._frame(taken.picture, taken.time_s)).image
        frame = Frame(image, taken.time_s, ahead=prepare(image))
        with self._keeper.news:
            if self._newest is taken:
                self._newest = _Taken(taken.picture, taken.time_s, frame)

    def _frame(self, picture: np.ndarray, time_s: float) -> Frame:
        return _converted(picture, time_s, self._rgb.take((*picture.shape[:2], 3)))


class SteppedCamera:
    """Every frame of a file, one a read, as fast as the reader likes."""

    drops = 0

    def __init__(self, feed: Feed) -> None:
        """Read from ``feed``, which the camera then owns."""
        self.still = isinstance(feed, PictureFeed)
        self._feed = feed
        self._closed = False

    def read(self, timeout_s: float) -> Frame:
        """The next frame; it is there at once, so ``timeout_s`` is not used."""
        while not self._closed:
            time_s = self._feed.grab()
            picture = self._feed.retrieve(None)
            if picture is not None:
                return _converted(picture, time_s, np.empty_like(picture))
            self.drops += 1
        raise CaptureError("the camera is closed")

    def close(self) -> None:
        """Let go of the file; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._feed.release()


class VideoFeed:
    """Pictures of a video file; their times are the video's own."""

    def __init__(self, path: Path, start_s: float | None = None) -> None:
        """Open ``path``; its first picture is of ``start_s``, by default of now."""
        self._path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.grab():
            self._capture.release()
            raise CaptureError(
                f"{path} is no video or picture that OpenCV can read",
                hint=f"ffmpeg -i {path} -c:v mjpeg -q:v 3 video.avi makes one that it can",
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.frame_s = 1 / (fps if 0 < fps < 1000 else PICTURE_FPS)
        self._grabbed = 1  # how many, the one taken here included
        self._given = 0
        self._start_s = time.monotonic() if start_s is None else start_s

    def grab(self) -> float:
        """Take the next picture."""
        if self._given == self._grabbed:
            if not self._capture.grab():
                raise CaptureEnded(f"{self._path} has no more frames")
            self._grabbed += 1
        self._given += 1
        return self._start_s + (self._given - 1) * self.frame_s

    def retrieve(self, spare: np.ndarray | None) -> np.ndarray | None:
        """The picture, BGR."""
        good, picture = self._capture.retrieve(spare)
        return picture if good else None

    def release(self) -> None:
        """Close the file."""
        self._capture.release()


class PictureFeed:
    """One picture, again and again at 30 fps."""

    frame_s = 1 / PICTURE_FPS

    def __init__(self, path: Path, start_s: float | None = None) -> None:
        """Read ``path``; the first repeat is of ``start_s``, by default of now."""
        self._picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if self._picture is None:
            raise CaptureError(
                f"the picture {path} is damaged", hint="open it in a viewer and save it again"
            )
        self._given = 0
        self._start_s = time.monotonic() if start_s is None else start_s

    def grab(self) -> float:
        """Repeat it."""
        self._given += 1
        return self._start_s + (self._given - 1) * self.frame_s

    def retrieve(self, spare: np.ndarray | None) -> np.ndarray | None:
        """The picture, BGR."""
        return self._picture

    def release(self) -> None:
        """Nothing to let go of."""


def open_source(
    source: str, *, as_fast_as_possible: bool = False
) -> LiveCamera | SteppedCamera:
    """The camera that ``source`` names; see ``capture.open_camera``."""
    scheme, marker, _ = source.partition("://")
    if source.isdigit() or source.startswith("/dev/"):
        path = source
        return LiveCamera(f"camera {path}", lambda: open_v4l2(path))
    if not marker:
        if as_fast_as_possible:
            return SteppedCamera(open_file(Path(source), MEDIA_START_S))
        camera = LiveCamera(source, lambda: open_file(Path(source)))
        camera.still = cv2.haveImageReader(source)
        return camera
    if scheme == "csi":
        pipeline = csi_pipeline(source)
        return LiveCamera(f"camera {source}", lambda: open_csi(source, pipeline))
    if scheme in URL_SCHEMES:
        return LiveCamera(f"camera {without_password(source)}", lambda: open_url(source))
    raise ConfigError(
        f"a camera cannot be opened by {scheme}://",
        hint=f"0, /dev/video0, csi://0, sim://digits, a file, or {'://, '.join(URL_SCHEMES)}://",
    )


def open_v4l2(source: str) -> DeviceFeed:
    """A device of the kernel, by index or path."""
    path = v4l2.camera_path(source)
    if not re.fullmatch(r"/dev/video\d+", path):
        raise CaptureError(f"no camera at {source}", hint=f"there is: {v4l2.list_cameras()}")
    capture = cv2.VideoCapture(int(path[len("/dev/video") :]), cv2.CAP_V4L2)
    if not capture.isOpened():
        capture.release()
        raise v4l2.explain(path)
    return DeviceFeed(f"camera {path}", capture, kernel_clock=True)


def open_url(url: str) -> DeviceFeed:
    """A network camera."""
    name = without_password(url)
    timeouts = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS),
    ]
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, timeouts)
    if not capture.isOpened():
        capture.release()
        raise CaptureError(
            f"no video from {name}",
            hint="check the address and that this machine reaches it: ffprobe URL",
        )
    return DeviceFeed(f"camera {name}", capture)


def csi_pipeline(source: str) -> str:
    """The GStreamer pipeline of ``csi://SENSOR?width=1280&height=720&fps=30``."""
    parts = urlsplit(source)
    options = dict(parse_qsl(parts.query))
    unknown = sorted(set(options) - set(CSI_DEFAULTS))
    values = [parts.netloc, *options.values()]
    if unknown or parts.path or not all(value.isdigit() for value in values):
        raise ConfigError(
            f"{source} is not a CSI camera", hint="csi://0?width=1280&height=720&fps=30"
        )
    size = {**CSI_DEFAULTS, **{key: int(value) for key, value in options.items()}}
    return (
        f"nvarguscamerasrc sensor-id={int(parts.netloc)}"
        f" ! video/x-raw(memory:NVMM),width={size['width']},height={size['height']},"
        f"framerate={size['fps']}/1"
        " ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR"
        " ! appsink drop=true max-buffers=1 sync=false"
    )


def open_csi(source: str, pipeline: str) -> DeviceFeed:
    """A camera on the board's CSI connector, through NVIDIA's GStreamer elements."""
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise MissingDependency(
            f"{source} needs GStreamer, and this OpenCV ({cv2.__version__}) has none",
            hint="use JetPack's OpenCV: pip uninstall opencv-python-headless opencv-python;"
            " sudo apt-get install python3-opencv; make the virtual environment with"
            " --system-site-packages",
        )
    capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        capture.release()
        raise CaptureError(
            f"no camera at {source}",
            hint="check the ribbon cable; sudo systemctl restart nvargus-daemon;"
            " nvgstcapture-1.0 must show a picture",
        )
    return DeviceFeed(f"camera {source}", capture)


def open_file(path: Path, start_s: float | None = None) -> Feed:
    """A video, a picture that is repeated, or what ``mla-edge record`` wrote."""
    if is_session(path):
        from mla_edge.runtime.recorded_sources import RecordedFeed  # needs more packages

        return RecordedFeed(path, start_s)
    if not path.exists():
        raise CaptureError(
            f"no such file: {path}",
            hint=f"a camera is an index or a device, and there is: {v4l2.list_cameras()}",
        )
    if not path.is_file():
        raise CaptureError(f"{path} is not a file", hint="give a video or a picture")
    if cv2.haveImageReader(str(path)):
        return PictureFeed(path, start_s)
    return VideoFeed(path, start_s)


def _converted(picture: np.ndarray, time_s: float, image: np.ndarray) -> Frame:
    """The frame of ``picture``, BGR, in the memory of ``image``."""
    height, width = picture.shape[:2]
    is_shared = _SHARED <= height * width < _LARGE
    rows = max(1, _PART // width) if is_shared else height
    for top in range(0, height, rows):
        part = slice(top, top + rows)
        cv2.cvtColor(picture[part], cv2.COLOR_BGR2RGB, dst=image[part])
    return Frame(image, time_s)


def without_password(url: str) -> str:
    """``url`` as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", url)
