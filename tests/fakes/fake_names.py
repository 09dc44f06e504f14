"""The names that a real TensorRT has, class by class, and objects that have no others."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any, Mapping

from fake_machine import machine

LISTS = Path(__file__).parents[1] / "contract" / "names"


def read_names(version: str) -> dict[str, list[str]]:
    """The classes of ``version``, each with its members; a value without members has none."""
    found: dict[str, list[str]] = json.loads((LISTS / f"{version}.json").read_text())["names"]
    return found


def _note(called: str, name: str, *, there: bool) -> None:
    """Remember what the code under test asks for, not what the fakes ask of each other."""
    asking = str(sys._getframe(2).f_globals.get("__name__", ""))
    if not asking.startswith(("fake_", "tensorrt", "pycuda")):
        (machine.touched if there else machine.missed).add((called, name))


class Guarded:
    """An object of a binding: what its version does not list is not there.

    What is listed and not taught to the fake says so, for it is there in the real one.
    """

    _names: frozenset[str] = frozenset()
    _called = ""  # the class, as the binding calls it

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            kind = type(self)
            if name not in kind._names and not kind._is_of_user(name):
                _note(kind._called, name, there=False)
                raise AttributeError(f"'{kind._called}' object has no attribute {name!r}")
            _note(kind._called, name, there=True)
        return object.__getattribute__(self, name)

    def __getattr__(self, name: str) -> Any:
        if name in type(self)._names:
            raise machine.violate(f"the fake {self._called} lacks {name!r}: teach it")
        raise AttributeError(f"'{self._called}' object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            if name not in type(self)._names:
                _note(self._called, name, there=False)
                raise AttributeError(f"'{self._called}' object has no attribute {name!r}")
            _note(self._called, name, there=True)
        object.__setattr__(self, name, self._as_kept(name, value))

    def _as_kept(self, name: str, value: Any) -> Any:
        """What is stored of a value that is set."""
        return value

    @classmethod
    def _is_of_user(cls, name: str) -> bool:
        """Whether a subclass in the code under test has added ``name``."""
        for kind in cls.__mro__:
            if "_called" in vars(kind):
                return False
            if name in vars(kind):
                return True
        return False


class _Made(type):
    """pybind11's check that a subclass called its base's ``__init__``."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        if not object.__getattribute__(made, "__dict__").get("_initialised"):
            raise TypeError(f"{cls._called}.__init__() must be called when overriding __init__")
        return made


class Callback(Guarded, metaclass=_Made):
    """A class that users derive from."""

    def __init__(self) -> None:
        self._initialised = True


class _Values(type):
    """The class of an enumeration: its members are what its version lists."""

    def __getattr__(cls, name: str) -> Any:
        members = cls.__dict__["_members"]
        if name in members:
            _note(cls._called, name, there=True)
            return members[name]
        _note(cls._called, name, there=False)
        raise AttributeError(f"type object '{cls._called}' has no attribute {name!r}")


class Value(metaclass=_Values):
    """One member of an enumeration; like pybind11's, no number but with one."""

    _members: Mapping[str, Value] = {}
    _called = ""

    def __init__(self, name: str, value: int) -> None:
        self.name, self.value = name, value

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.value == other.value  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((self._called, self.value))

    def __repr__(self) -> str:
        return f"<{self._called}.{self.name}: {self.value}>"


def make_values(called: str, names: list[str], first: Mapping[str, int]) -> Any:
    """An enumeration; ``first`` gives numbers that matter, the others get any."""
    listed = [name for name in names if name not in ("name", "value", "itemsize")]
    made = type(called, (Value,), {"_called": called, "_members": {}})
    free = iter(n for n in range(200) if n not in first.values())
    members = {
        name: made(name, first[name] if name in first else next(free)) for name in listed
    }
    made._members = members  # type: ignore[attr-defined]
    return made


class Binding(types.ModuleType):
    """The module itself: notes what is asked of it."""

    _called = ""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("_"):
            _note(super().__getattribute__("_called"), name, there=True)
        return found

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_listed", ()):
            raise machine.violate(f"the fake {self._called} lacks {name!r}: teach it")
        _note(self._called, name, there=False)
        raise AttributeError(f"module '{self._called}' has no attribute {name!r}")
