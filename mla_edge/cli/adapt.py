"""``adapt``: teach a network a user's own examples."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from mla_edge.cli.interrupts import Interrupts
from mla_edge.cli.progress import show_progress

if TYPE_CHECKING:
    from mla_edge.exporter.adapting import Adapted


def adapt(
    network: Annotated[
        str,
        typer.Argument(help="digits, commands, package.module:function or file.py:function."),
    ],
    folder: Annotated[
        Path, typer.Argument(help="Your examples: labels.csv, image/ and audio/.")
    ],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")] = Path(
        "adapted.safetensors"
    ),
    weights: Annotated[
        Optional[Path],
        typer.Option(help="Start from this file of adapt, not from the network's own weights."),
    ] = None,
    data: Annotated[
        Optional[Path],
        typer.Option(help="A folder of real samples of what the network was made for."),
    ] = None,
    rank: Annotated[
        Optional[int],
        typer.Option(min=1, help="Of the adapters; default: the highest that 2 % allow."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of learning, for each tier.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    held_out_share: Annotated[
        float,
        typer.Option(
            help="Share of your examples to measure with; whole groups where there are some."
        ),
    ] = 0.2,
    max_drop: Annotated[
        float,
        typer.Option(min=0.0, help="Points that may be lost on what the network was made for."),
    ] = 2.0,
    profile: Annotated[
        str, typer.Option(help="Export the result for this device in the same go.")
    ] = "",
    bundles: Annotated[Path, typer.Option(help="Where that bundle goes.")] = Path("bundles"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; words go to stderr.")
    ] = False,
) -> None:
    """Fine-tune a network on your own examples, with low-rank adapters and distillation.

    If the last tier is no better on the examples held out, or has forgotten more than
    --max-drop, nothing is written and the exit code is 4.
    """
    from mla_edge.exporter.packages import check_packages
    from mla_edge.profiles import load_profile

    check_packages()
    if profile:
        load_profile(profile)  # a wrong name is told before the work
    from mla_edge.exporter import adapting, pipeline
    from mla_edge.networks.adaptation import AdaptationPlan

    request = adapting.AdaptRequest(
        network=network,
        folder=folder,
        out=out,
        weights=weights,
        data=data,
        held_out_share=held_out_share,
        max_drop=max_drop,
        plan=AdaptationPlan(steps=steps, rank=rank, seed=seed),
    )
    exported = None
    with Interrupts() as interrupts, show_progress(interrupts) as on_step:
        adapted = adapting.adapt(request, on_step)
        if profile:
            wanted = pipeline.ExportRequest(
                profile, network, out=bundles, data=data, weights=out
            )
            exported = pipeline.export(wanted, on_step)
    bundle = str(exported.bundle.folder) if exported else None
    shown = {"ok": True, "weights": str(out), "bundle": bundle, **adapted.as_json()}
    typer.echo(json.dumps(shown) if as_json else "\n".join(_words(adapted, shown, network)))


def _words(adapted: "Adapted", shown: Dict[str, Any], network: str) -> List[str]:
    """What a person is told."""
    held = f", groups {', '.join(adapted.groups)}" if adapted.groups else ""
    lines = [
        f"{shown['weights']}: written ({shown['seconds']:.0f} s); learned from "
        f"{adapted.learned} examples, measured on {adapted.held_out}{held}"
    ]
    for tier in adapted.tiers:
        (before, after), (knew, knows) = tier.new, tier.old
        what = tier.adapters
        lines += [
            f"  {tier.name}: {before.accuracy:.1%} → {after.accuracy:.1%} of the held out "
            f"right, {knew.accuracy:.1%} → {knows.accuracy:.1%} of what it was made for",
            f"    rank {what.rank}, {what.trainable} of {what.parameters} parameters trained "
            f"({what.share:.2%})" + ("" if what.convolutions else ", linear layers only"),
        ]
        if tier.refused:
            lines.append(f"    it {tier.refused}: it stays as it was")
    if adapted.folder.unnamed:
        lines.append(f"  files that no row names: {', '.join(adapted.folder.unnamed)}")
    if shown["bundle"]:
        return [*lines, f"  {shown['bundle']}: exported"]
    name = shown["weights"]
    return [*lines, f"  next: mla-edge export {network} --weights {name} --profile DEVICE"]
