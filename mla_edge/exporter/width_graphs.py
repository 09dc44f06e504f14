"""Graphs of a tier with any widths of its groups, and of the part that each runs through."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np
from onnx import numpy_helper

from mla_edge.exporter.layers import find_layers, structure_of
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.quantization import quantize, run_with
from mla_edge.exporter.regions import Region, cut_out, find_regions, fix_sizes, narrow
from mla_edge.exporter.steps import hash_of
from mla_edge.signals import Tensors

if TYPE_CHECKING:
    from mla_edge.exporter.ranges import Ranges

_PERIOD = 61  # of the weights that stand in: a prime, so that every channel has all of them


@dataclass(frozen=True)
class Form:
    """How the graphs are written that an engine is to run."""

    style: str = "cpu"  # of INT8: see `quantize`
    int8_weights: bool = False
    int4: bool = False
    stand_in: bool = False  # weights that pack well in place of the network's own


FOR_PROCESSOR = Form()


class WidthGraphs:
    """Makes the graph of a tier with any widths, and its parts, in the form for an engine."""

    def __init__(  # noqa: PLR0913 - two graphs, where their widths are, and the form
        self,
        whole: Path,
        pruned: Path,
        scopes: Mapping[str, Sequence[str]],
        widths: Mapping[str, int],
        sample: Tensors,
        folder: Path,
        *,
        ranges: Ranges | None = None,
        keep_float: Sequence[str] = (),
        form: Form = FOR_PROCESSOR,
    ) -> None:
        """For graphs of the tier: ``whole``, and ``pruned`` with every width smaller.

        ``widths`` has every group's width in ``whole``, and ``scopes`` where in the names of
        nodes the module is that makes it. ``sample`` is an input of the tier; what is made
        comes into ``folder``. With ``ranges``, of the whole graph, it becomes INT8, without
        them it stays as it is; ``keep_float`` names layers that are not made INT8.
        """
        self._whole = fix_sizes(load_model(whole), sample)
        self._pruned = fix_sizes(load_model(pruned), sample)
        self._sample, self._ranges, self._keep = sample, ranges, set(keep_float)
        self._folder, self._form = folder, form
        self.regions: dict[str, Region] = find_regions(
            self._whole, self._pruned, scopes, widths
        )

    @property
    def precision(self) -> str:
        """Of the graphs, where the float ones are not in half precision."""
        return "int8" if self._ranges else "fp32"

    def parts(
        self, options: Mapping[str, Sequence[int]]
    ) -> tuple[dict[str, dict[int, Path]], dict[str, Tensors]]:
        """The part of each group of ``options`` at each of its widths, and what it takes.

        Groups that are not found in the graph, or cannot be made narrower in it, are not among
        them.
        """
        cut = {name: cut_out(self._whole, region) for name, region in self.regions.items()}
        feeds = self._feeds(cut)
        paths: dict[str, dict[int, Path]] = {}
        for number, (group, part) in enumerate(cut.items()):
            try:
                made = [
                    narrow(part, self._pruned, self.regions, {group: width})
                    for width in options[group]
                ]
            except ValueError:  # not of the form that can be made narrower here
                continue
            paths[group] = {
                width: self._write(model, self._folder / f"{number}-{width}")
                for width, model in zip(options[group], made)
            }
        return paths, {group: feeds[group] for group in paths}

    def graph(self, widths: Mapping[str, int]) -> Path:
        """The whole graph with ``widths``, which may have been made before."""
        cut = {name: w for name, w in sorted(widths.items()) if w < self.regions[name].width}
        path = self._folder / hash_of(cut)
        made = next(path.parent.glob(f"{path.name}*"), None)
        if made is not None:
            return made
        model = narrow(self._whole, self._pruned, self.regions, cut) if cut else self._whole
        return self._write(model, path)

    def _feeds(self, parts: Mapping[str, Any]) -> dict[str, Tensors]:
        """What each part takes when the sample runs through the whole graph."""
        needed = {name: [value.name for value in p.graph.input] for name, p in parts.items()}
        given = {value.name for value in self._whole.graph.input}
        inner = sorted({name for names in needed.values() for name in names} - given)
        values = next(run_with(self._whole, inner, [self._sample]))
        values = {name: np.array(value) for name, value in values.items()}
        return {part: {name: values[name] for name in names} for part, names in needed.items()}

    def _write(self, model: Any, path: Path) -> Path:
        """The form of ``model`` that the engine runs, as a file."""
        if self._form.stand_in:
            model = with_stand_ins(model)
        plain = path.with_suffix(".onnx")
        plain.write_bytes(model.SerializeToString())
        if self._ranges is None:
            return plain
        # Of the same places: where a range ends at zero, a Relu costs nothing.
        structure = structure_of(find_layers(model))
        ranges = dataclasses.replace(
            self._ranges, structure=structure, corrections={}, roundings={}
        )
        kept = sorted(self._keep & {node.name for node in model.graph.node})
        out = path.with_suffix(f".{self._form.style}.onnx")
        quantize(
            plain,
            out,
            ranges,
            style=self._form.style,
            keep_float=kept,
            int8_weights=self._form.int8_weights,
            int4=self._form.int4,
        )
        plain.unlink()
        return out


def with_stand_ins(model: Any) -> Any:
    """``model`` with other weights in its layers, the same few numbers again and again.

    They are as large as the weights were and none is near zero: nothing can be folded away, no
    kernel for sparse weights fits, and no processor meets denormal numbers. What is no weight
    of a layer (norms, masks, sizes) stays. Deflate makes a thousandth of them.
    """
    numbers = np.random.default_rng(0).uniform(0.25, 1.0, _PERIOD)
    numbers *= np.where(np.arange(_PERIOD) % 2, 1.0, -1.0)
    numbers /= np.sqrt(np.mean(numbers**2))
    filled = type(model)()
    filled.CopyFrom(model)
    layers = {layer.weight.name for layer in find_layers(filled)}
    for tensor in filled.graph.initializer:
        if tensor.name in layers:
            value = numpy_helper.to_array(tensor)
            size = float(np.sqrt(np.mean(value.astype(np.float64) ** 2))) or 1.0
            other = np.resize(size * numbers, value.shape).astype(value.dtype)
            tensor.CopyFrom(numpy_helper.from_array(other, tensor.name))
    return filled
