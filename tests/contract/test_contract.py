"""Every name of TensorRT and pycuda that the sources use is one that each version has."""

import json
import subprocess
import sys
from pathlib import Path

import collect
import pytest
import reading
import report
from fake_names import read_names
from faking import VERSIONS, make_graph
from reading import INT8, RTX, STRONG, read_sources
from recording import record

from mla_edge.exporter.engine_build import BuildSpec, _is_strong, build_engine

HERE = Path(__file__).parent
USES = report.by_name(read_sources())
EVERY_LIST = (*report.VERSIONS, report.PYCUDA)


@pytest.fixture(scope="module")
def recorded():
    """What running everything on each fake asked for: what was there, and what was not."""
    return {real: record(faked) for faked, real in VERSIONS.items()}


@pytest.mark.parametrize("version", report.VERSIONS)
def test_each_version_has_every_name_that_is_reached_on_it(version):
    names = read_names(version)
    missing = [
        (name, [f"{use.file}:{use.line}" for use in uses])
        for name, uses in USES.items()
        if name[0] not in report.OF_PYCUDA and report.verdict(uses, names) == "MISSING"
    ]
    assert missing == []


def test_pycuda_has_every_name_that_is_used():
    names = read_names(report.PYCUDA)
    used = [name for name in USES if name[0] in report.OF_PYCUDA]
    assert len(used) > 20
    assert [name for name in used if name[1] not in names[name[0]]] == []


def test_whatever_was_asked_for_while_running_was_found_in_the_source(recorded):
    for touched, missed in recorded.values():
        assert {name for name in touched | missed if name not in USES} == set()


# Overridden by us and called by TensorRT, so nothing is asked for by name.
CALLBACKS = {"ILogger", "IProgressMonitor", "IInt8EntropyCalibrator2"}
# Not noted by the fakes: constants, an exception, and the name of a tensor in an error's text.
NOT_NOTED = {
    ("host_alloc_flags", "DEVICEMAP"),
    ("driver", "Error"),
    ("DataType", "name"),
    ("ITensor", "name"),
}


def test_whatever_the_source_uses_was_run_on_a_fake(recorded):
    reached = set().union(*(touched for touched, _ in recorded.values()))
    # RTX has no fake: the real one is run where it is installed (test_tensorrt_check.py).
    not_run = {name for name in USES if not all(RTX in use.gates for use in USES[name])}
    not_run -= reached | NOT_NOTED
    assert {name for name in not_run if name[0] not in CALLBACKS} == set()
    assert len(reached) > 90


def test_a_name_that_a_version_lacks_was_not_reached_there(recorded):
    for version, (touched, missed) in recorded.items():
        names = read_names(version)
        for called, member in touched:
            if called not in report.OF_PYCUDA:
                assert member in names[called]
        for name in missed:  # asked for with hasattr, and then left alone
            assert report.verdict(USES[name], names) == "guarded"


def test_the_closed_ways_are_closed(fakes):
    """What CONDITIONS of the reader say of our own conditions."""
    specs = [
        BuildSpec("g", precision, carries_types=carries, dla=dla)
        for precision in ("fp32", "fp16", "int8")
        for carries in (True, False)
        for dla in (True, False)
    ]
    for version, real in VERSIONS.items():
        trt, names = fakes.use(version).trt, read_names(real)
        for spec in specs:
            strong = _is_strong(trt, spec)
            if INT8[1] not in names[INT8[0]]:
                assert strong
            if STRONG[1] not in names[STRONG[0]]:
                assert not strong
    assert [v for v in report.VERSIONS if RTX[1] in read_names(v)["tensorrt"]] == ["rtx-1.7.1"]
    assert INT8[1] not in read_names("rtx-1.7.1")[INT8[0]]


@pytest.mark.parametrize("version", VERSIONS)
def test_capabilities_would_fail_where_they_do_not_belong(fakes, tmp_path, version):
    spec = BuildSpec(str(make_graph(tmp_path / "g.onnx")), "int8", capabilities=("SM86",))
    with pytest.raises(AttributeError, match="num_compute_capabilities"):
        build_engine(fakes.use(version), spec)


@pytest.mark.parametrize("version", EVERY_LIST)
def test_the_lists_hold_what_is_used_and_no_more(version):
    assert set(read_names(version)) <= collect.used_classes() | {"tensorrt", "driver"}


def test_the_list_of_rtx_is_that_of_the_installed_one():
    module = pytest.importorskip(
        "tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed"
    )
    if not module.__version__.startswith("1.7.1"):
        pytest.skip(f"the list is of 1.7.1, installed is {module.__version__}")
    assert collect.from_module(module) == read_names("rtx-1.7.1")


def test_the_fakes_have_no_name_that_the_real_ones_lack(fakes):
    import tensorrt_fake

    for version, real in VERSIONS.items():
        trt, names = fakes.use(version).trt, read_names(real)
        for name in (n for n in vars(trt) if not n.startswith("_") and n != "tensorrt_fake"):
            assert name in names["tensorrt"] or name in names, name
    listed = {real: read_names(real) for real in VERSIONS.values()}
    for kind in tensorrt_fake._CLASSES:
        taught = {name for name in vars(kind) if not name.startswith("_")}
        known = set().union(*(names.get(kind.__name__, ()) for names in listed.values()))
        assert taught <= known, kind


def test_the_fake_of_pycuda_has_no_name_that_the_real_one_lacks(fakes):
    fakes.use("10.3")
    import pycuda.driver

    names = read_names(report.PYCUDA)
    for name, found in vars(pycuda.driver).items():
        if isinstance(found, type) and found.__module__ == "pycuda.driver" and name[0] != "_":
            assert name in names["driver"]
            taught = {each for each in vars(found) if not each.startswith("_")}
            assert taught <= set(names.get(name, taught)), name


def test_a_name_that_no_version_has_is_missing(tmp_path):
    source = tmp_path / "wrong.py"
    source.write_text(
        "def build(trt, config, builder):\n"
        "    config.max_workspace_size = 1\n"
        "    if hasattr(builder, 'build_engine'):\n"
        "        return builder.build_engine(config)\n"
        "    return trt.volume\n"
    )
    found = report.by_name(read_sources([source]))
    eight, ten = read_names("8.6.1"), read_names("10.3.0")
    assert report.verdict(found[("IBuilderConfig", "max_workspace_size")], eight) == "yes"
    assert report.verdict(found[("IBuilderConfig", "max_workspace_size")], ten) == "MISSING"
    assert report.verdict(found[("Builder", "build_engine")], eight) == "yes"
    assert report.verdict(found[("Builder", "build_engine")], ten) == "guarded"
    assert report.verdict(found[("tensorrt", "volume")], ten) == "MISSING"


def test_the_report_is_clean():
    done = subprocess.run(
        [sys.executable, str(HERE / "report.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 missing" in done.stdout
    assert "IExecutionContext.execute_async_v3" in done.stdout


def test_lists_are_made_of_lists(tmp_path, monkeypatch):
    whole = {name: of for name, of in read_names("8.6.1").items() if name != "tensorrt"}
    del whole["ILogger.Severity"]
    whole.update(dict.fromkeys(("float32", "fp8"), "DataType"), Weights=["nbytes"])
    names = collect.from_list(whole)
    assert "Weights" not in names
    assert names["ILogger.Severity"] == read_names("8.6.1")["ILogger.Severity"]
    assert "float32" in names["tensorrt"] and "fp8" not in names["tensorrt"]
    monkeypatch.setattr(collect, "NAMES", tmp_path)
    path = collect.write("8.6.1", "a test", names)
    assert json.loads(path.read_text())["names"] == names
    assert reading.PACKAGE.name == "mla_edge"
