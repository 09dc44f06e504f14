"""What an export measures for its report: the curve, the layers, samples with both answers."""

import base64

import pytest

from mla_edge.exporter import pipeline
from mla_edge.exporter.pipeline import ExportRequest, export
from mla_edge.exporter.steps import StepCache
from mla_edge.pictures import unpack

QUICK = 'source = "network"\ncalibrate = 40\ntune = 48\ntest = 60\n'


@pytest.fixture(scope="module")
def request_of(tmp_path_factory, network):
    """An export of the two tiers, the second of which goes on from the first."""
    folder = tmp_path_factory.mktemp("evidence")
    (folder / "quick.toml").write_text(QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "load_network", lambda ref, data=None: network)
        yield lambda **how: ExportRequest(
            "agx-orin",
            "small",
            out=folder / "out",
            calibration=str(folder / "quick.toml"),
            **how,
        )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return StepCache(tmp_path_factory.mktemp("steps"))


@pytest.fixture(scope="module")
def exported(request_of, cache):
    return export(request_of(max_drop=100.0), cache=cache)


def test_every_step_is_measured_on_the_samples_held_back(exported):
    curve = exported.report["curve"]
    points = {(p["tier"], p["step"]): p for p in curve["points"]}
    tiers = {tier["name"]: tier for tier in exported.report["tiers"]}
    assert ("", "routed") in points
    for name, tier in tiers.items():
        whole, int8 = points[name, "float"], points[name, "tensorrt"]
        assert whole["accuracy"] == tier["agreement"]["tensorrt"]["float_accuracy"]
        assert int8["accuracy"] == tier["agreement"]["tensorrt"]["optimised_accuracy"]
        assert whole["lost"] == whole["won"] == whole["drop_points"] == 0
        assert whole["precision"] == "fp32" and int8["precision"] == "int8"
    for p in points.values():
        assert p["ms"] > 0
        assert p["drop_points"] == pytest.approx(
            100 * (p["lost"] - p["won"]) / curve["samples"]
        )
        assert p["doubt_points"] >= 0


def test_a_tier_that_goes_on_from_another_counts_with_it(exported):
    points = {(p["tier"], p["step"]): p for p in exported.report["curve"]["points"]}
    sizes = {t["name"]: t["size_bytes"]["float"] for t in exported.report["tiers"]}
    lite, full = points["lite", "float"], points["full", "float"]
    assert lite["size_bytes"] == sizes["lite"]
    assert full["size_bytes"] == sizes["lite"] + sizes["full"]
    assert full["ms"] > lite["ms"]


def test_too_few_samples_to_route_are_all_asked_of_the_last_tier(exported):
    points = {(p["tier"], p["step"]): p for p in exported.report["curve"]["points"]}
    forms = {t["name"]: t["cpu_precision"] for t in exported.report["tiers"]}
    assert all(mode["threshold"] > 1 for mode in exported.report["routing"]["modes"])
    if set(forms.values()) == {"int8"}:  # whether INT8 pays depends on the machine
        assert points["", "routed"]["ms"] == pytest.approx(points["full", "cpu"]["ms"])
    assert points["", "routed"]["ms"] > points["lite", "float"]["ms"] / 3


def test_layers_have_a_cost_and_where_they_are_int8_an_error(exported):
    for tier in exported.report["tiers"]:
        layers = exported.report["layers"][tier["name"]]
        rows = layers["rows"]
        shares = [row["share"] for row in (*rows, *layers["others"])]
        assert sum(shares) == pytest.approx(1)
        assert any("tensorrt" in row["noise"] for row in rows)
        assert ("cpu" in str([row["noise"] for row in rows])) == (
            tier["cpu_precision"] == "int8"
        )
        assert all(0 <= noise < 1 for row in rows for noise in row["noise"].values())


def test_samples_have_pictures_and_both_answers(exported):
    found = exported.report["samples_shown"]
    assert found["form"] == "tensorrt" and found["tier"] == "full"
    assert 6 <= len(found["shown"]) <= 8
    agreement = exported.report["tiers"][1]["agreement"]["tensorrt"]
    assert found["samples"] == agreement["samples"]
    for sample in found["shown"]:
        differs = sample["before"]["label"] != sample["after"]["label"]
        assert differs == (sample["why"] == "answers differ")
        for answer in (sample["before"], sample["after"]):
            assert 0 < answer["confidence"] <= 1
            assert answer["right"] == (answer["label"] == sample["truth"])
        assert set(sample["pictures"]) == set(sample["mode"].split("+"))
        for url in sample["pictures"].values():
            image = unpack(base64.b64decode(url.partition(",")[2]))
            assert image.shape in ((32, 32, 3), (48, 96, 3))


def test_the_page_has_all_of_it(exported):
    page = (exported.bundle.folder / "report.html").read_text(encoding="utf-8")
    for part in ("summary", "not-proven", "steps", "samples", "layers"):
        assert f'<section id="{part}"' in page
    assert len(page) < 400_000
