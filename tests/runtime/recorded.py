"""Recordings to test with: made on real sources, as fast as possible, by the real recorder."""

from contextlib import ExitStack
from pathlib import Path

import mla_edge
from mla_edge.recording_format import Session
from mla_edge.recording_reader import RecordingReader
from mla_edge.runtime.recorder import Recorder

CAMERA, MIC = "sim://digits?size=96x64", "sim://digits"


def session_of(bundle, *, lossless=False, **changes):
    """What the command would say of a run of ``bundle``."""
    values = {
        "bundle": bundle.name,
        "bundle_sha256": bundle.sha256(),
        "inputs": bundle.inputs,
        "labels": bundle.labels,
        "runs_on": "ONNX Runtime",
        "threads": 1,
        "lossless": lossless,
        "made_with": mla_edge.__version__,
        "settings": {},
    }
    return Session(**{**values, **changes})


def record(
    path,
    bundle,
    *,
    seconds=3.0,
    camera=CAMERA,
    mic=MIC,
    lossless=False,
    guard=None,
    **options,
):
    """Record a run as fast as possible; its decisions, and the recorder."""
    session = session_of(bundle, lossless=lossless)
    with ExitStack() as stack:
        model = stack.enter_context(mla_edge.load(bundle.folder, threads=1, guard=guard))
        specs = {spec.kind: spec for spec in bundle.inputs}
        recorder = stack.enter_context(Recorder(Path(path), session, waits=True, **options))
        eyes = ears = None
        if camera is not None:
            opened = mla_edge.open_camera(camera, as_fast_as_possible=True)
            eyes = recorder.watch(stack.enter_context(opened))
        if mic is not None:
            rate_hz, window_s = specs["audio"].rate_hz, specs["audio"].window_s
            opened = mla_edge.open_microphone(
                mic, rate_hz=rate_hz, window_s=window_s, as_fast_as_possible=True
            )
            ears = recorder.watch(stack.enter_context(opened))
        predictions = []
        for prediction in mla_edge.run(
            model,
            eyes,
            ears,
            duration_s=seconds,
            as_fast_as_possible=True,
            on_fault=recorder.add_fault,
        ):
            recorder.add(prediction)
            predictions.append(prediction)
    return predictions, recorder


def events(path, kind=object, **options):
    """The events of one kind, and what could not be read."""
    reader = RecordingReader(Path(path), **options)
    return [event for event in reader if isinstance(event, kind)], reader.problems
