"""A fake of TensorRT 11.4.0: its names and no others, computing with ONNX Runtime."""

import tensorrt_fake

tensorrt_fake.expose(__name__, "11.4.0")
