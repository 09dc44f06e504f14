"""A small recording, written by the real recorder."""

import numpy as np

from mla_edge.recording_format import Session
from mla_edge.runtime.recorder import Recorder
from mla_edge.signals import Frame, InputSpec, Prediction, Sound

EYES = InputSpec("image", "image", (1, 3, 16, 16))
EARS = InputSpec("audio", "audio", (1, 800), 800)


def write(path, count=100, *, inputs=(EYES, EARS), deaf=(), mute=(), blind=(), **options):
    """Frame ``i`` is of grey ``i``; in ``deaf`` moments the sound was masked.

    In ``mute`` ones no sound came, in ``blind`` ones no frame.
    """
    session = Session("b", "0", inputs, ("x",), "ONNX Runtime", 1, True, "0", {})
    random = np.random.default_rng(0)
    speech = random.normal(0, 0.1, 100 * count).astype(np.float32)
    with Recorder(path, session, waits=True, **options) as recorder:
        for number in range(count):
            time_s = 10 + number / 25
            image = np.full((20, 30, 3), number % 256, np.uint8)
            if number not in blind:
                recorder.see(Frame(image, time_s, "x"))
            window = speech[32 * number : 32 * number + 800]
            if number not in mute:
                recorder.see(Sound(window, 800, time_s, "x"))
            times = {inputs[0].name: time_s}
            if number not in deaf:
                times["audio"] = time_s
            mode = "+".join(times)
            recorder.add(Prediction("x", 1.0, "full", "r", mode, times, time_s, 1.0, 1.0))
    return path
