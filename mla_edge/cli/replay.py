"""``replay``: decide again on what was recorded."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Generator, Optional, Union

import typer
from typing_extensions import Annotated

from mla_edge.cli import options
from mla_edge.cli.decisions import JsonLines, Words
from mla_edge.cli.follow import Follower
from mla_edge.cli.interrupts import Interrupts
from mla_edge.cli.outputs import end_output
from mla_edge.cli.run import audits_of, choose_bundle, load

if TYPE_CHECKING:
    from mla_edge.recording_format import Session
    from mla_edge.runtime.model import FusedModel
    from mla_edge.runtime.replay import Replay
    from mla_edge.signals import Prediction


def replay(
    recording: Annotated[
        Path,
        typer.Argument(help="What record wrote; without -part0001, all of its files."),
    ],
    bundle: Annotated[
        Optional[Path],
        typer.Option(help="Default: the one that was recorded, or else as for run."),
    ] = None,
    speed: Annotated[
        Optional[float],
        typer.Option(min=0.001, help="1 is the recorded pace; default: as fast as possible."),
    ] = None,
    threads: Annotated[
        Optional[int], typer.Option(min=0, help="Of each engine; default: as recorded.")
    ] = None,
    reuse_ms: Annotated[
        Optional[float],
        typer.Option(min=0.0, help="As for run, 0: never; default: as recorded."),
    ] = None,
    audit_rate: Annotated[
        Optional[float],
        typer.Option(min=0.0, max=1.0, help="As for run, 0: none; default: as recorded."),
    ] = None,
    engine: options.Engine = "auto",
    as_json: options.JsonLines = False,
) -> None:
    """Decide again on a recording, by its own clock, and compare with what was decided then.

    Two replays give the same decisions, however fast. So does the recorded bundle on a
    recording that was made with --lossless.
    """
    from mla_edge.recording_reader import RecordingReader
    from mla_edge.runtime.replay import Replay

    session = RecordingReader(recording).session
    with Interrupts() as interrupts:
        folder = _choose(bundle, session)
        settings = session.settings
        opening = {
            "engine": engine,
            "threads": session.threads if threads is None else threads,
            "reuse_ms": (settings.get("reuse_ms") if reuse_ms is None else reuse_ms) or None,
            "audit_rate": (settings.get("audit_rate") if audit_rate is None else audit_rate)
            or None,
        }
        with load(folder, opening) as model:
            played = Replay(model, recording)
            _warn(played, model)
            output: Union[JsonLines, Words] = (
                JsonLines(model.bundle.inputs) if as_json else Words(lambda: played.duration_s)
            )
            try:
                _play(played, output, interrupts, speed, model)
            except BrokenPipeError:
                end_output()


def _choose(bundle: Optional[Path], session: "Session") -> Path:
    """The bundle that was given, or the recorded one where it is here, or else as for run."""
    from mla_edge.runtime.selection import find_bundle

    recorded = None if bundle is not None else find_bundle(Path(), session.bundle_sha256)
    return recorded or choose_bundle(bundle)


def _warn(played: "Replay", model: "FusedModel") -> None:
    session = played.session
    if not played.is_same_bundle:
        typer.echo(
            f"recorded with another bundle: {session.bundle} "
            f"(sha256 {session.bundle_sha256[:12]}); this is {model.bundle.folder}",
            err=True,
        )
    elif session.runs_on != model.runs_on:
        typer.echo(f"recorded on {session.runs_on}; this is {model.runs_on}", err=True)


def _play(
    played: "Replay",
    output: Union[JsonLines, Words],
    interrupts: Interrupts,
    speed: Optional[float],
    model: "FusedModel",
) -> None:
    deadline_ms = played.session.settings.get("deadline_ms")
    follower = Follower(output, interrupts, deadline_ms=deadline_ms)
    follower.follow(_paced(played, follower, speed))
    for problem in played.reader.problems:
        output.say(problem)
    shown = follower.summary.to_dict(seconds=played.duration_s, drops=played.drops)
    compared = _compared(played)
    if isinstance(output, Words):  # JSON is of the recording alone: two replays give the same
        compared["latency_here_ms"] = played.latency_here_ms.to_dict()
    follower.end({**shown, "audits": audits_of(model), "replay": compared})


def _paced(
    played: "Replay", follower: Follower, speed: Optional[float]
) -> "Generator[Prediction, None, None]":
    start_s = time.monotonic()
    for prediction in played.run(follower.on_fault):
        if speed is not None:
            due_s = start_s + played.duration_s / speed
            time.sleep(max(due_s - time.monotonic(), 0.0))
        yield prediction


def _compared(played: "Replay") -> Dict[str, Any]:
    comparison = played.comparison
    return {
        "files": [str(path) for path in played.reader.paths],
        "lossless": played.session.lossless,
        "recorded_bundle": played.session.bundle,
        "same_bundle": played.is_same_bundle,
        "compared": comparison.decisions,
        "different": comparison.different,
        "other_label": comparison.label,
        "other_routing": comparison.routing,
        "other_confidence": comparison.confidence,
        "first_s": comparison.first_s and round(comparison.first_s, 3),
        "impossible": comparison.impossible,
        "problems": played.reader.problems,
    }
