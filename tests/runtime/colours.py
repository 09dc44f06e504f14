"""A bundle with real graphs that are small enough to reason about: it tells colours."""

from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

from mla_edge.bundle import Bundle, ModePolicy, RouterPolicy, sha256_of
from mla_edge.signals import Frame, InputSpec, Sample, Sound, Tier

LABELS = ("red", "green", "blue")
INPUTS = (
    InputSpec("image", "image", (1, 3, 16, 16)),
    InputSpec("audio", "audio", (1, 800), 800),
)
MODES = ("image+audio", "image", "audio")
LITE = Tier("lite", ("image", "audio", "present"), ("logits",))
FULL = Tier("full", ("image", "audio", "present"), ("logits",))
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
DULL_RED = (100, 80, 80)
LEVELS = {"red": 0.99, "green": -0.99}  # of a sound, noise aside; none of them says blue
HISS = np.random.default_rng(0).normal(0, 1e-5, 800)


def write_graph(path, tier, *, scale):
    """logits = scale * (mean colour / 255 * present[0] + heard * present[1]).

    "heard" is [max(0, mean), max(0, -mean), 0] of the sound. A tier that takes "features"
    only scales them; one that gives them gives the bracket.
    """
    constants = {
        "scale": np.float32(scale),
        "whiten": np.float32(1 / 255),
        "hear": np.tile(np.array([1, -1, 0], np.float32) / 800, (800, 1)),
        "first": np.array([0]),
        "second": np.array([1]),
    }
    shapes = {"image": (1, 3, 16, 16), "audio": (1, 800), "present": (1, 2)}
    shapes.update(features=(1, 3), logits=(1, 3))
    node = helper.make_node
    fuse = [
        node("GlobalAveragePool", ["image"], ["mean"]),
        node("Flatten", ["mean"], ["flat"]),
        node("Mul", ["flat", "whiten"], ["seen"]),
        node("MatMul", ["audio", "hear"], ["signed"]),
        node("Relu", ["signed"], ["heard"]),
        node("Gather", ["present", "first"], ["sees"], axis=1),
        node("Gather", ["present", "second"], ["hears"], axis=1),
        node("Mul", ["seen", "sees"], ["seen_masked"]),
        node("Mul", ["heard", "hears"], ["heard_masked"]),
        node("Add", ["seen_masked", "heard_masked"], ["features"]),
    ]
    nodes = [] if "features" in tier.inputs else fuse
    nodes = [*nodes, node("Mul", ["features", "scale"], ["logits"])]
    used = {name for each in nodes for name in each.input}

    def tensors(names):
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name])
            for name in names
        ]

    graph = helper.make_graph(
        nodes,
        tier.name,
        tensors(tier.inputs),
        tensors(tier.outputs),
        [numpy_helper.from_array(v, k) for k, v in constants.items() if k in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save_model(model, str(path))


def make_bundle(folder, tiers=(LITE, FULL), **changes):
    """A bundle of LITE and FULL: full's logits are three times lite's, so it is more sure."""
    (folder / "graphs").mkdir(parents=True)
    bundle = Bundle(
        folder=folder,
        name="colours-host",
        network="colours",
        profile="host",
        labels=LABELS,
        inputs=INPUTS,
        tiers=tuple(tiers),
        policy=RouterPolicy({mode: ModePolicy(1.0, 0.8) for mode in MODES}, {}, ""),
        created="2026-01-01T00:00:00Z",
        provenance={},
        files={},
    )
    graphs = {bundle.graph(t.name, cpu=cpu): t for t in tiers for cpu in (True, False)}
    for path, tier in graphs.items():
        write_graph(path, tier, scale=6 if tier.name == "lite" else 18)
    files = {path.relative_to(folder).as_posix(): sha256_of(path) for path in graphs}
    bundle = replace(bundle, files=files, **changes)
    bundle.write()
    return bundle


def frame(colour, time_s=0.0, truth=None):
    return Frame(np.full((24, 32, 3), COLOURS.get(colour, colour), np.uint8), time_s, truth)


def sound(label, time_s=0.0, truth=None):
    return Sound((LEVELS[label] + HISS).astype(np.float32), 800, time_s, truth)


def sample(**signals):
    return Sample(signals)
