"""The names that people import."""

import ast
import inspect
from pathlib import Path

import pytest

import mla_edge
from mla_edge import errors


def test_every_public_name_is_there_once_and_in_order():
    names = mla_edge.__all__
    assert names == sorted(set(names))
    for name in names:
        assert hasattr(mla_edge, name), name


def test_what_is_no_public_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'mla_edge' has no attribute 'start'"):
        mla_edge.start  # noqa: B018 - looking it up is what is tested


@pytest.mark.parametrize("name", mla_edge.__all__)
def test_every_public_name_is_explained(name):
    assert inspect.getdoc(getattr(mla_edge, name))


def test_every_error_is_public_and_says_its_exit_code():
    tree = ast.parse(Path(errors.__file__).read_text(encoding="utf-8"))
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert set(classes) <= set(mla_edge.__all__)
    for name in classes:
        drawn = [line for line in errors.__doc__.splitlines() if name in line.split()]
        assert len(drawn) == 1, f"{name} is not in the tree on top of errors.py"
        assert str(getattr(errors, name).exit_code) in drawn[0].split()


def test_missing_dependency_is_an_import_error_and_a_timeout_a_timeout():
    assert issubclass(mla_edge.MissingDependency, ImportError)
    assert issubclass(mla_edge.CaptureTimeout, TimeoutError)


def test_the_version_is_the_package_s():
    from importlib.metadata import version

    assert version("mla-edge") == mla_edge.__version__
