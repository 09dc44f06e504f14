import dataclasses

import numpy as np
import onnx
import pytest
import torch

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.exporter.onnx_graph import load_model, to_onnx
from mla_edge.exporter.pruning import find_groups, prune
from mla_edge.exporter.regions import cut_out, find_regions, fix_sizes, narrow
from mla_edge.exporter.tracing import example_inputs, scopes_of

WIDTHS = {
    "stem.0.0": 48,
    "stem.2.0": 64,
    "residual.first.0": 64,
    "block.feed.expand": 96,
    "block.attention.local": 4,
    "block.attention.overall": 4,
}
HALF = {**dict.fromkeys(WIDTHS, 32), "block.attention.local": 2, "block.attention.overall": 3}


@pytest.fixture(scope="module")
def exported(prunable, tmp_path_factory):
    """Makes the float graph of the network with the widths that it is given."""
    part = prunable.tiers[0]
    sample = example_inputs(prunable, part, 1)[0]
    folder = tmp_path_factory.mktemp("widths")

    def make(widths):
        example = [torch.from_numpy(sample["image"])]
        module = prune(part.module, example, widths=widths).module
        smaller = dataclasses.replace(part, module=module)
        path = to_onnx(prunable, smaller, folder / "graph.onnx", opset=17).path
        return fix_sizes(load_model(path), sample)

    return make


@pytest.fixture(scope="module")
def scopes(prunable):
    part = prunable.tiers[0]
    return scopes_of(part.module, ["image"], example_inputs(prunable, part, 1)[0], "only")


@pytest.fixture(scope="module")
def whole(exported):
    return exported({})


@pytest.fixture(scope="module")
def pruned(exported):
    return exported(HALF)


@pytest.fixture(scope="module")
def regions(whole, pruned, scopes):
    return find_regions(whole, pruned, scopes, WIDTHS)


def shapes(model):
    """Of every tensor that a node makes or reads."""
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def test_every_width_that_can_be_pruned_is_found(prunable, regions):
    example = [torch.zeros(1, 3, 32, 32)]
    groups = {g.layer: g.width for g in find_groups(prunable.tiers[0].module, example)}
    assert groups == WIDTHS
    assert {name: region.width for name, region in regions.items()} == WIDTHS


def test_a_region_has_what_fuses_with_its_layers(regions):
    feed = [name.rpartition("/")[2] for name in regions["block.feed.expand"].nodes]
    assert feed == ["MatMul", "Add", "Relu", "MatMul", "Add"]
    assert "/residual/Relu" in regions["residual.first.0"].nodes


@pytest.mark.parametrize(
    "widths",
    [
        {"stem.0.0": 16, "stem.2.0": 48, "residual.first.0": 16, "block.feed.expand": 80},
        {"stem.2.0": 16, "block.attention.local": 1, "block.attention.overall": 2},
        HALF,
    ],
)
def test_a_narrower_graph_has_the_shapes_that_pruning_gives(
    exported, whole, pruned, regions, widths
):
    assert shapes(narrow(whole, pruned, regions, widths)) == shapes(exported(widths))


def test_nothing_narrower_computes_the_same(whole, pruned, regions, tmp_path):
    (tmp_path / "a.onnx").write_bytes(whole.SerializeToString())
    same = narrow(whole, pruned, regions, WIDTHS)
    (tmp_path / "b.onnx").write_bytes(same.SerializeToString())
    image = {"image": np.random.default_rng(0).uniform(0, 255, (1, 3, 32, 32)).astype("f4")}
    logits = [OnnxRuntimeEngine(tmp_path / f"{n}.onnx").run(image)["logits"] for n in "ab"]
    assert np.array_equal(*logits)


@pytest.mark.parametrize("group", WIDTHS)
def test_a_part_runs_alone_at_another_width(whole, pruned, regions, tmp_path, group):
    part = cut_out(whole, regions[group])
    smaller = narrow(part, pruned, regions, {group: HALF[group]})
    for model, file in ((part, "part"), (smaller, "smaller")):
        onnx.checker.check_model(model, full_check=True)
        (tmp_path / f"{file}.onnx").write_bytes(model.SerializeToString())
    engines = [OnnxRuntimeEngine(tmp_path / f"{name}.onnx") for name in ("part", "smaller")]
    assert engines[0].inputs == engines[1].inputs
    assert engines[0].outputs == engines[1].outputs
    outputs = engines[1].run(
        {spec.name: np.ones(spec.shape, spec.dtype) for spec in engines[1].inputs}
    )
    assert outputs
    assert sum(len(t.raw_data) for t in smaller.graph.initializer) < sum(
        len(t.raw_data) for t in part.graph.initializer
    )


def test_a_width_that_was_not_pruned_is_left_out(exported, whole, scopes):
    other = exported({"block.feed.expand": 48})
    assert set(find_regions(whole, other, scopes, WIDTHS)) == {"block.feed.expand"}


def test_a_width_that_two_groups_claim_is_left_out(whole, pruned, scopes):
    claimed = {**scopes, "twin": scopes["block.feed.expand"]}
    found = find_regions(whole, pruned, claimed, {**WIDTHS, "twin": 96})
    assert set(found) == set(WIDTHS) - {"block.feed.expand"}


def test_a_width_that_gives_no_graph_is_refused(whole, pruned, regions):
    odd = dataclasses.replace(regions["block.attention.local"], width=3)
    with pytest.raises(ValueError, match="no multiple of the width 3"):
        narrow(whole, pruned, {"odd": odd}, {"odd": 2})
