"""As much of rclpy as the ROS 2 example uses; with the definitions of Humble's messages."""

import ast
import threading
import time
from types import ModuleType, SimpleNamespace


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


class ExternalShutdownException(Exception):
    """What `spin` raises when it is shut down from elsewhere."""


class InvalidParameterTypeException(Exception):
    """A parameter was given in another type than its default's."""


class Node:
    """A node that keeps what it sends and says."""

    def __init__(self, given=None):
        self.sent, self.said, self.timers = {}, [], []
        self.destroyed = False
        self._given = given or {}

    def declare_parameter(self, name, value, descriptor=None):
        given = self._given.get(name, value)
        dynamic = descriptor is not None and descriptor.dynamic_typing
        if type(given) is not type(value) and not dynamic:
            raise InvalidParameterTypeException(name)
        return SimpleNamespace(value=given)

    def create_publisher(self, kind, topic, depth):
        assert depth == 10
        sent = self.sent.setdefault(topic, [])

        def publish(message):
            assert isinstance(message, kind)
            sent.append(message)

        return SimpleNamespace(publish=publish)

    def create_timer(self, period_s, callback):
        self.timers.append((period_s, callback))

    def get_clock(self):
        now = SimpleNamespace(nanoseconds=time.time_ns())
        return SimpleNamespace(now=lambda: now)

    def get_logger(self):
        def saying(level):
            return lambda text: self.said.append((level, text))

        return SimpleNamespace(fatal=saying("fatal"), warning=saying("warning"))

    def destroy_node(self):
        self.destroyed = True


def as_ros_reads(text):
    """A parameter as YAML has it: 0 is a number."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


class Ros:
    """rclpy with one node; ``each_turn`` may raise KeyboardInterrupt as a Ctrl-C does."""

    def __init__(self, types):
        self.node = None
        self.each_turn = lambda: None
        self._types = types
        self._down = threading.Event()
        self._given = {}

    def modules(self):
        """What is imported, by name."""
        own = ["init", "create_node", "spin", "try_shutdown"]
        types = vars(self._types)
        parts = {
            "rclpy": {name: getattr(self, name) for name in own},
            "rclpy.executors": {"ExternalShutdownException": ExternalShutdownException},
            "rcl_interfaces.msg": {"ParameterDescriptor": SimpleNamespace},
            "diagnostic_msgs.msg": types,
            "vision_msgs.msg": types,
        }
        made = {}
        for name, content in parts.items():
            made[name] = ModuleType(name)
            vars(made[name]).update(content)
            made.setdefault(name.partition(".")[0], ModuleType(name.partition(".")[0]))
        return made

    def init(self, *, args):
        words = args[args.index("--ros-args") + 1 :]
        for flag, pair in zip(words[::2], words[1::2]):
            assert flag == "-p"
            name, _, value = pair.partition(":=")
            self._given[name] = as_ros_reads(value)

    def create_node(self, name):
        self.node = Node(self._given)
        return self.node

    def spin(self, node):
        """Timers come at every turn here, whatever their period: there are 50 a second."""
        while not self._down.wait(0.02):
            for _, callback in node.timers:
                callback()
            self.each_turn()
        raise ExternalShutdownException

    def try_shutdown(self):
        self._down.set()
