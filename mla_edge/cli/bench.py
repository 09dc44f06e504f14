"""``bench``: how fast, how fresh and how costly a bundle is on this machine."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from mla_edge.cli.decisions import as_row
from mla_edge.cli.failures import Command, Group
from mla_edge.cli.interrupts import Interrupts
from mla_edge.cli.run import NO_SOURCE, choose_bundle, open_sources
from mla_edge.errors import ConfigError

app = typer.Typer(cls=Group, invoke_without_command=True, rich_markup_mode=None)
_SIMULATED = "sim://digits?size=640x480"


@app.callback()
def bench(
    context: typer.Context,
    bundle: Annotated[
        Optional[Path],
        typer.Option(help="What export wrote; default: the newest that fits this machine."),
    ] = None,
    camera: Annotated[str, typer.Option(help="As of run.")] = _SIMULATED,
    mic: Annotated[str, typer.Option(help="As of run.")] = "sim://digits",
    rate: Annotated[
        Optional[float],
        typer.Option(
            min=0.001, help="Decisions due a second; default: one for each new frame."
        ),
    ] = None,
    flat_out: Annotated[
        bool, typer.Option("--flat-out", help="Files and simulators as fast as can be judged.")
    ] = False,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds of each run.")] = 10.0,
    repeat: Annotated[int, typer.Option(min=1, help="Runs, one after the other.")] = 1,
    deadline_ms: Annotated[
        float, typer.Option(min=0.1, help="From capture to decision, to count what is late.")
    ] = 100.0,
    threads: Annotated[
        Optional[int],
        typer.Option(min=0, help="Of each engine, 0 for every core; default: the profile's."),
    ] = None,
    engine: Annotated[str, typer.Option(help="As of run.")] = "auto",
    out: Annotated[
        Optional[Path], typer.Option(help="Write the figures there, to compare them later.")
    ] = None,
    picture: Annotated[
        Optional[Path], typer.Option(help="Write an SVG of latency and age there.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; words go to stderr.")
    ] = False,
) -> None:
    """Measure a bundle on its sources: latency, age, jitter, stages, and what it costs.

    `bench compare BEFORE AFTER` holds two files of --out against each other.
    """
    if context.invoked_subcommand:
        return
    from mla_edge.bundle import Bundle, write_atomically
    from mla_edge.runtime import bench as measuring
    from mla_edge.runtime.bench_picture import draw
    from mla_edge.runtime.loading import open_model

    if camera == mic == NO_SOURCE:
        raise ConfigError("no camera and no microphone", hint="give at least one of them")
    if rate is not None and flat_out:
        raise ConfigError("--rate and --flat-out exclude each other", hint="leave one away")
    folder = choose_bundle(bundle)
    opened = Bundle.read(folder)
    plan = measuring.Plan(duration, rate, deadline_ms, flat_out)
    names = [spec.name for spec in opened.inputs]
    runs: List[Dict[str, Any]] = []
    with Interrupts() as interrupts:
        for _ in range(repeat):
            with ExitStack() as stack:
                wanted = {"camera": camera, "microphone": mic}
                sources = open_sources(stack, opened, wanted, flat_out)
                runs.append(
                    measuring.bench(
                        lambda instrument: open_model(
                            folder, engine=engine, threads=threads, instrument=instrument
                        ),
                        sources.get("camera"),
                        sources.get("microphone"),
                        plan,
                        emit=lambda prediction: json.dumps(as_row(prediction, names)),
                    )
                )
            interrupts.check()
    shown = {"bundle": str(folder), "camera": camera, "mic": mic, "runs": runs}
    text = json.dumps(shown)
    if out is not None:
        write_atomically(out, (text + "\n").encode())
    if picture is not None:
        write_atomically(picture, draw(runs, str(folder)).encode())
    typer.echo(text if as_json else "\n\n".join("\n".join(_words(run)) for run in runs))


@app.command(cls=Command)
def compare(
    before: Annotated[Path, typer.Argument(help="What --out wrote.")],
    after: Annotated[Path, typer.Argument(help="What --out wrote later.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold two measurements against each other: medians, ranges and their ratio."""
    from mla_edge.runtime.bench import compare as hold

    rows = hold(_read(before), _read(after))
    if as_json:
        typer.echo(json.dumps(rows))
        return
    width = max(len(row["figure"]) for row in rows)
    for row in rows:
        ratio = "" if row["ratio"] is None else f"  x {row['ratio']:.2f}"
        told = "" if row["apart"] else "  (ranges overlap)"
        typer.echo(
            f"{row['figure']:<{width}}  {_range(row['before'])}  {_range(row['after'])}"
            f"{ratio}{told}"
        )


def _range(part: Dict[str, float]) -> str:
    return f"{part['median']:10.3f} ({part['low']:.3f}-{part['high']:.3f})"


def _read(path: Path) -> List[Dict[str, Any]]:
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        if not isinstance(runs, list) or not runs:
            raise ValueError("no runs")
        return [dict(run) for run in runs]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not a measurement of bench: {error}",
            hint="write one with mla-edge bench --out FILE",
        ) from error


def _words(run: Dict[str, Any]) -> List[str]:
    def spread(values: Dict[str, Any]) -> str:
        known = {name: value for name, value in values.items() if value is not None}
        return "  ".join(f"{name} {value:.2f}" for name, value in known.items()) or "-"

    late, shares = run["deadline"], run["tiers"].items()
    missed = "" if run["missed"] is None else f", {run['missed']} missed"
    lines = [
        f"decisions   {run['decisions']} in {run['seconds']:.1f} s"
        f" ({run['rate_hz']:.1f} a second{missed}), {run['runs_on']}",
        "tiers       " + ", ".join(f"{name} {share:.1%}" for name, share in shares),
        f"latency ms  {spread(run['latency_ms'])}",
        f"age ms      {spread(run['age_ms'])}",
        f"jitter ms   {spread(run['jitter_ms'])}",
        f"deadline    {late['missed']} later than {late['ms']:g} ms, "
        f"{late['longest_run']} of them in a row",
    ]
    lines += [f"  {name:<12}{spread(values)}" for name, values in run["stages_ms"].items()]
    costs = [f"{run['cores']:.2f} cores", f"{run['memory_mb']:.0f} MB"]
    if run["temperature_c"] is not None:
        costs.append(f"{run['temperature_c']:.0f} °C at most")
    if run["power_w"] is not None:
        costs.append(f"{run['power_w']:.2f} W, {run['joules_per_decision']:.3f} J a decision")
    lines.append(f"costs       {', '.join(costs)}")
    lines.append(f"first       {run['first_decision_s']:.2f} s from loading to a decision")
    return lines + [f"warning     {warning}" for warning in run["warnings"]]
