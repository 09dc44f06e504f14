import dataclasses
import json
from dataclasses import replace

import pytest
from faking import make_bundle

from mla_edge.engines.sidecar import (
    Sidecar,
    Target,
    check_sidecar,
    plan_path,
    read_sidecar,
    write_sidecar,
)
from mla_edge.errors import BundleError, EngineMismatch

ORIN = Target("tensorrt", "10.3.0.30", 87, 16, "Orin", "p3701-0005", "MODE_30W")
RTX = Target("rtx", "1.7.1.116", None, None, None, None, None)
SHA = "ab" * 32


@pytest.fixture
def bundle(tmp_path):
    made = make_bundle(tmp_path / "small-agx-orin")
    return dataclasses.replace(made, files={**made.files, "graphs/lite.onnx": SHA})


@pytest.fixture
def plan(bundle):
    plan = plan_path(bundle, ORIN.key, "lite")
    plan.parent.mkdir(parents=True)
    return plan


@pytest.fixture
def sidecar():
    build = {"typing": "weak", "flags": ["INT8"]}
    return Sidecar("lite", ORIN, "graphs/lite.onnx", SHA, "cd" * 32, build)


def test_the_folder_of_a_machine_says_what_its_engines_are_for():
    assert ORIN.key == "sm87-trt10.3.0.30"
    assert RTX.key == "rtx1.7.1.116"


def test_a_sidecar_comes_back_as_it_was_written(plan, sidecar):
    write_sidecar(plan, sidecar)
    assert read_sidecar(plan) == sidecar
    assert not plan.exists()  # nothing is ever written into a plan


@pytest.mark.parametrize("target", [ORIN, replace(ORIN, power_mode="MAXN")])
def test_the_same_machine_passes_in_any_power_mode(bundle, plan, sidecar, target):
    assert check_sidecar(bundle, plan, sidecar, target) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensorrt": "10.3.0.26"}, "TensorRT tensorrt 10.3.0.30, here tensorrt 10.3.0.26"),
        ({"flavour": "rtx"}, "TensorRT tensorrt 10.3.0.30, here rtx 10.3.0.30"),
        ({"sm": 86}, "compute capability 87, here 86"),
        ({"sm_count": 8}, "multiprocessors 16, here 8"),
        ({"module": "p3767-0000"}, "module p3701-0005, here p3767-0000"),
    ],
)
def test_another_machine_is_refused_with_what_differs(bundle, plan, sidecar, change, message):
    with pytest.raises(EngineMismatch, match=message) as caught:
        check_sidecar(bundle, plan, sidecar, replace(ORIN, **change))
    assert caught.value.hint.startswith("build it on this machine: mla-edge build ")
    assert caught.value.hint.endswith("small-agx-orin")
    assert caught.value.exit_code == 5


def test_another_graph_is_refused(bundle, plan, sidecar):
    other = replace(bundle, files={**bundle.files, "graphs/lite.onnx": "ef" * 32})
    with pytest.raises(EngineMismatch, match="graph abababababab, here efefefefefef"):
        check_sidecar(other, plan, sidecar, ORIN)
    gone = replace(sidecar, graph="graphs/lite.dla.onnx")
    with pytest.raises(EngineMismatch, match="graph abababababab, here none"):
        check_sidecar(bundle, plan, gone, ORIN)


def test_everything_that_differs_is_said_at_once(bundle, plan, sidecar):
    with pytest.raises(
        EngineMismatch, match="capability 87, here 72; multiprocessors 16, here 8"
    ):
        check_sidecar(bundle, plan, sidecar, replace(ORIN, sm=72, sm_count=8))


def test_what_is_not_known_is_not_compared(bundle, plan, sidecar):
    unknown = replace(ORIN, sm_count=None, module=None)
    assert check_sidecar(bundle, plan, sidecar, unknown) is None
    assert check_sidecar(bundle, plan, replace(sidecar, target=unknown), ORIN) is None
    assert check_sidecar(bundle, plan, replace(sidecar, target=RTX), RTX) is None


def test_a_sidecar_that_is_missing_or_damaged_is_named(plan, sidecar):
    with pytest.raises(BundleError, match=r"lite\.json: cannot be read") as caught:
        read_sidecar(plan)
    assert "mla-edge build" in caught.value.hint
    path = plan.with_suffix(".json")
    for text in ("{", "[]", '{"format": 1}', "nothing"):
        path.write_text(text)
        with pytest.raises(BundleError, match=r"lite\.json: cannot be read"):
            read_sidecar(plan)
    write_sidecar(plan, sidecar)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 9}))
    with pytest.raises(BundleError, match="format 9, this version reads 1"):
        read_sidecar(plan)
