import threading
import time
from dataclasses import replace

import faking
import pytest
from colours import frame, make_bundle
from web_client import until

import mla_edge
from mla_edge.bundle import Bundle
from mla_edge.engines.target import describe_target
from mla_edge.errors import BundleError, ConfigError
from mla_edge.runtime.reloading import ReloadingModel
from mla_edge.signals import Sample
from mla_edge.testing import FakeCamera


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "colours-host").folder


def sample():
    return Sample({"image": frame("red")})


def wait_for(found, model, moment=None):
    end_s = time.monotonic() + 10
    while not found and time.monotonic() < end_s:
        model.infer(moment or sample())
    assert found, "the reload never ended"


def test_no_decision_is_missed_while_another_model_is_opened(folder):
    may_open, opening, told = threading.Event(), threading.Event(), []
    may_open.set()

    def slow():
        opening.set()
        assert may_open.wait(10)
        return mla_edge.load(folder, threads=1)

    with ReloadingModel(slow, told.append) as model:
        first = model.model
        opening.clear()
        may_open.clear()
        model.reload()
        assert opening.wait(10)
        camera = FakeCamera([frame("red")] * 20, period_s=0.005)
        assert len(list(mla_edge.run(model, camera, None))) == 20
        assert model.model is first
        assert told == []
        may_open.set()
        wait_for(told, model)
        assert told == [None]
        assert model.model is not first
        assert model.infer(sample()).label == "red"
    assert not [t for t in threading.enumerate() if t.name == "mla-edge-reload"]


def labelled(folder, *labels):
    """The bundle in ``folder`` from now on says so; published by a rename, as exports are."""
    replace(Bundle.read(folder), labels=labels).write()


@pytest.mark.parametrize("is_open", [False, True])
def test_what_is_asked_for_while_another_is_on_its_way_is_what_decides(folder, is_open):
    loads, may_go, told = [], threading.Event(), []

    def load():
        model = mla_edge.load(folder, threads=1)
        loads.append(model.bundle.labels[0])
        if len(loads) == 2:
            assert may_go.wait(10)
        return model

    with ReloadingModel(load, told.append) as model:
        labelled(folder, "second", "b", "c")
        model.reload()
        until(lambda: len(loads) == 2)
        if is_open:  # but it has not decided yet
            may_go.set()
            until(lambda: not reloaders())
        labelled(folder, "third", "b", "c")
        model.reload()
        may_go.set()
        wait_for(told, model)
        assert told == [None]  # once
        assert model.infer(sample()).label == "third"
        assert loads == ["red", "second", "third"]
        assert not reloaders()


def reloaders():
    return [t for t in threading.enumerate() if t.name == "mla-edge-reload"]


def test_without_decisions_a_turn_of_the_loop_takes_the_new_model(folder):
    told = []
    with ReloadingModel(lambda: mla_edge.load(folder, threads=1), told.append) as model:
        first = model.model
        model.renew()
        assert model.model is first
        model.reload()
        until(lambda: (model.renew(), told)[1])
        assert told == [None]
        assert model.model is not first


@pytest.mark.parametrize("key", ["", "trt-10.3"])
def test_whatever_goes_wrong_is_told_and_the_next_reload_is_made(folder, key):
    loads, told = [], []

    def load():
        loads.append(1)
        if len(loads) == 2:
            raise MemoryError("of the GPU")
        model = mla_edge.load(folder, threads=1)
        model.engines_key = key
        return model

    with ReloadingModel(load, told.append) as model:
        first = model.model
        model.reload()
        wait_for(told, model)
        assert "the model could not be opened: MemoryError: of the GPU" in str(told[0])
        assert told[0].hint
        assert isinstance(told[0].__cause__, MemoryError)
        assert model.model is first
        told.clear()
        model.reload()
        wait_for(told, model)
        assert told == [None]


def test_a_bundle_that_cannot_be_loaded_leaves_the_old_one(folder):
    told = []
    with ReloadingModel(lambda: mla_edge.load(folder, threads=1), told.append) as model:
        (folder / "bundle.json").write_text("{")
        model.reload()
        wait_for(told, model)
        assert isinstance(told[0], BundleError)
        assert model.infer(sample()).label == "red"


def test_a_bundle_with_other_inputs_is_refused(folder, tmp_path):
    told, folders = [], [folder]
    with ReloadingModel(lambda: mla_edge.load(folders[0], threads=1), told.append) as model:
        image, audio = model.bundle.inputs
        faster = (image, replace(audio, rate_hz=1600))
        folders[0] = make_bundle(tmp_path / "other-host", inputs=faster).folder
        model.reload()
        wait_for(told, model)
        assert isinstance(told[0], ConfigError)
        assert "takes other inputs" in str(told[0])
        assert model.bundle.folder == folder


def test_engines_that_belong_to_a_thread_are_opened_on_the_deciding_one(folder):
    where, told = [], []

    def load():
        where.append(threading.current_thread())
        model = mla_edge.load(folder, threads=1)
        model.engines_key = "trt-10.3"
        return model

    with ReloadingModel(load, told.append) as model:
        model.reload()
        assert len(where) == 1
        model.infer(sample())
        assert told == [None]
    assert where == [threading.current_thread()] * 2


def test_after_a_build_on_the_board_a_reload_takes_the_engines(fakes, tmp_path):
    """ONNX Runtime first, TensorRT then: which the deciding thread alone may use."""
    bindings, told = fakes.use("10.3"), []
    bundle = faking.make_bundle(tmp_path / "made-agx-orin")
    moment = Sample({"x": frame("red")})
    with ReloadingModel(lambda: mla_edge.load(bundle.folder), told.append) as model:
        assert model.runs_on == "ONNX Runtime"
        label = model.infer(moment).label
        faking.add_engines(bundle, bindings, describe_target(bindings))
        model.reload()
        wait_for(told, model, moment)
        assert told == [None]
        assert model.runs_on.startswith("TensorRT 10.3.0")
        assert model.infer(moment).label == label
        before = model.model
        model.reload()  # and from those to others
        assert model.infer(moment).label == label
        assert model.model is not before
        assert told == [None, None]


def test_one_that_is_being_opened_is_freed_at_the_end(folder):
    opened = []

    def load():
        model = mla_edge.load(folder, threads=1)
        closed = []
        close = model.close
        model.close = lambda: (closed.append(True), close())
        opened.append(closed)
        return model

    with ReloadingModel(load, lambda error: None) as model:
        model.reload()
    assert opened == [[True], [True]]
