"""A bundle with the inputs and labels of a network, and graphs of a few numbers."""

from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

from mla_edge.bundle import LEARNED, Bundle, ModePolicy, RouterPolicy, sha256_of
from mla_edge.signals import PRESENT, SCORE, Tier


def make_linear_bundle(folder, network, inputs, labels, *, learned=False):
    """Logits are the mean of each signal times random numbers, others in each tier.

    With ``learned`` lite gives a score too, by which all modes route.
    """
    (folder / "graphs").mkdir(parents=True)
    names = [spec.name for spec in inputs]
    given = {"lite": ("logits", SCORE) if learned else ("logits",), "full": ("logits",)}
    tiers = [Tier(name, (*names, PRESENT), outputs) for name, outputs in given.items()]
    modes = ("+".join(names), *names)
    mode_policy = ModePolicy(1.0, 0.5)
    if learned:
        mode_policy = ModePolicy(1.0, 0.5, LEARNED, (0.9, 0.6, 0.5, 0.4))
    bundle = Bundle(
        folder=folder,
        name=f"{network}-host",
        network=network,
        profile="host",
        labels=tuple(labels),
        inputs=tuple(inputs),
        tiers=tuple(tiers),
        policy=RouterPolicy(dict.fromkeys(modes, mode_policy)),
        created="2026-01-01T00:00:00Z",
        provenance={},
        files={},
    )
    graphs = {bundle.graph(t.name, cpu=cpu): n for n, t in enumerate(tiers) for cpu in (0, 1)}
    for path, number in graphs.items():
        _write(path, inputs, len(labels), tiers[number], np.random.default_rng(number))
    files = {path.relative_to(folder).as_posix(): sha256_of(path) for path in graphs}
    bundle = replace(bundle, files=files)
    bundle.write()
    return folder


def _write(path, inputs, classes, tier, rng):
    node = helper.make_node
    constants = {"whole": np.array([1, 1])}
    nodes = []
    for number, spec in enumerate(inputs):
        # A picture's mean is some ten; a sound's is nothing, so its square.
        scale = 0.1 if spec.kind != "audio" else 100.0
        constants[f"weights_{number}"] = scale * rng.standard_normal((1, classes), np.float32)
        constants[f"place_{number}"] = np.array([number])
        square = [] if spec.kind != "audio" else [node("Mul", [spec.name] * 2, ["power"])]
        used = "power" if square else spec.name
        nodes += [
            *square,
            node("ReduceMean", [used], [f"mean_{number}"], keepdims=0),
            node("Reshape", [f"mean_{number}", "whole"], [f"one_{number}"]),
            node("Gather", [PRESENT, f"place_{number}"], [f"there_{number}"], axis=1),
            node("Mul", [f"one_{number}", f"there_{number}"], [f"seen_{number}"]),
            node("MatMul", [f"seen_{number}", f"weights_{number}"], [f"logits_{number}"]),
        ]
    nodes.append(node("Sum", [f"logits_{n}" for n in range(len(inputs))], ["logits"]))
    shapes = {"logits": (1, classes), SCORE: (1, 1)}
    if SCORE in tier.outputs:
        nodes += [
            node("Sigmoid", ["logits"], ["odds"]),
            node("ReduceMean", ["odds"], ["odd"], keepdims=0),
            node("Reshape", ["odd", "whole"], [SCORE]),
        ]

    def tensor(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        path.stem,
        [*(tensor(s.name, s.shape) for s in inputs), tensor(PRESENT, (1, len(inputs)))],
        [tensor(name, shapes[name]) for name in tier.outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save_model(model, str(path))
