"""A fake of TensorRT 10.3.0: its names and no others, computing with ONNX Runtime."""

import tensorrt_fake

tensorrt_fake.expose(__name__, "10.3.0")
