"""What a DLA would take of a graph, before anything is built, and whether that pays.

A DLA takes part of a network as a *loadable*, and what it does not take falls back to the GPU.
Between the two a tensor is brought into another format and one side waits for the other. No
board measured what that costs, so it is counted: in tensors handed over, and in their bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Collection, Mapping

from mla_edge.errors import ConfigError
from mla_edge.exporter.dla_limits import MAX_LOADABLES, Dla, Layers
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.profiles import all_profiles

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.profiles import DeviceProfile

CACHE, TYPED = "calibration cache", "strongly typed Q/DQ"
"""The forms of INT8 that a DLA takes: up to TensorRT 10.7, and from 11.4.1 on."""

# Assumed, not measured: when a DLA is worth a try.
MAX_ISLANDS = 3  # parts on the GPU
MIN_SHARE = 0.8  # of all multiplications on the DLA

_LAST_WITH_CACHE, _FIRST_TYPED = (10, 7), (11, 4, 1)
_AGX_ORIN = "p3701"  # its modules' p-numbers; the only board that has a DLA under 11.4.1
_SOCS = {"tegra194": "xavier", "tegra234": "orin"}
_SLOW_CLOCK = 1 / 3  # of the fastest power mode: below, the default mode is warned of


@dataclass(frozen=True)
class DlaNode:
    """A layer of the graph: where it runs, and why it falls back if it does."""

    name: str
    operator: str
    device: str  # "dla" or "gpu"
    why: str  # empty on the DLA
    macs: int


@dataclass(frozen=True)
class DlaPlan:
    """What runs where, in topological order, and what crosses between DLA and GPU."""

    nodes: tuple[DlaNode, ...]
    tensors: tuple[str, ...]  # activations that the DLA reads or writes
    loadables: int  # parts on the DLA
    islands: int  # parts on the GPU
    transitions: int  # tensors handed over in one inference, the network's own included
    border_bytes: int  # of those, once each, as the DLA has them
    without_range: tuple[str, ...]  # of ``tensors``: their layers run in FP16

    @property
    def on_dla(self) -> int:
        """How many layers the DLA takes."""
        return sum(node.device == "dla" for node in self.nodes)

    @property
    def macs(self) -> int:
        """Multiplications with an addition in one inference."""
        return sum(node.macs for node in self.nodes)

    @property
    def dla_macs(self) -> int:
        """Those of them on the DLA."""
        return sum(node.macs for node in self.nodes if node.device == "dla")

    @property
    def share(self) -> float:
        """The part of the multiplications that is on the DLA."""
        return self.dla_macs / self.macs if self.macs else 0.0

    @property
    def objections(self) -> tuple[str, ...]:
        """Why the DLA does not pay; none where it is worth a try."""
        if not self.on_dla:
            return ("it takes no layer",)
        found = []
        if self.loadables > MAX_LOADABLES:
            found.append(f"{self.loadables} loadables, a core loads {MAX_LOADABLES} at a time")
        if self.islands > MAX_ISLANDS:
            found.append(f"{self.islands} islands on the GPU, more than {MAX_ISLANDS}")
        if self.share < MIN_SHARE:
            found.append(
                f"{self.share:.0%} of the multiplications on it, less than {MIN_SHARE:.0%}"
            )
        return tuple(found)

    @property
    def falls_back(self) -> dict[str, list[str]]:
        """The layers on the GPU, by the reason."""
        reasons: dict[str, list[str]] = {}
        for node in self.nodes:
            if node.device == "gpu":
                reasons.setdefault(node.why, []).append(node.name)
        return reasons


def choose_form(profile: DeviceProfile, precision: str) -> str:
    """The form of INT8 that the DLA of ``profile`` takes: `CACHE` or `TYPED`.

    ConfigError where there is no DLA, where its TensorRT has none, and for other than INT8.
    """
    if not profile.dla_cores or profile.soc not in _SOCS:
        having = ", ".join(p.name for p in all_profiles() if p.dla_cores)
        raise ConfigError(
            f"--dla: {profile.title} has no DLA",
            hint=f"leave --dla out, or take a profile that has one: {having}",
        )
    if precision != "int8":
        raise ConfigError(
            f"--dla: this export is {precision}, and the plan for a DLA is for INT8",
            hint='leave --dla out, or take a recipe with precision = "int8"',
        )
    version = _version(profile)
    if version[:2] <= _LAST_WITH_CACHE:
        return CACHE
    orin = all(number.startswith(_AGX_ORIN) for number in profile.module)
    if orin and (version >= _FIRST_TYPED or version == _FIRST_TYPED[:2]):
        return TYPED
    raise ConfigError(
        f"--dla: TensorRT {profile.tensorrt} has no DLA on {profile.title}: 10.7 was the last "
        "that had, and 11.4.1 brings it back on AGX Orin alone",
        hint="leave --dla out, or take a JetPack whose TensorRT has it: 5.1 or 6 (up to 10.7), "
        "or 7.2.2 on AGX Orin",
    )


def dla_of(profile: DeviceProfile) -> Dla:
    """The accelerator of ``profile``, for the limits."""
    return Dla(_SOCS[str(profile.soc)], _version(profile))


def plan_dla(
    graph: Path,
    dla: Dla,
    *,
    floating: Collection[str] = (),
    ranged: Collection[str] | None = None,
    typed: Mapping[str, bool] | None = None,
) -> DlaPlan:
    """What ``dla`` takes of a float graph.

    ``floating`` names nodes that stay float32. ``ranged`` are the tensors that have an INT8
    range; None stands for all. ``typed`` says of nodes whether a strongly typed network has
    them in INT8; without it every layer may be.
    """
    model = load_model(graph)
    layers = Layers(model)
    nodes = []
    for node in layers.nodes:
        why = layers.refusal(node, dla)
        if not why and node.name in floating:
            why = "stays float32, a DLA computes in INT8 and FP16"
        if not why and typed is not None and not typed.get(node.name, False):
            why = "has no Q/DQ on both sides, so it is FP32, which a DLA does not compute"
        device = "gpu" if why else "dla"
        nodes.append(DlaNode(node.name, node.op_type, device, why, layers.macs(node)))
    devices = [node.device for node in nodes]
    loadables, islands = _parts(layers.nodes, devices)
    tensors = layers.activations(
        name
        for node, device in zip(layers.nodes, devices)
        for name in (*node.input, *node.output)
        if device == "dla"
    )
    without = () if ranged is None else tuple(t for t in tensors if t not in ranged)
    handed = _handed_over(model.graph, layers, devices)
    sizes = {t: math.prod(layers.shape(t)) * (2 if t in without else 1) for t in handed}
    return DlaPlan(
        nodes=tuple(nodes),
        tensors=tuple(tensors),
        loadables=loadables,
        islands=islands,
        transitions=len(handed),
        border_bytes=sum(sizes.values()),
        without_range=without,
    )


def clock_warnings(profile: DeviceProfile) -> list[str]:
    """What the board's default power mode does to the DLA's clock, if it is much."""
    clocks = {mode: mode.dla_mhz for mode in profile.power_modes if mode.dla_mhz}
    if not clocks:
        return []
    fastest = max(clocks, key=lambda mode: clocks[mode])
    return [
        f"The default power mode of {profile.title}, {mode.id} ({mode.name}), clocks the DLA "
        f"at {mhz:g} MHz, mode {fastest.id} ({fastest.name}) at {clocks[fastest]:g} MHz: "
        f"sudo nvpmodel -m {fastest.id} before it is used"
        for mode, mhz in clocks.items()
        if mode.default and mhz < _SLOW_CLOCK * clocks[fastest]
    ]


def _version(profile: DeviceProfile) -> tuple[int, ...]:
    return tuple(int(part) for part in str(profile.tensorrt).split("."))


def _parts(nodes: Collection[Any], devices: Collection[str]) -> tuple[int, int]:
    """How many parts the DLA and the GPU have.

    A part is what hangs together on one device with nothing of the other in between. So a node
    is as many changes of device behind the inputs as its longest way has, and a part is a
    connected piece of nodes of one device and one such depth: parts never wait for each other
    in a circle.
    """
    made: dict[str, int] = {}  # tensor -> the node it comes from
    depths: list[int] = []
    parts: list[int] = []  # of each node, a node of its part
    listed = list(devices)

    def root(index: int) -> int:
        while parts[index] != index:
            index = parts[index]
        return index

    for index, (node, device) in enumerate(zip(nodes, listed)):
        sources = [made[name] for name in node.input if name in made]
        depths.append(max((depths[s] + (listed[s] != device) for s in sources), default=0))
        parts.append(index)
        for source in sources:
            if listed[source] == device and depths[source] == depths[index]:
                parts[root(source)] = root(index)
        made.update((name, index) for name in node.output)
    roots = [listed[index] for index in range(len(parts)) if parts[index] == index]
    return roots.count("dla"), roots.count("gpu")


def _handed_over(graph: Any, layers: Layers, devices: Collection[str]) -> list[str]:
    """The activations that one device writes and the other reads.

    The network's inputs and outputs are the GPU's: TensorRT has them there, in FP32.
    """
    writer = {value.name: "gpu" for value in graph.input}
    readers: dict[str, set[str]] = {value.name: {"gpu"} for value in graph.output}
    for node, device in zip(layers.nodes, devices):
        writer.update((name, device) for name in node.output)
        for name in node.input:
            readers.setdefault(name, set()).add(device)
    both = (name for name in writer if readers.get(name, set()) - {writer[name]})
    return layers.activations(both)
