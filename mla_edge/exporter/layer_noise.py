"""How far the tensors of a quantized graph are from the float graph's, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

import numpy as np

from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.quantization import run_with
from mla_edge.signals import Tensors

if TYPE_CHECKING:
    from pathlib import Path


def noise_in_layers(
    float_graph: Path, quantized: Path, samples: Sequence[Tensors]
) -> dict[str, tuple[float, float]]:
    """The shares of noise in the input and in the output of each quantized layer.

    A share is the energy of the difference from the float graph's tensor over that tensor's, in
    one run of both graphs, as they are written, on ``samples``.
    """
    plain, other = load_model(float_graph), load_model(quantized)
    there = {name for node in other.graph.node for name in (*node.input, *node.output)}
    weights = {tensor.name for tensor in other.graph.initializer}
    nodes = {node.name: node for node in other.graph.node}
    layers = [
        layer
        for layer in find_layers(plain)
        if layer.node.name in nodes and nodes[layer.node.name].input[1] not in weights
    ]
    inputs = {value.name for value in plain.graph.input}
    tensors = sorted({t for layer in layers for t in (layer.source, layer.out)} - inputs)
    # In the CPU form a linear layer's tensor may be there on two axes only.
    twins = {name: name if name in there else f"{name}/flat" for name in tensors}
    signal, noise = dict.fromkeys(tensors, 1e-12), dict.fromkeys(tensors, 0.0)
    runs = zip(
        run_with(plain, tensors, samples),
        run_with(other, sorted(twins.values()), samples, optimise=False),
    )
    for right, found in runs:
        for name in tensors:
            difference = found[twins[name]].ravel() - right[name].ravel()
            signal[name] += float(np.square(right[name], dtype=np.float64).sum())
            noise[name] += float(np.square(difference, dtype=np.float64).sum())

    def share(name: str) -> float:
        return noise[name] / signal[name] if name in signal else 0.0

    return {layer.node.name: (share(layer.source), share(layer.out)) for layer in layers}
