"""A folder of examples as a user makes one: two classes that differ in light and in pitch."""

import struct

import numpy as np

from mla_edge.pictures import pack

LABELS = ("low", "middle", "high", "none")
RATE_HZ = 8000


def write_wav(path, samples, rate_hz):
    """Mono PCM of 16 bits."""
    data = samples.astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(data)) + data
    path.write_bytes(struct.pack("<4sI", b"RIFF", len(body)) + body)


def write_examples(folder, *, each, groups=(), classes=("low", "high"), side=16, length=700):
    """Fill ``folder`` with ``each`` pictures and sounds of each class; groups in turn."""
    rng = np.random.default_rng(0)
    for kind in ("image", "audio"):
        (folder / kind).mkdir(parents=True)
    lines = ["id,label,group" if groups else "id,label"]
    for place, label in enumerate(classes):
        for i in range(each):
            name = f"{label}-{i}"
            lines.append(f"{name},{label}" + (f",{groups[i % len(groups)]}" if groups else ""))
            light = 60 + 130 * place + rng.integers(-20, 20, (side, side, 3))
            (folder / "image" / f"{name}.png").write_bytes(pack(light.astype(np.uint8), "png"))
            tone = np.sin(np.arange(length) * (0.2 + 0.9 * place) + rng.uniform(0, 6))
            write_wav(folder / "audio" / f"{name}.wav", tone * 9000, RATE_HZ)
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder
