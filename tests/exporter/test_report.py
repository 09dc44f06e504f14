import copy
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from mla_edge.errors import BundleError
from mla_edge.exporter import report as reporting
from mla_edge.exporter.tensorrt_check import BuildReport
from mla_edge.profiles import load_profile

AGREEMENT = {
    "samples": 600,
    "top1_agreement": 0.995,
    "cosine": 0.9991,
    "min_cosine": 0.98,
    "max_error": 0.31,
    "accuracy": 0.984,
    "float_accuracy": 0.986,
    "drop_points": 0.2,
    "optimised_cosine": 0.9999,
    "optimised_accuracy": 0.984,
    "optimiser_breaks": False,
}
LAYER = {
    "layer": "/stem/Conv",
    "operator": "Conv",
    "calibrator": "entropy",
    "sqnr_db": 12.25,
    "divergence": 0.0125,
    "changed": 3,
    "samples": 8,
}
CHANGE = {"layer": "block.feed.expand", "kind": "channels", "before": 640, "after": 544}


def tier(name):
    return {
        "name": name,
        "parameters": 5_200_000,
        "parameters_after": 4_800_000,
        "pruned": [CHANGE],
        "distillation": None,
        "size_bytes": {"float": 20e6, "tensorrt": 19e6, "cpu": 6e6},
        "ranges_from": "calibration set default",
        "left_in_float": {},
        "ranges_samples_sha256": "12" * 32,
        "cpu_precision": "int8",
        "cpu_ms": {"fp32": 6.0, "int8": 4.0},
        "agreement": {"tensorrt": dict(AGREEMENT), "cpu": dict(AGREEMENT)},
        "tensorrt": {
            "status": "not checked",
            "reason": "tensorrt-rtx is not installed",
            "version": "",
            "seconds": 0.0,
            "layers": 0,
            "undequantized": [],
            "exempt": ["/mel/Conv", "/gate/score/MatMul"],
        },
        "dla": None,
    }


MODE = {
    "mode": "image+audio",
    "samples": 600,
    "temperature": 1.2,
    "threshold": 0.93,
    "kept": 0.81,
    "break_even": 0.12,
    "cost_ms": 1.4,
    "full_cost_ms": 4.0,
    "tier_accuracy": {"lite": 0.96, "full": 0.986},
    "routed_accuracy": 0.984,
    "why": "a bolder threshold would spoil 4 of 600 answers",
}


def point(tier, step, precision, ms, size_bytes, accuracy=0.984):
    return {
        "tier": tier,
        "step": step,
        "precision": precision,
        "ms": ms,
        "size_bytes": size_bytes,
        "accuracy": accuracy,
        "drop_points": 98.6 - 100 * accuracy,
        "lost": 3,
        "won": 1,
        "doubt_points": 0.6,
    }


CURVE = {
    "points": [
        point("lite", "float", "fp32", 0.7, 2_000_000),
        point("lite", "cpu", "int8", 0.5, 700_000),
        point("full", "float", "fp32", 6.2, 20_000_000, 0.986),
        point("full", "pruned", "fp32", 5.9, 19_000_000),
        point("full", "tensorrt", "int8", 8.0, 19_000_000),
        point("full", "cpu", "int8", 3.1, 6_000_000),
        point("", "routed", "int8", 1.24, 6_700_000),
    ],
    "samples": 600,
    "measured_on": "a processor",
}
LAYERS = {
    "rows": [
        {
            "layer": f"/stage.{i}/Conv",
            "ms": 1 / (i + 1),
            "share": 0.2 / (i + 1),
            "noise": {"cpu": 0.001 * (i + 1), "tensorrt": 0.0} if i else {},
        }
        for i in range(20)
    ],
    "others": [{"operator": "Softmax", "nodes": 3, "ms": 0.5, "share": 0.1}],
    "samples": 16,
    "runs": 16,
}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwAD"
    "hgGAWjR9awAAAABJRU5ErkJggg=="
)
SHOWN = {
    "tier": "full",
    "form": "tensorrt",
    "precision": "int8",
    "differ": 1,
    "samples": 600,
    "shown": [
        {
            "mode": "image+audio",
            "truth": "7",
            "why": "answers differ",
            "before": {"label": "7", "confidence": 0.61, "right": True},
            "after": {"label": "1", "confidence": 0.52, "right": False},
            "pictures": {"image": PIXEL, "audio": PIXEL},
        },
        {
            "mode": "audio",
            "truth": "none",
            "why": "like most",
            "before": {"label": "none", "confidence": 0.99, "right": True},
            "after": {"label": "none", "confidence": 0.98, "right": True},
            "pictures": {"audio": PIXEL},
        },
    ],
}
INPUTS = [
    {"name": "image", "kind": "image", "shape": [1, 3, 128, 128], "rate_hz": None},
    {"name": "audio", "kind": "audio", "shape": [1, 8000], "rate_hz": 8000},
]


@pytest.fixture
def facts():
    return {
        "bundle": "digits-agx-xavier",
        "created": "2026-11-22T03:00:00+00:00",
        "network": {"name": "digits", "labels": ["0"], "inputs": INPUTS},
        "profile": {
            "name": "agx-xavier",
            "title": "Jetson AGX Xavier",
            "tensorrt": "8.5",
            "opset": 16,
        },
        "recipe": {"name": "default", "title": "INT8"},
        "precision": "int8",
        "calibration": {
            "name": "default",
            "source": "network",
            "data": False,
            "sha256": "ab" * 32,
            "samples": {"calibrate": 256, "tune": 1000, "test": 600},
        },
        "tiers": [tier("lite"), tier("full")],
        "gate": {"max_drop_points": 1.0, "worst_drop_points": 0.2, "passed": True},
        "routing": {
            "cost_ms": {"lite": 0.5, "full": 4.0},
            "float_cost_ms": {"lite": 0.7, "full": 6.2},
            "measured_on": "a processor",
            "modes": [MODE, {**MODE, "mode": "image", "threshold": 1.01, "kept": 0.0}],
        },
        "curve": CURVE,
        "layers": {"lite": LAYERS, "full": LAYERS},
        "samples_shown": SHOWN,
        "not_proven": ["No board took part."],
        "seconds": {"to_onnx full": 4.0},
        "provenance": {
            "inputs_sha256": "cd" * 32,
            "network_ref": "digits",
            "network_fingerprint": "ef" * 32,
            "versions": {"torch": "2.13.0"},
        },
    }


def test_the_page_says_everything_and_needs_nothing(facts):
    page = reporting.render(facts)
    for text in (
        "digits-agx-xavier",
        "6.00 MB",
        "20.00 MB → 6.00 MB",
        "3.3 times smaller",
        "6.20 → 3.10 ms",
        "2.0 times faster",
        "the worst lost 0.20",
        "-0.20",
        "81.0%",
        "12.0%",
        "never",
        "block.feed.expand",
        "No board took part.",
        "not checked",
        "tensorrt-rtx is not installed",
        "calibration set default (samples, sha256 <code>" + "12" * 32,
    ):
        assert text in page, text
    assert not re.search(r"https?://|<script|<link|@import|url\(|src=\"(?!data:image/)", page)
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_not_checked_is_never_ok(facts):
    page = reporting.render(facts)
    section = page[page.index("<h2>TensorRT</h2>") : page.index("<h2>Routing</h2>")]
    assert section.count("not checked") == 2
    assert ">ok<" not in section


def test_layers_exempt_from_int8_are_counted_and_named(facts):
    page = reporting.render(facts)
    assert "2 layers with weights exempt from INT8" in page
    assert "/mel/Conv, /gate/score/MatMul" in page
    for row in facts["tiers"]:
        del row["tensorrt"]["exempt"]  # as in the report of a bundle that is older
    assert "exempt from INT8" not in reporting.render(facts)


def test_a_refusal_is_plain_and_names_the_layers(facts):
    facts["gate"] = {"max_drop_points": 1.0, "worst_drop_points": 7.25, "passed": False}
    facts["tiers"][1]["agreement"]["cpu"]["drop_points"] = 7.25
    facts["tiers"][1]["lost_points"] = {"pruning": 1.25, "precision": 6.0}
    facts["tiers"][1]["worst_layers"] = [LAYER]
    page = reporting.render(facts)
    assert "refused: 7.25 points lost" in page
    assert "What hurt full most" in page
    assert "Pruning lost 1.25 points" in page
    assert "INT8 lost 6.00 more" in page
    assert "/stem/Conv" in page
    facts["tiers"][1]["lost_points"] = {"pruning": 7.5, "precision": -0.25}
    facts["tiers"][1]["worst_layers"] = []
    page = reporting.render(facts)
    assert "Pruning lost 7.50 points" in page
    assert "INT8 cost nothing" in page
    assert ">layer in INT8<" not in page


def test_int8_is_explained_layer_by_layer(facts):
    assert "<h2>INT8</h2>" not in reporting.render(facts)  # as of an older bundle
    error = {"samples": 48, "divergence": 0.001, "changed": 0}
    facts["tiers"][1]["calibration"] = {
        "calibrators": {"tensorrt": {"max": 3, "mse": 10}, "cpu": {"entropy": 13}},
        "biases_corrected": {"tensorrt": 7, "cpu": 0},
        "rounded_together": {"tensorrt": 0, "cpu": 9},
        "tried": {
            "tensorrt": [
                {"attempt": "max", "kept": False, "sqnr_db": 30.5, **error},
                {"attempt": "bias correction", "kept": True, "sqnr_db": 34.25, **error},
            ]
        },
    }
    facts["tiers"][1]["sensitivity"] = {"form": "tensorrt", "layers": [LAYER]}
    facts["tiers"][1]["float_layers"] = [
        {"layer": "/mel/Conv", "forms": ["tensorrt", "cpu"], "reason": "the network says so"}
    ]
    page = reporting.render(facts)
    assert "ranges by max (3), mse (10); 7 biases corrected" in page
    assert "bias correction 34.2 dB, kept" in page
    assert "12.2 dB" in page
    assert "3 of 8" in page
    assert "<code>/mel/Conv</code>, tensorrt and cpu: the network says so" in page


def test_one_tier_has_no_routing_to_show(facts):
    facts["tiers"] = facts["tiers"][1:]
    points = [one for one in CURVE["points"] if one["tier"] == "full"]
    facts["curve"] = {**CURVE, "points": points}
    assert "<h2>Routing</h2>" not in reporting.render(facts)


NETWORK = {
    "name": "knapsack",
    "share": None,
    "widths": {"feed": 80},
    "parameters": 3_360_000,
    "predicted_ms": 2.9,
    "ms": 2.7,
    "speedup": 1.48,
    "saved_ms": 1.3,
    "noise_ms": 0.03,
    "distillation": {"steps": 300, "seconds": 60.0, "first_loss": 0.3, "last_loss": 0.02},
    "tune_samples": 1000,
    "tune_accuracy": 0.915,
    "divergence": 0.0123,
    "test_samples": 600,
    "test_accuracy": 0.925,
}
GOAL = {
    "wanted": "1.5 times faster",
    "target_ms": 2.67,
    "whole_ms": 4.0,
    "least_ms": 2.1,
    "precision": "int8",
    "threads": 1,
    "measured_on": "a processor",
    "left_out": ["odd"],
    "attempts": [{"predicted_ms": 2.6, "measured_ms": 2.44}],
    "rolled_back": [{"what": "heads at 2", "saved_ms": 0.002, "noise_ms": 0.004}],
    "networks": [NETWORK, {**NETWORK, "name": "uniform", "share": 0.453, "ms": 2.66}],
    "kept": "knapsack",
    "verdict": "against uniform pruning to the same latency it helped: +2.00 points",
    "reached_ms": 2.7,
}


def test_a_goal_of_latency_is_held_against_uniform_pruning(facts):
    assert "<h2>Latency goal" not in reporting.render(facts)
    facts["tiers"][1]["goal"] = GOAL
    page = reporting.render(facts)
    assert page.count("<h2>Latency goal of full</h2>") == 1
    section = page[page.index("<h2>Latency goal") : page.index("<h2>Pruning and")]
    for text in (
        "1.5 times faster",
        "knapsack, kept",
        "uniform (45.3% of each)",
        "2.66 ms",
        "300 steps",
        "it helped: +2.00 points.",
        "<code>heads at 2</code>",
        "0.002 ms",
        "2.60 / 2.44 ms",
        "Not in the table, so not pruned: odd.",
        "not of a Jetson AGX Xavier, which took no part",
        "latency/full.json",
    ):
        assert text in section, text
    facts["tiers"][1]["goal"] = {**GOAL, "networks": [], "rolled_back": [], "attempts": []}
    assert "Rolled back" not in reporting.render(facts)


def test_names_are_escaped(facts):
    facts["network"]["name"] = "<script>alert(1)</script>"
    assert "<script>" not in reporting.render(facts)


def test_both_forms_are_written_and_read_again(facts, tmp_path):
    reporting.write(tmp_path, facts)
    assert reporting.read(tmp_path) == json.loads(json.dumps(facts))
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        reporting.read(tmp_path)


def test_a_failed_report_is_beside_the_bundle_and_goes_with_the_next_success(facts, tmp_path):
    target = tmp_path / "digits-agx-xavier"
    path = reporting.write_failed(target, copy.deepcopy(facts))
    assert path == tmp_path / "digits-agx-xavier.failed-report.json"
    assert path.with_suffix(".html").exists()
    reporting.forget_failed(target)
    assert not list(tmp_path.iterdir())


def test_what_int8_leaves_open_is_said():
    def said(profile, precision, sparsity=None, goal=None):
        checked = SimpleNamespace(
            name="lite",
            tensorrt=BuildReport("ok", version="1.5"),
            dla=None,
            shrunk={"sparsity": sparsity},
            goal=goal,
        )
        return " ".join(reporting.not_proven(load_profile(profile), precision, [checked]))

    assert "really fuses every INT8 layer shows only there" in said("agx-xavier", "int8")
    assert "The DLA was not looked at: export with --dla" in said("agx-xavier", "int8")
    assert "DLA" not in said("host", "int8")
    assert "sparsity" not in said("agx-orin", "int8")
    assert "nothing is faster here" in said("agx-orin", "int8", {"pattern": "2:4"})
    assert "INT8" not in said("agx-xavier", "fp16")


class Outline(HTMLParser):
    """What a page is made of: its tags with their attributes, ids, and headings."""

    EMPTY = {"meta", "img", "wbr"}

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.ids, self.unsound = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unsound.append(tag)

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.mark.parametrize("refused", [False, True])
def test_the_page_is_sound_and_can_be_read_without_seeing_it(facts, refused):
    facts["gate"]["passed"] = not refused
    page = Outline(reporting.render(facts))
    assert not page.unsound and not page.open
    assert len(page.ids) == len(set(page.ids))
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("nav")) == 1
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-4]", tag)]
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:]))
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    assert page.all("img") and all(image["alt"] for image in page.all("img"))
    pictures = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert pictures == page.all("svg")
    for svg in pictures:
        named = svg.get("aria-labelledby", "").split()
        assert svg.get("aria-label") or set(named) <= set(page.ids)
    links = [a["href"] for a in page.all("a")]
    assert links and {link[1:] for link in links} <= set(page.ids)
    wide = [div for div in page.all("div") if div.get("class") == "scroll"]
    assert all(div["tabindex"] == "0" and div["aria-label"] for div in wide)


def test_every_step_is_a_point_and_a_row(facts):
    page = reporting.render(facts)
    section = page[page.index('id="steps"') : page.index('id="samples"')]
    for name in ("lite float", "full pruned", "full INT8 TensorRT", "full INT8 CPU", "routed"):
        crowded = "pruned" in name or "TensorRT" in name  # not named on a phone
        assert section.count(f">{name}</text>") == (1 if crowded else 2)
        assert f"</span>{name}</th>" in section
    assert section.count("hollow") == 3  # what runs on the board: twice drawn, once in a row
    assert "3 / 1" in section and "±0.60" in section


def test_samples_are_shown_with_both_answers(facts):
    page = reporting.render(facts)
    section = page[page.index('id="samples"') : page.index('id="layers"')]
    assert "1 of 600" in section
    assert section.count(f'src="{PIXEL}"') == 3
    assert "no image" in section
    assert "spectrogram of the sound of a sample that shows 7" in section
    for text in ("61.0%", "52.0%", ">wrong<", "answers differ"):
        assert text in section, text


def test_layers_are_shown_by_cost_and_by_error(facts):
    page = reporting.render(facts)
    section = page[page.index('id="layers"') : page.index('id="tiers"')].replace("<wbr>", "")
    costs, errors = section.split("Error in the CPU graph, worst first")[:2]
    assert costs.index("/stage.0/Conv") < costs.index("Softmax") < costs.index("/stage.2/Conv")
    assert errors.index("/stage.19/Conv") < errors.index("/stage.18/Conv")
    assert "17.0 dB" in errors and "exact" in section
    assert "and 7 more" in section
    assert "lite: all 20 layers" in section


def test_the_report_of_an_older_bundle_lacks_what_it_did_not_measure(facts):
    for key in ("curve", "layers", "samples_shown"):
        del facts[key]
    page = reporting.render(facts)
    assert 'id="steps"' not in page and 'id="layers"' not in page
    assert "<h2>Tiers</h2>" in page and "No board took part." in page


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome is installed")
def test_no_page_is_wider_than_its_window(facts, tmp_path):
    for row in facts["layers"]["full"]["rows"]:
        row["layer"] = "/audio/blocks.0/attention/overall/importance/inner" + row["layer"]
    page = tmp_path / "report.html"
    page.write_text(reporting.render(facts), encoding="utf-8")
    frame = tmp_path / "frame.html"  # a window itself is never narrower than 500
    frame.write_text(
        """<iframe src=report.html style="border:0;width:360px"></iframe>
        <iframe src=report.html style="border:0;width:1280px"></iframe>
        <script>onload = () => {
            for (const frame of document.querySelectorAll("iframe")) {
                const inside = frame.contentDocument.documentElement
                document.body.append(" [" + inside.clientWidth + " " + inside.scrollWidth + "]")
            }
        }</script>"""
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    home = f"--user-data-dir={tmp_path / 'chromium'}"
    shown = subprocess.run(
        [CHROMIUM, *options, home, "--dump-dom", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    found = [
        (int(inside), int(whole)) for inside, whole in re.findall(r"\[(\d+) (\d+)\]", shown)
    ]
    assert [round(inside, -2) for inside, _ in found] == [300, 1300]  # less a scroll bar
    assert all(whole <= inside for inside, whole in found)
