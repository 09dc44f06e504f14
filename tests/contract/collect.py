"""Write ``names/<version>.json``: the classes that mla_edge uses, each with all its members.

    python tests/contract/collect.py --lists FOLDER     JSON lists of a version each
    python tests/contract/collect.py --module tensorrt  the binding that is installed
    python tests/contract/collect.py --pycuda FOLDER    pycuda's source distribution

A list is {class: [member, …]}; a value of the module has the name of its type instead.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any, Mapping

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from reading import RETURNS, read_sources  # noqa: E402

NAMES = Path(__file__).with_name("names")
PYCUDA = "pycuda"


def used_classes() -> set[str]:
    """The classes, and the two modules, that the sources use."""
    return {use.name[0] for use in read_sources()} | set(RETURNS.values())


def from_list(listed: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is used, of the list of one version of TensorRT."""
    whole = {name: sorted(of) for name, of in listed.items() if isinstance(of, list)}
    # An enumeration inside a class puts its members on the class as well.
    levels = [name for name in whole["ILogger"] if name not in ("Severity", "log")]
    whole["ILogger.Severity"] = levels
    names = {name: whole[name] for name in sorted(used_classes() & set(whole))}
    used = {use.name[1] for use in read_sources() if use.name[0] == "tensorrt"}
    return {**names, "tensorrt": sorted(used & set(listed))}


def from_module(module: Any) -> dict[str, list[str]]:
    """What is used, of an installed binding."""
    listed = {}
    for name in dir(module):
        if not name.startswith("_"):
            found = getattr(module, name)
            listed[name] = (
                [each for each in dir(found) if not each.startswith("_")]
                if isinstance(found, type)
                else type(found).__name__
            )
    return from_list(listed)


def from_pycuda(source: Path) -> dict[str, list[str]]:
    """What is used, of pycuda's wrapper in C++."""
    text = (source / "src/wrapper/wrap_cudadrv.cpp").read_text(encoding="utf-8")
    text = text[text.index("BOOST_PYTHON_MODULE") :]
    whole: dict[str, set[str]] = {}
    opening = r'py::(?:class_|enum_)<.*?>\s*(?:wrp|cls)?\s*\(\s*"(\w+)"'
    starts = list(re.finditer(opening, text, re.DOTALL))
    for start, following in zip(starts, [*starts[1:], None]):
        part = text[start.end() : following.start() if following else len(text)]
        part = part[: part.find("\n  py::def")] if "\n  py::def" in part else part
        member = r'(?:\.def(?:_readwrite)?|\.add_property|\.value|cls\.attr)\(\s*"(\w+)"'
        found = set(re.findall(member, part))
        found |= set(re.findall(r"\.DEF_SIMPLE_METHOD(?:_WITH_ARGS)?\(\(?(\w+)", part))
        whole[start.group(1)] = {name for name in found if not name.startswith("_")}
    whole["PagelockedHostAllocation"] |= whole["HostPointer"]  # its base
    functions = set(re.findall(r'\n\s*py::def\(\s*"(\w+)"', text))
    functions |= set(re.findall(r"DEF_SIMPLE_FUNCTION(?:_WITH_ARGS)?\((\w+)", text))
    errors = set(re.findall(r"DECLARE_EXC\((\w+), (?!BASE)", text))
    whole["driver"] = functions | errors | set(whole)
    return {name: sorted(whole[name]) for name in sorted(used_classes() & set(whole))}


def write(version: str, origin: str, names: Mapping[str, list[str]]) -> Path:
    """Write one list; the module's own names are those that are used."""
    path = NAMES / f"{version}.json"
    path.write_text(json.dumps({"from": origin, "names": names}, indent=1) + "\n")
    return path


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lists", type=Path)
    parser.add_argument("--module")
    parser.add_argument("--pycuda", type=Path)
    given = parser.parse_args()
    if given.lists:
        for path in sorted(given.lists.glob("*.json")):
            names = from_list(json.loads(path.read_text()))
            print(write(path.stem, "the wheel of that version", names))
    if given.module:
        module = importlib.import_module(given.module)
        version = module.__version__
        stem = f"rtx-{version}" if "rtx" in given.module else version
        print(
            write(
                ".".join(stem.split(".")[:3]), f"{given.module} {version}", from_module(module)
            )
        )
    if given.pycuda:
        version = given.pycuda.name.split("-")[1]
        names = from_pycuda(given.pycuda)
        print(write(f"pycuda-{version}", "its source distribution", names))


if __name__ == "__main__":
    main()
