"""benchmarks/routing.py and what it is made of, on small folders of the same form."""

import importlib
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from clips_folder import make_clips_folder
from data_folder import make_data_folder
from linear_bundle import make_linear_bundle

from mla_edge.networks import commands, digits
from mla_edge.runtime.listening import Heard
from mla_edge.runtime.loading import open_model
from mla_edge.signals import NOTHING
from mla_edge.simulator.schedule import Event

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = ("commands", *(path.stem for path in BENCHMARKS.glob("routing*.py")))
MAKERS = {
    "digits": (make_data_folder, digits),
    "commands": (make_clips_folder, commands),
}


@pytest.fixture
def programs(monkeypatch):
    """Gives a program of the folder by its name, as the programs find each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Gives a network's data folder and a bundle of its form."""
    made = {}

    def prepare(network):
        if network not in made:
            maker, module = MAKERS[network]
            folder = tmp_path_factory.mktemp(network)
            data = maker(folder)
            bundle = make_linear_bundle(
                folder / "bundle", network, module.INPUTS, module.LABELS
            )
            made[network] = data, bundle
        return made[network]

    return prepare


@pytest.fixture
def measure(programs, prepared, monkeypatch, capsys):
    """Calls routing.py as it is typed, on few units; what it printed as JSON."""

    def call(network, *words):
        data, bundle = prepared(network)
        fixed = ["--network", network, "--data", str(data), "--bundle", str(bundle), "--json"]
        quick = ["--units", "40", "--decisions", "60", "--splits", "4", "--rows", "2"]
        monkeypatch.setattr(sys, "argv", ["routing.py", *fixed, *quick, *words])
        assert programs("routing").main() == 0
        return json.loads(capsys.readouterr().out)

    return call


def check_ways(ways):
    assert ways["always full"]["share_of_full"] == 1
    assert ways["always lite"]["share_of_full"] == 0
    best = max(ways["always full"]["accuracy"], ways["always lite"]["accuracy"])
    assert ways["oracle"]["accuracy"] >= best
    assert {"as exported", "random, equal share", "periodic, equal share"} < set(ways)
    assert ways["static mix, equal cost"]["accuracy"] <= best
    assert all(way["cpu_ms"] > 0 for way in ways.values())


def test_digits_are_measured_in_every_mode(measure, tmp_path):
    picture = tmp_path / "routing.svg"
    found = measure("digits", "--picture", str(picture))
    assert list(found) == ["image", "audio", "image+audio"]
    # The drawn folder has 70 test pictures, and 8 takes of 2 people for each digit.
    assert [(f["units"], f["moments"]) for f in found.values()] == [
        (40, 40),
        (40, 80),
        (40, 80),
    ]
    for mode, of in found.items():
        check_ways(of["ways"])
        assert of["measured_on"] == "the same units"  # 40 can show no 1 %
        assert of["missing"]["0.01"] == (299 - 40 if mode == "image" else 305 - 40)
        assert of["epsilon"] > 0.01
        assert {row["epsilon"] for row in of["certified"]} == {of["epsilon"]}
        assert of["resplits"]["units_of_a_half"] == 20
    assert "levels" not in found["image"]
    for mode in ("audio", "image+audio"):
        levels = found[mode]["levels"]
        assert [row["snr_db"] for row in levels] == [-10, -5, 0, 5, 10, 20, 30]
        assert all(row["oracle"] >= row["routed"] for row in levels)
    drawn = ElementTree.fromstring(picture.read_text())
    assert len([e for e in drawn.iter() if e.tag.endswith("title")]) >= 3 * 7


def test_the_words_of_a_clip_are_one_unit(measure):
    found = measure("commands", "--mode", "mouth+audio", "--no-levels")["mouth+audio"]
    assert (found["unit"], found["units"], found["moments"]) == ("clips", 17, 17 * 6 * 2)
    check_ways(found["ways"])


def test_a_learned_score_is_held_against_confidence(measure, tmp_path):
    bundle = make_linear_bundle(
        tmp_path / "learned", "digits", digits.INPUTS, digits.LABELS, learned=True
    )
    words = ("--bundle", str(bundle), "--mode", "image", "--picture", str(tmp_path / "x.svg"))
    found = measure("digits", *words)["image"]
    assert found["routes_by"] == "learned"
    assert list(found["score"]) == list(found["curves"]) == ["confidence", "learned"]
    main = f"certified at {found['epsilon']:.1%}"
    assert {main, f"confidence {main}"} < set(found["ways"])
    assert {row["threshold"] for row in found["certified"]} <= {None, 0.9, 0.6, 0.5, 0.4}


def test_a_bundle_that_is_missing_is_said(programs, prepared, monkeypatch, capsys):
    data, _ = prepared("digits")
    words = ["--data", str(data), "--bundle", str(data / "none")]
    monkeypatch.setattr(sys, "argv", ["routing.py", *words])
    assert programs("routing").main() == 5
    assert "not a bundle" in capsys.readouterr().err


def heard(lite_right, full_right, scores):
    lite_right, full_right = np.array(lite_right, bool), np.array(full_right, bool)
    return Heard(np.array(scores, float), lite_right, full_right, lite_right != full_right)


def test_evidence_counts_units_not_moments(programs):
    certificate = programs("routing_certificate")
    moments = 600
    right = np.ones(moments)
    all_right = heard(right, right, np.full(moments, 0.999))
    single = certificate.Evidence(all_right, np.arange(moments))
    clips = certificate.Evidence(all_right, np.arange(moments) // 6)
    assert single.certify(single.members, 0.01, 0.05) is not None
    assert clips.fewest(0.01, 0.05) > 299 > len(clips.members)
    assert clips.certify(clips.members, 0.01, 0.05) is None  # 100 clips cannot show it
    least = clips.least_epsilon(100, 0.05)
    assert 0.03 <= least <= 0.033
    assert clips.certify(clips.members, least, 0.05) is not None
    # A clip in ten loses all its words: no epsilon of 5 % holds where lite is kept.
    spoiled = heard(np.arange(moments) // 6 % 10 > 0, right, np.full(moments, 0.999))
    assert certificate.Evidence(spoiled, clips.units).certify(clips.members, 0.05, 0.05) in (
        None,
        *(t for t in certificate.THRESHOLDS if t > 0.999),
    )


def test_what_is_not_asked_is_not_run(programs, prepared):
    baselines, moments = programs("routing_baselines"), programs("routing_moments")
    data, bundle = prepared("digits")
    world = moments.open_world("digits", data, 20)
    made = world.make("image", np.random.default_rng(0), rows=1)
    runs, switch = Counter(), baselines.Switch()

    class Counting:
        def __init__(self, tier, engine):
            self.__dict__.update(tier=tier, engine=engine)

        def __getattr__(self, name):
            return getattr(self.engine, name)

        def run(self, inputs):
            runs[self.tier] += 1
            return self.engine.run(inputs)

    def instrument(parts):
        engines = {tier: Counting(tier, each) for tier, each in parts.engines.items()}
        return switch.instrument(replace(parts, engines=engines))

    with open_model(bundle, threads=1, instrument=instrument) as model:
        chosen = model.bundle.policy.modes["image"]
        regrets = np.arange(20) % 5 == 0
        ways = {
            **baselines.always("image", chosen),
            "turns": baselines.Beforehand("image", chosen, 0.3, None),
            "oracle": baselines.Oracle("image", chosen, regrets),
        }
        counted = {}
        for name, router in ways.items():
            baselines.measure(model, switch, {name: router}, made, range(1), 1)  # warm
            runs.clear()
            row = baselines.measure(model, switch, {name: router}, made, range(20), 100)[name]
            counted[name] = (runs["lite"], runs["full"], round(row.share_of_full, 2))
    # One more each: what warms the model before the clock runs.
    assert counted["always full"] == (0, 101, 1.0)
    assert counted["always lite"] == (101, 0, 0.0)
    lite, full, share = counted["turns"]
    assert (lite + full, share) == (101, 0.3)
    assert counted["oracle"][0] == 101
    assert counted["oracle"][2] == 0.2


def event(number, start_s, *, shown=True, said=True):
    word_s = start_s + 0.5
    return Event(number, start_s - 5, start_s, start_s + 2, 0, shown, said, word_s, 0)


def test_late_and_missed_are_against_what_full_found(programs):
    stream = programs("routing_stream")
    times = [round(i / 10, 1) for i in range(400)]

    def way(spans):
        said = [(at, "0" if any(a <= at <= b for a, b in spans) else NOTHING) for at in times]
        return stream.Way(None, seconds=1.0, said=said)

    events = [event(0, 10), event(1, 20), event(2, 30, shown=False)]
    full = way([(10.1, 12), (20.1, 22), (33, 34)])  # the third is no longer there
    routed = way([(10.3, 12), (20.5, 22), (2, 2.2)])
    found = stream.figures({stream.FULL: full, "routed": routed}, events)
    assert found["ways"][stream.FULL]["found"] == 2
    row = found["ways"]["routed"]
    assert (row["found"], row["missed"], row["late"]) == (2, 0, 1)
    assert row["longest_delay_ms"] == pytest.approx(400)
    assert row["digits_where_none"] == 3
    silent = stream.figures({stream.FULL: full, "routed": way([])}, events)
    assert silent["ways"]["routed"]["missed"] == 2


def test_a_stream_is_decided_in_every_way(programs, prepared, monkeypatch, capsys):
    _, bundle = prepared("digits")
    words = ["--bundle", str(bundle), "--minutes", "0.1", "--gap-s", "1.3", "--json"]
    monkeypatch.setattr(sys, "argv", ["routing_stream.py", *words])
    assert programs("routing_stream").main() == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ticks"] == 180
    assert found["events"] >= 1
    assert found["ways"]["always full"]["share_of_full"] == 1
    assert found["ways"]["routed"]["unchanged"] == 0
