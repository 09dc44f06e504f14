"""The packages that exporting needs; one that is missing or broken is told before any work."""

from __future__ import annotations

import importlib

from mla_edge.errors import MissingDependency

_PACKAGES = {
    "torch": "torch",
    "onnx": "onnx",
    "onnxslim": "onnxslim",
    "torch_pruning": "torch-pruning",
    "jinja2": "jinja2",
}
"""By the name to import; what else a network is made of is the network's own affair."""


def check_packages() -> None:
    """MissingDependency names the first package that cannot be loaded, and how to get it."""
    for module, name in _PACKAGES.items():
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken one may raise anything at all
            raise MissingDependency(
                f"{name} cannot be loaded, and exporting needs it: {error}",
                hint="pip install 'mla-edge[export]'; if it is there, "
                f"pip install --force-reinstall {name}",
            ) from error
