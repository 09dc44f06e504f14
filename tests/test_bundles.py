"""``inspect`` and ``verify`` on real, small bundles, whole and broken in every way we know."""

import contextlib
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model
from typer.testing import CliRunner

import mla_edge
from mla_edge.bundle import (
    CONFIDENCE,
    LEARNED,
    Bundle,
    ModePolicy,
    RouterPolicy,
    _seal,
    read_policy,
    sha256_of,
)
from mla_edge.cli import app
from mla_edge.engines import saturation
from mla_edge.engines.verification import measure, verify
from mla_edge.errors import BundleError, MissingDependency
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


def write_file(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


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


def test_a_policy_of_an_older_bundle_goes_by_confidence():
    policy = read_policy(
        {"modes": {"x": {"temperature": 2, "threshold": 0.5}}, "cost_ms": {}, "measured_on": ""}
    )
    assert policy.modes["x"] == ModePolicy(2.0, 0.5, CONFIDENCE, ())


def test_a_learned_score_comes_back_with_its_thresholds(bundle):
    policy = RouterPolicy({"values": ModePolicy(1.5, 0.9, LEARNED, (0.99, 0.9, 0.8))})
    lite = replace(TIERS[0], outputs=("logits", "score"))
    replace(bundle, policy=policy, tiers=(lite, *TIERS[1:])).write()
    assert Bundle.read(bundle.folder).policy.modes == policy.modes


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (ModePolicy(1.5, 0.9, LEARNED), "routes by a score that no tier gives"),
        (ModePolicy(1.5, 0.9, "luck"), "expected confidence or learned, found 'luck'"),
        (ModePolicy(1.5, 0.9, CONFIDENCE, (0.8, 0.9)), "the highest first"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(bundle, mode, message):
    replace(bundle, policy=RouterPolicy({"values": mode})).write()
    with pytest.raises(BundleError, match=message):
        Bundle.read(bundle.folder)


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
    assert (shown["ok"], shown["exit_code"]) == (False, 5)
    assert "does not answer as it did" in shown["problem"]
    assert {c["tier"] for c in shown["checks"] if not c["ok"]} == {"full"}


@pytest.mark.parametrize("saturates", [True, False])
def test_a_processor_that_cuts_off_sums_is_said_to_be_the_reason(
    bundle, monkeypatch, saturates
):
    monkeypatch.setattr(saturation, "saturates", lambda: saturates)
    write_graph(bundle.graph("full", cpu=True), TIERS[1], np.zeros((4, 3), np.float32))
    sealed(bundle, provenance={**bundle.provenance, "precision": "int8"})
    result = run("verify", bundle.folder)
    assert result.exit_code == 5
    assert "full (cpu) does not answer as it did" in result.stderr
    said = " ".join(result.stderr.split())
    assert ("this processor cuts off sums of INT8" in said) is saturates
    assert ("export --profile host on this machine" in said) is saturates
    assert ("export it again and verify the new one" in said) is not saturates
    spoil(Bundle.read(bundle.folder), "full", flipped=COUNT)  # both forms: another reason
    result = run("verify", bundle.folder)
    assert "export it again and verify the new one" in " ".join(result.stderr.split())


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


def manifest_with(*, sealed_again, change):
    """Change the manifest itself, as an editor would, or as one who knows how to seal it."""

    def broken(bundle):
        path = bundle.folder / "bundle.json"
        manifest = json.loads(path.read_text())
        change(manifest)
        if sealed_again:
            manifest["manifest_sha256"] = _seal(manifest)
        path.write_text(json.dumps(manifest))

    return broken


def put(*keys, value):
    """Put ``value`` where ``keys`` lead to in the manifest, which is then sealed again."""

    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return manifest_with(sealed_again=True, change=change)


def put_outside(bundle):
    """A graph that is a link to a file elsewhere; its hash is right."""
    path = bundle.folder / "graphs" / "full.onnx"
    outside = bundle.folder.parent / "outside.onnx"
    path.rename(outside)
    path.symlink_to(outside)


def loop(bundle):
    """A graph that is a link to a link to it."""
    path = bundle.folder / "graphs" / "full.onnx"
    path.unlink()
    path.symlink_to("again.onnx")
    path.with_name("again.onnx").symlink_to("full.onnx")


BROKEN = {
    "labels that were swapped": (
        manifest_with(sealed_again=False, change=lambda m: m["labels"].reverse()),
        "bundle.json: was changed",
    ),
    "a threshold that was changed": (
        manifest_with(
            sealed_again=False,
            change=lambda m: m["policy"]["modes"]["values"].update(threshold=0.1),
        ),
        "bundle.json: was changed",
    ),
    "a profile that was changed": (
        manifest_with(sealed_again=False, change=lambda m: m.update(profile="orin-nano")),
        "bundle.json: was changed",
    ),
    "no seal": (
        manifest_with(sealed_again=False, change=lambda m: m.pop("manifest_sha256")),
        "bundle.json: was changed",
    ),
    "inputs that the graphs do not take": (
        put("inputs", 0, "shape", value=[1, 5]),
        "takes 'values' as (1, 4), but it is (1, 5)",
    ),
    "a threshold beyond all floats": (
        put("policy", "modes", "values", "threshold", value=10**400),
        "bundle.json: ",
    ),
    "a label too many": (put("labels", value=["a", "b", "c", "d"]), "for 4 labels"),
    "labels that are one text": (put("labels", value="abc"), "expected a list"),
    "a label that is a number": (put("labels", 0, value=0), "expected text, found 0"),
    "no tiers": (put("tiers", value=[]), "expected a list of one or more"),
    "inputs that are a table": (put("inputs", value={}), "expected a list"),
    "a tier's inputs that are one text": (
        put("tiers", 0, "inputs", value="values"),
        "expected a list of one or more, found 'values'",
    ),
    "a tier's output that is a number": (
        put("tiers", 0, "outputs", value=["logits", 3]),
        "expected text, found 3",
    ),
    "a tier without outputs": (put("tiers", 1, "outputs", value=[]), "expected a list"),
    "a rate that is a text": (
        put("inputs", 0, "rate_hz", value="8000"),
        "expected a whole number above 0, found '8000'",
    ),
    "a rate that is broken": (put("inputs", 0, "rate_hz", value=0.5), "whole number"),
    "a shape with a zero": (put("inputs", 0, "shape", value=[1, 0]), "whole number"),
    "a shape that is a text": (put("inputs", 0, "shape", value="14"), "expected a list"),
    "a temperature of 0": (
        put("policy", "modes", "values", "temperature", value=0),
        "expected a temperature above 0",
    ),
    "a temperature that is NaN": (
        put("policy", "modes", "values", "temperature", value=float("nan")),
        "expected a finite number, found nan",
    ),
    "a threshold that is infinite": (
        put("policy", "modes", "values", "threshold", value=float("inf")),
        "expected a finite number, found inf",
    ),
    "a threshold that is a text": (
        put("policy", "modes", "values", "threshold", value="0.5"),
        "expected a finite number, found '0.5'",
    ),
    "a cost that is a text": (
        put("policy", "cost_ms", "lite", value="little"),
        "expected a finite number, found 'little'",
    ),
    "modes that are a list": (put("policy", "modes", value=[1]), "bundle.json: "),
    "a file above the folder": (put("files", "../x", value="0"), "'../x' leaves the bundle"),
    "a file by its whole path": (put("files", "/etc/x", value="0"), "leaves the bundle"),
    "a link out of the folder": (put_outside, "'graphs/full.onnx' leaves the bundle"),
    "a link that loops": (loop, "full.onnx"),
    "a tier in another folder": (
        put("tiers", 0, "name", value="a/b"),
        "tier 'a/b' leaves the bundle",
    ),
    "a file that was changed": (
        edit("graphs/full.onnx", lambda b: b + b"x"),
        "full.onnx: sha256",
    ),
    "a file that was cut off": (edit(FILE, lambda b: b[:100]), "golden.npz: sha256"),
    "a file that is missing": (remove("graphs/lite.cpu.onnx"), "lite.cpu.onnx: No such file"),
    "a manifest that was cut off": (edit("bundle.json", lambda b: b[:99]), "cannot be read"),
    "a manifest nested too deeply": (
        edit("bundle.json", lambda b: b"[" * 200_000),
        "bundle.json: cannot be read",
    ),
    "no manifest": (remove("bundle.json"), "not a bundle"),
    "a manifest of another program": (
        edit("bundle.json", lambda b: b'{"format": 99, "name": "x"}'),
        "bundle.json: format 99, this version reads format 1",
    ),
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
    "a graph too many": (
        lambda bundle: (bundle.folder / "graphs/other.onnx").write_bytes(b"graph"),
        "graphs/other.onnx: is not in the bundle's list",
    ),
    "an engine too many": (
        lambda bundle: write_file(bundle.folder / "engines/orin/lite.plan", b"plan"),
        "engines/orin/lite.plan: is not in the bundle's list",
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
        shown = json.loads(result.stdout)
        assert (shown["ok"], shown["exit_code"]) == (False, 5)
        assert message in shown["problem"]
        assert shown["fix"]


FOREIGN = {
    "of a later version": '{"format": 99, "name": "x"}',
    "of another program": '{"name": "x", "models": []}',
    "nested too deeply": "[" * 200_000,
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize(
    "words", [["verify"], ["inspect"], ["run", "--camera", "sim://digits", "--bundle"]]
)
def test_a_foreign_bundle_is_refused_by_every_command(bundle, what, words):
    (bundle.folder / "bundle.json").write_text(FOREIGN[what])
    result = run(*words, bundle.folder)
    assert result.exit_code == 5
    assert "bundle.json: " in result.stderr
    assert "export it again" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("package", "fix"),
    [("cv2", "pip install opencv-python-headless"), ("soxr", "pip install soxr")],
)
@pytest.mark.parametrize(
    "words", [["verify"], ["run", "--camera", "sim://digits", "--mic", "none", "--bundle"]]
)
def test_a_package_that_preprocessing_lacks_is_named(bundle, monkeypatch, package, fix, words):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "mla_edge.preprocess", raising=False)
    result = run(*words, bundle.folder)
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1] == f"  {fix}"
    assert "cannot be loaded" in result.stderr
    assert "Traceback" not in result.output
    with pytest.raises(MissingDependency) as caught:
        mla_edge.load(bundle.folder)
    assert caught.value.hint == fix


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


def test_golden_samples_whose_compression_is_damaged_are_refused(tmp_path):
    path = tmp_path / FILE
    write_golden(path, Golden({"x": np.arange(3000.0)[:, None]}, {"only": np.ones((3000, 2))}))
    whole = path.read_bytes()
    for place in range(40, len(whole), 97):
        path.write_bytes(
            whole[:place] + bytes(b ^ 0xFF for b in whole[place:][:8]) + whole[place + 8 :]
        )
        with contextlib.suppress(BundleError):
            assert read_golden(path).logits["only"].shape[1:] == (2,)
    path.write_bytes(whole[:60] + b"\xff" * 20 + whole[80:])
    with pytest.raises(BundleError, match="golden.npz: cannot be read"):
        read_golden(path)


def test_one_array_is_not_golden_samples(tmp_path):
    with (tmp_path / FILE).open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(BundleError, match="golden.npz: cannot be read"):
        read_golden(tmp_path / FILE)


def test_the_order_and_spaces_of_a_manifest_do_not_matter(bundle):
    path = bundle.folder / "bundle.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(list(manifest.items()))), indent=8))
    assert Bundle.read(bundle.folder) == bundle


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
        pytest.param("[" * 200_000, "cannot be read", id="nested too deeply"),
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
