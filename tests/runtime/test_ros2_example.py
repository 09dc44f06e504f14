"""The ROS 2 example without ROS: its messages by Humble's definitions, on a stand-in."""

import importlib.util
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from colours import INPUTS, make_bundle
from ros import Message, Node, Ros

import mla_edge
from mla_edge.errors import CaptureError
from mla_edge.runtime.sense import Fault
from mla_edge.signals import TensorSpec
from mla_edge.testing import FakeCamera, FakeEngine

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


@pytest.fixture
def ros(types, monkeypatch):
    """A stand-in for rclpy, which the example imports."""
    stand_in = Ros(types)
    for name, module in stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return stand_in


@pytest.fixture
def start(example, ros, monkeypatch):
    """Calls the program as it is typed; its exit code."""

    def call(**parameters):
        words = [word for item in parameters.items() for word in ("-p", "{}:={}".format(*item))]
        monkeypatch.setattr(sys, "argv", ["node.py", "--ros-args", *words])
        code = example.main()
        assert "decide" not in {thread.name for thread in threading.enumerate()}
        assert ros.node.destroyed
        return code

    return call


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "colours-host").folder


def interrupt_when(condition):
    """For each turn of the spinning: a Ctrl-C once it holds; after 30 s a failure."""
    until_s = time.monotonic() + 30

    def turn():
        assert time.monotonic() < until_s, "in vain"
        if condition():
            raise KeyboardInterrupt

    return turn


def test_the_node_publishes_what_the_simulator_shows_until_ctrl_c(start, ros, store, folder):
    ros.each_turn = interrupt_when(lambda: len(ros.node.sent["~/decision"]) >= 5)
    assert start(bundle=folder, camera="sim://digits", microphone="none") == 0
    sent = serialised(store, ros.node.sent["~/decision"][-1])
    captured_s = sent.header.stamp.sec + sent.header.stamp.nanosec / 1e9
    assert 0 <= time.time() - captured_s < 10
    assert {r.class_id for r in sent.results} <= {"red", "green", "blue"}
    (status,) = serialised(store, ros.node.sent["/diagnostics"][-1]).status
    assert (status.level, status.message) == (0, "deciding")
    assert ros.node.said == []


def test_diagnostics_go_on_once_a_second_with_all_sensors_lost(
    start, ros, store, folder, monkeypatch
):
    camera = FakeCamera([], faults=dict.fromkeys(range(10_000), CaptureError("unplugged")))
    monkeypatch.setattr(mla_edge, "open_camera", lambda source: nullcontext(camera))
    told = []

    def is_told_again():
        told[:] = [m.status[0].message for m in ros.node.sent["/diagnostics"]]
        return told.count("image lost unplugged") >= 5

    ros.each_turn = interrupt_when(is_told_again)
    assert start(bundle=folder, camera=0, microphone="none") == 0
    assert ros.node.sent["~/decision"] == []
    assert [period_s for period_s, _ in ros.node.timers] == [1.0]
    (status,) = serialised(store, ros.node.sent["/diagnostics"][-1]).status
    assert status.level == 2


def test_an_input_that_the_bundle_does_not_have_is_left_out(start, ros, tmp_path, monkeypatch):
    """So the default of the microphone does for a bundle that only sees."""
    seeing = make_bundle(tmp_path / "seeing", inputs=INPUTS[:1]).folder
    spec = TensorSpec("image", "float32", (1, 3, 16, 16))
    logits = {"logits": np.zeros((1, 3), np.float32)}
    monkeypatch.setattr(
        "mla_edge.engines.opening.open_engine", lambda path, threads: FakeEngine([spec], logits)
    )
    ros.each_turn = interrupt_when(lambda: ros.node.sent["~/decision"])
    assert start(bundle=seeing, camera="sim://digits") == 0
    said = "the microphone is not used: colours-host has no input for it"
    assert ros.node.said == [("warning", said)]


def test_an_expected_error_is_said_and_is_the_exit_code(start, ros, tmp_path):
    assert start(bundle=tmp_path / "none") == 5
    ((level, text),) = ros.node.said
    assert level == "fatal"
    assert "none" in text
    assert "Traceback" not in text


def test_a_crash_is_no_success(start, ros, folder, example, monkeypatch):
    monkeypatch.setattr(example, "classification", lambda *_: 1 / 0)
    assert start(bundle=folder, camera="sim://digits", microphone="none") == 1
    ((level, text),) = ros.node.said
    assert level == "fatal"
    assert "ZeroDivisionError" in text


def test_numbers_do_for_parameters(example):
    """`-p camera:=0` is a number to ROS, which refuses it where the default is text."""
    node = Node({"camera": 0, "max_age_ms": 500})
    settings = example.read_settings(node, SimpleNamespace)
    assert (settings.camera, settings.microphone) == ("0", "default")
    assert (settings.max_age_ms, type(settings.max_age_ms)) == (500.0, float)
