"""Prove a bundle on this machine: its files are whole, its graphs load and answer right."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Mapping, Sequence

import numpy as np

from mla_edge import golden as golden_file
from mla_edge.bundle import Bundle
from mla_edge.engines.opening import open_tiers
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.engines.sidecar import plan_path, read_sidecar
from mla_edge.errors import BundleError, EngineMismatch, InferenceError, MissingDependency
from mla_edge.golden import Golden, Match, compare, read_golden

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.engines import Engine
    from mla_edge.signals import Tier

FORMS = {"tensorrt": False, "cpu": True}
"""The forms of every graph, by their name in ``provenance["golden"]``; True is the CPU's."""


@dataclass(frozen=True)
class GraphCheck:
    """One graph against the golden samples."""

    tier: str
    form: str
    match: Match
    required: float  # top-1 agreement

    @property
    def ok(self) -> bool:
        """Whether the graph agrees as well as it did when it was exported."""
        return self.match.top1_agreement >= self.required


def measure(
    graphs: Mapping[str, Path],
    tiers: Sequence[Tier],
    golden: Golden,
    *,
    cpu: bool,
    exact: bool = False,
) -> dict[str, Match]:
    """Run ``graphs`` (by tier) on the golden samples and compare each tier's logits.

    The export records what this gives in ``provenance["golden"][form][tier]``, with ``exact``
    where the graphs are for kernels that cut off no sums, and this processor's do.
    """
    with ExitStack() as stack:
        engines = {
            # The optimiser breaks some graphs made for TensorRT, so those run as they are.
            tier.name: stack.enter_context(
                closing(OnnxRuntimeEngine(graphs[tier.name], optimise=cpu, exact=exact))
            )
            for tier in tiers
        }
        found = answer(engines, tiers, golden)
    return {name: compare(golden.logits[name], logits) for name, logits in found.items()}


def answer(
    engines: Mapping[str, Engine], tiers: Sequence[Tier], golden: Golden
) -> dict[str, np.ndarray]:
    """The logits of every tier's engine on the golden samples, [n, classes].

    A tier is given its inputs from the sample and from the outputs of the tiers before it.
    """
    found: dict[str, list[np.ndarray]] = {tier.name: [] for tier in tiers}
    for sample in golden.samples():
        known = dict(sample)
        for tier in tiers:
            try:
                inputs = {name: known[name] for name in tier.inputs}
            except KeyError as error:
                raise BundleError(
                    f"tier {tier.name!r}: the golden samples have no {error}",
                    hint="export the bundle again",
                ) from error
            outputs = engines[tier.name].run(inputs)
            copied = {name: np.array(value) for name, value in outputs.items()}
            known.update(copied)
            found[tier.name].append(copied[tier.outputs[0]])
    return {name: np.concatenate(logits) for name, logits in found.items()}


def form_of(graph: str) -> str:
    """The form, by its name in ``provenance["golden"]``, of the graph that an engine is of.

    A DLA up to TensorRT 10.7 has a graph of its own; what INT8 does there was simulated.
    """
    return "dla" if graph.endswith(".dla.onnx") else "tensorrt"


def required_agreement(bundle: Bundle, form: str, tier: str, samples: int) -> float:
    """The top-1 agreement recorded at export, less one sample: it may flip between kernels.

    BundleError where nothing is recorded.
    """
    try:
        recorded = float(bundle.provenance["golden"][form][tier]["top1_agreement"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{bundle.folder}: does not say how well its {form} graphs agreed",
            hint="export the bundle again",
        ) from error
    return max(0.0, recorded - 1 / samples)


def verify(bundle: Bundle) -> list[GraphCheck]:
    """Check every hash, load every graph, and compare it with the golden samples.

    Raises BundleError for a file that is missing or changed, for a graph that does not run and
    for one that the bundle does not list; a graph that runs and answers differently has ``ok``
    False.
    """
    bundle.check_hashes()
    bundle.check_unlisted()
    again = "export the bundle again"
    recorded = bundle.provenance.get("golden")
    if golden_file.FILE not in bundle.files or not isinstance(recorded, dict):
        raise BundleError(f"{bundle.folder}: has no golden samples to compare with", hint=again)
    golden = read_golden(bundle.folder / golden_file.FILE)
    if set(golden.logits) != {tier.name for tier in bundle.tiers}:
        raise BundleError(f"{bundle.folder}: the golden samples are of other tiers", hint=again)
    checks = []
    for form, cpu in FORMS.items():
        graphs = {tier.name: bundle.graph(tier.name, cpu=cpu) for tier in bundle.tiers}
        required = {
            tier: required_agreement(bundle, form, tier, len(golden)) for tier in graphs
        }
        try:
            matches = measure(graphs, bundle.tiers, golden, cpu=cpu)
        except InferenceError as error:
            raise BundleError(str(error), hint=again) from error
        checks += [
            GraphCheck(tier, form, match, required[tier]) for tier, match in matches.items()
        ]
    return checks


def verify_engines(bundle: Bundle) -> tuple[list[GraphCheck], str]:
    """The TensorRT engines of this machine against the golden samples, as ``verify``.

    The text says why there is nothing to check here: no engine, no GPU, another machine.
    """
    try:
        opened = open_tiers(bundle, engine="tensorrt")
    except (MissingDependency, EngineMismatch, InferenceError) as error:
        return [], str(error)
    golden = read_golden(bundle.folder / golden_file.FILE)
    try:
        found = answer(opened.engines, bundle.tiers, golden)
    finally:
        for engine in opened.engines.values():
            engine.close()
    checks = []
    for tier, logits in found.items():
        match = compare(golden.logits[tier], logits)
        form = form_of(read_sidecar(plan_path(bundle, opened.key, tier)).graph)
        required = required_agreement(bundle, form, tier, len(golden))
        checks.append(GraphCheck(tier, "engine", match, required))
    return checks, ""
