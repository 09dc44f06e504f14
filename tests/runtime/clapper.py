"""In the guest: flashes into v4l2loopback and clicks into snd-aloop, each pair at one moment.

    python clapper.py SECONDS

Prints a word once there are pictures, and last a JSON object: the moments of the flashes as
they were written, and those of the clicks as they were due in what was played; both of
CLOCK_MONOTONIC.
"""

import fcntl
import json
import os
import signal
import struct
import sys
import time

import numpy as np
import sounddevice

WIDTH, HEIGHT, FPS, RATE, EVERY = 640, 480, 30, 16_000, 20  # a clap each so many frames
S_FMT, OUTPUT, YUYV = 0xC0D05605, 2, 0x56595559


def open_output():
    """The camera's other side; the player that was there is ended first."""
    with open("/run/vdev-camera.pid") as file:
        os.kill(int(file.read()), signal.SIGKILL)
    time.sleep(0.3)
    device = os.open("/dev/video0", os.O_RDWR)
    form = bytearray(208)  # v4l2_format: type, then the union at 8
    struct.pack_into("=I4xIIIIII", form, 0, OUTPUT, WIDTH, HEIGHT, YUYV, 1, 2 * WIDTH, 0)
    fcntl.ioctl(device, S_FMT, form)
    return device


def main():
    seconds = float(sys.argv[1])
    device = open_output()
    rng = np.random.default_rng(0)
    dark = [
        np.stack([rng.integers(20, 60, (HEIGHT, WIDTH)), np.full((HEIGHT, WIDTH), 128)], -1)
        .astype(np.uint8)
        .tobytes()
        for _ in range(3)
    ]
    bright = np.full((HEIGHT, WIDTH, 2), (235, 128), np.uint8).tobytes()
    start_s = time.monotonic() + 1.0
    period_s = EVERY / FPS
    noise = rng.normal(0, 0.01, RATE).astype(np.float32)

    def play(out, frames, times, status):
        # When the first sample of this block is played, on our clock.
        at_s = time.monotonic() + times.outputBufferDacTime - times.currentTime
        out[:, 0] = noise[:frames]
        number = int(np.ceil((at_s - start_s) / period_s))
        index = round((start_s + number * period_s - at_s) * RATE)
        if number >= 1 and 0 <= index < frames:
            out[index : index + 8, 0] = 0.9
            clicks.append(start_s + number * period_s)

    flashes, clicks = [], []
    output = next(
        device["index"]
        for device in sounddevice.query_devices()
        if device["max_output_channels"] and "hw:0,0" in device["name"]
    )
    with sounddevice.OutputStream(
        device=output, samplerate=RATE, channels=1, dtype="float32", callback=play
    ):
        for number in range(int(seconds * FPS)):
            time.sleep(max(0.0, start_s + number / FPS - time.monotonic()))
            is_flash = number >= EVERY and number % EVERY == 0
            os.write(device, bright if is_flash else dark[number % 3])
            if number == 0:
                print("begun", flush=True)
            if is_flash:
                flashes.append(time.monotonic())
    print(json.dumps({"flashes": flashes, "clicks": clicks}), flush=True)


main()
