import dataclasses
import json
import zlib

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from mla_edge.errors import ConfigError
from mla_edge.exporter.latency_table import Idle, LatencyTable, Rung, allowed_widths
from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import load_model, to_onnx
from mla_edge.exporter.pruning import prune
from mla_edge.exporter.quantization import calibrate
from mla_edge.exporter.runs import saving, time_runs
from mla_edge.exporter.tracing import example_inputs, scopes_of
from mla_edge.exporter.width_graphs import with_stand_ins
from mla_edge.exporter.width_timer import WidthTimer

TABLE = LatencyTable(
    tier="full",
    precision="int8",
    measured_on="a processor",
    threads=1,
    whole_ms=4.0,
    rows={"feed": {64: 1.0, 32: 0.6, 16: 0.5}, "heads": {4: 0.4, 2: 0.3}},
    left_out=("odd",),
    idle=(Idle("feed at 48", 0.001, 0.002),),
)


def test_what_the_groups_save_adds_up():
    assert TABLE.predict({}) == 4.0
    assert TABLE.predict({"feed": 64, "heads": 4}) == 4.0
    assert TABLE.predict({"feed": 16, "heads": 2}) == pytest.approx(4.0 - 0.5 - 0.1)


def test_a_width_between_two_is_on_the_line_between_them():
    assert TABLE.predict({"feed": 48}) == pytest.approx(4.0 - 0.2)


def test_whole_graphs_that_were_timed_correct_what_the_parts_promise():
    assert TABLE.expect({"feed": 16}) == TABLE.predict({"feed": 16})
    half = Rung({"feed": 32, "heads": 2, "odd": 8}, 3.8)  # the parts promise 3.5 ms
    least = Rung({"feed": 16, "heads": 2}, 3.75)  # and 3.4 ms
    table = dataclasses.replace(TABLE, ladder=(half, least))
    assert table.expect({}) == 4.0
    assert table.expect({"feed": 32, "heads": 2}) == 3.8
    assert table.expect({"feed": 48, "heads": 3}) == pytest.approx(3.9)
    assert table.expect(least.widths) == 3.75
    noisy = dataclasses.replace(TABLE, ladder=(half, Rung(least.widths, 3.9)))
    assert noisy.expect({"feed": 32, "heads": 2}) == noisy.expect(least.widths) == 3.9


def test_a_table_comes_back_from_json_as_it_was():
    table = dataclasses.replace(TABLE, ladder=(Rung({"feed": 32}, 3.5),))
    assert LatencyTable.from_json(json.loads(json.dumps(table.to_json()))) == table


@pytest.mark.parametrize(
    "wrong",
    [{"format": 2}, {"rows": [1]}, {"rows": {"feed": {"wide": 1.0}}}, {"whole_ms": None}],
)
def test_what_is_no_table_is_refused(wrong):
    with pytest.raises(ConfigError, match="not a latency table"):
        LatencyTable.from_json({**TABLE.to_json(), **wrong})


@pytest.mark.parametrize(
    ("width", "round_to", "widths"),
    [
        (640, 16, [80, 160, 240, 320, 400, 480, 560, 640]),
        (80, 16, [16, 32, 48, 64, 80]),
        (80, 32, [32, 64, 80]),
        (24, 16, [16, 24]),
        (24, 32, [24]),
        (16, 16, [16]),
        (5, 1, [1, 2, 3, 4, 5]),
        (1, 1, [1]),
    ],
)
def test_widths_are_eighths_that_the_engine_likes(width, round_to, widths):
    assert allowed_widths(width, round_to) == widths


def test_a_saving_is_more_than_its_noise():
    random = np.random.default_rng(1)
    before = 4.0 + random.normal(0, 0.1, 16)
    gain, noise = saving(before, before - 0.5 + random.normal(0, 0.1, 16))
    assert gain == pytest.approx(0.5, abs=0.1)
    assert 0 < noise < 0.1
    gain, noise = saving(before, 4.0 + random.normal(0, 0.1, 16))
    assert abs(gain) < noise


@pytest.fixture(scope="module")
def exported(prunable, tensors, tmp_path_factory):
    """The float graph, the pruned one, where modules are in them, a sample, ranges of INT8."""
    part, folder = prunable.tiers[0], tmp_path_factory.mktemp("timed")
    sample = example_inputs(prunable, part, 1)[0]
    widths = {"block.feed.expand": 48, "residual.first.0": 32, "block.attention.local": 2}
    smaller = prune(part.module, [torch.from_numpy(sample["image"])], widths=widths)
    graphs = [
        to_onnx(
            prunable, dataclasses.replace(part, module=module), folder / name, opset=17
        ).path
        for name, module in (("whole.onnx", part.module), ("pruned.onnx", smaller.module))
    ]
    ranges = calibrate(graphs[0], [{"image": feed["image"]} for feed in tensors])
    return *graphs, scopes_of(part.module, ["image"], sample, "only"), sample, ranges


@pytest.mark.parametrize("int8", [True, False])
def test_real_graphs_are_timed_at_every_width(exported, int8, tmp_path):
    widths = {"block.feed.expand": 96, "block.attention.local": 4, "stem.2.0": 64}
    ranges = exported[4] if int8 else None
    timer = WidthTimer(*exported[:3], widths, exported[3], tmp_path, ranges=ranges)
    options = {group: allowed_widths(width, 16) for group, width in widths.items()}
    options["block.attention.local"] = [1, 2, 4]
    table = timer.measure("only", options)
    assert table.precision == ("int8" if int8 else "fp32")
    assert (table.tier, table.threads, table.left_out) == ("only", 1, ("stem.2.0",))
    assert "ONNX Runtime" in table.measured_on
    known = {f"{group} at {width}" for group, row in table.rows.items() for width in row}
    assert known | {cut.what for cut in table.idle} == {
        *(f"block.feed.expand at {width}" for width in (16, 32, 48, 64, 80, 96)),
        *(f"block.attention.local at {width}" for width in (1, 2, 4)),
    }
    assert all(max(row) == widths[group] for group, row in table.rows.items())
    costs = [cost for row in table.rows.values() for cost in row.values()]
    assert 0 < min(costs) <= max(costs) < table.whole_ms
    taken = timer.time({"least": {"block.feed.expand": 16, "block.attention.local": 1}})
    assert {name: len(ms) for name, ms in taken.items()} == {"": 8, "least": 8}


def test_only_the_time_of_the_processor_counts(exported):
    whole, sample = exported[0], exported[3]
    taken = time_runs({"one": (whole, sample), "two": (whole, sample)}, sessions=4)
    assert all((ms > 0).all() for ms in taken.values())
    ratio = np.median(taken["one"]) / np.median(taken["two"])
    assert 0.5 < ratio < 2  # the same graph


def test_weights_that_stand_in_are_as_large_pack_well_and_leave_nothing_to_fold(exported):
    model = load_model(exported[0])
    filled = with_stand_ins(model)
    before, after = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer}
                     for m in (model, filled))  # fmt: skip
    layers = {layer.weight.name for layer in find_layers(model)}
    for name, value in before.items():
        if name not in layers:
            assert np.array_equal(value, after[name])
            continue
        assert np.sqrt(np.mean(after[name] ** 2)) == pytest.approx(
            np.sqrt(np.mean(value**2)), rel=0.3
        )
        assert np.abs(after[name]).min() > 0
        if value.size > 2000:
            packed = zlib.compress(after[name].tobytes())
            assert len(packed) < 0.1 * len(zlib.compress(value.tobytes()))
    assert [node.SerializeToString() for node in filled.graph.node] == [
        node.SerializeToString() for node in model.graph.node
    ]


def test_they_take_as_long_as_the_networks_own(exported):
    folder = exported[0].parent
    path = folder / "stand-ins.onnx"
    path.write_bytes(with_stand_ins(load_model(exported[0])).SerializeToString())
    sample = exported[3]
    taken = time_runs({"own": (exported[0], sample), "other": (path, sample)}, sessions=4)
    assert 0.6 < np.median(taken["other"]) / np.median(taken["own"]) < 1.6
