"""``bench``: what it measures, and what it says of two measurements."""

import json

import numpy as np
import pytest
from colours import make_bundle
from typer.testing import CliRunner

from mla_edge import health
from mla_edge.cli import app
from mla_edge.errors import CaptureError, CaptureTimeout
from mla_edge.runtime import bench as measuring
from mla_edge.runtime.bench import Plan, Stages, compare, spread
from mla_edge.runtime.bench_picture import draw


def call(*words):
    return CliRunner().invoke(app, ["bench", *map(str, words)])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two runs on the simulator, and the files that they wrote."""
    folder = tmp_path_factory.mktemp("bench")
    bundle = make_bundle(folder / "colours-host").folder
    words = ["--bundle", bundle, "--duration", 1, "--repeat", 2, "--deadline-ms", 0.1]
    done = call(*words, "--out", folder / "a.json", "--picture", folder / "a.svg", "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), folder, bundle


def test_a_run_tells_latency_age_stages_and_costs(measured):
    shown, folder, _ = measured
    assert json.loads((folder / "a.json").read_text()) == shown
    assert len(shown["runs"]) == 2
    for run in shown["runs"]:
        assert 1 <= run["decisions"] <= 40  # 30 on a machine that has time
        assert (
            run["latency_ms"]["p50"] <= run["latency_ms"]["p99.9"] <= run["latency_ms"]["max"]
        )
        assert run["age_ms"]["p50"] >= run["latency_ms"]["p50"]
        assert set(run["stages_ms"]) >= {"capture", "preprocess", "emit"}
        assert run["stages_ms"]["preprocess"]["max"] <= run["latency_ms"]["max"]
        assert run["deadline"]["missed"] == run["decisions"]  # a tenth of a millisecond
        assert run["deadline"]["longest_run"] == run["decisions"]
        assert run["missed"] is None
        assert 0 < run["cores"] < 64
        assert run["memory_mb"] > 20
        assert run["first_decision_s"] > 0


def test_the_picture_is_an_svg_with_a_curve_for_each(measured):
    shown, folder, bundle = measured
    text = (folder / "a.svg").read_text()
    assert text.startswith("<svg ")
    assert text.count("<polyline") == 4
    assert "<script>" not in draw(shown["runs"], "<script>")


def test_decisions_that_are_due_and_do_not_come_are_missed(measured):
    _, _, bundle = measured
    done = call("--bundle", bundle, "--duration", 1, "--rate", 2000, "--json")
    (run,) = json.loads(done.stdout)["runs"]
    assert run["missed"] > 0
    assert run["missed"] + run["decisions"] == pytest.approx(2000 * run["seconds"], abs=2)


def test_flat_out_has_no_age(measured):
    _, _, bundle = measured
    done = call("--bundle", bundle, "--duration", 0.5, "--flat-out", "--json")
    (run,) = json.loads(done.stdout)["runs"]
    assert run["age_ms"]["p50"] is None
    assert run["drops"] == {"image": 0, "audio": 0}


def test_a_person_is_told_in_words(measured):
    _, _, bundle = measured
    done = call("--bundle", bundle, "--duration", 0.5)
    assert done.exit_code == 0, done.stderr
    for what in ("decisions", "latency ms", "age ms", "deadline", "costs"):
        assert f"\n{what}" in f"\n{done.stdout}"


def test_two_measurements_are_held_against_each_other(measured):
    shown, folder, _ = measured
    slower = json.loads(json.dumps(shown))
    for run in slower["runs"]:
        run["latency_ms"]["p50"] = 3 * max(r["latency_ms"]["p50"] for r in shown["runs"])
    (folder / "b.json").write_text(json.dumps(slower))
    done = call("compare", folder / "a.json", folder / "b.json", "--json")
    rows = {row["figure"]: row for row in json.loads(done.stdout)}
    row = rows["latency_ms.p50"]
    assert row["apart"]
    assert row["ratio"] >= 3
    assert not rows["latency_ms.p99"]["apart"]
    assert rows["latency_ms.p99"]["ratio"] == 1
    words = call("compare", folder / "a.json", folder / "b.json").stdout
    assert "latency_ms.p50" in words and "(ranges overlap)" in words


@pytest.mark.parametrize("text", ["", "{}", '{"runs": []}', '{"runs": 3}', "[1]"])
def test_what_is_no_measurement_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    done = call("compare", path, path)
    assert done.exit_code == 2
    assert "x.json: not a measurement of bench" in done.stderr
    assert call("compare", tmp_path / "none.json", path).exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--camera", "none", "--mic", "none"), "no camera and no microphone"),
        (("--rate", 5, "--flat-out"), "exclude each other"),
    ],
)
def test_options_that_do_not_fit_are_refused(measured, words, message):
    done = call("--bundle", measured[2], *words)
    assert done.exit_code == 2
    assert message in done.stderr


def test_sources_that_give_nothing_are_no_measurement(measured, monkeypatch):
    class Dead:
        drops = 0

        def read(self, timeout_s):
            raise CaptureTimeout("nothing")

        def close(self):
            """Nothing is open."""

    monkeypatch.setattr(measuring, "_PATIENCE_S", 0.1)
    from mla_edge.runtime.loading import open_model

    with pytest.raises(CaptureError, match="nothing to measure"):
        measuring.bench(
            lambda instrument: open_model(measured[2], instrument=instrument),
            Dead(),
            None,
            Plan(duration_s=0.1),
            emit=str,
        )


def test_stages_belong_to_their_decision():
    stages = Stages()
    work = stages.timed("work", sum)
    assert work([1, 2]) == 3
    work([3])
    stages.next()
    stages.next()
    assert list(stages.of_each[0]) == ["work"]
    assert stages.of_each[1] == {}


def test_percentiles_of_nothing_are_none():
    assert set(spread([]).values()) == {None}
    assert spread(np.arange(101))["p90"] == 90


def test_figures_that_only_one_has_are_left_out():
    rows = compare([{"a": 1, "b": {"c": 2}}], [{"b": {"c": 4}, "d": True}])
    assert [(row["figure"], row["ratio"]) for row in rows] == [("b.c", 2.0)]


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_machine_that_is_busy_or_not_fixed_is_warned_of(tmp_path):
    start = measuring._Mark(0.0, 0.0, 100.0)
    end = measuring._Mark(10.0, 5.0, 120.0)  # 20 s of work, 5 of them ours
    assert measuring.warnings(start, end, tmp_path) == [
        "other programs used 1.5 cores meanwhile"
    ]
    write(tmp_path, "sys/class/devfreq/17000000.gpu/min_freq", "1")
    write(tmp_path, "sys/class/devfreq/17000000.gpu/max_freq", "2")
    quiet = measuring._Mark(10.0, 5.0, 105.0)
    assert measuring.warnings(start, quiet, tmp_path) == [
        "the GPU's clock is not fixed: sudo jetson_clocks"
    ]
    assert health.busy_s() > 0


def write_clock(root, core, low, high, governor):
    folder = f"sys/devices/system/cpu/{core}/cpufreq"
    write(root, f"{folder}/scaling_min_freq", f"{low}\n")
    write(root, f"{folder}/scaling_max_freq", f"{high}\n")
    write(root, f"{folder}/scaling_governor", f"{governor}\n")


@pytest.mark.parametrize(
    ("clocks", "release", "warned"),
    [
        (
            [(1, 2, "schedutil")],
            "",
            ["(schedutil): sudo cpupower frequency-set -g performance"],
        ),
        (
            [(2, 2, "schedutil"), (1, 2, "schedutil"), (1, 2, "ondemand")],
            "# R36 (release), REVISION: 4.3,",
            ["(ondemand, schedutil): sudo jetson_clocks"],
        ),
        ([(2, 2, "schedutil"), (1, 2, "performance")], "", []),
        ([("", "", "")], "", []),  # a core that is off
        ([], "", []),
    ],
)
def test_a_cpu_whose_clock_follows_its_load_is_warned_of(tmp_path, clocks, release, warned):
    write(tmp_path, "etc/nv_tegra_release", release)
    for number, clock in enumerate(clocks):
        write_clock(tmp_path, f"cpu{number}", *clock)
    start, end = (measuring._Mark(at_s, at_s, at_s) for at_s in (0.0, 10.0))
    wanted = [f"the CPU's clock is not fixed {words}" for words in warned]
    assert measuring.warnings(start, end, tmp_path) == wanted


def test_a_board_that_was_too_hot_or_drew_too_much_is_warned_of(tmp_path):
    start = measuring._Mark(0.0, 0.0, 100.0, over_currents=3)
    end = measuring._Mark(10.0, 5.0, 105.0, over_currents=4)
    hot, hungry = measuring.warnings(start, end, tmp_path, ["cpu-throttle-alert"])
    assert "too hot and lowered its clocks: cpu-throttle-alert" in hot
    assert "drew too much" in hungry
