"""What the processor that runs the tests can do."""

import platform
from pathlib import Path

IS_EXACT = platform.machine() not in ("x86_64", "AMD64") or (
    "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
)
"""Whether ONNX Runtime's INT8 kernels add up exactly: on x86-64 without VNNI they saturate."""
