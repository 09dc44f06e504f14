"""A small data folder for ``commands`` in the real format: bars as mouths, tones as words."""

import json

import cv2
import numpy as np
import soundfile

WORDS = ("bin", "red", "at", "f", "two", "now")
RATE_HZ = 16000
CLIP_S = 3


def make_clips_folder(path, names=tuple(f"clip{i:02}" for i in range(17))):
    """Clips of these names; word ``i`` of ``WORDS`` is said from 0.4 + 0.4 i on, for 0.3 s."""
    rng = np.random.default_rng(0)
    clips = len(names)
    writer = cv2.VideoWriter(
        str(path / "grid_mouth_72x60_25fps.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 25, (72, 60)
    )
    spans = [(0.4 + 0.4 * i, 0.7 + 0.4 * i) for i in range(len(WORDS))]
    sound = np.zeros((clips, CLIP_S * RATE_HZ), np.int16)
    for clip in range(clips):
        for frame in range(CLIP_S * 25):
            time_s = (frame + 0.5) / 25
            picture = np.full((60, 72, 3), 120, np.uint8)
            for i, (start_s, end_s) in enumerate(spans):
                if start_s <= time_s < end_s:
                    picture[25 + 3 * i : 28 + 3 * i, 20:50] = 240
            writer.write(picture)
        for i, (start_s, end_s) in enumerate(spans):
            at = np.arange(int(start_s * RATE_HZ), int(end_s * RATE_HZ))
            sound[clip, at] = 9000 * np.sin(at * (0.1 + 0.07 * i))
    writer.release()
    soundfile.write(path / "grid_16k.flac", sound.ravel(), RATE_HZ)
    words = [
        {"word": word, "start_s": start_s, "end_s": end_s}
        for word, (start_s, end_s) in zip(WORDS, spans)
    ]
    silence = {"word": "sil", "start_s": 0.0, "end_s": spans[0][0]}
    index = {
        "clips": [{"name": name, "words": [silence, *words]} for name in names],
        "frames_per_clip": CLIP_S * 25,
        "samples_per_clip": CLIP_S * RATE_HZ,
        "fps": 25,
        "rate_hz": RATE_HZ,
    }
    (path / "grid.json").write_text(json.dumps(index))
    noise = rng.normal(0, 3000, (16, 40000)).astype(np.int16)
    np.savez(path / "noise.npz", samples=noise, classes=np.array(["Rain"] * 16))
    return path
