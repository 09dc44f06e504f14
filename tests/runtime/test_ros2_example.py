"""The ROS 2 example without ROS: its messages by Humble's definitions."""

import importlib.util
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from colours import make_bundle

import mla_edge
from mla_edge.runtime.sense import Fault

typesys = pytest.importorskip("rosbags.typesys", reason="rosbags needs Python 3.10")

FOLDER = Path(__file__).parents[2] / "examples" / "ros2"
VISION = {  # ros-humble-vision-msgs 4
    "Classification": "std_msgs/Header header\nObjectHypothesis[] results",
    "ObjectHypothesis": "string class_id\nfloat64 score",
}
PACKAGES = {"DiagnosticArray": "diagnostic_msgs", "DiagnosticStatus": "diagnostic_msgs"}
PACKAGES.update(KeyValue="diagnostic_msgs", Classification="vision_msgs")
PACKAGES.update(ObjectHypothesis="vision_msgs")


@pytest.fixture(scope="module")
def store():
    known = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    for name, text in VISION.items():
        known.register(typesys.get_types_from_msg(text, f"vision_msgs/msg/{name}"))
    return known


class Message:
    """As rclpy's: made empty, and it has the fields of its definition and no others."""

    def __init__(self, store, name):
        object.__setattr__(self, "type_", name)
        constants, fields = store.fielddefs[name]
        object.__setattr__(self, "fields_", [field for field, _ in fields])
        for field, (kind, of) in fields:
            object.__setattr__(self, field, self._empty(store, kind.name, of))

    @staticmethod
    def _empty(store, kind, of):
        if kind == "NAME":
            return Message(store, of)
        if kind == "SEQUENCE":
            return []
        return {"string": "", "byte": b"\0"}.get(of[0], 0)

    def __setattr__(self, field, value):
        if field not in self.fields_:
            raise AttributeError(f"{self.type_} has no field {field}")
        object.__setattr__(self, field, value)


@pytest.fixture(scope="module")
def types(store):
    made = {}
    for name, package in PACKAGES.items():
        full = f"{package}/msg/{name}"
        constants = {key: bytes([value]) for key, _, value in store.fielddefs[full][0]}
        new = lambda self, full=full: Message.__init__(self, store, full)  # noqa: E731
        made[name] = type(name, (Message,), {"__init__": new, **constants})
    return SimpleNamespace(**made)


def serialised(store, message):
    """Through CDR, as it goes over the wire, and back."""

    def plain(value):
        if isinstance(value, Message):
            fields = {f: plain(getattr(value, f)) for f in value.fields_}
            return store.types[value.type_](**fields)
        if isinstance(value, list):
            return [plain(each) for each in value]
        return value[0] if isinstance(value, bytes) else value

    raw = store.serialize_cdr(plain(message), message.type_)
    return store.deserialize_cdr(raw, message.type_)


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("ros2_node", FOLDER / "node.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("messages", None)


@pytest.fixture
def prediction():
    return mla_edge.Prediction(
        label="7",
        confidence=0.9,
        tier="lite",
        reason="lite confident",
        mode="image+audio",
        capture_time_s={"image": 99.5, "audio": 99.25},
        decision_time_s=99.75,
        latency_ms=2.0,
        age_ms=500.0,
        probabilities=np.array([0.0995, 0.9, 0.0005]),
    )


def test_a_decision_is_a_classification(example, store, types, prediction):
    message = example.classification(prediction, ("1", "7", "none"), types)
    example.stamp(message, 99.25, 100.0, 1_700_000_000_500_000_000)
    message.header.frame_id = "camera"
    sent = serialised(store, message)
    assert [(r.class_id, r.score) for r in sent.results] == [("7", 0.9), ("1", 0.0995)]
    assert (sent.header.stamp.sec, sent.header.stamp.nanosec) == (1_699_999_999, 750_000_000)
    assert sent.header.frame_id == "camera"


def fault(what, why="", **more):
    return Fault("audio", what, 1.0, why, **more)


@pytest.mark.parametrize(
    ("faults", "level", "says"),
    [
        ({}, 0, "deciding"),
        ({"audio": fault("back")}, 0, "deciding"),
        ({"audio": fault("stale")}, 1, "audio stale"),
        ({"audio": fault("lost", "unplugged")}, 2, "audio lost unplugged"),
        ({"audio": fault("silent", "zeros", masked=False)}, 1, "audio silent, but used zeros"),
    ],
)
def test_what_is_lost_is_in_the_diagnostics(
    example, store, types, prediction, faults, level, says
):
    sent = serialised(store, example.diagnostics(prediction, faults, types, name="digits"))
    (status,) = sent.status
    assert (status.level, status.message) == (level, says)
    values = {pair.key: pair.value for pair in status.values}
    assert values["tier"] == "lite"
    assert values["skew_ms"] == "250.0"


def test_before_the_first_decision_it_is_stale(example, store, types):
    (status,) = serialised(store, example.diagnostics(None, {}, types, name="x")).status
    assert (status.level, list(status.values)) == (3, [])


class Node:
    """As much of an rclpy node as the example uses."""

    def __init__(self):
        self.sent = {}

    def create_publisher(self, kind, topic, depth):
        assert depth == 10
        sent = self.sent.setdefault(topic, [])

        def publish(message):
            assert isinstance(message, kind)
            sent.append(message)

        return SimpleNamespace(publish=publish)

    def get_clock(self):
        now = SimpleNamespace(nanoseconds=time.time_ns())
        return SimpleNamespace(now=lambda: now)


def test_the_node_publishes_what_the_simulator_shows_until_it_is_stopped(
    example, store, types, tmp_path
):
    make_bundle(tmp_path / "colours-host")
    settings = SimpleNamespace(
        **{**example.PARAMETERS, "bundle": str(tmp_path / "colours-host"), "microphone": "none"}
    )
    settings.camera = "sim://digits"
    node, stop = Node(), threading.Event()
    threading.Timer(0.6, stop.set).start()
    example.decide(node, types, settings, stop)
    decisions, status = node.sent["~/decision"], node.sent["/diagnostics"]
    assert len(decisions) >= 5
    assert len(status) >= 1
    sent = serialised(store, decisions[-1])
    captured_s = sent.header.stamp.sec + sent.header.stamp.nanosec / 1e9
    assert 0 <= time.time() - captured_s < 2
    assert {r.class_id for r in sent.results} <= {"red", "green", "blue"}
