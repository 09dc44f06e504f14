"""``run``: a bundle on a camera and a microphone."""

import os
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Union

import typer
from typing_extensions import Annotated

from mla_edge.cli.decisions import JsonLines, Words
from mla_edge.cli.failures import INTERRUPTED
from mla_edge.cli.interrupts import Interrupts
from mla_edge.errors import (
    CaptureError,
    ConfigError,
    InferenceError,
    MissingDependency,
    MlaEdgeError,
)

if TYPE_CHECKING:
    from mla_edge.bundle import Bundle
    from mla_edge.runtime.model import FusedModel
    from mla_edge.runtime.sense import Fault

NO_SOURCE = "none"


def run(
    camera: Annotated[
        str,
        typer.Option(
            help="0, /dev/video0, csi://0, rtsp://…, http://…, a file, sim://digits, or none."
        ),
    ] = "0",
    mic: Annotated[
        str,
        typer.Option(help="default, a name or index, a WAV file, sim://digits, or none."),
    ] = "default",
    bundle: Annotated[
        Optional[Path],
        typer.Option(help="What export wrote; default: the newest that fits this machine."),
    ] = None,
    duration: Annotated[
        Optional[float],
        typer.Option(min=0.001, help="Stop after so many seconds, of the files if fast."),
    ] = None,
    rate: Annotated[
        Optional[float],
        typer.Option(
            min=0.001, help="Decide so many times a second, instead of on each new frame."
        ),
    ] = None,
    max_age_ms: Annotated[
        float, typer.Option(min=1.0, help="Leave out a modality whose newest signal is older.")
    ] = 500.0,
    mask_suspect: Annotated[
        bool,
        typer.Option(
            "--mask-suspect",
            help="Leave out frozen or black pictures and silent or clipping sound, not only "
            "say so.",
        ),
    ] = False,
    threads: Annotated[
        Optional[int],
        typer.Option(min=0, help="Of each engine, 0 for every core; default: the profile's."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="What runs the graphs: auto (TensorRT if built here), onnxruntime, tensorrt, "
            "ort-tensorrt or ort-cuda."
        ),
    ] = "auto",
    as_fast_as_possible: Annotated[
        bool,
        typer.Option(
            "--as-fast-as-possible", help="Do not play files and simulators at their own pace."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object a line, the summary last.")
    ] = False,
) -> None:
    """Run a bundle on a camera and a microphone.

    Decisions go to stdout, words to stderr. Ctrl-C and SIGTERM end it with the summary and exit
    code 130; --duration, and the end of all files, with 0.
    """
    if camera == mic == NO_SOURCE:
        raise ConfigError(
            "--camera none and --mic none leave nothing to run on",
            hint="give at least one, for example --camera sim://digits",
        )
    with Interrupts() as interrupts, ExitStack() as stack:
        model = stack.enter_context(_load(bundle, engine, threads))
        wanted = {"camera": camera, "microphone": mic}
        sources = open_sources(stack, model.bundle, wanted, as_fast_as_possible)
        options = {
            "rate_hz": rate,
            "max_age_ms": max_age_ms,
            "mask_suspect": mask_suspect,
            "duration_s": duration,
            "as_fast_as_possible": as_fast_as_possible,
        }
        output = JsonLines(model.bundle.inputs) if as_json else Words()
        try:
            _run(model, sources, options, output, interrupts)
        except BrokenPipeError:
            # The reader of our output has left. Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(
    model: "FusedModel",
    sources: Dict[str, Any],
    options: Dict[str, Any],
    output: Union[JsonLines, Words],
    interrupts: Interrupts,
) -> None:
    import mla_edge
    from mla_edge.runtime.sense import ENDED
    from mla_edge.runtime.session import find_inputs
    from mla_edge.runtime.summary import Summary

    summary = Summary()
    reasons: Dict[str, str] = {}

    def on_fault(fault: "Fault") -> None:
        with interrupts.held():
            summary.add_fault(fault)
            output.show_fault(fault)
        if fault.what != ENDED or fault.modality not in reasons:  # an end explains least
            reasons[fault.modality] = fault.why

    failure: Optional[MlaEdgeError] = None
    interrupted = False
    start_s = time.monotonic()
    predictions = mla_edge.run(
        model, sources.get("camera"), sources.get("microphone"), on_fault=on_fault, **options
    )
    try:
        with closing(predictions):
            for prediction in predictions:
                with interrupts.held():
                    summary.add(prediction)
                    output.show(prediction)
    except KeyboardInterrupt:
        interrupted = True
    except (InferenceError, CaptureError) as error:
        failure = error  # what was measured until then counts all the same
    seconds = time.monotonic() - start_s
    if not (summary.decisions or failure or interrupted):
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        failure = CaptureError(
            f"no decision was made, for no source gave anything ({why or 'the run was short'})",
            hint="look at the devices: mla-edge doctor",
        )
    specs = find_inputs(model.bundle)
    drops = {specs[name].name: source.drops for name, source in sources.items()}
    output.close(summary.to_dict(seconds=seconds, drops=drops), failure)
    if failure is not None:
        raise failure
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def choose_bundle(bundle: Optional[Path]) -> Path:
    """The bundle that was given, or the newest that fits this machine, which is told."""
    from mla_edge.runtime.selection import select_bundle

    if bundle is not None:
        return bundle
    chosen = select_bundle(Path())
    typer.echo(f"bundle {chosen.folder}, made {chosen.created}", err=True)
    return chosen.folder


def _load(bundle: Optional[Path], engine: str, threads: Optional[int]) -> "FusedModel":
    import mla_edge

    model = mla_edge.load(choose_bundle(bundle), engine=engine, threads=threads)
    if model.note:
        typer.echo(model.note, err=True)
    return model


def open_sources(
    stack: ExitStack, bundle: "Bundle", wanted: Dict[str, str], as_fast_as_possible: bool
) -> Dict[str, Any]:
    """Open of ``camera`` and ``microphone`` what is wanted and has an input in the bundle."""
    import mla_edge
    from mla_edge.runtime.session import KINDS, find_inputs

    options = {"camera": "--camera", "microphone": "--mic"}
    specs = find_inputs(bundle)
    opened: Dict[str, Any] = {}
    for name, source in wanted.items():
        if source == NO_SOURCE:
            continue
        if name not in specs:
            kinds = " or ".join(KINDS[name])
            typer.echo(f"{options[name]} is not used: the bundle takes no {kinds}", err=True)
            continue
        spec = specs[name]
        try:
            opened[name] = stack.enter_context(
                mla_edge.open_camera(source, as_fast_as_possible=as_fast_as_possible)
                if name == "camera"
                else mla_edge.open_microphone(
                    source,
                    rate_hz=spec.rate_hz or 0,
                    window_s=spec.window_s,
                    as_fast_as_possible=as_fast_as_possible,
                )
            )
        except (CaptureError, MissingDependency) as error:
            others = [other for other in wanted if other != name and other in specs]
            if any(wanted[other] != NO_SOURCE for other in others):
                _add_hint(error, f"or run without it: {options[name]} none")
            _add_hint(error, f"or on the simulator: {options[name]} sim://digits")
            raise
    if not opened:
        raise ConfigError(
            f"{bundle.name} takes {', '.join(spec.kind for spec in specs.values())}, and no "
            "source of that was given",
            hint="leave the `none` away",
        )
    return opened


def _add_hint(error: MlaEdgeError, hint: str) -> None:
    error.hint = f"{error.hint}\n  {hint}" if error.hint else hint
