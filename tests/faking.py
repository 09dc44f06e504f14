"""Put a fake TensorRT and a fake pycuda in the place of the real ones, and graphs to run."""

import os
import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model

FOLDER = Path(__file__).parent / "fakes"
VERSIONS = {"8.6": "8.6.1", "10.3": "10.3.0", "11.4": "11.4.0"}
# What a board with that TensorRT has.
XAVIER = {"NAME": "Xavier (fake)", "SM": 72, "SM_COUNT": 8}
ORIN = {"NAME": "Orin (fake)", "SM": 87, "SM_COUNT": 16}
THOR = {"NAME": "Thor (fake)", "SM": 110, "SM_COUNT": 20}
PLAIN = {
    "PRESENT": True,
    "INTEGRATED": True,
    "DLA_CORES": 0,
    "MEMORY_MB": 30000,
    "BUILD_ENDS": "",
}
BOARDS = {"8.6": XAVIER, "10.3": ORIN, "11.4": THOR}
_LOADED = ("tensorrt", "pycuda", "pycuda.driver", "mla_edge.engines.cuda")


class Fakes:
    """The fakes in this process and in those that it starts; ``close`` takes them away."""

    def __init__(self, monkeypatch):
        self._patch = monkeypatch
        if str(FOLDER) not in sys.path:
            sys.path.insert(0, str(FOLDER))
        from fake_machine import FakeViolation, machine

        self.machine, self.violation = machine, FakeViolation
        self.forgiven = False  # a test that does wrong on purpose

    def use(self, version, **device):
        """TensorRT ``version`` on the board that has it, but for what ``device`` says."""
        self.forget()
        path = [str(FOLDER / version), str(FOLDER / "cuda"), str(FOLDER)]
        for folder in reversed(path):
            self._patch.syspath_prepend(folder)
        path = os.pathsep.join(filter(None, [*path, os.environ.get("PYTHONPATH", "")]))
        self._patch.setenv("PYTHONPATH", path)
        self.set(**{**PLAIN, **BOARDS[version], **device})
        self.machine.reset()
        return self.bindings

    def set(self, **device):
        """Change the GPU, here and for processes that start from now on."""
        for name, value in device.items():
            key = (
                name if name == "BUILD_ENDS" else "GPU" if name == "PRESENT" else f"GPU_{name}"
            )
            text = str(int(value)) if isinstance(value, bool) else str(value)
            self._patch.setenv(f"FAKE_{key}", text)

    @property
    def bindings(self):
        from mla_edge.engines.bindings import load_bindings

        return load_bindings("tensorrt")

    def forget(self):
        """Let the next import find what is there then."""
        from mla_edge.engines import bindings

        bindings._LOADED.pop("tensorrt", None)
        for name in _LOADED:
            sys.modules.pop(name, None)

    def check(self):
        """Nothing was done that a real GPU does not forgive, and nothing is left on it."""
        found = [] if self.forgiven else [*self.machine.violations, *self.machine.left_over()]
        self.machine.stack.clear()
        self.machine.reset()
        assert not found, found


def make_graph(path, *, int8=True, dynamic=False, shape=(1, 3, 8, 8)):
    """A convolution, a mean and a product: x -> logits [1, 4], feature [1, 6]."""
    random = np.random.default_rng(5)
    constants = {
        "kernel": random.normal(size=(6, 3, 3, 3)).astype(np.float32) / 3,
        "bias": random.normal(size=6).astype(np.float32),
        "weights": random.normal(size=(6, 4)).astype(np.float32),
    }
    nodes, conv, product = [], ["x", "kernel", "bias"], ["feature", "weights"]
    if int8:
        conv = [_dequantized(nodes, constants, "x", 0.03), conv[1], "bias"]
        for name, axis in (("kernel", 0), ("weights", 1)):
            value = constants.pop(name)
            others = tuple(i for i in range(value.ndim) if i != axis)
            scale = (np.abs(value).max(others) / 127).astype(np.float32)
            wide = np.expand_dims(scale, others)
            constants[f"{name}/int8"] = np.clip(np.round(value / wide), -127, 127).astype(
                np.int8
            )
            constants[f"{name}/scale"] = scale
            constants[f"{name}/zero"] = np.zeros(len(scale), np.int8)
            inputs = [f"{name}/int8", f"{name}/scale", f"{name}/zero"]
            nodes.append(
                helper.make_node("DequantizeLinear", inputs, [name], f"{name}/dq", axis=axis)
            )
    nodes += [
        helper.make_node("Conv", conv, ["c"], "/conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "/relu"),
        helper.make_node("ReduceMean", ["r"], ["feature"], "/mean", axes=[2, 3], keepdims=0),
    ]
    if int8:
        product[0] = _dequantized(nodes, constants, "feature", 0.02)
    nodes.append(helper.make_node("MatMul", product, ["logits"], "/head"))
    sizes = ["batch", *shape[1:]] if dynamic else list(shape)
    outputs = [("logits", [1, 4]), ("feature", [1, 6])]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    save_model(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        str(path),
    )
    return path


def _dequantized(nodes, constants, name, scale):
    """``name`` through Q and DQ."""
    constants[f"{name}/scale"] = np.float32(scale)
    constants[f"{name}/zero"] = np.int8(0)
    rest = [f"{name}/scale", f"{name}/zero"]
    q, dq = f"{name}/quantized", f"{name}/dequantized"
    nodes.append(helper.make_node("QuantizeLinear", [name, *rest], [q], q))
    nodes.append(helper.make_node("DequantizeLinear", [q, *rest], [dq], dq))
    return dq


def make_input(seed=0):
    """One input of `make_graph`."""
    return {"x": np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype(np.float32)}


def make_bundle(folder, *, profile="agx-orin", policy=None):
    """A bundle of one tier, ``lite``, whose graph is that of `make_graph`."""
    from mla_edge.bundle import Bundle, ModePolicy, RouterPolicy, sha256_of
    from mla_edge.signals import InputSpec, Tier

    (folder / "graphs").mkdir(parents=True)
    make_graph(folder / "graphs" / "lite.onnx")
    make_graph(folder / "graphs" / "lite.cpu.onnx")
    bundle = Bundle(
        folder=folder,
        name=f"made-{profile}",
        network="made",
        profile=profile,
        labels=("a", "b", "c", "d"),
        inputs=(InputSpec("x", "image", (1, 3, 8, 8)),),
        tiers=(Tier("lite", ("x",), ("logits", "feature")),),
        policy=policy or RouterPolicy({"x": ModePolicy(1.0, 0.0)}),
        created="2026-01-01T00:00:00+00:00",
        provenance={"precision": "int8", "sums_of_16_bits": True},  # nothing to warn of
        files={
            f"graphs/{name}": sha256_of(folder / "graphs" / name)
            for name in ("lite.onnx", "lite.cpu.onnx")
        },
    )
    bundle.write()
    return bundle


def add_engines(bundle, bindings, target, policy=None):
    """Engines of ``bundle`` for ``target``, as build leaves them."""
    import dataclasses
    import json

    from mla_edge.bundle import Bundle, sha256_of
    from mla_edge.engines.sidecar import Sidecar, plan_path, write_sidecar
    from mla_edge.exporter.engine_build import BuildSpec, build_engine

    plan = plan_path(bundle, target.key, "lite")
    plan.parent.mkdir(parents=True)
    graph = bundle.graph("lite", cpu=False)
    data, built = build_engine(bindings, BuildSpec(str(graph), "int8"))
    plan.write_bytes(data)
    facts = Sidecar(
        tier="lite",
        target=target,
        graph="graphs/lite.onnx",
        onnx_sha256=bundle.files["graphs/lite.onnx"],
        plan_sha256=sha256_of(plan),
        build={"typing": built.typing},
    )
    write_sidecar(plan, facts)
    (plan.parent / "build.json").write_text(json.dumps({"policy": policy}))
    paths = [p for p in sorted(bundle.folder.rglob("*")) if p.is_file()]
    files = {
        p.relative_to(bundle.folder).as_posix(): sha256_of(p)
        for p in paths
        if p.name != "bundle.json"
    }
    dataclasses.replace(bundle, files=files).write()
    return Bundle.read(bundle.folder)
