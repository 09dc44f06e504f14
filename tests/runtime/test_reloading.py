import threading
import time
from dataclasses import replace

import faking
import pytest
from colours import frame, make_bundle

import mla_edge
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
        model.reload()  # the same one
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
