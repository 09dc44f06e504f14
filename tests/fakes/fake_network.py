"""A graph as TensorRT's parser sees it: layers with types and tensors, or what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import TensorProto, numpy_helper, shape_inference

_KINDS = {
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "MatMul": "MATRIX_MULTIPLY",
    "Gemm": "MATRIX_MULTIPLY",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "LayerNormalization": "NORMALIZATION",
    "BatchNormalization": "SCALE",
    "Softmax": "SOFTMAX",
    "LogSoftmax": "SOFTMAX",
    "TopK": "TOPK",
    "Gather": "GATHER",
    "GatherElements": "GATHER",
    "ScatterElements": "SCATTER",
    "Concat": "CONCATENATION",
    "Slice": "SLICE",
    "Split": "SLICE",
    "Expand": "SLICE",
    "Pad": "SLICE",
    "Shape": "SHAPE",
    "Constant": "CONSTANT",
    "ConstantOfShape": "FILL",
    "Cast": "CAST",
    "Identity": "IDENTITY",
    "Where": "SELECT",
    "MaxPool": "POOLING",
    "AveragePool": "POOLING",
    "GlobalAveragePool": "REDUCE",
    "Unsqueeze": "UNSQUEEZE",
    "Squeeze": "SQUEEZE",
    **dict.fromkeys(("Reshape", "Transpose", "Flatten"), "SHUFFLE"),
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"), "REDUCE"
    ),
    **dict.fromkeys(
        ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "Elu", "HardSigmoid"), "ACTIVATION"
    ),
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Equal", "Greater", "Less", "And"),
        "ELEMENTWISE",
    ),
    **dict.fromkeys(
        ("Sqrt", "Exp", "Log", "Erf", "Neg", "Abs", "Reciprocal", "Sin", "Cos", "Not"), "UNARY"
    ),
}
_TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}
WEIGHTED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")


@dataclass
class Spec:
    """A tensor: its name, the name of its type, its shape."""

    name: str
    type: str
    shape: tuple[int, ...]


@dataclass
class Node:
    """A layer before it becomes one of some version's."""

    name: str
    operator: str
    kind: str
    inputs: list[Spec]
    outputs: list[Spec]


@dataclass
class Graph:
    """What the parser made of a file; ``errors`` are (number, node, operator, why)."""

    data: bytes
    inputs: list[Spec] = field(default_factory=list)
    outputs: list[Spec] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    errors: list[tuple[int, str, str, str]] = field(default_factory=list)

    @property
    def quantized(self) -> bool:
        """Whether it has Q/DQ."""
        return any(node.kind == "QUANTIZE" for node in self.nodes)

    def reads_int8(self, node: Node) -> bool:
        """Whether ``node`` is fed by DEQUANTIZE, so that it can be fused to INT8."""
        makers = {spec.name: n for n in self.nodes for spec in n.outputs}
        maker = makers.get(node.inputs[0].name)
        return maker is not None and maker.kind == "DEQUANTIZE"


def read_graph(data: bytes, layers: Any, types: Any) -> Graph:
    """Parse ONNX; ``layers`` and ``types`` are the LayerType and DataType of one version."""
    graph = Graph(data)
    try:
        model = shape_inference.infer_shapes(onnx.load_from_string(data), strict_mode=False)
    except Exception:  # noqa: BLE001 - protobuf's own, of several kinds
        graph.errors.append((-1, "", "", "Failed to parse ONNX model"))
        return graph
    constants = {c.name: c for c in model.graph.initializer}
    known = {
        value.name: _spec(value, types)
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }
    known.update(
        (c.name, Spec(c.name, _type(c.data_type, types), tuple(c.dims)))
        for c in constants.values()
    )
    graph.inputs = [known[v.name] for v in model.graph.input if v.name not in constants]
    graph.outputs = [known[v.name] for v in model.graph.output]
    for number, node in enumerate(model.graph.node):
        why = _refusal(node, constants)
        if why:
            graph.errors.append((number, node.name, node.op_type, why))
        kind = _KINDS.get(node.op_type, "")
        made = Node(
            node.name,
            node.op_type,
            kind if hasattr(layers, kind) else "SHUFFLE",
            [known.get(name, Spec(name, "FLOAT", ())) for name in node.input if name],
            [known.get(name, Spec(name, "FLOAT", ())) for name in node.output if name],
        )
        graph.nodes.append(made)
    return graph


def _refusal(node: Any, constants: Any) -> str:
    if node.op_type not in _KINDS:
        return f"No importer registered for op: {node.op_type}"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        if node.input[0] in constants and (
            constants[node.input[0]].data_type == TensorProto.INT32
        ):
            return "Assertion failed: the input of DequantizeLinear is INT32"
        if len(node.input) > 2 and node.input[2] in constants:
            zero = numpy_helper.to_array(constants[node.input[2]])
            if zero.any() or zero.dtype != "int8":
                return "Assertion failed: the zero point must be zero and of INT8"
    return ""


def _type(number: int, types: Any) -> str:
    name = _TYPES.get(number, "FLOAT")
    return name if hasattr(types, name) else "INT32"  # INT64 before TensorRT 10


def _spec(value: Any, types: Any) -> Spec:
    tensor = value.type.tensor_type
    sizes = (d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    return Spec(value.name, _type(tensor.elem_type, types), tuple(sizes))
