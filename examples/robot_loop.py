"""A robot's own loop around mla-edge: act once when the same answer came several times.

python examples/robot_loop.py bundles/digits-host sim://digits sim://digits 10
python examples/robot_loop.py bundles/digits-host 0 default
"""

from __future__ import annotations

import sys
import time

import numpy as np

import mla_edge

STEADY = 5  # so many equal answers before the robot acts
SURE = 0.7
DO_NOTHING = "none"


def act(label: str) -> None:
    """Drive your motors here."""
    print(f"acting on {label}", flush=True)


def slow_down(fault: mla_edge.Fault) -> None:
    """A sense was lost, is suspect or came back: a robot may want to go slower meanwhile."""
    used = "" if fault.masked else " (it is used)"
    print(f"{fault.modality} {fault.what}{used} {fault.why}", file=sys.stderr)


def check_senses(model: mla_edge.FusedModel, sound: mla_edge.InputSpec) -> None:
    """One answer outside of the loop, before the motors may move; it warms the engines too."""
    rate_hz = sound.rate_hz or 0
    silence = np.zeros(round(rate_hz * sound.window_s), np.float32)
    heard = mla_edge.Sound(silence, rate_hz, time.monotonic())
    prediction = model.infer(mla_edge.Sample({sound.name: heard}))
    print(f"silence is {prediction.label}, {prediction.latency_ms:.1f} ms", file=sys.stderr)


def main(bundle: str, camera: str, microphone: str, seconds: float) -> None:
    """Run until ``seconds`` are over or the sources end."""
    with mla_edge.load(bundle) as model:
        sound = next(spec for spec in model.bundle.inputs if spec.kind == "audio")
        check_senses(model, sound)
        with mla_edge.open_camera(camera) as eyes, mla_edge.open_microphone(
            microphone, rate_hz=sound.rate_hz or 0, window_s=sound.window_s
        ) as ears:
            label, count = DO_NOTHING, 0
            for prediction in mla_edge.run(
                model, eyes, ears, duration_s=seconds, on_fault=slow_down
            ):
                if prediction.label != label:
                    label, count = prediction.label, 0
                count += prediction.confidence >= SURE
                if count == STEADY and label != DO_NOTHING:
                    act(label)


if __name__ == "__main__":
    try:
        bundle, camera, microphone, *seconds = sys.argv[1:]
        main(bundle, camera, microphone, float(seconds[0]) if seconds else 60.0)
    except mla_edge.MlaEdgeError as error:
        sys.exit(f"{error}\n  {error.hint}")
