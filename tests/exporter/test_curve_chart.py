"""Where the points of the curve come to lie, and their names beside them."""

import itertools

import pytest

from mla_edge.exporter.curve_chart import Box, lay_out

STEPS = [  # step, milliseconds, accuracy, bytes
    ("float", 8.0, 0.977, 21e6),
    ("pruned", 7.6, 0.976, 20e6),
    ("distilled", 7.6, 0.977, 20e6),
    ("tensorrt", 12.0, 0.976, 19e6),
    ("cpu", 5.0, 0.975, 6e6),
]


def points(steps=STEPS):
    return [
        {
            "tier": "full",
            "step": step,
            "title": f"full {step}",
            "colour": "1",
            "ms": ms,
            "accuracy": accuracy,
            "float_accuracy": 0.977,
            "size_bytes": size,
            "drop_points": 100 * (0.977 - accuracy),
            "doubt_points": 0.0 if step == "float" else 0.3,
        }
        for step, ms, accuracy, size in steps
    ]


@pytest.mark.parametrize("size", [(760, 400), (340, 400)])
def test_faster_is_further_left_and_more_right_answers_further_up(size):
    found = lay_out(points(), 1.0, *size)
    drawn = {p["step"]: p for p in found["points"]}
    assert drawn["cpu"]["x"] < drawn["distilled"]["x"] < drawn["float"]["x"]
    assert drawn["distilled"]["x"] == drawn["pruned"]["x"]
    assert drawn["cpu"]["y"] > drawn["pruned"]["y"] > drawn["float"]["y"]
    assert drawn["float"]["r"] / drawn["cpu"]["r"] == pytest.approx((21 / 6) ** 0.5)
    plot = found["plot"]
    for p in drawn.values():
        assert plot.left < p["x"] < plot.right
        assert plot.top <= p["to_y"] <= p["y"] <= p["from_y"] <= plot.bottom


@pytest.mark.parametrize("size", [(760, 400), (340, 400)])
def test_no_name_covers_another_name_and_all_are_inside(size):
    close = [("float", 8, 0.97, 2e7), ("pruned", 7.9, 0.97, 2e7), ("cpu", 7.8, 0.97, 2e7)]
    for steps in (STEPS, close):
        found = lay_out(points(steps), 1.0, *size)
        boxes = [
            Box(at["x"], at["y"] - 10, at["x"] + 6 * len(p["title"]), at["y"])
            for p in found["points"]
            for at in [p["label"]]
            if at
        ]
        assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))
        assert all(box.left >= 0 and box.right <= size[0] for box in boxes)


def test_the_way_to_the_processor_leaves_the_graph_of_tensorrt_out():
    found = lay_out(points(), 1.0, 760, 400)
    (line,) = found["lines"]
    assert line["tier"] == "1"
    assert len(line["path"]) == 4


def test_the_gate_is_where_the_worst_graph_may_be():
    found = lay_out(points(), 1.0, 760, 400)
    (gate,) = found["gates"]
    drawn = {p["step"]: p for p in found["points"]}
    assert gate["y"] > drawn["cpu"]["y"]
    ticks = {text: y for y, text in found["y_ticks"]}
    at_97, at_977 = ticks["97"], drawn["float"]["y"]
    assert gate["y"] == pytest.approx(at_977 + (at_97 - at_977) / 0.7)
    assert lay_out(points(), 100.0, 760, 400)["gates"] == []


@pytest.mark.parametrize("accuracy", [1.0, 0.25])
def test_one_point_alone_has_a_picture_too(accuracy):
    found = lay_out(points([("float", 0.5, accuracy, 1e6)]), 1.0, 340, 400)
    assert len(found["points"]) == 1
    assert found["x_ticks"] and found["y_ticks"]
    assert max(float(text) for _, text in found["y_ticks"]) <= 100


def test_on_a_phone_the_steps_between_have_no_name_where_there_are_many():
    many = [*STEPS, ("routed", 1.0, 0.97, 7e6)]
    for width, unnamed in ((760, set()), (340, {"pruned", "distilled", "tensorrt"})):
        found = lay_out(points(many), 1.0, width, 400)["points"]
        assert {p["step"] for p in found if not p["label"]} == unnamed
