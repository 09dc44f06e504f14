"""The plan for a DLA: each published limit at its edge, the parts, and what crosses between."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mla_edge.errors import ConfigError
from mla_edge.exporter.dla import CACHE, TYPED, choose_form, clock_warnings, dla_of, plan_dla
from mla_edge.exporter.dla_limits import MAX_LOADABLES, Dla
from mla_edge.profiles import load_profile

XAVIER, ORIN = Dla("xavier", (8, 5)), Dla("orin", (10, 3))


@pytest.fixture
def save(tmp_path):
    """Write a graph of nodes, one output each; constants are given by their shape or value."""

    def write(nodes, inputs, outputs, constants=None):
        initializers = [
            numpy_helper.from_array(
                np.zeros(value, np.float32) if isinstance(value, tuple) else np.asarray(value),
                name,
            )
            for name, value in (constants or {}).items()
        ]
        graph = helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)])
        model.ir_version = 8
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        path = tmp_path / "graph.onnx"
        onnx.save(model, str(path))
        return path

    return write


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], f"/{output}", **attributes)


@pytest.fixture
def why(save):
    """Why a DLA leaves a node alone; empty where it takes it."""

    def ask(operator, inputs, constants=None, dla=XAVIER, **attributes):
        names = [*inputs, *(constants or {})]
        path = save([node(operator, names, "y", **attributes)], inputs, ["y"], constants)
        (found,) = plan_dla(path, dla).nodes
        assert found.device == ("gpu" if found.why else "dla")
        return found.why

    return ask


def conv(why, kernel=(3, 3), channels=4, out=4, size=64, **attributes):
    groups = attributes.get("group", 1)
    weight = {"w": (out, channels // groups, *kernel)}
    return why("Conv", {"x": (1, channels, size, size)}, weight, **attributes)


@pytest.mark.parametrize(
    ("inside", "outside", "word"),
    [
        ({"kernel": (32, 32)}, {"kernel": (33, 1)}, "kernel 33"),
        ({"kernel": (1, 1)}, {"kernel": (1, 33)}, "kernel 33"),
        ({"strides": [8, 8]}, {"strides": [1, 9]}, "stride 9"),
        (
            {"kernel": (32, 32), "pads": [31, 31, 31, 31]},
            {"kernel": (33, 33), "pads": [32, 0, 0, 0]},
            "kernel 33",
        ),
        ({"pads": [2, 2, 2, 2]}, {"pads": [3, 0, 0, 0]}, "padding 3 is not below the kernel"),
        (
            {"dilations": [31, 1], "kernel": (3, 1)},
            {"dilations": [33, 1], "kernel": (2, 1), "size": 128},
            "dilation 33",
        ),
        (
            {"group": 8192, "channels": 8192, "out": 8192, "size": 1, "kernel": (1, 1)},
            {"channels": 8193, "out": 1, "size": 1, "kernel": (1, 1)},
            "an axis of 8193",
        ),
        ({"size": 160, "channels": 1024}, {"size": 160, "channels": 1056}, "needs 17 banks"),
    ],
)
def test_a_convolution_is_taken_up_to_each_limit(why, inside, outside, word):
    assert conv(why, **inside) == ""
    assert word in conv(why, **outside)


def test_a_convolution_over_one_axis_or_with_computed_weights_falls_back(why):
    assert "3 axes" in why("Conv", {"x": (1, 4, 64)}, {"w": (4, 4, 3)})
    assert "weights are computed" in why("Conv", {"x": (1, 4, 8, 8), "w": (4, 4, 3, 3)})


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
def test_a_pooling_is_taken_up_to_each_limit(why, operator):
    def ask(window, dla=ORIN, **attributes):
        given = {"x": (1, 4, 64, 64)}
        return why(operator, given, kernel_shape=window, dla=dla, **attributes)

    assert ask([1, 8], strides=[16, 16]) == ""
    assert "window 9" in ask([9, 1])
    assert "stride 17" in ask([2, 2], strides=[1, 17])
    assert ask([8, 8], pads=[7, 7, 7, 7]) == ""
    assert ("leaves the padding out" in ask([3, 3], dla=XAVIER, pads=[1, 1, 1, 1])) == (
        operator == "AveragePool"
    )


def test_an_average_that_counts_its_padding_is_taken_on_xavier(why):
    given = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    assert why("AveragePool", {"x": (1, 4, 8, 8)}, **given) == ""


PICTURE = {"x": (1, 4, 8, 8)}
TWO = {"x": (1, 4, 8, 8), "z": (1, 4, 8, 8)}


@pytest.mark.parametrize(
    ("operator", "inputs", "constants", "attributes", "reason"),
    [
        ("Relu", PICTURE, {}, {}, ""),
        ("Relu", {"x": (1, 4)}, {}, {}, "works on 2 axes"),
        ("Relu", {"x": (1, 8193, 1, 1)}, {}, {}, "an axis of 8193"),
        ("Relu", {"x": (4097, 4, 1, 1)}, {}, {}, "batch 4097"),
        ("Sigmoid", PICTURE, {}, {}, ""),
        ("Erf", PICTURE, {}, {}, "Erf is not among the layers"),
        ("GlobalAveragePool", PICTURE, {}, {}, "not among the layers"),
        ("Clip", PICTURE, {"low": np.float32(0), "high": np.float32(6)}, {}, ""),
        ("Clip", PICTURE, {"low": np.float32(0), "high": np.float32(127)}, {}, ""),
        ("Clip", PICTURE, {"low": np.float32(0), "high": np.float32(128)}, {}, "at 128"),
        ("Clip", PICTURE, {"low": np.float32(-1), "high": np.float32(6)}, {}, "clips to some"),
        ("LeakyRelu", PICTURE, {}, {"alpha": 0.1}, ""),
        ("LeakyRelu", PICTURE, {}, {"alpha": -0.1}, "slope is negative"),
        ("PRelu", PICTURE, {"slope": (1, 4, 1, 1)}, {}, ""),
        ("PRelu", PICTURE, {"slope": (4, 1, 1)}, {}, "slope is not"),
        ("Add", TWO, {}, {}, ""),
        ("Add", PICTURE, {"c": np.float32(1)}, {}, ""),
        ("Mul", PICTURE, {"c": (4, 1, 1)}, {}, ""),
        ("Sub", PICTURE, {"c": (1, 4, 8, 8)}, {}, ""),
        ("Mul", PICTURE, {"c": (8,)}, {}, "its constant is neither"),
        ("Mul", {"x": (1, 4, 8, 8), "z": (1, 4, 1, 1)}, {}, {}, "are not equal"),
        ("Max", TWO, {}, {}, ""),
        ("Max", PICTURE, {"c": np.float32(1)}, {}, "one side is a constant"),
        ("Div", TWO, {}, {}, "TensorRT before 10"),
        ("Concat", TWO, {}, {"axis": 1}, ""),
        ("Concat", TWO, {}, {"axis": 2}, "joins along axis 2"),
        ("Concat", TWO, {}, {"axis": -3}, ""),
        ("Concat", PICTURE, {}, {"axis": 1}, "fewer than two"),
        ("Concat", PICTURE, {"c": (1, 4, 8, 8)}, {"axis": 1}, "joins a constant"),
        ("LRN", PICTURE, {}, {"size": 9}, ""),
        ("LRN", PICTURE, {}, {"size": 11}, "window 11"),
        ("Softmax", PICTURE, {}, {"axis": 1}, "Orin only"),
        ("Transpose", PICTURE, {}, {"perm": [0, 2, 3, 1]}, ""),
        ("Transpose", PICTURE, {}, {"perm": [1, 0, 2, 3]}, "moves the batch"),
        ("Reshape", PICTURE, {"shape": np.int64([1, 8, 4, 8])}, {}, ""),
        ("Reshape", PICTURE, {"shape": np.int64([1, 256])}, {}, "works on 2 axes"),
        ("Gemm", {"x": (1, 64)}, {"w": (64, 8), "b": (8,)}, {}, ""),
        ("Gemm", {"x": (64, 1)}, {"w": (64, 8)}, {"transA": 1}, "transposes its input"),
        ("MatMul", {"x": (1, 64)}, {"w": (64, 8)}, {}, ""),
        ("MatMul", {"x": (1, 16, 64)}, {"w": (64, 8)}, {}, "works on 3 axes"),
        ("MatMul", {"x": (1, 2, 8, 8), "z": (1, 2, 8, 8)}, {}, {}, "two computed tensors"),
        ("BatchNormalization", PICTURE, dict.fromkeys("abcd", (4,)), {}, ""),
        ("ReduceMax", PICTURE, {}, {"axes": [2, 3]}, "TensorRT before 10"),
    ],
)  # fmt: skip
def test_each_layer_is_taken_or_says_why_not(
    why, operator, inputs, constants, attributes, reason
):
    found = why(operator, inputs, constants, **attributes)
    assert reason in found
    assert bool(reason) == bool(found)


def test_what_later_tensorrts_and_orin_take(why):
    assert why("Div", TWO, dla=ORIN) == ""
    assert why("Mul", {"x": (1, 4, 8, 8), "z": (1, 4, 1, 1)}, dla=ORIN) == ""
    assert why("Softmax", PICTURE, dla=ORIN, axis=1) == ""
    assert "axis of 1025" in why("Softmax", {"x": (1, 1025, 2, 1)}, dla=ORIN, axis=1)
    assert why("Softmax", {"x": (1, 1025, 1, 1)}, dla=ORIN, axis=1) == ""
    assert why("Pow", PICTURE, {"c": np.float32(2)}, dla=ORIN) == ""
    assert why("ReduceMax", PICTURE, dla=ORIN, axes=[2, 3]) == ""
    assert "the batch" in why("ReduceMax", PICTURE, dla=ORIN, axes=[0])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"kernel": (32, 32)}, ""),
        ({"kernel": (1, 64)}, ""),
        ({"kernel": (1, 65)}, "kernel 65"),
        ({"kernel": (23, 23)}, "too slowly"),
        ({"kernel": (2, 2), "pads": [0, 1, 0, 0]}, "with padding"),
        ({"kernel": (2, 2), "group": 2}, "in groups"),
        ({"kernel": (2, 2), "dilations": [2, 2]}, "dilated"),
    ],
)
def test_a_deconvolution_has_narrower_limits(why, given, reason):
    given = dict(given)
    weight = {"w": (4, 4 // given.get("group", 1), *given.pop("kernel"))}
    if weight["w"][2:] == (32, 32):
        weight["w"] = (4, 4, 32, 31)  # a square one is too slow to compile
    assert reason in (found := why("ConvTranspose", PICTURE, weight, **given))
    assert bool(reason) == bool(found)


@pytest.mark.parametrize(
    ("mode", "scales", "reason"),
    [
        ("nearest", [1, 1, 32, 32], ""),
        ("nearest", [1, 1, 33, 1], "scale 33"),
        ("nearest", [1, 1, 1.5, 1], "scale 1.5"),
        ("linear", [1, 1, 4, 4], ""),
        ("linear", [1, 1, 5, 1], "scale 5"),
        ("cubic", [1, 1, 2, 2], "mode 'cubic'"),
        ("nearest", [1, 2, 2, 2], "resizes the channels"),
    ],
)
def test_a_resize_is_taken_by_whole_steps(save, mode, scales, reason):
    path = save(
        [node("Resize", ["x", "", "s"], "y", mode=mode)], PICTURE, ["y"],
        {"s": np.float32(scales)},
    )  # fmt: skip
    assert reason in plan_dla(path, XAVIER).nodes[0].why


def test_a_slice_may_not_cut_the_batch(save):
    def ask(axis):
        constants = {"a": np.int64([0]), "b": np.int64([1]), "c": np.int64([axis])}
        path = save([node("Slice", ["x", "a", "b", "c"], "y")], PICTURE, ["y"], constants)
        return plan_dla(path, XAVIER).nodes[0].why

    assert ask(1) == ""
    assert ask(-1) == ""
    assert ask(0) == "cuts the batch"


def test_what_is_folded_is_no_layer(save):
    path = save(
        [node("Shape", ["x"], "s"), node("Reshape", ["x", "s"], "y"),
         node("Add", ["c", "c"], "d"), node("Add", ["y", "d"], "z")],
        PICTURE, ["z"], {"c": (1, 4, 8, 8)},
    )  # fmt: skip
    assert [found.operator for found in plan_dla(path, XAVIER).nodes] == ["Reshape", "Add"]


def test_a_shape_that_is_not_static_falls_back(tmp_path):
    graph = helper.make_graph(
        [node("Relu", ["x"], "y")], "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 8, 8])],
    )  # fmt: skip
    path = tmp_path / "graph.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)]), str(path))
    assert "the shape of x is not static" in plan_dla(path, XAVIER).nodes[0].why


def chain(save, *operators):
    """Operators one after the other on one picture."""
    nodes = [node(op, [f"t{i}"], f"t{i + 1}") for i, op in enumerate(operators)]
    return save(nodes, {"t0": (1, 4, 8, 8)}, [f"t{len(operators)}"])


def test_parts_and_what_they_hand_over_are_counted(save):
    plan = plan_dla(chain(save, "Relu", "Abs", "Erf", "Relu", "Erf"), XAVIER)
    assert [n.device for n in plan.nodes] == ["dla", "dla", "gpu", "dla", "gpu"]
    assert (plan.on_dla, plan.loadables, plan.islands) == (3, 2, 2)
    # the input, before and behind the first Erf, and before the second
    assert plan.transitions == 4
    assert plan.border_bytes == 4 * 256
    assert plan.tensors == ("t0", "t1", "t2", "t3", "t4")
    assert plan.falls_back == {"Erf is not among the layers that a DLA takes": ["/t3", "/t5"]}


def test_what_runs_on_one_side_alone_hands_over_its_input_and_output(save):
    whole = plan_dla(chain(save, "Relu", "Abs"), XAVIER)
    assert (whole.loadables, whole.islands, whole.transitions) == (1, 0, 2)
    none = plan_dla(chain(save, "Erf", "Erf"), XAVIER)
    assert (none.loadables, none.islands, none.transitions, none.border_bytes) == (0, 1, 0, 0)
    assert none.objections == ("it takes no layer",)


def test_branches_are_parts_of_their_own(save):
    nodes = [
        node("Relu", ["a"], "a1"),
        node("Relu", ["b"], "b1"),
        node("Add", ["a1", "b1"], "y"),
    ]
    given = {"a": (1, 4, 8, 8), "b": (1, 4, 8, 8)}
    assert plan_dla(save(nodes, given, ["y"]), XAVIER).loadables == 1
    apart = plan_dla(save(nodes[:2], given, ["a1", "b1"]), XAVIER)
    assert (apart.loadables, apart.islands) == (2, 0)


def test_a_part_never_waits_for_itself(save):
    # What goes around the GPU joins behind it: one loadable would need its own result.
    nodes = [node("Relu", ["x"], "a"), node("Erf", ["a"], "b"), node("Add", ["a", "b"], "y")]
    plan = plan_dla(save(nodes, PICTURE, ["y"]), XAVIER)
    assert (plan.loadables, plan.islands) == (2, 1)
    assert plan.transitions == 4  # x, a, b, y


def test_a_layer_that_stays_float_is_the_gpus(save):
    plan = plan_dla(chain(save, "Relu", "Abs"), XAVIER, floating=["/t2"])
    assert [n.device for n in plan.nodes] == ["dla", "gpu"]
    assert "stays float32" in plan.nodes[1].why


def test_a_tensor_without_a_range_is_in_fp16_and_twice_as_large(save):
    path = chain(save, "Relu", "Abs")
    plan = plan_dla(path, XAVIER, ranged=["t0", "t1"])
    assert plan.without_range == ("t2",)
    assert plan.border_bytes == 256 + 2 * 256
    assert plan_dla(path, XAVIER, ranged=["t0", "t1", "t2"]).without_range == ()


def test_multiplications_are_counted_and_their_share(save):
    nodes = [
        node("Conv", ["x", "w"], "a", pads=[1, 1, 1, 1]),
        node("Flatten", ["a"], "b"),
        node("Gemm", ["b", "v"], "y"),
    ]
    path = save(nodes, PICTURE, ["y"], {"w": (8, 4, 3, 3), "v": (512, 10)})
    plan = plan_dla(path, XAVIER)
    assert [n.macs for n in plan.nodes] == [8 * 64 * 4 * 9, 0, 512 * 10]
    assert plan.macs == plan.dla_macs
    assert plan.share == 1.0
    assert plan.objections == ()
    kept = plan_dla(path, XAVIER, floating=["/a"])
    assert kept.share == pytest.approx(5120 / (18432 + 5120))
    assert "22% of the multiplications on it, less than 80%" in kept.objections


def test_many_islands_do_not_pay_and_too_many_loadables_do_not_load(save):
    def ask(islands):
        return plan_dla(chain(save, *["Relu", "Erf"] * islands), XAVIER).objections

    assert not any("islands" in objection for objection in ask(3))
    assert "4 islands on the GPU, more than 3" in ask(4)
    assert not any("loadables" in objection for objection in ask(MAX_LOADABLES))
    assert "17 loadables, a core loads 16 at a time" in ask(MAX_LOADABLES + 1)


@pytest.mark.parametrize(
    ("tensorrt", "form"),
    [("8.5", CACHE), ("8.6", CACHE), ("10.3", CACHE), ("10.7", CACHE),
     ("11.4", TYPED), ("11.4.1", TYPED), ("11.5", TYPED)],
)  # fmt: skip
def test_tensorrt_decides_the_form(tensorrt, form):
    orin = dataclasses.replace(load_profile("agx-orin"), tensorrt=tensorrt)
    assert choose_form(orin, "int8") == form


@pytest.mark.parametrize("tensorrt", ["10.8", "10.13", "11.0", "11.3", "11.4.0"])
def test_a_tensorrt_without_dla_is_refused(tensorrt):
    orin = dataclasses.replace(load_profile("agx-orin"), tensorrt=tensorrt)
    with pytest.raises(ConfigError, match=f"TensorRT {tensorrt} has no DLA") as caught:
        choose_form(orin, "int8")
    assert "10.7" in caught.value.hint


def test_another_board_than_agx_orin_has_none_under_11(monkeypatch):
    small = dataclasses.replace(load_profile("orin-nx"), tensorrt="11.4.1")
    with pytest.raises(ConfigError, match="brings it back on AGX Orin alone"):
        choose_form(small, "int8")


@pytest.mark.parametrize("name", ["agx-thor", "orin-nano", "host", "rtx"])
def test_a_profile_without_dla_is_refused_and_told_who_has_one(name):
    with pytest.raises(ConfigError, match="has no DLA") as caught:
        choose_form(load_profile(name), "int8")
    for other in ("agx-xavier", "xavier-nx", "agx-orin", "agx-orin-32gb", "orin-nx"):
        assert other in caught.value.hint
    assert "thor" not in caught.value.hint


def test_other_precisions_are_refused():
    with pytest.raises(ConfigError, match="fp16") as caught:
        choose_form(load_profile("agx-xavier"), "fp16")
    assert 'precision = "int8"' in caught.value.hint


def test_each_board_has_its_dla():
    assert dla_of(load_profile("agx-xavier")) == XAVIER
    assert dla_of(load_profile("agx-orin")) == ORIN


def test_the_slow_default_mode_of_agx_xavier_is_warned_of():
    (warning,) = clock_warnings(load_profile("agx-xavier"))
    assert "7 (MODE_15W_DESKTOP), clocks the DLA at 115.2 MHz" in warning
    assert "mode 0 (MAXN) at 1395.2 MHz: sudo nvpmodel -m 0" in warning


@pytest.mark.parametrize("name", ["agx-orin", "orin-nx", "xavier-nx", "host"])
def test_other_boards_are_not_warned_of(name):
    assert clock_warnings(load_profile(name)) == []
