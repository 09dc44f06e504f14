"""``inspect`` and ``verify`` on real, small bundles, whole and broken in every way we know."""

import json
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model
from typer.testing import CliRunner

from mla_edge.bundle import Bundle, ModePolicy, RouterPolicy, sha256_of
from mla_edge.cli import app
from mla_edge.engines.verification import measure, verify
from mla_edge.errors import BundleError
from mla_edge.golden import FILE, Golden, compare, read_golden, write_golden
from mla_edge.signals import InputSpec, Tier

# The second tier goes on from what the first one found.
TIERS = (
    Tier("lite", ("values",), ("logits", "feature")),
    Tier("full", ("feature",), ("logits",)),
)
COUNT = 24


def write_graph(path, tier, weights):
    """logits = input @ weights; ``lite`` passes its input on as ``feature`` too."""
    node = helper.make_node
    nodes = [node("MatMul", [tier.inputs[0], "weights"], ["logits"])]
    if "feature" in tier.outputs:
        nodes.append(node("Identity", [tier.inputs[0]], ["feature"]))
    shapes = {"values": (1, 4), "feature": (1, 4), "logits": (1, 3)}

    def tensors(names):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n]) for n in names]

    graph = helper.make_graph(
        nodes,
        tier.name,
        tensors(tier.inputs),
        tensors(tier.outputs),
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 17)]
    save_model(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))


def sealed(bundle, **changes):
    """``bundle`` written again with the hashes of the files as they are now."""
    files = {
        path.relative_to(bundle.folder).as_posix(): sha256_of(path)
        for path in sorted(bundle.folder.rglob("*"))
        if path.is_file() and path.name != "bundle.json"
    }
    again = replace(bundle, files=files, **changes)
    again.write()
    return again


@pytest.fixture
def bundle(tmp_path):
    """Two tiers, their two forms, golden samples and a report."""
    folder = tmp_path / "small-host"
    (folder / "graphs").mkdir(parents=True)
    random = np.random.default_rng(0)
    weights = {tier.name: random.normal(size=(4, 3)).astype(np.float32) for tier in TIERS}
    made = Bundle(
        folder=folder,
        name="small-host",
        network="small",
        profile="host",
        labels=("a", "b", "c"),
        inputs=(InputSpec("values", "tensor", (1, 4)),),
        tiers=TIERS,
        policy=RouterPolicy({"values": ModePolicy(1.5, 0.75)}, {"lite": 0.5}, "a computer"),
        created="2026-01-01T00:00:00Z",
        provenance={},
        files={},
    )
    for tier in TIERS:
        for cpu in (False, True):
            write_graph(made.graph(tier.name, cpu=cpu), tier, weights[tier.name])
    values = random.normal(size=(COUNT, 4)).astype(np.float32)
    golden = Golden({"values": values}, {name: values @ w for name, w in weights.items()})
    write_golden(folder / FILE, golden)
    agreement = {"samples": 600, "accuracy": 0.991, "float_accuracy": 0.993}
    tiers = [
        {"name": t.name, "agreement": {"cpu": agreement}, "tensorrt": {"status": "not checked"}}
        for t in TIERS
    ]
    (folder / "report.json").write_text(json.dumps({"tiers": tiers}))
    whole = {tier.name: {"top1_agreement": 1.0} for tier in TIERS}
    return sealed(made, provenance={"golden": {"tensorrt": whole, "cpu": whole}})


def spoil(bundle, tier, *, flipped):
    """Make ``flipped`` of the golden answers of ``tier`` others than its graphs give."""
    golden = read_golden(bundle.folder / FILE)
    logits = dict(golden.logits)
    changed = logits[tier].copy()
    changed[:flipped] = -changed[:flipped]
    write_golden(bundle.folder / FILE, Golden(golden.inputs, {**logits, tier: changed}))
    return sealed(bundle)


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_whole_bundle_is_proven(bundle):
    checks = verify(bundle)
    assert [(c.tier, c.form) for c in checks] == [
        ("lite", "tensorrt"),
        ("full", "tensorrt"),
        ("lite", "cpu"),
        ("full", "cpu"),
    ]
    assert all(check.ok and check.match.max_error < 1e-5 for check in checks)
    result = run("verify", bundle.folder)
    assert result.exit_code == 0
    assert result.stdout.startswith("small-host: 6 files match their sha256\n  ok    lite")


def test_verify_in_json(bundle):
    shown = json.loads(run("verify", bundle.folder, "--json").stdout)
    assert (shown["ok"], shown["problem"], len(shown["checks"])) == (True, None, 4)
    assert shown["checks"][0]["match"]["top1_agreement"] == 1.0


def test_one_sample_on_the_edge_may_fall_to_the_other_side(bundle):
    assert all(check.ok for check in verify(spoil(bundle, "full", flipped=1)))


def test_a_graph_that_answers_differently_is_named(bundle):
    spoil(bundle, "full", flipped=3)
    result = run("verify", bundle.folder)
    assert result.exit_code == 5
    assert "WRONG full (cpu)" in result.stdout
    assert "full (tensorrt), full (cpu) does not answer as it did" in result.stderr
    shown = json.loads(run("verify", bundle.folder, "--json").stdout)
    assert shown["ok"] is False
    assert {c["tier"] for c in shown["checks"] if not c["ok"]} == {"full"}


def edit(name, change):
    def broken(bundle):
        path = bundle.folder / name
        path.write_bytes(change(path.read_bytes()))

    return broken


def remove(name):
    return lambda bundle: (bundle.folder / name).unlink()


def resealed(change, **changes):
    """The files agree with their hashes, but what is in them is wrong."""

    def broken(bundle):
        change(bundle)
        sealed(bundle, **changes)

    return broken


BROKEN = {
    "a file that was changed": (
        edit("graphs/full.onnx", lambda b: b + b"x"),
        "full.onnx: sha256",
    ),
    "a file that was cut off": (edit(FILE, lambda b: b[:100]), "golden.npz: sha256"),
    "a file that is missing": (remove("graphs/lite.cpu.onnx"), "lite.cpu.onnx: No such file"),
    "a manifest that was cut off": (edit("bundle.json", lambda b: b[:99]), "cannot be read"),
    "no manifest": (remove("bundle.json"), "not a bundle"),
    "a graph that is none": (
        resealed(edit("graphs/full.onnx", lambda b: b"no graph")),
        "full.onnx: ONNX Runtime cannot load it",
    ),
    "golden samples that are none": (
        resealed(edit(FILE, lambda b: b[:100])),
        "golden.npz: cannot be read",
    ),
    "no golden samples": (resealed(remove(FILE)), "has no golden samples"),
    "a graph that is not listed": (
        resealed(remove("graphs/full.onnx")),
        "full.onnx: is not in the bundle's list",
    ),
    "no record of the export": (
        resealed(lambda bundle: None, provenance={"golden": {"cpu": {}}}),
        "does not say how well its tensorrt graphs agreed",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_broken_bundle_exits_with_5_and_names_the_file(bundle, how, form):
    damage, message = BROKEN[how]
    damage(bundle)
    result = run("verify", bundle.folder, *form)
    assert result.exit_code == 5
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 2, "a message and a hint"
    if form:
        assert json.loads(result.stdout)["ok"] is False


def test_golden_samples_of_another_network_are_refused(bundle):
    golden = read_golden(bundle.folder / FILE)
    write_golden(
        bundle.folder / FILE, Golden({"other": golden.inputs["values"]}, golden.logits)
    )
    with pytest.raises(BundleError, match="the golden samples have no 'values'"):
        verify(sealed(bundle))
    write_golden(bundle.folder / FILE, Golden(golden.inputs, {"lite": golden.logits["lite"]}))
    with pytest.raises(BundleError, match="of other tiers"):
        verify(sealed(bundle))


def test_golden_inputs_of_a_wrong_shape_are_refused(bundle):
    golden = read_golden(bundle.folder / FILE)
    wrong = Golden({"values": golden.inputs["values"][:, :2]}, golden.logits)
    write_golden(bundle.folder / FILE, wrong)
    with pytest.raises(BundleError, match=r"'values': expected float32 \[1, 4\]"):
        verify(sealed(bundle))


def test_golden_samples_come_back_as_they_were_written(tmp_path):
    golden = Golden({"x": np.arange(6.0).reshape(3, 2)}, {"only": np.eye(3)})
    write_golden(tmp_path / FILE, golden)
    back = read_golden(tmp_path / FILE)
    assert len(back) == 3
    assert [sample["x"].tolist() for sample in back.samples()] == [
        [[0.0, 1.0]],
        [[2.0, 3.0]],
        [[4.0, 5.0]],
    ]
    assert back.logits["only"].tolist() == np.eye(3).tolist()


def test_golden_arrays_of_unequal_length_are_refused(tmp_path):
    write_golden(tmp_path / FILE, Golden({"x": np.zeros((2, 1))}, {"only": np.eye(3)}))
    with pytest.raises(BundleError, match="holds no complete golden samples"):
        read_golden(tmp_path / FILE)


def test_a_nan_agrees_with_nothing():
    found = np.eye(2)
    found[0, 1] = np.nan
    assert compare(np.eye(2), found).top1_agreement == 0.5


def test_logits_of_another_shape_are_refused():
    with pytest.raises(BundleError, match=r"logits are \[2, 3\], but the golden ones \[2, 2\]"):
        compare(np.eye(2), np.zeros((2, 3)))


def test_measure_passes_an_earlier_tier_s_outputs_on(bundle):
    graphs = {tier.name: bundle.graph(tier.name, cpu=True) for tier in TIERS}
    matches = measure(graphs, TIERS, read_golden(bundle.folder / FILE), cpu=True)
    assert {name: match.top1_agreement for name, match in matches.items()} == {
        "lite": 1.0,
        "full": 1.0,
    }


def test_inspect_says_what_is_inside(bundle):
    shown = run("inspect", bundle.folder).stdout
    for line in (
        "labels: a b c",
        "  values: tensor, 1 x 4",
        "  lite: values -> logits, feature, 0.50 ms on a computer",
        "  full: feature -> logits",
        "  values: 0.750 at temperature 1.50",
        "  lite (cpu): 99.1% of 600 samples, float 99.3%",
        "  lite: TensorRT not checked",
    ):
        assert line in shown.splitlines()
    assert "graphs/full.cpu.onnx" in shown


def test_inspect_in_json(bundle):
    shown = json.loads(run("inspect", bundle.folder, "--json").stdout)
    assert shown["sizes_bytes"]["golden.npz"] == (bundle.folder / "golden.npz").stat().st_size
    assert shown["report"]["tiers"][0]["name"] == "lite"
    assert shown["policy"]["modes"]["values"]["threshold"] == 0.75


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is not a report"),
        ('{"a": 1}', "is not a report of this"),
    ],
)
def test_inspect_names_a_report_that_is_none(bundle, text, message):
    (bundle.folder / "report.json").write_text(text)
    result = run("inspect", bundle.folder)
    assert result.exit_code == 5
    assert f"report.json: {message}" in result.stderr


def test_inspect_names_a_file_that_is_missing(bundle):
    (bundle.folder / "graphs/full.onnx").unlink()
    result = run("inspect", bundle.folder)
    assert result.exit_code == 5
    assert "full.onnx: No such file" in result.stderr
