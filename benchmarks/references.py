"""Networks that everybody knows, through this exporter: size, speed and agreement.

    python benchmarks/references.py resnet50 [--only ROW …] [--sessions 8] [--json]
    python benchmarks/references.py efficientnet --data DIR [--calibration SET]
        [--recipe RECIPE] [--max-drop POINTS] [--json]
    python benchmarks/references.py efficientnet --data DIR --ways [--calibration SET]

Milliseconds are the processor's time of one run on one thread, ONNX Runtime, batch 1: graphs in
turns, the median of a session's runs, then median and range over sessions that are opened anew.
Ratios are of the medians. ``resnet50`` has random weights, see ``resnet50.py``: nothing is said
of accuracy. ``efficientnet`` exports as ``mla-edge export`` does and takes agreement and top-1
from the report of that (``--max-drop 100``: with no layer left in float); what the folder may
hold is said in ``examples/efficientnet_lite0.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mla_edge.engines.saturation import saturates
from mla_edge.errors import ConfigError, MlaEdgeError
from mla_edge.exporter.calibration import load_calibration_spec, to_examples
from mla_edge.exporter.calibrators import CALIBRATORS
from mla_edge.exporter.layer_noise import noise_in_layers
from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import load_model, to_onnx
from mla_edge.exporter.pipeline import ExportRequest, export
from mla_edge.exporter.pruning import prune
from mla_edge.exporter.quantization import calibrate, quantize
from mla_edge.exporter.runs import machine, open_engines, run_tiers, time_runs
from mla_edge.exporter.steps import StepEvent
from mla_edge.networks import load_network
from mla_edge.signals import Tensors

HERE = Path(__file__).resolve().parent
RESNET = f"{HERE / 'resnet50.py'}:network"
EFFICIENTNET = f"{HERE.parent / 'examples' / 'efficientnet_lite0.py'}:make_network"
PICTURES = HERE / "efficientnet.toml"
FLOAT, MAX_DROP = "float", 5.0  # points that either INT8 graph may lose
SURE = 0.5  # a probability
LOOK = 16  # samples that show which layers add most error
OPSET, CALIBRATE = 17, 32  # ranges do not change how fast a graph is

# By row: shares of the inner widths and of the residual streams to remove.
CUTS = {
    "": (0.0, 0.0),
    "inner widths 30 %": (0.3, 0.0),
    "inner widths 50 %": (0.5, 0.0),
    "all widths 30 %": (0.3, 0.3),
    "all widths 50 %": (0.5, 0.5),
}
FORMS = {FLOAT: "", "INT8": "cpu", "INT8 as for TensorRT": "tensorrt"}


def row_names() -> dict[str, tuple[str, str]]:
    """By row of ResNet-50: the cut and the form. TensorRT's form only of what is not cut."""
    return {
        f"{cut}, {form}" if cut else form: (cut, form)
        for cut in CUTS
        for form in FORMS
        if not cut or FORMS[form] != "tensorrt"
    }


def measure_resnet50(only: list[str], sessions: int, folder: Path) -> dict[str, Any]:
    """Size and speed of every row, or of those in ``only`` and the float network."""
    rows = row_names()
    for name in only:
        if name not in rows:
            raise ConfigError(f"there is no row {name!r}", hint=f"rows: {'; '.join(rows)}")
    wanted = {name: rows[name] for name in rows if not only or name in (FLOAT, *only)}
    network = load_network(RESNET)
    part = network.tiers[0]
    examples = to_examples(network.samples("calibrate", CALIBRATE, 0), network.inputs)
    feeds = [example.tensors for example in examples]
    graphs: dict[str, Path] = {}
    parameters: dict[str, int] = {}
    for cut, (inner, residual) in CUTS.items():
        forms = [form for made, form in wanted.values() if made == cut]
        if not forms:
            continue
        example = [torch.from_numpy(feeds[0]["image"])]
        pruned = prune(part.module, example, channels=inner, residual=residual)
        smaller = dataclasses.replace(part, module=pruned.module)
        stem = folder / (cut or "whole")
        whole = to_onnx(network, smaller, stem.with_suffix(".onnx"), opset=OPSET).path
        ranges = calibrate(whole, feeds) if forms != [FLOAT] else None
        for form in forms:
            name = f"{cut}, {form}" if cut else form
            parameters[name] = pruned.parameters_after
            graphs[name] = whole
            if ranges is not None and FORMS[form]:
                graphs[name] = stem.with_suffix(f".{FORMS[form]}.onnx")
                quantize(whole, graphs[name], ranges, style=FORMS[form], int8_weights=True)
    found = compare(graphs, feeds[0], sessions)
    for name, row in found.items():
        row["parameters"] = parameters[name]
    return {"measured_on": machine(), "rows": found}


def measure_efficientnet(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Agreement, top-1, size and speed of both INT8 graphs against the float graph."""
    request = ExportRequest(
        profile="host",
        network=EFFICIENTNET,
        recipe=asked.recipe,
        data=asked.data,
        calibration=asked.calibration,
        max_drop=asked.max_drop,
        out=folder,
    )
    result = export(request, say)
    (tier,) = result.report["tiers"]
    network = load_network(EFFICIENTNET, data=asked.data)
    graphs = {
        FLOAT: to_onnx(network, network.tiers[0], folder / "float.onnx", opset=OPSET).path,
        "INT8": result.bundle.graph("only", cpu=True),
        "INT8 as for TensorRT": result.bundle.graph("only", cpu=False),
    }
    (example,) = to_examples(network.samples("test", 1, 0), network.inputs)
    found = compare(graphs, example.tensors, asked.sessions)
    for name, form in FORMS.items():
        if form:
            found[name]["agreement"] = tier["agreement"][form]
            found[name]["left_in_float"] = tier["left_in_float"].get(form, [])
    samples: Any = network.samples  # of the folder's pictures
    labelled = bool(samples.__self__.classes)
    if labelled:
        found[FLOAT]["top1"] = tier["agreement"][FORMS["INT8"]]["float_accuracy"]
    return {
        "measured_on": machine(),
        "labelled": labelled,
        "calibration": tier["calibration"],
        "cpu_precision": tier["cpu_precision"],
        "rows": found,
    }


def try_ways(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """How often INT8 answers as float does, by way of calibrating and by what stays float.

    As ONNX Runtime optimises the graphs, those for TensorRT without INT8 kernels where this
    processor's cut off sums; ``sure`` are pictures to which the float network gives a
    probability of a half or more.
    """
    network = load_network(EFFICIENTNET, data=asked.data)
    spec = load_calibration_spec(asked.calibration)
    drawn = [
        network.samples(split, count, spec.seed)
        for split, count in (("calibrate", spec.calibrate), ("test", spec.test))
    ]
    feeds, tests = ([e.tensors for e in to_examples(d, network.inputs)] for d in drawn)
    graph = to_onnx(network, network.tiers[0], folder / "float.onnx", opset=OPSET).path
    (logits,) = run_graph(graph, tests).values()
    answers, sure = logits.argmax(1), softmax(logits).max(1) >= SURE
    ranges = {method: calibrate(graph, feeds, method=method) for method in CALIBRATORS}
    layers = [layer.node.name for layer in find_layers(load_model(graph))]
    int8 = folder / "int8.onnx"
    rows: dict[str, Any] = {}
    for name, style in FORMS.items():
        if not style:
            continue
        ways: list[tuple[str, str, list[str]]] = [(m, m, []) for m in CALIBRATORS]
        quantize(graph, int8, ranges["mse"], style=style, int8_weights=True)
        noise = noise_in_layers(graph, int8, feeds[:LOOK])
        worst = sorted(noise, key=lambda name: noise[name][0] - noise[name][1])
        ways.append(("mse, first and last layer float", "mse", [layers[0], layers[-1]]))
        ways += [(f"mse, {n} worst layers float", "mse", worst[:n]) for n in (8, 16)]
        for way, method, kept in ways:
            quantize(
                graph, int8, ranges[method], style=style, keep_float=kept, int8_weights=True
            )
            exact = saturates() and style == "tensorrt"  # no kernel of TensorRT's does that
            (found,) = run_graph(int8, tests, exact=exact).values()
            same = found.argmax(1) == answers
            rows[f"{name}, {way}"] = {
                "same": float(same.mean()),
                "same_of_sure": float(same[sure].mean()) if sure.any() else None,
            }
    return {"pictures": len(tests), "sure": int(sure.sum()), "ways": rows}


def run_graph(
    graph: Path, feeds: list[Tensors], *, exact: bool = False
) -> dict[str, np.ndarray]:
    """The logits of one graph, [pictures, classes]."""
    with open_engines({graph.stem: graph}, threads=1, exact=exact) as engines:
        return run_tiers(engines, feeds)[0]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits → probabilities, [pictures, classes]."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def say(event: StepEvent) -> None:
    """A line for each step that has ended: an export of this takes minutes."""
    if event.seconds is not None:
        print(
            f"{event.seconds:6.1f} s  {event.step} {event.tier} {event.note}", file=sys.stderr
        )


def compare(graphs: dict[str, Path], feed: Tensors, sessions: int) -> dict[str, dict[str, Any]]:
    """Size and milliseconds of each graph, and how they compare with those of the float one."""
    taken = time_runs({name: (path, feed) for name, path in graphs.items()}, sessions=sessions)
    sizes = {name: path.stat().st_size / 1e6 for name, path in graphs.items()}
    whole_ms = float(np.median(taken[FLOAT]))
    return {
        name: {
            "mb": round(sizes[name], 2),
            "smaller": round(sizes[FLOAT] / sizes[name], 2),
            "median_ms": round(float(np.median(values)), 2),
            "range_ms": [round(float(values.min()), 2), round(float(values.max()), 2)],
            "faster": round(whole_ms / float(np.median(values)), 2),
        }
        for name, values in taken.items()
    }


def to_table(result: dict[str, Any]) -> str:
    """The rows as the documents show them."""
    agrees = any("agreement" in row for row in result["rows"].values())
    heads = ["", "size", "smaller", "ms a picture (range)", "faster"]
    heads += ["answers as float", "top-1"] if agrees else ["parameters"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in result["rows"].items():
        low, high = row["range_ms"]
        cells = [name, f"{row['mb']:.1f} MB", f"{row['smaller']:.1f}"]
        cells += [f"{row['median_ms']:.1f} ({low:.1f} to {high:.1f})", f"{row['faster']:.2f}"]
        if not agrees:
            cells.append(f"{row['parameters'] / 1e6:.1f} M")
        elif "agreement" in row:
            found = row["agreement"]
            right = f"{found['accuracy']:.1%} ({0 - found['drop_points']:+.1f} points)"
            cells.append(f"{found['top1_agreement']:.1%} of {found['samples']}")
            cells.append(right if result["labelled"] else "no labels")
        else:
            cells += ["", f"{row['top1']:.1%}" if "top1" in row else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"On {result['measured_on']}, one thread.", "", *lines])


def main(words: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="network", required=True)
    resnet = commands.add_parser("resnet50", help="size and speed, random weights")
    resnet.add_argument("--only", action="append", default=[], metavar="ROW")
    efficient = commands.add_parser(
        "efficientnet", help="agreement on your pictures, and speed"
    )
    efficient.add_argument("--data", type=Path, required=True, metavar="DIR")
    efficient.add_argument("--calibration", default=str(PICTURES), metavar="SET")
    efficient.add_argument("--recipe", default="default", metavar="RECIPE")
    efficient.add_argument("--max-drop", type=float, default=MAX_DROP, metavar="POINTS")
    efficient.add_argument("--ways", action="store_true", help="agreement of other ways")
    for command in (resnet, efficient):
        command.add_argument("--sessions", type=int, default=8, metavar="N")
        command.add_argument("--json", action="store_true")
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if asked.network == "resnet50":
                result = measure_resnet50(asked.only, asked.sessions, Path(folder))
            elif asked.ways:
                result = try_ways(asked, Path(folder))
            else:
                result = measure_efficientnet(asked, Path(folder))
    except MlaEdgeError as error:
        print(f"{error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    as_json = asked.json or "rows" not in result
    print(json.dumps(result, indent=1) if as_json else to_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
