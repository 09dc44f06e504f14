"""``record``: run a bundle, and write down what it sees and decides."""

from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer
from typing_extensions import Annotated

from mla_edge.cli import options
from mla_edge.cli.run import run_bundle

if TYPE_CHECKING:
    from mla_edge.runtime.model import FusedModel
    from mla_edge.runtime.recorder import Recorder


def record(
    out: Annotated[Path, typer.Argument(help="The .mcap file to write.")],
    camera: options.Camera = "0",
    mic: options.Mic = "default",
    bundle: options.Bundle = None,
    duration: options.Duration = None,
    rate: options.Rate = None,
    max_age_ms: options.MaxAge = 500.0,
    mask_suspect: options.MaskSuspect = False,
    lossless: Annotated[
        bool,
        typer.Option(
            "--lossless", help="PNG and every bit of the sound: replay decides alike."
        ),
    ] = False,
    max_mb: Annotated[
        Optional[float],
        typer.Option(min=1.0, help="Megabytes it may take, all files together, then it stops."),
    ] = None,
    rotate_mb: Annotated[
        Optional[float],
        typer.Option(
            min=1.0, help="A new file after so many; the oldest make room within --max-mb."
        ),
    ] = None,
    keep_parts: Annotated[
        Optional[int], typer.Option(min=1, help="With --rotate-mb: the newest so many files.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Lose what is recorded under that name.")
    ] = False,
    deadline_ms: options.Deadline = None,
    reuse_ms: options.Reuse = None,
    audit_rate: options.AuditRate = None,
    power_budget_w: options.PowerBudget = None,
    no_heat_guard: options.NoHeatGuard = False,
    threads: options.Threads = None,
    engine: options.Engine = "auto",
    as_fast_as_possible: options.AsFastAsPossible = False,
    web: options.Web = None,
    as_json: options.JsonLines = False,
) -> None:
    """Run a bundle as `run` does, and record what it sees, hears and decides (MCAP).

    The file opens in Foxglove. A disk that is full ends the recording, not the run; its exit
    code is 3 then.
    """
    import mla_edge
    from mla_edge.recording_format import Session
    from mla_edge.runtime.camera import without_password
    from mla_edge.runtime.recorder import Recorder
    from mla_edge.runtime.recording_parts import Room

    room = Room(max_mb, rotate_mb, keep_parts)
    room.check()
    settings = {
        "rate_hz": rate,
        "max_age_ms": max_age_ms,
        "mask_suspect": mask_suspect,
        "duration_s": duration,
        "as_fast_as_possible": as_fast_as_possible,
    }
    deciding = {
        "deadline_ms": deadline_ms,
        "reuse_ms": reuse_ms,
        "audit_rate": audit_rate or None,
    }
    wanted = {"camera": camera, "microphone": mic}

    def open_recorder(model: "FusedModel") -> "Recorder":
        session = Session(
            bundle=model.bundle.name,
            bundle_sha256=model.bundle.sha256(),
            inputs=model.bundle.inputs,
            labels=model.bundle.labels,
            runs_on=model.runs_on,
            threads=threads,
            lossless=lossless,
            made_with=mla_edge.__version__,
            settings={
                "camera": without_password(camera),
                "microphone": mic,
                **settings,
                **deciding,
            },
        )
        return Recorder(out, session, room=room, overwrite=overwrite, waits=as_fast_as_possible)

    run_bundle(
        wanted,
        settings,
        bundle,
        {"engine": engine, "threads": threads, **deciding},
        {"power_budget_w": power_budget_w, "heat": not no_heat_guard},
        web=web,
        as_json=as_json,
        record=open_recorder,
    )
