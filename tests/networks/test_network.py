import dataclasses

import pytest
import torch

from mla_edge.errors import ConfigError
from mla_edge.networks import Network, TierNetwork, load_network
from mla_edge.networks.digits import digits
from mla_edge.networks.network import check_network
from mla_edge.signals import InputSpec, Tier

SOURCE = """
import torch
from mla_edge.networks import Network, TierNetwork
from mla_edge.signals import InputSpec, Tier

def make():
    return Network(
        name="tiny",
        labels=("no", "yes"),
        inputs=(InputSpec("imu", "tensor", (1, 6)),),
        tiers=(TierNetwork(Tier("full", ("imu",), ("logits",)), torch.nn.Linear(6, 2).eval()),),
        samples=lambda split, count, seed: [],
    )

def broken():
    return 7

def wants(size):
    return size

def fails(kind):
    raise kind("the weights are gone")

def type_error(data=None):
    return "a" + 1

def wrong_type(): fails(TypeError)
def attribute(): fails(AttributeError)
def name(): return no_such_name
def value(): fails(ValueError)
def runtime(): torch.zeros(2) @ torch.zeros(3)
def arithmetic(): return 1 / 0
def assertion(): assert False, "never"
def disk(): open("/nowhere/weights.pt")

answer = 42
"""


@pytest.fixture
def tiny():
    return Network(
        name="tiny",
        labels=("no", "yes"),
        inputs=(InputSpec("imu", "tensor", (1, 6)),),
        tiers=(TierNetwork(Tier("full", ("imu",), ("logits",)), torch.nn.Linear(6, 2).eval()),),
        samples=lambda split, count, seed: [],
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_a_network_is_loaded_from_a_file(file):
    network = load_network(f"{file}:make")
    assert network.name == "tiny"
    assert network.tiers[0].module(torch.zeros(1, 6)).shape == (1, 2)


@pytest.mark.parametrize(
    ("ref", "message", "hint"),
    [
        ("{file}:mkae", "has no function 'mkae'", "it has: make, broken"),
        ("{file}:answer", "has no function 'answer'", "it has"),
        ("{file}:broken", "gave a int, not a Network", "return mla_edge.networks.Network"),
        ("{file}", "is no network", "name the function"),
        ("{dir}/none.py:make", "no such file", "file.py:function"),
        ("no_such_package.x:make", "cannot be imported", "installed"),
        ("weights.pt", "is no network", "weights alone"),
        ("digit", "is no network", "my_package.my_module"),
    ],
)
def test_a_bad_reference_says_what_and_how(file, ref, message, hint):
    with pytest.raises(ConfigError, match=message) as caught:
        load_network(ref.format(file=file, dir=file.parent))
    assert hint in caught.value.hint


def test_a_file_with_an_error_is_named(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def make(:\n")
    with pytest.raises(ConfigError, match=r"bad\.py: cannot be imported"):
        load_network(f"{path}:make")


def test_a_network_without_data_refuses_it(file):
    with pytest.raises(ConfigError, match="does not take data"):
        load_network(f"{file}:make", data="somewhere")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wrong_type", "TypeError: the weights are gone"),
        ("attribute", "AttributeError: the weights"),
        ("name", "NameError: name 'no_such_name'"),
        ("value", "ValueError: the weights"),
        ("runtime", "RuntimeError: "),
        ("arithmetic", "ZeroDivisionError: division by zero"),
        ("assertion", "AssertionError: never"),
        ("disk", "FileNotFoundError: .*/nowhere/weights.pt"),
    ],
)
def test_what_a_function_raises_is_told_with_its_place(file, function, message):
    with pytest.raises(ConfigError, match=f"{function} does not build: {message}") as caught:
        load_network(f"{file}:{function}")
    assert "mine.py, line " in str(caught.value)
    assert "Call it in Python" in caught.value.hint


def test_a_function_that_wants_more_is_told_apart_from_one_that_fails(file):
    with pytest.raises(ConfigError, match="cannot be called: .*'size'") as caught:
        load_network(f"{file}:wants")
    assert "a default" in caught.value.hint
    with pytest.raises(ConfigError, match="type_error does not build: TypeError"):
        load_network(f"{file}:type_error", data="somewhere")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("nothing.at_all", "NameError"),
        ("import no_such_package", "ModuleNotFoundError"),
        ("import sys; sys.exit('usage: mine.py FILE')", "SystemExit: usage"),
        ("open('/nowhere/config')", "FileNotFoundError"),
        ("assert False", "AssertionError"),
    ],
)
def test_what_a_file_raises_while_it_is_imported_is_told(tmp_path, line, message):
    path = tmp_path / "bad.py"
    path.write_text(line + "\n")
    with pytest.raises(ConfigError, match=rf"bad\.py: cannot be imported: {message}"):
        load_network(f"{path}:make")


IMU = InputSpec("imu", "tensor", (1, 6))


def tier_called(name, inputs=("imu",), outputs=("logits",)):
    return TierNetwork(Tier(name, inputs, outputs), torch.nn.Linear(6, 2).eval())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../up"}, "no network can be called '../up'"),
        ({"name": ""}, "no network can be called ''"),
        ({"name": None}, "no network can be called None"),
        ({"tiers": (tier_called("a/b"),)}, "no tier can be called 'a/b'"),
        ({"tiers": (tier_called("a"), tier_called("a"))}, "more than one tier is called 'a'"),
        ({"tiers": (tier_called("a", outputs=("logits", "imu")),)}, "is called 'imu'"),
        ({"tiers": (tier_called("a", outputs=("logits", "f x")),)}, "can be called 'f x'"),
        ({"tiers": (torch.nn.Linear(6, 2),)}, "its tiers are"),
        ({"tiers": (TierNetwork(Tier("a", ("imu",), ("logits",)), len),)}, "a tier has a Tier"),
        ({"inputs": (InputSpec("-imu", "tensor", (1, 6)),)}, "can be called '-imu'"),
        ({"inputs": (IMU, IMU)}, "more than one input or output is called 'imu'"),
        ({"inputs": (IMU, InputSpec("present", "tensor", (1, 6)))}, "of mla-edge's own"),
        ({"labels": "ab"}, "its labels are 'ab'"),
        ({"labels": ("a", 1)}, "its labels are"),
        ({"labels": ("a", "a")}, "two labels are equal"),
        ({"samples": None}, "its samples are None"),
    ],
)
def test_names_and_parts_that_no_bundle_can_have_are_refused(tiny, changes, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_network(dataclasses.replace(tiny, **changes), "mine")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ()}, "has no labels"),
        ({"tiers": ()}, "has no tiers"),
        ({"inputs": (InputSpec("gps", "tensor", (1, 6)),)}, "wants imu"),
    ],
)
def test_a_network_that_does_not_fit_together_is_refused(tiny, changes, message):
    with pytest.raises(ConfigError, match=message):
        check_network(dataclasses.replace(tiny, **changes), "mine")


def test_training_mode_is_refused(tiny):
    tiny.tiers[0].module.train()
    with pytest.raises(ConfigError, match="training mode"):
        check_network(tiny, "mine")


def test_the_fingerprint_follows_the_weights(tiny):
    before = tiny.fingerprint
    assert before == tiny.fingerprint
    with torch.no_grad():
        tiny.tiers[0].module.bias += 1
    assert tiny.fingerprint != before


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be read"), (b"\x08" + b"\0" * 40, "cannot be read")],
)
def test_weights_that_are_cut_off_are_named(tmp_path, content, message):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        digits(weights=path)
    assert "cut.safetensors" in str(caught.value)


def test_the_shipped_network_loads():
    network = load_network("digits")
    assert [part.tier.name for part in network.tiers] == ["lite", "full"]
    assert network.labels[-1] == "none"
    assert check_network(network, "digits") is network
