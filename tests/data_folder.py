"""A data folder for ``digits`` in the real format, small and drawn."""

import numpy as np

RATE_HZ = 8000


def make_data_folder(path):
    """Fill ``path`` with bars as digits, tones as words of two people, and noise."""
    rng = np.random.default_rng(0)
    count = 1000
    labels = (np.arange(count) % 10).astype(np.uint8)
    pictures = np.zeros((count, 28, 28), np.uint8)
    pictures[np.arange(count), 4 + 2 * labels, 5:23] = 255
    pictures[:, 27, :4] = np.arange(count)[:, None] // 8 ** np.arange(4) % 8  # no copies
    np.savez(
        path / "mnist.npz",
        train_images=pictures,
        train_labels=labels,
        test_images=pictures[:70],
        test_labels=labels[:70],
    )
    words = [
        ((9000 + 20 * take + speaker) * np.sin(np.arange(1500) * (0.1 + 0.05 * digit))).astype(
            np.int16
        )
        for take in range(10)
        for speaker in range(2)
        for digit in range(10)
    ]
    order = [(t, s, d) for t in range(10) for s in range(2) for d in range(10)]
    np.savez(
        path / "spoken_digits.npz",
        samples=np.concatenate(words),
        offsets=np.arange(len(words) + 1) * 1500,
        labels=np.array([d for _, _, d in order], np.uint8),
        speakers=np.array([("ann", "bob")[s] for _, s, _ in order]),
        takes=np.array([t for t, _, _ in order], np.int16),
        rate_hz=np.int32(RATE_HZ),
    )
    noise = rng.normal(0, 3000, (16, 40000)).astype(np.int16)
    np.savez(path / "noise.npz", samples=noise, classes=np.array(["Rain"] * 16))
    return path
