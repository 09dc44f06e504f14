"""A certified bundle on a recording whose pictures grow bad half-way: do audits notice?

    python benchmarks/monitoring.py [BUNDLE] [--seconds 200] [--audit-rate 1] [--json]

The bundle is one of ``digits`` that is certified for pictures, as `mla-edge certify` does it.
The simulator's camera is recorded for so many seconds as it is, then for as many with what
``--occlude``, ``--blur`` and ``--noise`` do to it. The recording is replayed with audits, and
once without. What is to be seen is whether there is an alarm in the first half, which there
should not be, how soon one comes after the change, and how many are right until then and after.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from default_bundle import add_bundle

import mla_edge
from mla_edge.bundle import Bundle
from mla_edge.errors import ConfigError, MlaEdgeError
from mla_edge.recording_format import Session
from mla_edge.runtime.auditing import Alarm
from mla_edge.runtime.recorder import Recorder
from mla_edge.runtime.replay import Replay
from mla_edge.signals import Frame, Prediction
from mla_edge.simulator.scene import degrade

CAMERA = "sim://digits?size=160x120&seed=11"


class Spoiled:
    """A camera whose pictures are spoilt from a moment on."""

    def __init__(self, camera: Any, from_s: float, **how: float) -> None:
        """Spoil what ``camera`` gives after ``from_s``, as ``degrade`` does it."""
        self.drops = 0
        self._camera, self._from_s = camera, from_s
        self._how = how
        self._rng = np.random.default_rng(0)

    def read(self, timeout_s: float) -> Frame:
        """The next frame."""
        frame: Frame = self._camera.read(timeout_s)
        if frame.time_s < self._from_s:
            return frame
        return Frame(degrade(frame.image, self._rng, **self._how), frame.time_s, frame.truth)

    def close(self) -> None:
        """Close the camera."""
        self._camera.close()


def record(bundle: Bundle, path: Path, args: argparse.Namespace) -> None:
    """Record the camera, twice ``args.seconds`` of it."""
    session = Session(
        bundle=bundle.name,
        bundle_sha256=bundle.sha256(),
        inputs=bundle.inputs,
        labels=bundle.labels,
        runs_on="",
        threads=1,
        lossless=False,
        made_with=mla_edge.__version__,
        settings={},
    )
    with ExitStack() as stack:
        model = stack.enter_context(mla_edge.load(bundle.folder, threads=1))
        recorder = stack.enter_context(Recorder(path, session, waits=True))
        camera = stack.enter_context(mla_edge.open_camera(CAMERA, as_fast_as_possible=True))
        how = {"blur_px": args.blur, "noise": args.noise, "occlude": args.occlude}
        spoiled = Spoiled(camera, args.seconds, **how)
        predictions = mla_edge.run(
            model,
            recorder.watch(spoiled),
            None,
            as_fast_as_possible=True,
            duration_s=2 * args.seconds,
        )
        for prediction in predictions:
            recorder.add(prediction)


def replay(bundle: Bundle, path: Path, audit_rate: float | None) -> dict[str, Any]:
    """What came of it, second by second in halves."""
    alarms: list[tuple[float, str]] = []
    made: list[Prediction] = []
    with mla_edge.load(bundle.folder, threads=1, audit_rate=audit_rate) as model:

        def on_alarm(alarm: Alarm) -> None:
            alarms.append((made[-1].decision_time_s, str(alarm)))

        if model.auditor is not None:
            model.auditor.on_alarm = on_alarm
        for prediction in Replay(model, path).run():
            made.append(prediction)
        audits = None if model.auditor is None else model.auditor.to_dict()
    return {"made": made, "alarms": alarms, "audits": audits}


def part(made: list[Prediction]) -> dict[str, float]:
    """Of some decisions: how many, right, and answered by full."""
    known = [p for p in made if p.truth is not None]
    return {
        "decisions": len(made),
        "right": float(np.mean([p.label == p.truth for p in known])) if known else 0.0,
        "full": float(np.mean([p.tier == "full" for p in made])) if made else 0.0,
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Record, replay twice, and compare."""
    bundle = Bundle.read(args.bundle)
    with mla_edge.load(bundle.folder, threads=1) as model:
        if "image" not in model.certified:
            raise ConfigError(
                f"{bundle.folder} has no certificate for pictures that holds here",
                hint=f"certify it: mla-edge certify {bundle.folder} --data DIR",
            )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "half.mcap"
        record(bundle, path, args)
        audited = replay(bundle, path, args.audit_rate)
        plain = replay(bundle, path, None)
    change_s = args.seconds
    last_s = max((at for at, _ in audited["alarms"]), default=float("inf"))
    rows = {}
    for name, run in (("with audits", audited), ("without", plain)):
        made = run["made"]
        rows[name] = {
            "before the change": part([p for p in made if p.decision_time_s < change_s]),
            "until the last alarm": part(
                [p for p in made if change_s <= p.decision_time_s <= last_s]
            ),
            "after it": part([p for p in made if p.decision_time_s > max(last_s, change_s)]),
        }
    return {
        "rows": rows,
        "change_s": change_s,
        "alarms": [
            {"after_s": at - change_s, "says": words} for at, words in audited["alarms"]
        ],
        "audits": audited["audits"],
    }


def words(found: dict[str, Any]) -> str:
    """A table and what was said."""
    lines = ["| | decisions | right | by full |", "|---|---|---|---|"]
    for name, parts in found["rows"].items():
        for when, row in parts.items():
            shares = f"{row['right']:.1%} | {row['full']:.1%}"
            lines.append(f"| {name}, {when} | {row['decisions']} | {shares} |")
    lines += [f"{each['after_s']:.1f} s after: {each['says']}" for each in found["alarms"]]
    for mode, each in found["audits"].items():
        lines.append(f"{mode}: {each['disagreements']} of {each['audits']} audits disagreed")
    return "\n".join(lines)


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_bundle(parser)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--audit-rate", type=float, default=1.0)
    parser.add_argument("--occlude", type=float, default=0.0, help="share of the picture")
    parser.add_argument("--blur", type=float, default=4.0, help="pixels")
    parser.add_argument("--noise", type=float, default=60.0, help="grey levels")
    parser.add_argument("--json", action="store_true", help="print JSON, not Markdown")
    args = parser.parse_args()
    try:
        found = measure(args)
    except MlaEdgeError as error:
        print(f"{error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(found, indent=1) if args.json else words(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
