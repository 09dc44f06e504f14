"""Read from the sources of mla_edge which names of TensorRT and pycuda they use, and where.

Types follow assignments, calls and the names of parameters. A use is gated by what the code
asks first (``hasattr``): where the gate's name is not in a version, the use is not reached.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import mla_edge

Name = "tuple[str, str]"  # class, member; the classes of the modules: tensorrt, driver
PACKAGE = Path(mla_edge.__file__).parent

# What a member gives, where that is one of their objects.
RETURNS = {
    ("Builder", "create_network"): "INetworkDefinition",
    ("Builder", "create_builder_config"): "IBuilderConfig",
    ("Builder", "build_serialized_network"): "IHostMemory",
    ("INetworkDefinition", "get_layer"): "ILayer",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("ILayer", "get_input"): "ITensor",
    ("ILayer", "get_output"): "ITensor",
    ("OnnxParser", "get_error"): "ParserError",
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache",
    ("IBuilderConfig", "get_timing_cache"): "ITimingCache",
    ("ITimingCache", "serialize"): "IHostMemory",
    ("Runtime", "deserialize_cuda_engine"): "ICudaEngine",
    ("ICudaEngine", "create_execution_context"): "IExecutionContext",
    ("ICudaEngine", "create_engine_inspector"): "EngineInspector",
    ("ICudaEngine", "get_tensor_dtype"): "DataType",
    ("ICudaEngine", "get_tensor_mode"): "TensorIOMode",
    ("driver", "mem_alloc"): "DeviceAllocation",
    ("Device", "retain_primary_context"): "Context",
}
# Parameters and attributes of ours that hold one of their objects; parameters are not typed.
PARAMETERS = {
    "trt": "tensorrt",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "layer": "ILayer",
    "tensor": "ITensor",
    "device": "Device",
    "stream": "Stream",
}
OURS = {
    "bindings.trt": "tensorrt",
    "gpu.stream": "Stream",
    "self.host.base": "PagelockedHostAllocation",
}
CALLS = {"parse_network": ("Builder", "INetworkDefinition", "OnnxParser")}
# getattr and hasattr with a name that is computed: the names that it can be.
DYNAMIC = {
    ("_weak_flags", "BuilderFlag"): ("INT8", "FP16"),
    ("_weak_flags", "Builder"): ("platform_has_fast_int8", "platform_has_fast_fp16"),
    ("_hold_float", "LayerType"): ("REDUCE", "SOFTMAX", "UNARY", "NORMALIZATION"),
    ("_capabilities", "ComputeCapability"): ("SM80", "SM86", "SM89", "SM120"),
}
INT8 = ("BuilderFlag", "INT8")
RTX = ("tensorrt", "ComputeCapability")
# What a condition of ours means: where the name is missing, the condition is not met.
# test_contract.py shows that these hold.
STRONG = ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
CONDITIONS = {"not strong": INT8, "strong": STRONG, "spec.capabilities": RTX}
FILES_ONLY_FOR = {"tensorrt_check.py": RTX}
_DUNDER = ("__version__",)


@dataclass(frozen=True)
class Use:
    """One place where a name is used, and what must be there for it to be reached."""

    name: Name
    file: str
    line: int
    function: str
    gates: frozenset


def read_sources(files: list[Path] | None = None) -> list[Use]:
    """Every use in the package, or in ``files``."""
    uses: list[Use] = []
    for path in files if files is not None else sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if any(word in text for word in ("trt.", "driver.", "gpu.stream")):
            uses += _File(path.name, ast.parse(text)).uses()
    return uses


class _File:
    """One module: its functions, what they use, and under which gates they are called."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name = name
        self.found: list[Use] = []
        self.attributes: dict[str, str] = {}  # self._engine -> ICudaEngine
        self.returns: dict[str, str] = {}  # of our own functions
        self.called: dict[str, list[tuple[str, frozenset]]] = {}  # callee -> caller, gates
        only = FILES_ONLY_FOR.get(name)
        self.base = frozenset([only] if only else [])
        for _ in range(3):  # attributes may be set below where they are used
            self.found, self.called = [], {}
            for function, body in _functions(tree):
                _Function(self, function).read(body)

    def uses(self) -> list[Use]:
        """The uses, with the gates of every way to call their function."""
        return [
            Use(u.name, u.file, u.line, u.function, u.gates | self._of_callers(u.function, ()))
            for u in self.found
        ]

    def _of_callers(self, function: str, seen: tuple) -> frozenset:
        sites = self.called.get(function, ())
        if not sites or function in seen:
            return frozenset()
        ways = [gates | self._of_callers(caller, (*seen, function)) for caller, gates in sites]
        return frozenset.intersection(*ways)


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Functions and methods; those inside one are read with it."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from ((n.name, n) for n in node.body if isinstance(n, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef):
            yield node.name, node


class _Function:
    def __init__(self, file: _File, name: str) -> None:
        self.file, self.name = file, name
        self.locals: dict[str, str] = {}

    def read(self, node: ast.AST) -> None:
        assert isinstance(node, ast.FunctionDef)
        self._block(node.body, self.file.base, node)

    def _parameters(self, node: ast.FunctionDef) -> None:
        for each in (*node.args.args, *node.args.kwonlyargs):
            if each.arg in PARAMETERS:
                self.locals[each.arg] = PARAMETERS[each.arg]

    def _block(self, body: list, gates: frozenset, owner: object = None) -> None:
        if isinstance(owner, ast.FunctionDef):
            self._parameters(owner)
        for node in body:
            self._statement(node, gates)
            if isinstance(node, ast.If) and isinstance(node.body[-1], (ast.Return, ast.Raise)):
                gates |= self._gates(ast.UnaryOp(ast.Not(), node.test))

    def _statement(self, node: ast.AST, gates: frozenset) -> None:
        if isinstance(node, ast.FunctionDef):
            self._block(node.body, gates, node)
        elif isinstance(node, ast.ClassDef):
            self._class(node, gates)
        elif isinstance(node, ast.If):
            self._type(node.test, gates)
            self._block(node.body, gates | self._gates(node.test))
            self._block(node.orelse, gates)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            self._assign(node, gates)
        elif isinstance(node, ast.Return) and node.value is not None:
            kind = self._type(node.value, gates)
            if kind:
                self.file.returns[self.name] = kind
        else:
            self._parts(node, gates)

    def _class(self, node: ast.ClassDef, gates: frozenset) -> None:
        """A class inside a function: what it overrides of theirs is used."""
        kinds = filter(None, [self._type(base, gates) for base in node.bases])
        methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
        for kind in kinds:
            for each in (m for m in methods if m.name[0] != "_"):
                self._use((kind, each.name), each.lineno, gates)
        self._block(node.body, gates)

    def _parts(self, node: ast.AST, gates: frozenset) -> None:
        """The statements and expressions of a loop, a with, a try or a plain expression."""
        for each in ast.iter_child_nodes(node):
            if isinstance(each, ast.ExceptHandler):
                if each.type is not None:
                    self._type(each.type, gates)
                self._block(each.body, gates)
            elif isinstance(each, ast.stmt):
                self._block([each], gates)
            else:
                self._type(each, gates)

    def _assign(self, node: ast.Assign | ast.AnnAssign, gates: frozenset) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        value = node.value
        pairs = [(target, value) for target in targets]
        if isinstance(targets[0], ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(targets[0].elts, value.elts))
        for target, each in pairs:
            kind = self._type(each, gates) if each is not None else ""
            if isinstance(target, ast.Tuple):
                called = _dotted(value.func) if isinstance(value, ast.Call) else ""
                for name, made in zip(target.elts, CALLS.get(called, ())):
                    self.locals[_dotted(name)] = made
            elif isinstance(target, ast.Name) and (kind or target.id in self.locals):
                self.locals[target.id] = kind
            elif isinstance(target, ast.Attribute):
                if kind and _dotted(target).startswith("self."):
                    self.file.attributes[_dotted(target)] = kind
                self._type(target, gates)

    def _type(self, node: ast.AST, gates: frozenset) -> str:
        """The class of what ``node`` gives, if it is one of theirs; notes what it uses."""
        dotted = _dotted(node)
        if dotted in self.locals:
            return self.locals[dotted]
        for known in (self.file.attributes, OURS):
            if dotted in known:
                return known[dotted]
        if isinstance(node, ast.Name):
            return "driver" if dotted == "driver" else ""
        if isinstance(node, ast.Attribute):
            return self._member(self._type(node.value, gates), node.attr, node.lineno, gates)
        if isinstance(node, ast.Call):
            return self._call(node, gates)
        if isinstance(node, ast.IfExp):
            self._type(node.test, gates)
            kinds = [self._type(node.body, gates | self._gates(node.test))]
            return next(filter(None, [*kinds, self._type(node.orelse, gates)]), "")
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            self._comprehension(node, gates)
            return ""
        for each in ast.iter_child_nodes(node):
            self._type(each, gates)
        return ""

    def _comprehension(self, node: ast.AST, gates: frozenset) -> None:
        inner = gates
        for each in node.generators:  # type: ignore[attr-defined]
            kind = self._element(each.iter)
            if kind:
                self.locals[_dotted(each.target)] = kind
            self._type(each.iter, gates)
            for test in each.ifs:
                self._type(test, inner)
                inner |= self._gates(test)
        for each in ast.iter_child_nodes(node):
            if not isinstance(each, ast.comprehension):
                self._type(each, inner)

    def _element(self, node: ast.AST) -> str:
        """What a list holds, by the name of it: ``layers`` holds layers."""
        return PARAMETERS.get(_dotted(node)[:-1], "") if _dotted(node).endswith("s") else ""

    def _call(self, node: ast.Call, gates: frozenset) -> str:
        name = _dotted(node.func)
        for each in (*node.args, *(k.value for k in node.keywords)):
            self._type(each, gates)
        if name in ("hasattr", "getattr"):
            kind = self._type(node.args[0], gates)
            asked = node.args[1]
            safe = name == "hasattr" or len(node.args) > 2
            if kind and isinstance(asked, ast.Constant):
                found = (str(asked.value),)
            elif kind:
                found = DYNAMIC[(self.name, kind)]
            else:
                return ""
            for each in found:
                own = gates | {(kind, each)} if safe or self._asked(kind, gates) else gates
                self._use((kind, each), node.lineno, own)
            return ""
        own = name[5:] if name.startswith("self.") else name
        self.file.called.setdefault(own, []).append((self.name, gates))
        return self._type(node.func, gates) or self.file.returns.get(own, "")

    def _asked(self, kind: str, gates: frozenset) -> bool:
        """Whether a computed name of ``kind`` was asked for with hasattr just before."""
        return (kind, "*") in gates

    def _member(self, kind: str, member: str, line: int, gates: frozenset) -> str:
        if not kind:
            return ""
        if member not in _DUNDER:
            self._use((kind, member), line, gates)
        if (kind, member) in RETURNS:
            return RETURNS[(kind, member)]
        if kind in ("tensorrt", "driver"):
            return member if member[0].isupper() or "_flags" in member or (
                member == "device_attribute") else ""  # fmt: skip
        return "ILogger.Severity" if (kind, member) == ("ILogger", "Severity") else ""

    def _use(self, name: Name, line: int, gates: frozenset) -> None:
        self.file.found.append(Use(name, self.file.name, line, self.name, gates))

    def _gates(self, test: ast.AST) -> frozenset:
        """What must be there where ``test`` is true."""
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            return frozenset().union(*(self._gates(each) for each in test.values))
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = test.operand
            if isinstance(inner, ast.BoolOp) and isinstance(inner.op, ast.Or):
                negated = (ast.UnaryOp(ast.Not(), each) for each in inner.values)
                return frozenset().union(*(self._gates(each) for each in negated))
            if isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not):
                return self._gates(inner.operand)
            known = CONDITIONS.get(f"not {_dotted(inner)}")
            return frozenset([known] if known else [])
        known = CONDITIONS.get(_dotted(test))
        if known:
            return frozenset([known])
        if isinstance(test, ast.Call) and _dotted(test.func) == "hasattr":
            kind, asked = self._type(test.args[0], frozenset()), test.args[1]
            if kind:
                name = str(asked.value) if isinstance(asked, ast.Constant) else "*"
                return frozenset([(kind, name)])
        return frozenset()


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""
