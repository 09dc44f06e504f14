import json
from pathlib import Path

import pytest

import mla_edge.runtime.summary
from mla_edge.runtime.routing import ALARM, HELD_BACK
from mla_edge.runtime.sense import Fault
from mla_edge.runtime.summary import Summary
from mla_edge.signals import Prediction


def prediction(label="1", *, tier="lite", mode="image", latency_ms=1.0, age_ms=5.0, truth=None):
    return Prediction(
        label, 0.9, tier, "", mode, {"image": 0.0}, 0.0, latency_ms, age_ms, truth
    )


def test_an_empty_run_has_no_figures():
    summary = Summary().to_dict(seconds=2.0, drops={"image": 3})
    assert summary["decisions"] == 0
    assert summary["rate_hz"] == 0
    assert summary["accuracy"] is None
    assert summary["tiers"] == summary["faults"] == {}
    assert summary["latency_ms"] == {"p50": None, "p99": None, "max": None}
    assert summary["drops"] == {"image": 3}
    assert json.loads(json.dumps(summary)) == summary


def test_the_documents_name_all_that_is_printed():
    page = Path(__file__).parents[2] / "docs" / "how-to" / "run.md"
    text = page.read_text(encoding="utf-8")
    _, told = text.split('and last `{"summary"')
    for key in Summary(deadline_ms=50).to_dict(seconds=1.0, drops={}):
        assert f"`{key}`" in told.split("\n\n")[0], key
    row = next(line for line in text.splitlines() if line.startswith("| `degraded`"))
    assert all(f"`{reason}`" in row for reason in (*HELD_BACK, ALARM))


def test_tiers_and_modes_have_shares():
    summary = Summary()
    for tier, mode in (("lite", "image"), ("lite", "image+audio"), ("full", "image")):
        summary.add(prediction(tier=tier, mode=mode))
    figures = summary.to_dict(seconds=1.5, drops={})
    assert figures["tiers"] == {
        "full": {"decisions": 1, "share": 0.33333},
        "lite": {"decisions": 2, "share": 0.66667},
    }
    assert figures["modes"]["image+audio"] == {"decisions": 1, "share": 0.33333}
    assert figures["rate_hz"] == 2.0


def test_accuracy_is_over_what_has_a_truth():
    summary = Summary()
    for truth in ("1", "2", None, "1"):
        summary.add(prediction("1", truth=truth))
    figures = summary.to_dict(seconds=1.0, drops={})
    assert (figures["accuracy"], figures["judged"]) == (0.66667, 3)


def test_percentiles_are_those_of_numpy():
    summary = Summary()
    for number in range(101):
        summary.add(prediction(latency_ms=float(number), age_ms=2.0 * number))
    figures = summary.to_dict(seconds=1.0, drops={})
    assert figures["latency_ms"] == {"p50": 50, "p99": 99, "max": 100}
    assert figures["age_ms"] == {"p50": 100, "p99": 198, "max": 200}


def test_memory_is_bounded_and_the_largest_is_kept(monkeypatch):
    monkeypatch.setattr(mla_edge.runtime.summary, "LONGEST", 10)
    summary = Summary()
    for latency_ms in [500.0] + [1.0] * 50:
        summary.add(prediction(latency_ms=latency_ms))
    figures = summary.to_dict(seconds=1.0, drops={})
    assert figures["latency_ms"] == {"p50": 1.0, "p99": 1.0, "max": 500.0}
    assert figures["decisions"] == 51


@pytest.mark.parametrize(
    ("what", "expected"),
    [("lost", {"audio": {"lost": 2}}), ("stale", {"audio": {"stale": 2}}), ("back", {})],
)
def test_faults_are_counted_and_a_return_is_none(what, expected):
    summary = Summary()
    for _ in range(2):
        summary.add_fault(Fault("audio", what, 0.0))
    assert summary.to_dict(seconds=1.0, drops={})["faults"] == expected
