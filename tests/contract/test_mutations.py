"""Mistakes in the sources, each of which a check on the fakes must notice."""

import importlib
import json
import sys
import threading
import types
from dataclasses import dataclass

import numpy as np
import pytest
from faking import make_graph, make_input

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.errors import ExportError, InferenceError

CUDA, TRT = "mla_edge.engines.cuda", "mla_edge.engines.trt"
BUILD = "mla_edge.exporter.engine_build"


@dataclass(frozen=True)
class Mutation:
    """One mistake: in ``module``, ``old`` becomes ``new``; ``check`` must fail."""

    title: str
    module: str
    old: str
    new: str
    check: str
    version: str = "10.3"
    integrated: bool = True


MUTATIONS = [
    Mutation("renamed call", TRT, "execute_async_v3(", "execute_async_v2(", "answers"),
    Mutation("forgotten synchronise", TRT, "        gpu.synchronize()\n", "", "answers"),
    Mutation(
        "wrong dtype",
        TRT,
        "buffer(spec.shape, spec.dtype)",
        'buffer(spec.shape, "float16")',
        "answers",
    ),
    Mutation(
        "calibrator on 11",
        BUILD,
        ' or not hasattr(trt, "IInt8EntropyCalibrator2")',
        "",
        "builds_for_dla",
        "11.4",
    ),
    Mutation(
        "EXPLICIT_BATCH dropped on 8.6",
        BUILD,
        'return 1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0',
        "return 0",
        "builds",
        "8.6",
    ),
    Mutation(
        "buffers freed before the context",
        TRT,
        "        self._context = None  # uses the engine and the buffers\n",
        "        kept, self._context = self._context, None\n",
        "answers",
    ),
    Mutation(
        "INT8 flag set on 11",
        BUILD,
        '    if not hasattr(trt.BuilderFlag, "INT8"):\n        return True\n',
        "",
        "builds",
        "11.4",
    ),
    Mutation(
        "missing set_tensor_address",
        TRT,
        "if not self._context.set_tensor_address(name, buffer.address):",
        "if False:",
        "answers",
    ),
    Mutation(
        "download forgotten on a discrete GPU",
        TRT,
        "            buffer.download(gpu.stream)\n",
        "            pass\n",
        "answers",
        integrated=False,
    ),
    Mutation(
        "upload forgotten on a discrete GPU",
        TRT,
        "            buffer.upload(gpu.stream)\n",
        "            pass\n",
        "answers",
        integrated=False,
    ),
    Mutation(
        "double free",
        CUDA,
        "            self._twin.free()\n",
        "            self._twin.free()\n            self._twin.free()\n",
        "answers",
        integrated=False,
    ),
    Mutation(
        "run on another thread",
        TRT,
        "if threading.get_ident() != self._thread:",
        "if False:",
        "refuses_another_thread",
    ),
    Mutation(
        "memory that is not mapped",
        CUDA,
        "driver.host_alloc_flags.DEVICEMAP if mapped else 0",
        "0",
        "answers",
    ),
    Mutation(
        "the host's address for the GPU's",
        CUDA,
        "self._pinned.get_device_pointer() if mapped else self._twin",
        "self.host.ctypes.data",
        "answers",
    ),
    Mutation(
        "context left on its thread", CUDA, "        self._context.pop()\n", "", "answers"
    ),
    Mutation(
        "stream after its context",
        CUDA,
        "        self.stream = None  # before its context\n",
        "",
        "answers",
    ),  # fmt: skip
    Mutation(
        "memory never freed",
        TRT,
        "            buffer.free()\n",
        "            pass\n",
        "answers",
    ),  # fmt: skip
    Mutation("FP16 forgotten beside INT8", BUILD, '("INT8", "FP16")', '("INT8",)', "builds"),
    Mutation(
        "progress monitor on 8.6",
        BUILD,
        '    if not hasattr(trt, "IProgressMonitor"):\n        return None\n',
        "",
        "builds",
        "8.6",
    ),
    Mutation(
        "parser gone before the build",
        BUILD,
        "builder, network, _parser = parse_network(bindings, Path(spec.graph), strong=strong)",
        "builder, network = parse_network(bindings, Path(spec.graph), strong=strong)[:2]",
        "builds",
    ),
    Mutation(
        "node_name of an error on 8.6",
        BUILD,
        'if hasattr(error, "node_name"):',
        "if True:",
        "names_what_is_refused",
        "8.6",
    ),
]


class Checks:
    """What must hold, on one fake; each is run with and without its mutations."""

    def __init__(self, fakes, folder, version, integrated):
        self.fakes, self.folder, self.version = fakes, folder, version
        self.bindings = fakes.use(version, INTEGRATED=integrated, DLA_CORES=2)
        self.graph = make_graph(folder / "lite.onnx")

    def build(self, **options):
        module = importlib.import_module(BUILD)
        options.setdefault("graph", str(self.graph))
        spec = module.BuildSpec(precision="int8", **options)
        return module.build_engine(self.bindings, spec)

    def open(self):
        plan = self.folder / "bundle" / "engines" / "key" / "lite.plan"
        plan.parent.mkdir(parents=True)
        plan.write_bytes(self.build()[0])
        gpu = importlib.import_module(CUDA).Gpu()
        return importlib.import_module(TRT).TensorRTEngine(plan, self.bindings, gpu)

    def builds(self):
        plan, built = self.build()
        flags = json.loads(plan.split(b"\n")[0].partition(b" ")[2])["flags"]
        strong = self.version == "11.4"
        assert built.typing == ("strong" if strong else "weak")
        assert {"INT8", "FP16"} <= set(flags) or strong and not flags
        assert bool(built.phases) == (self.version != "8.6")

    def builds_for_dla(self):
        cache = self.folder / "calibration.cache"
        cache.write_bytes(b"TRT-8601-EntropyCalibration2\n")
        assert self.build(dla=True, calibration_cache=str(cache))[1].flags == ()

    def names_what_is_refused(self):
        noise = self.folder / "noise.onnx"
        noise.write_bytes(b"\xff\xff")
        with pytest.raises(ExportError, match="node -1: Failed to parse"):
            self.build(graph=str(noise))

    def answers(self):
        engine = self.open()
        plain = OnnxRuntimeEngine(self.graph, optimise=False)
        for seed in range(2):
            found, expected = engine.run(make_input(seed)), plain.run(make_input(seed))
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value)
        engine.close()
        assert self.fakes.machine.violations == []
        assert self.fakes.machine.left_over() == []

    def refuses_another_thread(self):
        engine, found = self.open(), []

        def run():
            try:
                engine.run(make_input())
            except (InferenceError, AssertionError) as error:
                found.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        engine.close()
        assert isinstance(found[0], InferenceError)
        assert "another thread" in str(found[0])


def mutate(monkeypatch, mutation):
    """Put the mutated module in the place of the right one."""
    right = importlib.import_module(mutation.module)
    with open(right.__file__, encoding="utf-8") as file:
        source = file.read()
    assert source.count(mutation.old) >= 1, f"{mutation.title}: the text is not in the source"
    made = types.ModuleType(mutation.module)
    made.__file__ = right.__file__
    monkeypatch.setitem(sys.modules, mutation.module, made)
    exec(
        compile(source.replace(mutation.old, mutation.new), right.__file__, "exec"), vars(made)
    )


def test_there_are_ten_and_more_and_no_two_are_the_same():
    assert len({mutation.title for mutation in MUTATIONS}) == len(MUTATIONS) >= 10


@pytest.mark.parametrize(
    ("check", "version", "integrated"),
    sorted({(m.check, m.version, m.integrated) for m in MUTATIONS}),
)
def test_the_right_source_passes_every_check(fakes, tmp_path, check, version, integrated):
    getattr(Checks(fakes, tmp_path, version, integrated), check)()
    assert fakes.machine.violations == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.title)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_mistake_is_noticed(fakes, tmp_path, monkeypatch, mutation):
    checks = Checks(fakes, tmp_path, mutation.version, mutation.integrated)
    mutate(monkeypatch, mutation)
    fakes.forgiven = True
    noticed = (
        AssertionError,
        AttributeError,
        ExportError,
        InferenceError,
        ValueError,
        TypeError,
    )
    with pytest.raises(noticed) as caught:
        getattr(checks, mutation.check)()
    first = (fakes.machine.violations or [f"{type(caught.value).__name__}: {caught.value}"])[0]
    print(f"{mutation.title}: {first.splitlines()[0]}")
