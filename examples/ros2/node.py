"""A ROS 2 node that publishes what mla-edge decides.

    python examples/ros2/node.py --ros-args -p bundle:=bundles/digits-agx-orin -p camera:=0

Topics: ``~/decision`` (vision_msgs/Classification, stamped with the oldest capture it used) and
``/diagnostics`` (diagnostic_msgs/DiagnosticArray, once a second and at each fault). Parameters:
bundle, camera, microphone ("none" for neither), engine, frame_id, max_age_ms.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

from messages import classification, diagnostics, stamp

import mla_edge

PARAMETERS = {
    "bundle": "bundles/digits-host",
    "camera": "0",
    "microphone": "default",
    "engine": "auto",
    "frame_id": "camera",
    "max_age_ms": 500.0,
}


class Publisher:
    """Turns decisions and faults into messages; on the thread that decides."""

    def __init__(self, node: Any, types: Any, settings: Any, labels: tuple[str, ...]) -> None:
        """``node`` is an rclpy node, ``types`` the message classes by name."""
        self._node, self._types, self._labels = node, types, labels
        self._name, self._frame = settings.bundle, settings.frame_id
        self._decisions = node.create_publisher(types.Classification, "~/decision", 10)
        self._status = node.create_publisher(types.DiagnosticArray, "/diagnostics", 10)
        self._faults: dict[str, mla_edge.Fault] = {}
        self._last: mla_edge.Prediction | None = None
        self._told_s = -1.0

    def decision(self, prediction: mla_edge.Prediction) -> None:
        """Publish one decision."""
        message = classification(prediction, self._labels, self._types)
        self._stamp(message, min(prediction.capture_time_s.values()))
        message.header.frame_id = self._frame
        self._decisions.publish(message)
        self._last = prediction
        if prediction.decision_time_s - self._told_s >= 1.0:
            self.status()

    def fault(self, fault: mla_edge.Fault) -> None:
        """Remember and publish a fault."""
        self._faults[fault.modality] = fault
        self.status()

    def status(self) -> None:
        """Publish how it stands."""
        self._told_s = time.monotonic()
        message = diagnostics(self._last, self._faults, self._types, name=self._name)
        self._stamp(message, self._told_s)
        self._status.publish(message)

    def _stamp(self, message: Any, moment_s: float) -> None:
        ros_now_ns = self._node.get_clock().now().nanoseconds
        stamp(message, moment_s, time.monotonic(), ros_now_ns)


def decide(node: Any, types: Any, settings: Any, stop: threading.Event) -> None:
    """Open everything, and publish until ``stop`` is set or the sources end."""
    with ExitStack() as stack:
        model = stack.enter_context(mla_edge.load(settings.bundle, engine=settings.engine))
        publisher = Publisher(node, types, settings, model.bundle.labels)
        camera = microphone = None
        if settings.camera != "none":
            camera = stack.enter_context(mla_edge.open_camera(settings.camera))
        if settings.microphone != "none":
            sound = next(spec for spec in model.bundle.inputs if spec.kind == "audio")
            microphone = stack.enter_context(
                mla_edge.open_microphone(
                    settings.microphone, rate_hz=sound.rate_hz or 0, window_s=sound.window_s
                )
            )
        for prediction in mla_edge.run(
            model,
            camera,
            microphone,
            max_age_ms=settings.max_age_ms,
            on_fault=publisher.fault,
            stopped=stop.is_set,
        ):
            publisher.decision(prediction)


def main() -> int:
    """Spin in the main thread, decide in another."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from vision_msgs.msg import Classification, ObjectHypothesis

    types = SimpleNamespace(
        Classification=Classification,
        ObjectHypothesis=ObjectHypothesis,
        DiagnosticArray=DiagnosticArray,
        DiagnosticStatus=DiagnosticStatus,
        KeyValue=KeyValue,
    )
    rclpy.init(args=sys.argv)
    node = rclpy.create_node("mla_edge")
    settings = SimpleNamespace(
        **{
            name: node.declare_parameter(name, value).value
            for name, value in PARAMETERS.items()
        }
    )
    stop = threading.Event()
    failed: list[mla_edge.MlaEdgeError] = []

    def work() -> None:
        try:
            decide(node, types, settings, stop)
        except mla_edge.MlaEdgeError as error:
            node.get_logger().fatal(f"{error}\n  {error.hint}")
            failed.append(error)
        finally:
            rclpy.try_shutdown()  # ends the spinning

    thread = threading.Thread(target=work, name="decide")
    thread.start()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass
    finally:
        stop.set()
        thread.join()
        node.destroy_node()
        rclpy.try_shutdown()
    return failed[0].exit_code if failed else 0


if __name__ == "__main__":
    sys.exit(main())
