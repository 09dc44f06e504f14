"""What people get wrong: a message with the fix, the right exit code, nothing left."""

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mla_edge.cli import app

EXAMPLE = Path(__file__).parents[2] / "examples" / "your_network"
ALARMS = f"{EXAMPLE / 'alarms.py'}:make_network"

NETWORK = """
import numpy as np, torch
from mla_edge.networks import Network, TierNetwork
from mla_edge.signals import InputSpec, Reading, Sample, Tier

def samples(split, count, seed):
    random = np.random.default_rng([seed, *split.encode()])
    rows = random.normal(size=(count, 1, 8)).astype(np.float32)
    return [Sample({"imu": Reading(row, 0.0, "ab"[int(row[0, 0] > 0)])}) for row in rows]

def network(module, outputs=("logits",), labels=("a", "b"), samples=samples):
    tier = TierNetwork(Tier("only", ("imu",), outputs), module.eval())
    return Network("mine", labels, (InputSpec("imu", "tensor", (1, 8)),), (tier,), samples)

class Odd(torch.nn.Module):
    def forward(self, x):
        return torch.stack([torch.special.i0(x[:, 0]), x[:, 1]], 1)

class Wide(torch.nn.Module):
    def forward(self, x):
        return x[:, :5]

class Wrong(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(9, 2)
    def forward(self, x):
        return self.body(x)

class NaN(torch.nn.Module):
    def forward(self, x):
        return x[:, :2] / 0 * 0

class Mine(Exception):
    pass

class Raises(torch.nn.Module):
    def forward(self, x):
        raise Mine("as I say")

class Inverse(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.inv(x[:, :4].reshape(-1, 2, 2)).flatten(1)[:, :2]

class Determinant(torch.nn.Module):
    def forward(self, x):
        return x[:, 4:6] + torch.linalg.det(x[:, :4].reshape(-1, 2, 2))[:, None]

def determinant(): return network(Determinant())
def odd(): return network(Odd())
def wide(): return network(Wide())
def wrong(): return network(Wrong())
def nan(): return network(NaN())
def wants(size): return network(torch.nn.Linear(size, 2))
def fails(): return network(torch.nn.Linear(8, "two"))
def raises(): return network(Raises())
def builds_with_mine(): raise Mine("as I say")
def keyless():
    return network(torch.nn.Linear(8, 2), samples=lambda split, count, seed: {}[split])
def no_samples():
    return network(torch.nn.Linear(8, 2), samples=lambda split, count, seed: [None] * count)
def one_sample():
    return network(torch.nn.Linear(8, 2), samples=lambda *given: samples(*given)[:1])
def one_split():
    return network(torch.nn.Linear(8, 2), samples=lambda _, *given: samples("all", *given))
def inverse(): return network(Inverse())
def number(): return 42
def training():
    made = network(torch.nn.Linear(8, 2))
    made.tiers[0].module.train()
    return made
def nameless(): return network(torch.nn.Linear(8, 2), outputs=("scores",))
def bad_samples():
    return network(torch.nn.Linear(8, 2), samples=lambda split, count, seed: [
        Sample({"imu": Reading(np.full((1, 8), np.nan, np.float32), 0.0, "a")})] * count)
def wrong_truth():
    return network(torch.nn.Linear(8, 2), samples=lambda split, count, seed: [
        Sample({"imu": Reading(np.random.default_rng(i).normal(size=(1, 8)), 0.0, "z")})
        for i in range(count)])
"""


@pytest.fixture
def export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "steps"))
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "broken.py").write_text("def make(:\n")

    def invoke(*words):
        if "--calibration" not in words:
            words = (*words, "--calibration", "quick")
        done = CliRunner().invoke(app, ["export", *words])
        assert "Traceback" not in done.output
        assert done.exit_code == 0 or not (tmp_path / "bundles").exists()
        assert not list(tmp_path.rglob("*.partial"))
        return done

    return invoke


@pytest.mark.parametrize(
    ("network", "code", "message"),
    [
        ("none.py:make", 2, "none.py: no such file"),
        ("net.py:absent", 2, "has no function 'absent'"),
        ("net.py:number", 2, "gave a int, not a Network"),
        ("net.py:wants", 2, "net.py:wants cannot be called"),
        ("net.py:fails", 2, "net.py:fails does not build: TypeError"),
        ("net.py", 2, "is no network"),
        ("weights.onnx", 2, "weights alone are no network"),
        ("broken.py:make", 2, "broken.py: cannot be imported"),
        ("no_such_package.net:make", 2, "no_such_package.net: cannot be imported"),
        ("net.py:training", 2, "is in training mode"),
        ("net.py:nameless", 2, "first output of every tier is called logits"),
        ("net.py:bad_samples", 2, "imu: has values that are not finite (NaN or infinite)"),
        ("net.py:wrong_truth", 2, "'z', which is no label"),
        (
            "net.py:builds_with_mine",
            2,
            "net.py:builds_with_mine does not build: Mine: as I say",
        ),
        ("net.py:keyless", 2, "raises KeyError: 'calibrate'"),
        ("net.py:no_samples", 2, "sample 0 is a NoneType"),
        ("net.py:one_sample", 2, "('calibrate', 48, 0) gave 1 samples of the 48"),
        ("net.py:one_split", 2, "'calibrate' and 'tune' samples are the same"),
        ("net.py:raises", 7, "tier 'only' does not run: Mine: as I say (net.py, line "),
        ("net.py:wide", 7, "[1, 5]"),
        ("net.py:wrong", 7, "does not run"),
        ("net.py:nan", 7, "NaN"),
        ("net.py:inverse", 7, "linalg"),
        ("net.py:odd", 7, "i0"),
    ],
)
def test_a_network_that_cannot_be_exported(export, network, code, message):
    done = export(network, "--profile", "agx-xavier")
    assert done.exit_code == code, done.output
    assert message in done.stderr


def test_an_operator_that_onnx_does_not_have_at_this_opset_is_named(export, tmp_path):
    (tmp_path / "fancy.py").write_text(
        NETWORK
        + """
class Fancy(torch.nn.Module):
    def forward(self, x):
        return torch.bitwise_xor(x[:, :2].to(torch.int32), 1).float()

def fancy(): return network(Fancy())
"""
    )
    done = export("fancy.py:fancy", "--profile", "agx-orin")
    assert done.exit_code == 7, done.output
    assert "Bitwise" in done.stderr or "bitwise" in done.stderr


def test_an_operator_that_the_board_does_not_have_is_named_with_its_node(export):
    done = export("net.py:determinant", "--profile", "agx-xavier")
    assert done.exit_code == 7, done.output
    assert "check_operators: /Det: TensorRT 8.5 has no operator Det" in done.stderr
    assert "write that part of the network with other operators" in done.stderr


def test_no_profile_is_answered_with_all_of_them(export):
    done = export()
    assert done.exit_code == 2
    assert "agx-xavier" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--profile", "agx-xaver"), "agx-xavier"),
        (("--profile", "nowhere.toml"), "nowhere.toml: no such file"),
        (("--profile", "host", "--recipe", "defalt"), "default"),
        (("--profile", "host", "--recipe", "nowhere.toml"), "nowhere.toml: no such file"),
        (("--profile", "host", "--calibration", "quik"), "quick"),
        (("--profile", "host", "--calibration", "nowhere.npz"), "nowhere.npz: no such file"),
        (("--profile", "host", "--data", "nowhere"), "nowhere: no such folder"),
        (("--profile", "tx2"), "not supported"),
        (("--profile", "host", "--max-drop", "inf"), "--max-drop inf is no number of points"),
        (("--profile", "host", "--max-drop", "nan"), "--max-drop"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_or_the_fix(export, words, message):
    done = export(ALARMS, *words)
    assert done.exit_code == 2, done.output
    assert message in done.stderr


@pytest.mark.parametrize("drop", ["inf", "nan"])
def test_a_build_needs_a_number_of_points_too(drop):
    done = CliRunner().invoke(app, ["build", "bundles/none", "--max-drop", drop])
    assert done.exit_code == 2, done.output
    assert "--max-drop" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize("threads", [-5, 100_000])
def test_a_profile_with_threads_that_cannot_be_is_refused(export, tmp_path, threads):
    (tmp_path / "mine.toml").write_text(
        f'title = "x"\nopset = 17\nprecisions = ["fp32"]\nthreads = {threads}\n'
    )
    done = export(ALARMS, "--profile", "mine.toml")
    assert done.exit_code == 2, done.output
    assert f"mine.toml: threads = {threads}" in done.stderr
    assert "0 for every core" in done.stderr


def test_a_recipe_key_that_does_not_exist_is_named(export, tmp_path):
    (tmp_path / "mine.toml").write_text(
        'title = "x"\nprecision = "int8"\ncalibration = "quick"\nprecison = 1\n'
    )
    done = export(ALARMS, "--profile", "host", "--recipe", "mine.toml")
    assert done.exit_code == 2
    assert "mine.toml" in done.stderr
    assert "precison" in done.stderr


@pytest.mark.parametrize("opset", [9, 42])
def test_an_opset_that_nobody_writes_is_refused(export, tmp_path, opset):
    profile = f'title = "x"\nopset = {opset}\nprecisions = ["fp32", "int8"]\n'
    (tmp_path / "mine.toml").write_text(profile)
    done = export(ALARMS, "--profile", "mine.toml")
    assert done.exit_code == 2, done.output
    assert f"opset {opset} cannot be written" in done.stderr


def test_weights_that_were_cut_off_are_named(export, tmp_path):
    for name in ("alarms.py", "alarms.safetensors"):
        (tmp_path / name).write_bytes((EXAMPLE / name).read_bytes())
    weights = tmp_path / "alarms.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = export("alarms.py:make_network", "--profile", "host")
    assert done.exit_code == 2, done.output
    assert "alarms.py:make_network does not build: SafetensorError" in done.stderr
    assert "are its weights whole" in done.stderr


def test_recorded_samples_with_nan_are_refused(export, tmp_path):
    audio = np.random.default_rng(0).normal(0, 0.1, (40, 6000)).astype(np.float32)
    audio[7, 3] = np.nan
    np.savez(tmp_path / "mine.npz", audio=audio)
    done = export(ALARMS, "--profile", "host", "--calibration", "mine.npz")
    assert done.exit_code == 2, done.output
    assert "sample 7: audio" in done.stderr


def test_random_samples_are_refused(export, tmp_path):
    (tmp_path / "mine.toml").write_text('source = "random"\n')
    done = export(ALARMS, "--profile", "host", "--calibration", "mine.toml")
    assert done.exit_code == 2
    assert "ranges of noise are not ranges of your data" in done.stderr


def run_alone(tmp_path, *words, **how):
    """The command in a process of its own, with its own cache."""
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "steps"),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-m", "mla_edge", "export", ALARMS, "--calibration", "quick", *words],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(EXAMPLE.parents[1])},
        capture_output=True,
        text=True,
        check=False,
        **how,
    )
    assert "Traceback" not in done.stderr
    return done


def test_a_disk_that_is_full_exits_with_7_and_leaves_nothing(tmp_path):
    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = run_alone(tmp_path, "--profile", "host", preexec_fn=no_large_files)
    assert done.returncode == 7, done.stderr
    assert "nothing was published" in done.stderr
    assert "free some space, or choose another --out" in done.stderr
    assert not (tmp_path / "bundles").exists()
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".partial")]


def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    def no_privilege():
        # Even root obeys a folder's mode without CAP_DAC_OVERRIDE; others never had it.
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP

    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    done = run_alone(
        tmp_path,
        *("--profile", "host", "--out", str(locked / "out")),
        preexec_fn=no_privilege,
    )
    locked.chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert f"{locked / 'out'}: cannot be written: Permission denied" in done.stderr
    assert "choose another folder with --out" in done.stderr
    assert list(locked.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(export, tmp_path):
    (tmp_path / "file").write_text("x")
    done = export(ALARMS, "--profile", "host", "--out", "file/out")
    assert done.exit_code == 2
    assert "cannot be written" in done.stderr
