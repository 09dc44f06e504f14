"""The building half of the fake TensorRT: parser, network, configuration, builder."""

from __future__ import annotations

import json
import os
import signal
import time
import weakref
from typing import Any

from fake_machine import machine
from fake_names import Guarded
from fake_network import Graph, Node, Spec, read_graph

MAGIC = b"fake-plan "
_TIMING = b"fake-timing "


class ITensor(Guarded):
    def __init__(self, spec: Spec, api: Any) -> None:
        self.name = spec.name
        self.shape = spec.shape
        self.dtype = getattr(api.DataType, spec.type)


class ILayer(Guarded):
    _api: Any

    def __init__(self, node: Node) -> None:
        api = self._api
        self.name = node.name
        self.type = getattr(api.LayerType, node.kind)
        self.num_inputs, self.num_outputs = len(node.inputs), len(node.outputs)
        self._inputs = [api.ITensor(spec, api) for spec in node.inputs]
        self._outputs = [api.ITensor(spec, api) for spec in node.outputs]
        self._output_types: dict[int, Any] = {}

    def get_input(self, index: int) -> Any:
        return self._inputs[index] if index < len(self._inputs) else None

    def get_output(self, index: int) -> Any:
        return self._outputs[index] if index < len(self._outputs) else None

    def set_output_type(self, index: int, dtype: Any) -> None:
        self._output_types[index] = dtype

    @property
    def _held(self) -> Any:
        """The precision it was told to keep, None if none."""
        return vars(self).get("precision")


class INetworkDefinition(Guarded):
    _api: Any

    def __init__(self, flags: int) -> None:
        kinds = self._api.NetworkDefinitionCreationFlag
        known = {name: 1 << int(getattr(kinds, name)) for name in kinds._members}
        if flags & ~sum(set(known.values())):
            raise machine.violate(f"create_network: {flags:#b} has flags of another version")
        self._flags = {name for name, bit in known.items() if flags & bit}
        self._graph: Graph | None = None
        self._layers: list[Any] = []
        self._inputs: list[Any] = []
        self._parser: Any = None

    @property
    def _strong(self) -> bool:
        # Where no flag for INT8 is left there is no other way.
        return "STRONGLY_TYPED" in self._flags or not hasattr(self._api.BuilderFlag, "INT8")

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_layer(self, index: int) -> Any:
        return self._layers[index]

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def _take(self, graph: Graph) -> None:
        self._graph = graph
        self._layers = [self._api.ILayer(node) for node in graph.nodes]
        self._inputs = [self._api.ITensor(spec, self._api) for spec in graph.inputs]


class ParserError(Guarded):
    def __init__(self, number: int, node: str, operator: str, why: str) -> None:
        self._said = (number, node, operator, why)

    def node(self) -> int:
        return self._said[0]

    def node_name(self) -> str:
        return self._said[1]

    def node_operator(self) -> str:
        return self._said[2]

    def desc(self) -> str:
        return self._said[3]


class OnnxParser(Guarded):
    _api: Any

    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors: list[Any] = []
        network._parser = weakref.ref(self)

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse(self, model: bytes) -> bool:
        api = self._api
        explicit = "EXPLICIT_BATCH" in self._network._flags
        if api.version.startswith("8.") and not explicit:
            return self._refuse(
                -1, "", "", "This version of the ONNX parser only supports TensorRT "
                "INetworkDefinitions with an explicit batch dimension."
            )  # fmt: skip
        graph = read_graph(bytes(model), api.LayerType, api.DataType)
        for number, node, operator, why in graph.errors:
            self._refuse(number, node, operator, why)
        if not graph.errors:
            self._network._take(graph)
        return not graph.errors

    def _refuse(self, number: int, node: str, operator: str, why: str) -> bool:
        self._errors.append(self._api.ParserError(number, node, operator, why))
        self._logger.log(
            self._api.ILogger.Severity.ERROR, f"In node {number} ({operator}): {why}"
        )
        return False


class IHostMemory(Guarded):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bytes__(self) -> bytes:
        return self._data

    @property
    def nbytes(self) -> int:
        return len(self._data)


class ITimingCache(Guarded):
    _api: Any

    def __init__(self, data: bytes) -> None:
        machine_here = [self._api.version, machine.sm, machine.sm_count]
        self._fits = not data
        self._layers: list[str] = []
        if data.startswith(_TIMING):
            made_on, self._layers = json.loads(data[len(_TIMING) :])
            self._fits = made_on == machine_here
        self._machine = machine_here

    def serialize(self) -> Any:
        return self._api.IHostMemory(
            _TIMING + json.dumps([self._machine, self._layers]).encode()
        )


class IBuilderConfig(Guarded):
    _api: Any
    builder_optimization_level = 3

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._flags: set[str] = set()
        self._pools: dict[str, int] = {}
        self._cache: Any = None

    def set_flag(self, flag: Any) -> None:
        if not isinstance(flag, self._api.BuilderFlag):
            raise TypeError(f"set_flag(): incompatible function arguments: {flag!r}")
        self._flags.add(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        if not isinstance(pool, self._api.MemoryPoolType):
            raise TypeError(
                f"set_memory_pool_limit(): incompatible function arguments: {pool!r}"
            )
        self._pools[pool.name] = size

    def create_timing_cache(self, serialized: bytes) -> Any:
        return self._api.ITimingCache(bytes(serialized))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if not cache._fits and not ignore_mismatch:
            self._logger.log(
                self._api.ILogger.Severity.ERROR,
                "Timing cache was made on another device: it is not used",
            )
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def _as_kept(self, name: str, value: Any) -> Any:
        # The builder keeps a bare pointer of these: the caller must keep the object.
        callback = name in ("progress_monitor", "int8_calibrator")
        return weakref.ref(value) if callback else value

    def _alive(self, name: str) -> Any:
        """The callback that was set as ``name``, None if none was."""
        if name not in vars(self):
            return None
        found = vars(self)[name]()
        if found is None:
            raise machine.violate(f"{name} is gone before the build")
        return found


class Builder(Guarded):
    _api: Any

    def __init__(self, logger: Any) -> None:
        if not isinstance(logger, self._api.ILogger):
            raise TypeError("Builder: incompatible constructor arguments")
        self._logger = logger
        if not machine.present:
            self._error("CUDA initialization failure with error: 100")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @property
    def platform_has_fast_fp16(self) -> bool:
        return machine.sm >= 53

    @property
    def platform_has_fast_int8(self) -> bool:
        return machine.sm >= 61 and machine.sm != 62

    @property
    def num_DLA_cores(self) -> int:  # noqa: N802
        return machine.dla_cores

    def create_network(self, flags: int = 0) -> Any:
        return self._api.INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        return self._api.IBuilderConfig(self._logger)

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        if network._parser is None or network._parser() is None:
            raise machine.violate("the parser is gone before the build: it owns the weights")
        refused = self._end_badly()
        if refused is None:
            refused = _refusal(self._api, network, config)
        if refused is not None:
            if refused:
                self._error(refused)
            return None
        if not self._report(config, network.num_layers):
            self._error("the build was cancelled")
            return None
        graph = network._graph
        assert graph is not None
        if config._cache is not None:
            config._cache._layers = sorted({*config._cache._layers, *_names(graph)})
        verbosity = vars(config).get("profiling_verbosity")
        header = {
            "version": self._api.version,
            "sm": machine.sm,
            "strong": network._strong,
            "flags": sorted(config._flags),
            "detailed": verbosity is not None and verbosity.name == "DETAILED",
            "workspace": config._pools.get("WORKSPACE"),
            "level": vars(config).get("builder_optimization_level"),
            "held": [layer.name for layer in network._layers if layer._held is not None],
        }
        data = MAGIC + json.dumps(header).encode() + b"\n" + graph.data
        return self._api.IHostMemory(data)

    def _error(self, message: str) -> None:
        self._logger.log(self._api.ILogger.Severity.ERROR, message)

    def _report(self, config: Any, steps: int) -> bool:
        monitor = config._alive("progress_monitor")
        if monitor is None:
            return True
        monitor.phase_start("Building Engine", None, 2)
        monitor.phase_start("Timing layers", "Building Engine", steps)
        going = all(monitor.step_complete("Timing layers", step) for step in range(steps))
        monitor.phase_finish("Timing layers")
        going = monitor.step_complete("Building Engine", 0) and going
        monitor.phase_finish("Building Engine")
        return bool(going)

    def _end_badly(self) -> str | None:
        """What ``machine.build_ends`` asks for: an error's text, empty for one without."""
        ends = machine.build_ends
        if ends == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if ends == "crashed":
            os.kill(os.getpid(), signal.SIGSEGV)
        if ends == "exited":
            os.write(2, b"terminate called without an active exception\n")
            os._exit(9)
        if ends == "hanging":
            time.sleep(60)
        if ends == "chatty":
            os.write(
                1, b'[TRT] something of a library\n{no JSON}\n{"of": "others"}\n[TRT] open'
            )
        if ends == "memory":
            return "Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)"
        return "" if ends == "mute" else None


def _names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


def _refusal(api: Any, network: Any, config: Any) -> str | None:
    """Why this version would not build it; None where it would."""
    flags, graph = config._flags, network._graph
    if graph is None:
        return "Error Code 4: the network has no layers"
    told = [layer.name for layer in network._layers if layer._held is not None]
    if network._strong:
        if flags & {"INT8", "FP16", "BF16"}:
            return "Error Code 3: precision flags cannot be set for a strongly typed network"
        if told:
            return f"Error Code 3: {told[0]}: precision in a strongly typed network"
    calibrator = config._alive("int8_calibrator")
    dla = vars(config).get("default_device_type")
    if dla is not None and dla.name == "DLA" and not network._strong and graph.quantized:
        return "Error Code 4: the DLA takes no Q/DQ"
    if network._strong:
        return None
    if graph.quantized and "INT8" not in flags:
        return "Error Code 4: the network has Q/DQ layers, and INT8 is not set in the config"
    if "INT8" in flags and not graph.quantized:
        cache = calibrator.read_calibration_cache() if calibrator is not None else None
        if cache is None or not bytes(cache).startswith(b"TRT-"):
            return "Error Code 4: Calibration failure occurred with no scaling factors detected"
        calibrator.get_batch_size()
    return None


CLASSES = (
    *(ITensor, ILayer, INetworkDefinition, ParserError, OnnxParser, IHostMemory),
    *(ITimingCache, IBuilderConfig, Builder),
)
