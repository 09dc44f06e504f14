"""A fake of TensorRT 8.6.1: its names and no others, computing with ONNX Runtime."""

import tensorrt_fake

tensorrt_fake.expose(__name__, "8.6.1")
