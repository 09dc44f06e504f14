"""The running half of the fake TensorRT: runtime, engine, context, inspector."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from fake_building import MAGIC
from fake_machine import machine
from fake_names import Guarded
from fake_network import WEIGHTED, Graph, Spec, read_graph

_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


class Runtime(Guarded):
    _api: Any

    def __init__(self, logger: Any) -> None:
        if not isinstance(logger, self._api.ILogger):
            raise TypeError("Runtime: incompatible constructor arguments")
        self._logger = logger
        if not machine.present:
            self._error("CUDA initialization failure with error: 100")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        data = bytes(plan)
        if not data.startswith(MAGIC):
            return self._error("Error Code 1: Serialization (magic tag does not match)")
        line, _, graph = data[len(MAGIC) :].partition(b"\n")
        header = json.loads(line)
        if header["version"] != self._api.version:
            return self._error(
                "Error Code 1: Serialization (Version tag does not match. Note: Current "
                f"Version: {self._api.version}, Serialized Engine Version: {header['version']})"
            )
        if header["sm"] != machine.sm:
            return self._error(
                "Error Code 6: API Usage Error (The engine plan file is generated on an "
                f"incompatible device, expecting compute {machine.sm} got compute "
                f"{header['sm']}, please rebuild.)"
            )
        return self._api.ICudaEngine(header, graph, self._logger)

    def _error(self, message: str) -> None:
        self._logger.log(self._api.ILogger.Severity.ERROR, message)


class ICudaEngine(Guarded):
    _api: Any

    def __init__(self, header: dict[str, Any], data: bytes, logger: Any) -> None:
        import onnxruntime

        self._header, self._logger = header, logger
        self._graph: Graph = read_graph(data, self._api.LayerType, self._api.DataType)
        self._specs = {s.name: s for s in (*self._graph.inputs, *self._graph.outputs)}
        options = onnxruntime.SessionOptions()
        # The optimiser breaks some graphs made for TensorRT.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"]
        )
        machine.users.add(self)

    @property
    def num_io_tensors(self) -> int:
        return len(self._specs)

    def get_tensor_name(self, index: int) -> str:
        return list(self._specs)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._specs[name].shape

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._api.DataType, self._specs[name].type)

    def get_tensor_mode(self, name: str) -> Any:
        given = any(spec.name == name for spec in self._graph.inputs)
        return getattr(self._api.TensorIOMode, "INPUT" if given else "OUTPUT")

    def create_execution_context(self) -> Any:
        return self._api.IExecutionContext(self)

    def create_engine_inspector(self) -> Any:
        return self._api.EngineInspector(self)


class IExecutionContext(Guarded):
    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        machine.users.add(self)

    def set_tensor_address(self, name: str, address: int) -> bool:
        specs = self._engine._specs
        if name not in specs:
            raise machine.violate(f"set_tensor_address: no tensor is called {name!r}")
        machine.find(address, _size(specs[name]), f"set_tensor_address of {name!r}")
        self._addresses[name] = int(address)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = machine.stream(stream_handle, "execute_async_v3")
        engine = self._engine
        memory = {}
        for name, spec in engine._specs.items():
            if name not in self._addresses:
                raise machine.violate(f"execute_async_v3: {name!r} has no address")
            memory[name] = machine.find(
                self._addresses[name], _size(spec), f"execute_async_v3, {name!r}"
            )
            if _size(spec) != len(memory[name].data):
                raise machine.violate(
                    f"execute_async_v3: {name!r} is {_size(spec)} bytes, not {memory[name]}"
                )
        machine.calls.append("execute")

        def execute() -> None:
            feeds = {
                spec.name: memory[spec.name].data.view(_NUMPY[spec.type]).reshape(spec.shape)
                for spec in engine._graph.inputs
            }
            names = [spec.name for spec in engine._graph.outputs]
            for name, value in zip(names, engine._session.run(names, feeds)):
                memory[name].data[:] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)

        stream.add("execute_async_v3", tuple(memory.values()), execute)
        return True


class EngineInspector(Guarded):
    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:  # noqa: A002 - its name
        if format.name != "JSON":
            return "a text that is no JSON"
        header, graph = self._engine._header, self._engine._graph
        kinds = ("QUANTIZE", "DEQUANTIZE", "CONSTANT")
        nodes = [node for node in graph.nodes if node.kind not in kinds]
        if not header["detailed"]:
            return json.dumps({"Layers": [node.name for node in nodes], "Bindings": []})
        layers = []
        for node in nodes:
            int8 = node.kind in WEIGHTED and graph.reads_int8(node)
            form = "Thirty-two wide channel vectorized row major Int8" if int8 else "FP32"
            layers.append({
                "Name": node.name,
                "LayerType": "CaskConvolution" if node.kind == "CONVOLUTION" else node.kind,
                "Inputs": [{"Name": s.name, "Format/Datatype": form} for s in node.inputs[:1]],
                "ParameterType": node.kind.replace("_", ""),
            })  # fmt: skip
        copies = [{"Name": f"Reformatting CopyNode for {s.name}", "LayerType": "Reformat"}
                  for s in graph.inputs if graph.quantized]  # fmt: skip
        return json.dumps({"Layers": copies + layers, "Bindings": list(self._engine._specs)})


def _size(spec: Spec) -> int:
    count = int(np.prod(spec.shape, dtype=np.int64))
    return count * np.dtype(_NUMPY[spec.type]).itemsize


CLASSES = (Runtime, ICudaEngine, IExecutionContext, EngineInspector)
