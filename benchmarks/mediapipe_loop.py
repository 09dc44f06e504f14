"""The loop of MediaPipe Tasks in live-stream mode, for ``loop.py``, which starts it.

    python -m venv .venv-mediapipe && .venv-mediapipe/bin/pip install mediapipe
    .venv-mediapipe/bin/python benchmarks/mediapipe_loop.py make MODEL.tflite --network-ms 45
    .venv-mediapipe/bin/python benchmarks/mediapipe_loop.py run MODEL.tflite --url URL

MediaPipe brings another OpenCV, so it has an environment of its own. Its Tasks take TensorFlow
Lite graphs, and it brings none: ``make`` writes one of convolutions with random weights, as
many as take ``--network-ms`` of one core inside an ``ImageClassifier``, of what the task takes
besides nothing counted.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import flatbuffers
import mediapipe
import numpy as np
from loops import LOST, Log
from mediapipe.tasks.metadata import schema_py_generated as tflite
from mediapipe.tasks.python import BaseOptions, vision
from stamped_camera import HEIGHT, WIDTH, read_stamp

SIDE, CHANNELS, CLASSES = 64, 16, 11
PROBE_LAYERS = 40  # to know what one takes
RUNS = 30


class Graph:
    """A TensorFlow Lite graph, as it grows."""

    def __init__(self) -> None:
        """Without a tensor; buffer 0 is empty by convention."""
        self.model = tflite.ModelT()
        self.model.version = 3
        self.model.buffers = [tflite.BufferT()]
        self.model.operatorCodes = []
        self.subgraph = tflite.SubGraphT()
        self.subgraph.tensors, self.subgraph.operators = [], []
        self.model.subgraphs = [self.subgraph]

    def tensor(self, shape: list[int], kind: int, values: np.ndarray | None = None) -> int:
        """Add a tensor, with ``values`` where it is constant."""
        tensor = tflite.TensorT()
        tensor.shape, tensor.type, tensor.buffer = shape, kind, 0
        tensor.name = f"t{len(self.subgraph.tensors)}"
        if values is not None:
            buffer = tflite.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.subgraph.tensors.append(tensor)
        return len(self.subgraph.tensors) - 1

    def constant(self, values: np.ndarray) -> int:
        """Add what does not change: float32 or int32."""
        kind = (
            tflite.TensorType.FLOAT32 if values.dtype == np.float32 else tflite.TensorType.INT32
        )
        return self.tensor(list(values.shape), kind, values)

    def step(  # noqa: PLR0913 - what an operator has
        self,
        code: int,
        inputs: list[int],
        shape: list[int],
        kind: int = 0,
        options: object = None,
    ) -> int:
        """Add an operator; the tensor it gives, float32 of ``shape``."""
        codes = [each.builtinCode for each in self.model.operatorCodes]
        if code not in codes:
            operator_code = tflite.OperatorCodeT()
            operator_code.builtinCode = operator_code.deprecatedBuiltinCode = code
            operator_code.version = 2 if code == tflite.BuiltinOperator.DEQUANTIZE else 1
            self.model.operatorCodes.append(operator_code)
            codes.append(code)
        operator = tflite.OperatorT()
        operator.opcodeIndex = codes.index(code)
        operator.inputs = inputs
        operator.outputs = [self.tensor(shape, tflite.TensorType.FLOAT32)]
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        self.subgraph.operators.append(operator)
        return int(operator.outputs[0])

    def write(self, path: Path, inputs: list[int], outputs: list[int]) -> None:
        """Write the file."""
        self.subgraph.inputs, self.subgraph.outputs = inputs, outputs
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(builder.Output()))


def write_model(path: Path, layers: int) -> None:
    """A classifier of uint8 pictures [1, 64, 64, 3] with so many 3 x 3 convolutions inside."""
    rng, graph = np.random.default_rng(0), Graph()
    picture = graph.tensor([1, SIDE, SIDE, 3], tflite.TensorType.UINT8)
    scale = tflite.QuantizationParametersT()
    scale.scale, scale.zeroPoint = [1 / 255], [0]
    graph.subgraph.tensors[picture].quantization = scale
    code, kind = tflite.BuiltinOperator, tflite.BuiltinOptions
    x = graph.step(code.DEQUANTIZE, [picture], [1, SIDE, SIDE, 3])
    channels = 3
    for _ in range(layers + 1):
        spread = (2 / (9 * channels)) ** 0.5
        shape = (CHANNELS, 3, 3, channels)
        weights = rng.normal(0, spread, shape).astype(np.float32)
        options = tflite.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = tflite.Padding.SAME, 1, 1
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = tflite.ActivationFunctionType.RELU
        inputs = [x, graph.constant(weights), graph.constant(np.zeros(CHANNELS, np.float32))]
        there = [1, SIDE, SIDE, CHANNELS]
        x = graph.step(code.CONV_2D, inputs, there, kind.Conv2DOptions, options)
        channels = CHANNELS
    axes = graph.constant(np.array([1, 2], np.int32))
    mean = tflite.ReducerOptionsT()
    x = graph.step(code.MEAN, [x, axes], [1, CHANNELS], kind.ReducerOptions, mean)
    weights = rng.normal(0, 0.1, (CLASSES, CHANNELS)).astype(np.float32)
    inputs = [x, graph.constant(weights), graph.constant(np.zeros(CLASSES, np.float32))]
    dense = tflite.FullyConnectedOptionsT()
    x = graph.step(
        code.FULLY_CONNECTED, inputs, [1, CLASSES], kind.FullyConnectedOptions, dense
    )
    softmax = tflite.SoftmaxOptionsT()
    softmax.beta = 1.0
    x = graph.step(code.SOFTMAX, [x], [1, CLASSES], kind.SoftmaxOptions, softmax)
    graph.write(path, [picture], [x])


def measure(path: Path) -> float:
    """Milliseconds of the processor that one picture takes."""
    options = vision.ImageClassifierOptions(BaseOptions(model_asset_path=str(path)))
    picture = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    image = mediapipe.Image(mediapipe.ImageFormat.SRGB, picture)
    taken = []
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for _ in range(RUNS):
            began_s = time.process_time()
            classifier.classify(image)
            taken.append(time.process_time() - began_s)
    return float(np.median(taken[3:])) * 1e3


def make(path: Path, network_ms: float) -> None:
    """Write the graph whose layers take ``network_ms`` here, and say what that came to."""
    write_model(path, 0)
    bare_ms = measure(path)
    write_model(path, PROBE_LAYERS)
    layer_ms = (measure(path) - bare_ms) / PROBE_LAYERS
    for _ in range(2):  # a longer graph is not quite as dear a layer
        layers = max(1, round(network_ms / layer_ms))
        write_model(path, layers)
        took_ms = measure(path) - bare_ms
        layer_ms = took_ms / layers
    sys.stderr.write(
        f"mediapipe {mediapipe.__version__}: {layers} layers take {took_ms:.1f} ms"
        f" besides the {bare_ms:.1f} ms of the task\n"
    )


def run(path: Path, url: str, log: Log) -> None:
    """As in MediaPipe's examples: read, hand over, and get results on another thread."""

    def decided(result: object, image: mediapipe.Image, timestamp_ms: int) -> None:
        log.decision(read_stamp(image.numpy_view()))

    options = vision.ImageClassifierOptions(
        BaseOptions(model_asset_path=str(path)),
        running_mode=vision.RunningMode.LIVE_STREAM,
        result_callback=decided,
    )
    capture = cv2.VideoCapture(url)
    last_ms = 0
    with vision.ImageClassifier.create_from_options(options) as classifier:
        while True:
            there, picture = capture.read()
            if not there:
                log.told(LOST)
                time.sleep(0.1)
                continue
            rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            last_ms = max(last_ms + 1, int(time.monotonic() * 1e3))  # it must grow
            image = mediapipe.Image(mediapipe.ImageFormat.SRGB, rgb)
            classifier.classify_async(image, last_ms)


def main() -> None:
    """Make the graph, or run the loop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("make", "run"))
    parser.add_argument("model", type=Path)
    parser.add_argument("--network-ms", type=float, default=45.0)
    parser.add_argument("--url", default="")
    args = parser.parse_args()
    if args.what == "make":
        make(args.model, args.network_ms)
    else:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        run(args.model, args.url, Log(sys.stdout))


if __name__ == "__main__":
    main()
