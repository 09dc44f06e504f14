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
import traceback
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

from messages import classification, diagnostics, stamp

import mla_edge
from mla_edge.signals import find_inputs

PARAMETERS = {
    "bundle": "bundles/digits-host",
    "camera": "0",
    "microphone": "default",
    "engine": "auto",
    "frame_id": "camera",
    "max_age_ms": 500.0,
}
STATUS_S = 1.0


class Publisher:
    """Turns decisions and faults into messages.

    Decisions and faults come on the thread that decides, ``status`` once a second on the one
    that spins: with all sensors lost, and while the bundle is loaded, too.
    """

    def __init__(self, node: Any, types: Any, settings: Any) -> None:
        """``node`` is an rclpy node, ``types`` the message classes by name."""
        self._node, self._types = node, types
        self._name, self._frame = settings.bundle, settings.frame_id
        self._decisions = node.create_publisher(types.Classification, "~/decision", 10)
        self._status = node.create_publisher(types.DiagnosticArray, "/diagnostics", 10)
        self._lock = threading.Lock()
        self._faults: dict[str, mla_edge.Fault] = {}
        self._last: mla_edge.Prediction | None = None
        node.create_timer(STATUS_S, self.status)

    def decision(self, prediction: mla_edge.Prediction, labels: tuple[str, ...]) -> None:
        """Publish one decision between ``labels``."""
        message = classification(prediction, labels, self._types)
        self._stamp(message, min(prediction.capture_time_s.values()))
        message.header.frame_id = self._frame
        self._decisions.publish(message)
        self._last = prediction

    def fault(self, fault: mla_edge.Fault) -> None:
        """Remember and publish a fault."""
        with self._lock:
            self._faults[fault.modality] = fault
        self.status()

    def status(self) -> None:
        """Publish how it stands."""
        with self._lock:
            message = diagnostics(self._last, self._faults, self._types, name=self._name)
            self._stamp(message, time.monotonic())
            self._status.publish(message)

    def _stamp(self, message: Any, moment_s: float) -> None:
        ros_now_ns = self._node.get_clock().now().nanoseconds
        stamp(message, moment_s, time.monotonic(), ros_now_ns)


def decide(publisher: Publisher, settings: Any, log: Any, stop: threading.Event) -> None:
    """Open everything, and publish until ``stop`` is set or the sources end."""
    with ExitStack() as stack:
        model = stack.enter_context(mla_edge.load(settings.bundle, engine=settings.engine))
        opened = open_sources(stack, model.bundle, settings, log)
        for prediction in mla_edge.run(
            model,
            opened.get("camera"),
            opened.get("microphone"),
            max_age_ms=settings.max_age_ms,
            on_fault=publisher.fault,
            stopped=stop.is_set,
        ):
            publisher.decision(prediction, model.bundle.labels)


def open_sources(stack: ExitStack, bundle: Any, settings: Any, log: Any) -> dict[str, Any]:
    """Open what is wanted and has an input in the bundle; what has none is told."""
    inputs = find_inputs(bundle.inputs)
    opened: dict[str, Any] = {}
    for name in ("camera", "microphone"):
        source = getattr(settings, name)
        if source == "none":
            continue
        if name not in inputs:
            log.warning(f"the {name} is not used: {bundle.name} has no input for it")
        elif name == "camera":
            opened[name] = stack.enter_context(mla_edge.open_camera(source))
        else:
            sound = inputs[name]
            opened[name] = stack.enter_context(
                mla_edge.open_microphone(
                    source, rate_hz=sound.rate_hz or 0, window_s=sound.window_s
                )
            )
    return opened


def read_settings(node: Any, descriptor: Any) -> Any:
    """The parameters of ``node``; ``0`` for a camera, or ``500`` ms, may come as a number."""
    dynamic = descriptor(dynamic_typing=True)  # rclpy refuses another type than the default's
    return SimpleNamespace(
        **{
            name: type(value)(node.declare_parameter(name, value, dynamic).value)
            for name, value in PARAMETERS.items()
        }
    )


def main() -> int:
    """Spin in the main thread, decide in another; the exit code, 0 only without an error."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from rcl_interfaces.msg import ParameterDescriptor
    from rclpy.executors import ExternalShutdownException
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
    settings = read_settings(node, ParameterDescriptor)
    publisher = Publisher(node, types, settings)
    stop = threading.Event()
    codes: list[int] = []

    def work() -> None:
        log = node.get_logger()
        try:
            decide(publisher, settings, log, stop)
        except mla_edge.MlaEdgeError as error:
            log.fatal(f"{error}\n  {error.hint}")
            codes.append(error.exit_code)
        except Exception:  # this thread's end is the program's: it must not look like success
            log.fatal(traceback.format_exc())
            codes.append(1)
        finally:
            rclpy.try_shutdown()  # ends the spinning

    thread = threading.Thread(target=work, name="decide")
    thread.start()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        stop.set()
        thread.join()
        node.destroy_node()
        rclpy.try_shutdown()
    return codes[0] if codes else 0


if __name__ == "__main__":
    sys.exit(main())
