"""``record`` and ``replay`` as a person types them."""

import json
import resource
import shutil
import signal
import subprocess
import sys

import pytest
from colours import make_bundle
from typer.testing import CliRunner

from mla_edge.cli import app
from mla_edge.recording_reader import RecordingReader
from mla_edge.signals import Prediction

SIMULATED = ["--camera", "sim://digits?size=96x64", "--mic", "sim://digits"]


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def lines(text):
    *decisions, last = [json.loads(line) for line in text.splitlines()]
    return decisions, last


def test_live_decisions_are_those_of_a_lossless_replay_at_any_speed(here):
    """In real time, on the simulator: also latencies and ages, for they are of the record."""
    live = call("record", "out.mcap", *SIMULATED, "--duration", 1.5, "--lossless", "--json")
    assert live.exit_code == 0, live.stderr
    made, told = lines(live.stdout)
    recording = told["summary"]["recording"]
    assert recording["files"] == ["out.mcap"]
    assert recording["recorded"]["decisions"] == len(made) > 10
    assert recording["left_out"] == {}
    assert recording["stopped"] is None

    fast = call("replay", "out.mcap", "--json")
    assert (fast.exit_code, fast.stderr) == (0, "")  # the recorded bundle was found
    again, summary = lines(fast.stdout)
    assert again == made
    slow = call("replay", "out.mcap", "--speed", 4, "--json")
    assert slow.stdout == fast.stdout  # the summary too

    replayed = summary["summary"].pop("replay")
    assert replayed["lossless"] and replayed["same_bundle"]
    assert (replayed["compared"], replayed["different"]) == (len(made), 0)
    for name in ("tiers", "modes", "latency_ms", "age_ms", "accuracy", "faults"):
        assert summary["summary"][name] == told["summary"][name]


def test_a_run_with_a_deadline_is_recorded_and_replayed_alike(here):
    words = ["--duration", 1, "--lossless", "--json"]
    live = call("record", "out.mcap", *SIMULATED, *words, "--deadline-ms", 0.01)
    made, told = lines(live.stdout)
    assert live.exit_code == 0, live.stderr
    assert "deadline" in {decision["reason"] for decision in made}
    again, summary = lines(call("replay", "out.mcap", "--json").stdout)
    assert again == made
    assert summary["summary"]["replay"]["different"] == 0
    assert summary["summary"]["deadline"] == told["summary"]["deadline"]
    assert summary["summary"]["deadline"]["ms"] == 0.01


def test_people_are_told_how_it_went(here):
    done = call("record", "out.mcap", *SIMULATED, "--duration", 1, "--as-fast-as-possible")
    assert done.stdout.splitlines()[-1].startswith("recording   out.mcap, 0.")
    again = call("replay", "out.mcap")
    assert again.exit_code == 0
    *_, replayed, here_ms = again.stdout.splitlines()
    assert replayed.startswith("replay      of 30 decisions 0 have another label")
    assert here_ms.startswith("here        p50 ")
    assert again.stdout.splitlines()[0].startswith("   0.00 s  ")


def test_the_recording_does_not_change_what_is_decided(here):
    words = [*SIMULATED, "--duration", 1, "--as-fast-as-possible", "--json"]
    plain, _ = lines(call("run", *words).stdout)
    recorded, _ = lines(call("record", "out.mcap", *words).stdout)
    for decision in plain + recorded:
        del decision["latency_ms"]
    assert recorded == plain


def test_another_bundle_is_said_and_compared(here):
    call("record", "out.mcap", *SIMULATED, "--duration", 1, "--as-fast-as-possible")
    other = make_bundle(here / "other", labels=("a", "b", "c"))
    again = call("replay", "out.mcap", "--bundle", other.folder, "--json")
    assert again.exit_code == 0
    assert again.stderr.startswith("recorded with another bundle: colours-host (sha256 ")
    replayed = lines(again.stdout)[1]["summary"]["replay"]
    assert not replayed["same_bundle"]
    assert replayed["other_label"] == replayed["compared"] == 30
    assert replayed["first_s"] == 0.0


def test_a_recorded_bundle_that_is_gone_is_replaced_by_the_newest(here):
    call("record", "out.mcap", *SIMULATED, "--duration", 1, "--as-fast-as-possible")
    shutil.rmtree(here / "bundles/colours-host")
    make_bundle(here / "bundles" / "new-host", created="2027-01-01T00:00:00Z")
    again = call("replay", "out.mcap")
    assert again.exit_code == 0
    assert again.stderr.startswith("bundle bundles/new-host, made 2027")


def test_what_is_no_recording_exits_with_5(here):
    (here / "text.mcap").write_text("no recording")
    for name in ("text.mcap", "none.mcap"):
        refused = call("replay", name, "--json")
        assert refused.exit_code == 5
        assert json.loads(refused.stdout)["exit_code"] == 5
        assert name in refused.stderr


def test_a_file_that_is_cut_is_replayed_and_said(here):
    call("record", "out.mcap", *SIMULATED, "--duration", 6, "--as-fast-as-possible")
    data = (here / "out.mcap").read_bytes()
    (here / "out.mcap").write_bytes(data[: int(len(data) * 0.57)])
    again = call("replay", "out.mcap", "--json")
    assert again.exit_code == 0
    assert again.stderr.startswith("out.mcap: is cut off or damaged near its end")
    replayed = lines(again.stdout)[1]["summary"]["replay"]
    assert 30 < replayed["compared"] < 180 * 0.57
    assert len(replayed["problems"]) == 1


def test_nothing_is_overwritten_unless_told(here):
    (here / "out.mcap").write_text("precious")
    words = ["record", "out.mcap", *SIMULATED, "--duration", 0.2, "--as-fast-as-possible"]
    refused = call(*words)
    assert refused.exit_code == 2
    assert "out.mcap is there already\n  give another name, or --overwrite" in refused.stderr
    assert (here / "out.mcap").read_text() == "precious"
    assert call(*words, "--overwrite").exit_code == 0
    assert (here / "out.mcap").read_bytes()[:5] == b"\x89MCAP"


def test_options_that_make_no_sense_open_nothing(here):
    for words, message in [
        (["--keep-parts", "2"], "--keep-parts"),
        (["--max-mb", "0"], "--max-mb"),
        (["--max-mb", "3", "--rotate-mb", "2"], "no room for two files"),
    ]:
        refused = call("record", "out.mcap", *SIMULATED, *words)
        assert refused.exit_code == 2
        assert message in refused.stderr
    assert not list(here.glob("*.mcap"))


def test_a_camera_that_does_not_open_leaves_no_file(here):
    refused = call("record", "out.mcap", "--camera", "no-such-file.avi", "--mic", "none")
    assert refused.exit_code == 6
    assert not list(here.glob("*.mcap"))


def test_a_room_that_is_used_up_is_said_and_no_failure(here):
    words = ["--duration", 4, "--as-fast-as-possible", "--lossless", "--max-mb", 1, "--json"]
    done = call("record", "out.mcap", *SIMULATED, *words)
    assert done.exit_code == 0
    assert done.stderr.count("recording stopped: out.mcap has reached its --max-mb") == 1
    decisions, last = lines(done.stdout)
    assert len(decisions) == 120
    assert last["summary"]["recording"]["stopped"] == "out.mcap has reached its --max-mb"


def start(here, *words, **how):
    return subprocess.Popen(
        [sys.executable, "-m", "mla_edge", *map(str, words)],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def test_a_disk_that_fills_up_is_said_once_and_deciding_goes_on(here):
    """A limit on the size of files refuses what is too much, as a full disk does."""

    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    words = ["--lossless", "--duration", 2.5, "--json"]
    process = start(here, "record", "out.mcap", *SIMULATED, *words, preexec_fn=no_large_files)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 3, stderr
    assert stderr.count("recording stopped: out.mcap: File too large; deciding goes on\n") == 1
    assert "mla-edge: recording stopped: out.mcap: File too large\n  free some space" in stderr
    assert "Traceback" not in stderr
    decisions, last = lines(stdout)
    assert (last["ok"], last["exit_code"]) == (False, 3)
    assert last["summary"]["recording"]["stopped"] == "out.mcap: File too large"
    again = call("replay", "out.mcap", "--json")
    assert again.exit_code == 0
    kept = lines(again.stdout)[1]["summary"]["replay"]["compared"]
    assert 5 < kept < len(decisions) - 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_whole_file(here, number):
    process = start(here, "record", "out.mcap", *SIMULATED, "--json")
    first = [process.stdout.readline() for _ in range(5)]
    process.send_signal(number)
    rest, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    decisions, last = lines("".join(first) + rest)
    assert last["summary"]["recording"]["recorded"]["decisions"] == len(decisions)
    reader = RecordingReader(here / "out.mcap")
    found = [event for event in reader if isinstance(event, Prediction)]
    assert reader.problems == []
    assert len(found) == len(decisions)


def test_a_killed_recorder_leaves_what_it_had_flushed(here):
    process = start(here, "record", "out.mcap", *SIMULATED, "--json")
    size = 0
    while size < 100_000:
        process.stdout.readline()
        size = (here / "out.mcap").stat().st_size
    process.kill()
    process.communicate(timeout=60)
    again = call("replay", "out.mcap", "--json")
    assert again.exit_code == 0, again.stderr
    assert "is cut off" in again.stderr
    assert lines(again.stdout)[1]["summary"]["replay"]["compared"] > 5


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("record", "mcap.writer"),
        ("record", "google.protobuf"),
        ("replay", "mcap.stream_reader"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_command(here, command, module):
    code = (
        f"import sys; sys.modules[{module!r}] = None; from mla_edge.__main__ import main; "
        f"sys.argv = ['mla-edge', {command!r}, 'out.mcap']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "pip install 'mla-edge[record]'" in done.stderr
    assert not list(here.glob("*.mcap"))
