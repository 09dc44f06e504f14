"""``certify`` on whole sessions: what the policy's memory may lose, replayed as it runs."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from colours import COLOURS, frame, make_bundle, sample
from recorded import session_of
from test_certification import call
from test_certification import record as record_moments

import mla_edge
from mla_edge import certificate as certificates
from mla_edge.bundle import Bundle
from mla_edge.certificate import read_certificate
from mla_edge.certify import fewest_sessions
from mla_edge.errors import ConfigError
from mla_edge.runtime.change import Look
from mla_edge.runtime.recorder import Recorder
from mla_edge.runtime.recording_parts import Room
from mla_edge.runtime.session_certification import certify_sessions, find_sessions
from mla_edge.signals import Frame, Prediction

SESSIONS, TICKS, RATE_HZ = 13, 32, 25
LEVELS = ("--epsilon", 0.2, "--delta", 0.1)


def record_session(path, bundle, shown, truth=None, reasons=("x",), **options):
    """A session of the camera alone, a decision a frame, for ``reasons`` in turn."""
    with Recorder(path, session_of(bundle), waits=True, **options) as recorder:
        for number, colour in enumerate(shown):
            time_s = number / RATE_HZ
            picture = np.full((16, 16, 3), COLOURS[colour], np.uint8)
            recorder.see(Frame(picture, time_s, truth))
            why = reasons[number % len(reasons)]
            recorder.add(
                Prediction("?", 1.0, "full", why, "image", {"image": time_s}, time_s, 1, 1)
            )
    return path


@pytest.fixture(scope="module")
def switching(tmp_path_factory, module_bundle):
    """Red becomes blue in each session, at another tick."""
    folder = tmp_path_factory.mktemp("sessions")
    rng = np.random.default_rng(0)
    for number in range(SESSIONS):
        reds = int(rng.integers(5, 12))
        shown = ["red"] * reds + ["blue"] * (TICKS - reds)
        record_session(folder / f"{number:02}.mcap", module_bundle, shown)
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory, module_bundle):
    """As many sessions, of one decision each."""
    folder = tmp_path_factory.mktemp("short")
    for number, colour in enumerate(SESSIONS * ["red"]):
        record_session(folder / f"{number:02}.mcap", module_bundle, [colour])
    return folder


@pytest.fixture(scope="module")
def module_bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("module") / "colours-host")


@pytest.fixture
def blind(monkeypatch):
    """The policy sees no change: what was decided is used again for as long as it may be."""
    monkeypatch.setattr(Look, "same", lambda self, other: True)


@pytest.mark.usefixtures("blind")
def test_the_longest_reuse_that_holds_is_certified_and_shown(small_bundle, switching):
    assert fewest_sessions(0.2, 0.1) <= SESSIONS
    done = call("certify", small_bundle.folder, "--recording", switching, *LEVELS, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)["sessions"]
    means = told["mean_loss_by_reuse_ms"]
    assert means["0"] == 0.0
    assert list(means.values()) == sorted(means.values())
    assert means["1000"] > 0.2  # red for up to a second
    assert told["reuse_ms"] in (100, 200)  # three or five ticks of blue called red
    assert told["mean_loss"] == means[f"{told['reuse_ms']:g}"]
    assert told["decisions"] == SESSIONS * TICKS
    assert (
        "with probability at least 0.9 over the 13 sessions that certified it, on average at "
        "most 0.2 of the decisions of a session are others than the full tier's, with "
        f"decisions reused for up to {told['reuse_ms']:g} ms"
    ) in told["claim"]
    assert f"whole sessions: {told['claim']}" in call("inspect", small_bundle.folder).stdout
    held = read_certificate(Bundle.read(small_bundle.folder)).sessions
    assert held.claim() == told["claim"]


@pytest.mark.usefixtures("blind")
def test_what_full_does_not_know_either_is_no_loss(small_bundle, tmp_path):
    for number in range(SESSIONS):
        shown = ["red"] * 5 + ["blue"] * 5
        record_session(tmp_path / f"{number}.mcap", small_bundle, shown, truth="red")
    held = certify_sessions(small_bundle.folder, tmp_path, epsilon=0.2, delta=0.1).certificate
    assert (held.reuse_ms, held.mean_loss, held.labelled) == (1000, 0.0, True)
    assert "are wrong where the full tier's is right" in held.claim()


def test_a_run_that_reuses_as_was_certified_is_covered_in_each_decision(
    small_bundle, short, monkeypatch
):
    outcome = certify_sessions(small_bundle.folder, short, epsilon=0.2, delta=0.1)
    id_ = read_certificate(outcome.bundle).id
    for reuse_ms, expected in ((None, id_), (200, id_), (150, None)):
        with mla_edge.load(small_bundle.folder, reuse_ms=reuse_ms) as model:
            shown = [sample(image=frame("red", tick / RATE_HZ)) for tick in range(2)]
            made = [model.infer(each) for each in shown]
        assert {prediction.certificate for prediction in made} == {expected}
        assert (made[1].reason == "unchanged") == (reuse_ms is not None)
        with mla_edge.load(small_bundle.folder, reuse_ms=reuse_ms, audit_rate=0.1) as model:
            assert ("audits do not watch" in model.note) == (expected is not None)
    monkeypatch.setattr(certificates, "policy_code", lambda: "another")
    with mla_edge.load(small_bundle.folder) as model:
        assert model.infer(sample(image=frame("red"))).certificate is None
    assert "what is certified of whole sessions does not hold here: the code" in model.note


def test_thresholds_that_were_changed_by_hand_void_what_is_certified_of_sessions(
    small_bundle, short
):
    bundle = certify_sessions(small_bundle.folder, short, epsilon=0.2, delta=0.1).bundle
    modes = {
        mode: replace(each, threshold=each.threshold / 2)
        for mode, each in bundle.policy.modes.items()
    }
    changed = replace(bundle.policy, modes=modes)
    replace(bundle, policy=changed).write()
    with mla_edge.load(small_bundle.folder) as model:
        assert model.infer(sample(image=frame("red"))).certificate is None
    void = "what is certified of whole sessions does not hold here: the thresholds are others"
    assert void in model.note
    slower = replace(bundle.policy, cost_ms={"lite": 9.0, "full": 99.0})
    replace(bundle, policy=slower).write()
    with mla_edge.load(small_bundle.folder) as model:  # what it costs is not what it does
        assert model.infer(sample(image=frame("red"))).certificate is not None


def test_a_policy_that_sees_the_change_may_reuse_for_long(small_bundle, switching):
    held = certify_sessions(small_bundle.folder, switching, epsilon=0.2, delta=0.1).certificate
    assert (held.reuse_ms, held.mean_loss) == (1000, 0.0)


def test_sessions_that_lose_are_not_certified_and_the_attempt_is_kept(contrary, tmp_path):
    bundle = contrary(6)  # lite is sure of what full never says
    for number in range(SESSIONS):
        record_session(tmp_path / f"{number}.mcap", bundle, ["red"] * (number % 3 + 1))
    done = call("certify", bundle.folder, "--recording", tmp_path, *LEVELS)
    assert done.exit_code == 4
    assert "even without reuse 100.00% of the decisions of a session are lost" in done.stderr
    found = read_certificate(Bundle.read(bundle.folder))
    assert (found.sessions, [attempt.failed for attempt in found.attempts]) == (
        None,
        [("sessions",)],
    )
    assert "nothing was certified" in call("inspect", bundle.folder).stdout


@pytest.mark.parametrize("reason", ["heat", "power"])
def test_what_heat_or_power_held_back_is_no_decision_of_the_claim(tmp_path, contrary, reason):
    bundle = contrary(1)  # lite is never sure enough, and never says what full says
    for number in range(SESSIONS):
        shown = ["red"] * (4 + number)
        record_session(
            tmp_path / f"{number}.mcap", bundle, shown, reasons=(reason, "escalated")
        )
    done = call("certify", bundle.folder, "--recording", tmp_path, *LEVELS, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)["sessions"]
    held_back = sum((4 + number + 1) // 2 for number in range(SESSIONS))
    assert told["left_out"] == held_back
    assert told["decisions"] == sum(range(4, 4 + SESSIONS)) - held_back
    assert told["mean_loss"] == 0.0  # full answered all the others
    assert "of a session that no deadline, heat or power holds back are others" in told["claim"]


def test_a_decision_that_lite_kept_all_the_same_is_compared_with_full(tmp_path, contrary):
    bundle = contrary(6)  # lite is sure: nothing has to be held back, and nothing is left out
    for number in range(SESSIONS):
        shown = ["red"] * (number + 1)
        record_session(tmp_path / f"{number}.mcap", bundle, shown, reasons=("heat",))
    outcome = certify_sessions(bundle.folder, tmp_path, epsilon=0.2, delta=0.1)
    assert outcome.certificate is None
    assert (outcome.mean_loss[0.0], outcome.left_out) == (1.0, 0)


def test_a_session_that_was_held_back_throughout_is_refused_and_not_used_up(tmp_path, contrary):
    bundle = contrary(1)
    for number in range(SESSIONS):
        reasons = ("heat",) if number == 3 else ("escalated",)
        record_session(
            tmp_path / f"{number}.mcap", bundle, ["red"] * (number + 1), None, reasons
        )
    with pytest.raises(
        ConfigError, match=r"3\.mcap: a deadline, heat or power held the full tier back"
    ):
        certify_sessions(bundle.folder, tmp_path, epsilon=0.2, delta=0.1)
    assert read_certificate(Bundle.read(bundle.folder)) is None


def test_what_was_certified_of_sessions_stays_where_others_fail_and_that_is_said(
    tmp_path, contrary
):
    bundle = contrary(1)
    for name, reds in (("good", 1), ("bad", 2)):
        (tmp_path / name).mkdir()
        for number in range(SESSIONS):
            path = tmp_path / name / f"{number}.mcap"
            record_session(path, bundle, ["red"] * (reds + 2 * number))
    outcome = certify_sessions(bundle.folder, tmp_path / "good", epsilon=0.2, delta=0.1)
    held = outcome.certificate
    policy = {mode: replace(each, threshold=0.1) for mode, each in bundle.policy.modes.items()}
    changed = replace(outcome.bundle, policy=replace(bundle.policy, modes=policy))
    changed.write()  # lite answers now, and never as full does
    done = call("certify", bundle.folder, "--recording", tmp_path / "bad", *LEVELS)
    assert done.exit_code == 4
    assert f"the certificate of {held.made} stays, though this failed" in done.stderr
    assert read_certificate(Bundle.read(bundle.folder)).sessions == held


def test_a_session_is_used_once_though_others_are_beside_it(small_bundle, short, tmp_path):
    certify_sessions(small_bundle.folder, short, epsilon=0.2, delta=0.1)
    more = tmp_path / "more"
    shutil.copytree(short, more)
    record_session(more / "new.mcap", small_bundle, ["green"] * 3)
    with pytest.raises(ConfigError, match="13 of these 14 sessions were looked at"):
        certify_sessions(small_bundle.folder, more, epsilon=0.2, delta=0.1)
    second = certify_sessions(small_bundle.folder, more, epsilon=0.2, delta=0.1, again=True)
    assert second.attempt == 2
    assert second.certificate.delta == pytest.approx(0.2)
    with pytest.raises(ConfigError, match="are 1.1 together"):
        certify_sessions(small_bundle.folder, more, epsilon=0.2, delta=0.9, again=True)
    copy = record_session(more / "one.mcap", small_bundle, ["green"] * 3)
    shutil.copy(copy, more / "two.mcap")
    with pytest.raises(ConfigError, match="holds a session twice"):
        certify_sessions(small_bundle.folder, more, again=True)


def test_too_few_sessions_are_not_looked_at_and_it_says_how_many_are_missing(
    small_bundle, switching
):
    done = call("certify", small_bundle.folder, "--recording", switching)
    assert done.exit_code == 4
    assert "sessions: not certified: 13 sessions cannot show it: 292 more are" in done.stderr
    dry = call("certify", small_bundle.folder, "--recording", switching, "--dry-run", *LEVELS)
    assert dry.exit_code == 0
    assert "sessions: there are 13; " in dry.stdout
    assert read_certificate(Bundle.read(small_bundle.folder)) is None  # so none is used up


def test_other_thresholds_void_what_was_certified_of_sessions(small_bundle, short, tmp_path):
    certify_sessions(small_bundle.folder, short, epsilon=0.2, delta=0.1)
    data = record_moments(tmp_path / "new.npz")
    done = call("certify", small_bundle.folder, "--recording", data)
    assert "whole sessions were certified with other thresholds" in done.stdout
    found = read_certificate(Bundle.read(small_bundle.folder))
    assert found.sessions is None
    assert [attempt.certified for attempt in found.attempts] == [("sessions",), ("image",)]
    again = certify_sessions(small_bundle.folder, short, epsilon=0.2, delta=0.1, again=True)
    kept = read_certificate(again.bundle)
    assert (set(kept.modes), kept.sessions) == ({"image"}, again.certificate)


def test_the_parts_of_a_recording_are_one_session(small_bundle, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 400, 400, 3), np.uint8)
    with Recorder(
        tmp_path / "a.mcap", session_of(small_bundle), waits=True, room=Room(rotate_mb=1)
    ) as recorder:
        for number, picture in enumerate(noise):
            recorder.see(Frame(picture, number / RATE_HZ))
    record_session(tmp_path / "b.mcap", small_bundle, ["red"])
    assert len(list(tmp_path.glob("a-part*.mcap"))) > 1
    assert find_sessions(tmp_path) == [tmp_path / "a.mcap", tmp_path / "b.mcap"]
    assert find_sessions(tmp_path / "b.mcap") == [tmp_path / "b.mcap"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epsilon", 0.1, "--epsilon", 0.2), "sessions are certified at one epsilon"),
        (("--epsilon", 0.0001), "give 0.001 or more for sessions"),
        (("--delta", 2), "delta is 2"),
        ((), "holds no recordings (.mcap)"),
    ],
)
def test_what_is_no_session_is_refused(small_bundle, tmp_path, words, said):
    done = call("certify", small_bundle.folder, "--recording", tmp_path, *words)
    assert done.exit_code == 2
    assert said in done.stderr
