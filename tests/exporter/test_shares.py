import dataclasses

import numpy as np
import pytest

from mla_edge.cli.export import _shares_words
from mla_edge.exporter import pipeline, shares
from mla_edge.exporter.pipeline import ExportRequest, export
from mla_edge.exporter.report import _saved
from mla_edge.exporter.shares import drop_idle
from mla_edge.exporter.steps import StepCache

ALL_OF_THE_RECIPE = {"prune": 0.5, "prune_heads": 0.5}
ALL = {"prune": 0.5, "prune_heads": 0.25, "prune_residual": 0.125}


class Machine:
    """A tier takes 10 ms here, less what its shares save, and a little noise."""

    def __init__(self, saves_ms, noise_ms=0.001):
        self.saves_ms, self.noise_ms = saves_ms, noise_ms
        self.random = np.random.default_rng(0)
        self.asked = []

    def time(self, choices):
        self.asked.append(set(choices))
        return {
            name: 10 - self.saves_ms(cut) + self.random.normal(0, self.noise_ms, 16)
            for name, cut in choices.items()
        }


def each(**saved_ms):
    return lambda cut: sum(saved_ms[field] for field in cut)


def test_shares_that_each_save_time_are_kept_and_timed_once():
    machine = Machine(each(prune=2.0, prune_heads=1.0, prune_residual=0.5))
    kept, undone, taken = drop_idle(ALL, machine.time)
    assert kept == ALL
    assert undone == []
    assert machine.asked == [{"", "kept", *ALL}]
    assert np.median(taken["kept"]) == pytest.approx(6.5, abs=0.01)
    assert np.median(taken[""]) == pytest.approx(10.0, abs=0.01)


def test_what_saves_nothing_is_undone_and_named_with_what_it_saved():
    machine = Machine(each(prune=2.0, prune_heads=0.0, prune_residual=-1.0))
    kept, undone, taken = drop_idle(ALL, machine.time)
    assert kept == {"prune": 0.5}
    assert [cut.what for cut in undone] == [
        "12% of the residual streams",
        "25% of the attention heads",
    ]
    assert undone[0].saved_ms == pytest.approx(-1.0, abs=0.01)
    assert all(cut.saved_ms <= cut.noise_ms for cut in undone)
    assert np.median(taken["kept"]) == pytest.approx(8.0, abs=0.01)


def test_two_that_save_the_same_time_are_not_both_undone():
    # Either makes the other idle: without one of them the tier is as fast.
    machine = Machine(lambda cut: 1.0 if cut else 0.0)
    kept, undone, _ = drop_idle({"prune": 0.5, "prune_heads": 0.25}, machine.time)
    assert len(kept) == len(undone) == 1


def test_shares_that_together_make_it_slower_are_not_kept_for_what_one_saves():
    # With one of them it takes 12 ms, with both 11, with none 10.
    machine = Machine(lambda cut: (0.0, -2.0, -1.0)[len(cut)])
    kept, undone, taken = drop_idle({"prune": 0.5, "prune_heads": 0.25}, machine.time)
    assert kept == {}
    assert len(undone) == 2
    assert _saved(vars(undone[0])).startswith("saved 1.00")
    assert _saved(vars(undone[1])).startswith("made it 2.00")
    assert np.median(taken["kept"]) == pytest.approx(10.0, abs=0.01)


def test_a_saving_within_the_noise_is_none():
    machine = Machine(each(prune=0.01), noise_ms=1.0)
    kept, undone, taken = drop_idle({"prune": 0.5}, machine.time)
    assert kept == {}
    assert undone[0].what == "50% of the inner channels"
    assert undone[0].noise_ms > 0.1
    assert np.array_equal(taken["kept"].shape, taken[""].shape)


@pytest.fixture
def pruned(monkeypatch, prunable, tmp_path):
    """An untrained network with widths and heads, and a recipe with two shares."""
    monkeypatch.setattr(pipeline, "load_network", lambda ref, **given: prunable)
    calibration = tmp_path / "quick.toml"
    calibration.write_text('source = "network"\ncalibrate = 48\ntune = 96\ntest = 96\n')
    recipe = tmp_path / "shares.toml"
    recipe.write_text(
        'title = "shares"\nprecision = "int8"\ncalibration = "default"\n'
        "[tiers.only]\nprune = 0.5\nprune_heads = 0.5\n"
    )
    return ExportRequest(
        "host",
        "tests_small_network:make",
        recipe=str(recipe),
        out=tmp_path / "out",
        calibration=str(calibration),
        max_drop=100.0,
    )


def test_shares_that_pay_prune_the_tier_and_the_report_says_by_how_much(
    pruned, shares_pay, tmp_path
):
    result = export(pruned, cache=StepCache(tmp_path / "steps"))
    tier = result.report["tiers"][0]
    assert tier["shares"]["kept"] == tier["shares"]["asked"] == ALL_OF_THE_RECIPE
    assert tier["shares"]["rolled_back"] == []
    assert {change["kind"] for change in tier["pruned"]} == {"channels", "heads"}
    assert tier["parameters_after"] < tier["parameters"]
    page = (result.bundle.folder / "report.html").read_text()
    ratio = tier["shares"]["whole_ms"] / tier["shares"]["ms"]
    assert ratio > 1.1
    assert f"make it {ratio:.2f} times faster" in page
    assert f"{ratio:.2f} times faster here" in _shares_words(tier["shares"])[0]


def test_shares_that_make_nothing_faster_are_rolled_back_and_reported(
    pruned, monkeypatch, tmp_path
):
    def time_runs(cases, *, sessions):
        return dict.fromkeys(cases, np.ones(sessions))

    monkeypatch.setattr(shares, "time_runs", time_runs)
    seen = []
    result = export(pruned, seen.append, cache=StepCache(tmp_path / "steps"))
    tier = result.report["tiers"][0]
    assert tier["shares"]["kept"] == {}
    assert {cut["what"] for cut in tier["shares"]["rolled_back"]} == {
        "50% of the inner channels",
        "50% of the attention heads",
    }
    assert tier["pruned"] == []
    assert tier["parameters_after"] == tier["parameters"]
    page = (result.bundle.folder / "report.html").read_text()
    assert "rolled back: 50% of the inner channels" in page
    words = _shares_words(tier["shares"])
    assert len(words) == 1 and "rolled back, for it made nothing faster here" in words[0]
    note = next(e.note for e in seen if e.step == "time_pruned" and e.seconds is not None)
    assert note.startswith("rolled back: ")
    again = []
    other = dataclasses.replace(pruned, max_drop=99.0)
    assert not export(other, again.append, cache=StepCache(tmp_path / "steps")).reused
    assert next(e for e in again if e.step == "time_pruned" and e.seconds is not None).reused


def test_every_share_is_timed_for_real_and_either_kept_or_rolled_back(pruned, tmp_path):
    tier = export(pruned, cache=StepCache(tmp_path / "steps")).report["tiers"][0]
    found = tier["shares"]
    assert found["precision"] in ("fp32", "int8")
    assert found["kept"].items() <= ALL_OF_THE_RECIPE.items()
    assert len(found["kept"]) + len(found["rolled_back"]) == len(ALL_OF_THE_RECIPE)
    assert 0 < found["ms"] < 2 * found["whole_ms"]


def test_a_tier_without_shares_is_not_timed(pruned, tmp_path):
    seen = []
    whole = dataclasses.replace(pruned, recipe="fp32")
    report = export(whole, seen.append, cache=StepCache(tmp_path / "steps")).report
    assert report["tiers"][0]["shares"] is None
    assert "time_pruned" not in {event.step for event in seen}
    assert _shares_words(None) == []
