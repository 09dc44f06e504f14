"""The guard on boards that are files: a first-order heat sink behind them closes the loop."""

import functools
import json
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from colours import DULL_RED, frame, sample
from recorded import record
from typer.testing import CliRunner
from warm_board import RAIL, THROTTLES_C, ZONE, WarmBoard

import mla_edge
from mla_edge.cli import app
from mla_edge.errors import ConfigError
from mla_edge.runtime.guard import BLIND_S, DWELL_S, RUNGS, Guard, Seen, open_guard
from mla_edge.runtime.reloading import ReloadingModel
from mla_edge.runtime.routing import HEAT, POWER
from mla_edge.signals import find_inputs

BOARDS = Path(__file__).parent.parent / "boards"


def spend(board, guard, seconds, **options):
    """So many seconds; of each the temperature, the power, full's share and the rung."""
    rows = []
    for _ in range(seconds):
        share = board.second(guard, **options)
        rung = 0 if guard is None else guard.rung.number
        rows.append((board.temperature_c, board.power_w, share, rung))
    return np.array(rows).T


def moves(rungs):
    return [int(step) for step in np.diff(rungs) if step]


def hot_guard(root):
    """A guard that is on the last rung, for the board stands at its throttle point."""
    board = WarmBoard(root, ambient_c=THROTTLES_C)
    guard = Guard(root=root, clock=board.clock)
    guard.step()
    assert (guard.rung.number, guard.rung.reason) == (RUNGS, HEAT)
    return guard


@pytest.mark.parametrize(("tau_s", "k_per_w"), [(30.0, 2.0), (60.0, 2.0), (120.0, 3.0)])
def test_the_board_stays_below_its_throttle_point_which_it_passes_otherwise(
    tmp_path, tau_s, k_per_w
):
    shape = {"ambient_c": 87 - 8 * k_per_w, "k_per_w": k_per_w, "tau_s": tau_s}
    free, _, _, _ = spend(WarmBoard(tmp_path / "free", **shape), None, 900)
    assert free.max() > THROTTLES_C + 5
    board = WarmBoard(tmp_path / "guarded", **shape)
    guard = Guard(root=board.root, clock=board.clock)
    temperature, _, share, rungs = spend(board, guard, 900)
    assert temperature.max() < THROTTLES_C
    assert temperature[-300:].mean() > THROTTLES_C - 9  # not colder than it has to be
    assert 0.1 < share[-300:].mean() < 0.6
    assert max(abs(step) for step in moves(rungs)) <= 2  # smoothly
    assert len(moves(rungs)) <= 15
    assert len(moves(rungs[-300:])) <= 2  # it has come to rest
    news = guard.news()
    assert len(news) == len(moves(rungs))
    assert news[0].startswith(
        "heat: the last tier is asked for 90% of what is left to it (cpu-"
    )
    assert "throttles at 99 °C" in news[0]
    assert guard.news() == []
    figures = guard.to_dict(decisions=27000, seconds=900)
    assert figures["switches"] == len(news)
    assert figures["held_back"][HEAT] > 0
    assert figures["held_back"][POWER] == 0
    assert sum(figures["rungs_s"].values()) == pytest.approx(899)


def test_full_is_asked_as_ever_once_it_is_cool_again_but_not_at_once(tmp_path):
    board = WarmBoard(tmp_path)
    guard = Guard(root=board.root, clock=board.clock)
    spend(board, guard, 400)
    held = guard.rung.number
    assert held >= 4
    board.ambient_c = 30.0
    _, _, share, rungs = spend(board, guard, 700)
    down = np.flatnonzero(np.diff(rungs))
    assert rungs[-1] == 0
    assert share[-1] == 1.0
    assert set(moves(rungs)) == {-1}
    assert np.diff(down).min() >= DWELL_S
    assert guard.news()[-1].startswith("heat: the last tier is asked as the policy says again")


@pytest.mark.parametrize(("budget_w", "wanted"), [(10.0, 1.0), (12.0, 1.0), (10.0, 0.5)])
def test_the_mean_power_stays_within_the_budget(tmp_path, budget_w, wanted):
    board = WarmBoard(tmp_path, ambient_c=25.0)
    guard = Guard(power_budget_w=budget_w, root=board.root, clock=board.clock)
    _, power, _, rungs = spend(board, guard, 600, wanted=wanted)
    a_minute = np.convolve(power, np.ones(60) / 60, "valid")
    assert a_minute[60:].max() <= 1.01 * budget_w
    assert power[-300:].mean() > 0.93 * budget_w  # and what it allows is used
    assert len(moves(rungs)) <= 16
    assert len(moves(rungs[-300:])) <= 3
    assert guard.rung.reason == POWER
    figures = guard.to_dict(decisions=600 * 30, seconds=600)
    assert figures["power_budget_w"] == budget_w
    assert figures["power_w"]["mean"] == pytest.approx(power.mean(), rel=0.02)
    assert figures["joules_per_decision"] == pytest.approx(power.mean() / 30, rel=0.02)
    assert f"budget {budget_w:g} W)" in guard.news()[0]


def test_within_the_budget_nothing_is_held_back(tmp_path):
    board = WarmBoard(tmp_path, ambient_c=25.0)
    guard = Guard(power_budget_w=30.0, root=board.root, clock=board.clock)
    _, _, share, _ = spend(board, guard, 200)
    assert share.min() == 1.0
    assert guard.news() == []


def test_a_budget_that_lite_alone_exceeds_is_told_once(tmp_path):
    board = WarmBoard(tmp_path, ambient_c=25.0)
    guard = Guard(power_budget_w=5.0, root=board.root, clock=board.clock)
    _, _, share, _ = spend(board, guard, 200)
    assert share[-1] == 0.0
    told = [words for words in guard.news() if "cheap tier alone exceeds" in words]
    assert told == ["the cheap tier alone exceeds the budget of 5 W"]


def test_the_reason_is_of_what_binds(tmp_path):
    board = WarmBoard(tmp_path, ambient_c=40.0)
    guard = Guard(power_budget_w=15.0, root=board.root, clock=board.clock)
    spend(board, guard, 100)
    assert guard.rung.reason == POWER
    board.ambient_c = 75.0
    spend(board, guard, 400)
    assert guard.rung.reason == HEAT


def test_a_rung_s_share_is_kept_exactly(tmp_path):
    guard = hot_guard(tmp_path)
    for number in range(RUNGS + 1):
        guard.rung = type(guard.rung)(number, HEAT if number else "")
        answers = [guard.refusal() for _ in range(100)]
        assert Counter(answers)[""] == 100 - 10 * number
        # Evenly, not in bursts.
        assert {answers[i : i + 10].count("") for i in range(0, 100, 10)} == {10 - number}


def test_asking_takes_no_time(tmp_path):
    guard = hot_guard(tmp_path)
    began = time.perf_counter()
    for _ in range(10_000):
        guard.refusal()
    assert (time.perf_counter() - began) / 10_000 < 20e-6


NONSENSE = [b"", b"hot", b"\xff\0\xfe", b"-256000", b"1e400", b"99999999999"]


@pytest.mark.parametrize("nonsense", [*NONSENSE, None, "folder"])
def test_files_that_vanish_or_say_nonsense_leave_it_where_it_is_for_a_while(tmp_path, nonsense):
    board = WarmBoard(tmp_path)
    guard = Guard(power_budget_w=10.0, root=board.root, clock=board.clock)
    spend(board, guard, 400)
    held = guard.rung.number
    assert held
    for path in (tmp_path / ZONE / "temp", tmp_path / RAIL / "curr1_input"):
        path.unlink()
        if nonsense == "folder":
            path.mkdir()
        elif nonsense is not None:
            path.write_bytes(nonsense)

    def blind(seconds):
        for _ in range(int(seconds)):
            board.now_s += 1.0
            guard.take(guard.seen)

    guard.step()
    assert guard.seen.power_w is None
    assert guard.seen.temperatures_c == {}
    blind(BLIND_S)
    assert guard.rung.number == held
    blind(2 * RUNGS * DWELL_S)
    assert guard.rung.number == 0
    assert "cannot be read" in guard.news()[-1]
    assert guard.to_dict(decisions=0, seconds=1.0)["joules_per_decision"] is None


def test_a_tree_that_is_gone_as_a_whole_breaks_nothing(tmp_path):
    board = WarmBoard(tmp_path / "board")
    guard = Guard(root=board.root, clock=board.clock)
    guard.step()
    assert guard.seen.power_w == pytest.approx(8.0, abs=1.5)
    shutil.rmtree(board.root)
    board.now_s += 1.0
    guard.step()
    assert guard.seen.temperatures_c == {}
    assert guard.in_words() == ""


def test_a_zone_that_throttles_comes_before_one_that_is_about_to(tmp_path):
    shutil.copytree(BOARDS / "agx-xavier-jp5/sys", tmp_path / "sys")
    board = WarmBoard(tmp_path / "clock")
    guard = Guard(root=tmp_path, clock=board.clock)
    for second in range(8):
        board.now_s = second
        guard.take(Seen({"CPU-therm": 70.0 + 2 * second, "AUX-therm": 80.0}, None))
    assert guard.rung.number < RUNGS
    board.now_s += 1
    guard.take(Seen({"CPU-therm": 85.9, "AUX-therm": 82.0}, None))
    assert guard.rung.number == RUNGS
    assert "(AUX-therm 82.0 °C" in guard.news()[-1]


def test_without_throttle_points_the_budget_alone_has_its_say(tmp_path):
    board = WarmBoard(tmp_path, ambient_c=25.0)
    guard = Guard(power_budget_w=12.0, heat=False, root=board.root, clock=board.clock)
    spend(board, guard, 100)
    spend(board, guard, 400, wanted=0.0)
    news = guard.news()
    assert guard.rung.number == 0
    assert {words.partition(":")[0] for words in news} == {POWER}
    assert "as the policy says again (mean " in news[-1]


def test_throttling_is_told_once_and_its_seconds_are_counted(tmp_path):
    board = WarmBoard(tmp_path)
    guard = Guard(root=board.root, clock=board.clock)
    device = tmp_path / "sys/class/thermal/cooling_device0"
    device.mkdir()
    (device / "type").write_text("gpu-throttle-alert\n")
    (device / "cur_state").write_text("1\n")
    for _ in range(10):
        guard.step()
        board.now_s += 1.0
    assert guard.news()[0] == "the board throttles: gpu-throttle-alert"
    assert guard.to_dict(decisions=1, seconds=10)["throttled_s"] == 9.0


@pytest.mark.parametrize(
    ("name", "watches", "points"),
    [
        ("agx-xavier-jp5", True, {"CPU-therm", "GPU-therm", "AUX-therm"}),
        ("orin-nano-jp6", True, {"cpu-thermal", "gpu-thermal", "cv0-thermal", "soc0-thermal"}),
        ("agx-orin-jp7.2", True, {"cpu-thermal", "gpu-thermal", "soc0-thermal"}),
        ("pc", False, set()),
        ("container-no-sys", False, set()),
    ],
)
def test_boards_are_watched_and_others_are_let_be(name, watches, points):
    with open_guard(root=BOARDS / name) as guard:
        assert guard.watches == watches
        assert set(guard.points_c) == points
        names = {thread.name for thread in threading.enumerate()}
        assert ("mla-edge-guard" in names) == watches
        guard.step()
        assert guard.rung.number == 0
        assert (guard.to_dict(decisions=1, seconds=1.0) is None) == (not watches)
    assert "mla-edge-guard" not in {thread.name for thread in threading.enumerate()}
    with open_guard(root=BOARDS / name, heat=False) as unguarded:
        assert unguarded.points_c == {}


def test_over_currents_of_the_run_are_counted(tmp_path):
    shutil.copytree(BOARDS / "orin-nano-jp6/sys", tmp_path / "sys")
    guard = Guard(root=tmp_path)
    counter = next(tmp_path.glob("sys/class/hwmon/*/oc3_event_cnt"))
    counter.write_text(f"{int(counter.read_text()) + 4}\n")
    assert guard.to_dict(decisions=1, seconds=1.0)["over_currents"] == 4


@pytest.mark.parametrize("name", ["pc", "container-no-sys", "agx-thor-jp7.1"])
def test_a_budget_needs_a_rail(name):
    with pytest.raises(ConfigError, match="no power rail") as caught:
        open_guard(power_budget_w=12.0, root=BOARDS / name)
    assert "12 W" in str(caught.value)


@pytest.mark.parametrize("budget_w", [0.0, -5.0, float("nan"), float("inf")])
def test_a_budget_is_a_power(budget_w):
    with pytest.raises(ConfigError, match="the power budget is"):
        open_guard(power_budget_w=budget_w, root=BOARDS / "orin-nano-jp6")


def test_what_is_held_back_has_a_reason_and_no_certificate(small_bundle, tmp_path):
    guard = hot_guard(tmp_path / "board")
    unsure = sample(image=frame(DULL_RED))
    with mla_edge.load(small_bundle.folder, threads=1, guard=guard) as model:
        model._certified = {"image": "abc"}
        held = model.infer(unsure)
        assert (held.tier, held.reason, held.certificate) == ("lite", HEAT, None)
        sure = model.infer(sample(image=frame("red")))
        assert (sure.reason, sure.certificate) == ("lite-confident", "abc")
        guard.rung = type(guard.rung)(5, HEAT)
        tiers = [model.infer(unsure).tier for _ in range(10)]
        assert tiers == ["lite", "full"] * 5
        guard.rung = type(guard.rung)()
        asked = model.infer(unsure)
        assert (asked.tier, asked.certificate) == ("full", "abc")
    figures = guard.to_dict(decisions=12, seconds=1.0)
    assert figures["held_back"] == {HEAT: 7, POWER: 0}  # one of them in a dwell


def test_another_bundle_is_held_back_by_the_same_guard(small_bundle, tmp_path):
    guard = hot_guard(tmp_path / "board")

    def load():
        return mla_edge.load(small_bundle.folder, threads=1, guard=guard)

    told = []
    with ReloadingModel(load, told.append) as model:
        first = model.model
        model.reload()
        end_s = time.monotonic() + 10
        while not told and time.monotonic() < end_s:
            assert model.infer(sample(image=frame(DULL_RED))).reason == HEAT
        assert model.model is not first
        assert model.guard is guard


def test_a_replay_holds_back_what_the_run_held_back_bit_for_bit(small_bundle, tmp_path):
    pytest.importorskip("mcap")
    from mla_edge.runtime.replay import Replay

    guard = hot_guard(tmp_path / "board")
    guard.rung = type(guard.rung)(3, HEAT)
    path = tmp_path / "a.mcap"
    made, _ = record(path, small_bundle, lossless=True, guard=guard)
    reasons = Counter(prediction.reason for prediction in made)
    assert reasons[HEAT] > 3
    assert reasons["escalated"] > 3
    with mla_edge.load(small_bundle.folder, threads=1) as model:
        played = Replay(model, path)
        again = list(played.run())
    assert [(p.label, p.confidence, p.tier, p.reason) for p in again] == [
        (p.label, p.confidence, p.tier, p.reason) for p in made
    ]
    assert played.comparison.different == 0


WORDS = ["run", "--camera", "sim://digits?size=96x64", "--mic", "none", "--duration", "0.6"]


def on(monkeypatch, root):
    """Commands find the board whose files are under ``root``."""
    monkeypatch.setattr(mla_edge, "open_guard", functools.partial(open_guard, root=root))


def test_the_command_says_why_and_what_it_came_to(here, monkeypatch):
    board = WarmBoard(here / "board", ambient_c=THROTTLES_C)
    on(monkeypatch, board.root)
    result = CliRunner().invoke(app, [*WORDS, "--json"])
    assert result.exit_code == 0, result.stderr
    assert "heat: the last tier is not asked any more (cpu-thermal 1" in result.stderr
    *rows, last = map(json.loads, result.stdout.splitlines())
    figures = last["summary"]["board"]
    held = sum(row["reason"] == HEAT for row in rows)
    assert held > 0
    assert figures["held_back"][HEAT] == held
    assert figures["hottest_c"]["cpu-thermal"] > THROTTLES_C
    assert figures["power_w"]["mean"] == pytest.approx(8.0, abs=1.5)
    words = CliRunner().invoke(app, WORDS).stdout
    assert "board       cpu-thermal at most 11" in words
    assert "by lite for it: heat" in words
    unguarded = CliRunner().invoke(app, [*WORDS, "--no-heat-guard", "--json"])
    assert '"reason": "heat"' not in unguarded.stdout


def test_the_command_refuses_a_budget_where_there_is_no_rail(here, monkeypatch):
    on(monkeypatch, BOARDS / "pc")
    result = CliRunner().invoke(app, [*WORDS, "--power-budget-w", "12"])
    assert result.exit_code == 2
    assert "no power rail" in result.stderr
    assert "leave the power budget away" in result.stderr
    result = CliRunner().invoke(app, [*WORDS, "--json"])
    assert json.loads(result.stdout.splitlines()[-1])["summary"]["board"] is None


def test_the_page_and_the_metrics_say_it_too(small_bundle, tmp_path):
    pytest.importorskip("prometheus_client")
    from mla_edge.runtime.web.events import Events, Place
    from mla_edge.runtime.web.metrics import Metrics
    from mla_edge.runtime.web.view import View

    guard = hot_guard(tmp_path / "board")
    guard.rung = type(guard.rung)(3, HEAT)
    assert set(find_inputs(small_bundle.inputs)) == {"camera", "microphone"}
    with mla_edge.load(small_bundle.folder, threads=1, guard=guard) as model:
        view = View(model)
        view.add(model.infer(sample(image=frame(DULL_RED))))
        assert "mla_edge_last_tier_share 0.7" in Metrics(view).render().decode()
        tick = json.loads(Events(view).tick(Place())[0])
    assert tick["board"].startswith("cpu-thermal 1")
    assert tick["board"].endswith("heat: the last tier is asked for 70% of what is left to it")
