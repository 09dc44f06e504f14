"""``certify``: the claim it writes, what it refuses, and what voids it."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import soxr
from colours import (
    COLOURS,
    DULL_RED,
    FULL,
    INPUTS,
    LITE,
    frame,
    make_bundle,
    sample,
)
from typer.testing import CliRunner

import mla_edge
from mla_edge import certificate as certificates
from mla_edge.bundle import NEVER, Bundle, ModePolicy, RouterPolicy, sha256_of
from mla_edge.certificate import identify, read_certificate, write_certificate
from mla_edge.certify import binomial_cdf, fewest_units
from mla_edge.cli import app
from mla_edge.errors import BundleError, ConfigError
from mla_edge.machine_files import nvidia_gpu
from mla_edge.pictures import pack
from mla_edge.recordings import read_recording
from mla_edge.runtime.certification import certify_bundle

NAMES = tuple(COLOURS)


def call(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def record(path, count=400, *, labels=None, seed=0, **arrays):
    """Pictures of a colour and no sound, so only the mode "image" has data."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(3, size=count)
    pictures = np.zeros((count, 16, 16, 3), np.uint8)
    for row, colour in enumerate(shown):
        pictures[row] = COLOURS[NAMES[colour]]
    pictures[:, 0, :2] = rng.integers(256, size=(count, 2, 3))  # no two are the same picture
    truth = [NAMES[colour] for colour in shown] if labels is None else labels
    present = np.tile([1, 0], (count, 1))
    made = {"image": pictures, "audio": np.zeros((count, 800), np.float32), "labels": truth}
    np.savez(path, **{**made, "present": present, **arrays})
    return path


def told_apart(pictures):
    """``pictures``, no two of them the same any more."""
    pictures[:, 0, 0, 2], pictures[:, 0, 1, 2] = np.divmod(np.arange(len(pictures)), 256)
    return pictures


def reds(count):
    """As many red pictures."""
    return told_apart(np.tile(np.uint8(COLOURS["red"]), (count, 16, 16, 1)))


def test_a_mode_that_loses_nothing_is_certified_and_routes_by_it(small_bundle, tmp_path):
    data = record(tmp_path / "new.npz")
    assert small_bundle.policy.modes["image"].threshold == 0.8
    done = call("certify", small_bundle.folder, "--recording", data, "--json")
    assert done.exit_code == 0, done.stderr
    shown = json.loads(done.stdout)
    mode = shown["modes"]["image"]
    assert mode["certified"]
    assert (mode["units"], mode["losses"], mode["kept"]) == (400, 0, 1.0)
    assert mode["p_value"] == pytest.approx(binomial_cdf(0, 400, 0.01))
    assert mode["threshold"] == pytest.approx(0.25)  # nothing was lost by any
    assert mode["claim"].startswith(
        "with probability at least 0.95 over the 400 units that certified it, at most 0.01 of"
    )
    for other in ("audio", "image+audio"):
        assert not shown["modes"][other]["certified"]
        assert "0 independent units" in shown["modes"][other]["why"]
    with mla_edge.load(small_bundle.folder) as model:
        unsure = model.infer(sample(image=frame(DULL_RED)))  # 0.6: below what export chose
        heard = model.infer(sample(audio=mla_edge.Sound(np.ones(800, np.float32), 800, 0.0)))
    written = Bundle.read(small_bundle.folder)
    written.check_hashes()
    assert (unsure.tier, unsure.certificate) == ("lite", read_certificate(written).id)
    assert heard.certificate is None
    assert written.policy == small_bundle.policy  # what export chose is not lost


def test_run_says_what_is_covered_and_inspect_what_is_claimed(small_bundle, tmp_path):
    call("certify", small_bundle.folder, "--recording", record(tmp_path / "new.npz"))
    words = ["--bundle", small_bundle.folder, "--camera", "sim://digits?size=96x64", "--json"]
    ran = call("run", *words, "--mic", "none", "--duration", 0.5)
    assert ran.exit_code == 0, ran.stderr
    *decisions, last = [json.loads(line) for line in ran.stdout.splitlines()]
    id_ = read_certificate(Bundle.read(small_bundle.folder)).id
    assert {decision["certificate"] for decision in decisions} == {id_}
    assert last["summary"]["certified"] == {"decisions": len(decisions), "share": 1.0}
    inspected = call("inspect", small_bundle.folder)
    assert f"certificate {id_}, 1 attempt:" in inspected.stdout
    assert "image: from 0.25 on: with probability at least 0.95" in inspected.stdout


def test_a_mode_that_loses_is_not_certified_and_the_attempt_is_kept(contrary, tmp_path):
    bundle = contrary(60)  # lite is wrong, and sure of it
    red = reds(400)
    data = record(tmp_path / "new.npz", labels=["green"] * 400, image=red)
    done = call("certify", bundle.folder, "--recording", data, "--json")
    assert done.exit_code == 4
    told = json.loads(done.stdout)
    assert "no mode can be certified" in told["problem"]
    assert "wrong in 400 of 400 units" in told["modes"]["image"]["why"]
    kept = read_certificate(Bundle.read(bundle.folder))
    assert kept.modes == {}
    assert [attempt.failed for attempt in kept.attempts] == [("image",)]
    assert "nothing was certified" in call("inspect", bundle.folder).stdout


def test_where_lite_is_always_wrong_the_threshold_is_above_all_of_it(contrary, tmp_path):
    bundle = contrary(6)  # wrong with a confidence of 0.995
    red = reds(400)
    data = record(tmp_path / "new.npz", labels=["green"] * 400, image=red)
    image = certify_bundle(bundle.folder, data).modes[1].certificate
    assert np.exp(6) / (np.exp(6) + 2) < image.threshold < 0.9999
    assert (image.kept, image.losses) == (0, 0)
    with mla_edge.load(bundle.folder) as model:
        prediction = model.infer(sample(image=frame("red")))
    assert (prediction.label, prediction.tier) == ("green", "full")
    assert prediction.certificate is not None


def unsure(path, count=1000):
    """Pictures of greens of many strengths, of which lite is now and then wrong."""
    rng = np.random.default_rng(5)
    strength = rng.integers(4, 160, count)
    pictures = np.zeros((count, 16, 16, 3), np.uint8)
    pictures[..., 1] = strength[:, None, None]
    truth = np.where(rng.random(count) < 0.25 * (1 - strength / 160) ** 2, "red", "green")
    return record(path, count, labels=truth, image=told_apart(pictures))


def test_a_ladder_has_a_rung_for_each_epsilon_and_runs_by_the_boldest(contrary, tmp_path):
    bundle = contrary(6)
    data = unsure(tmp_path / "new.npz")
    words = ["--recording", data, "--json"]
    for epsilon in ("0.05", "0.02", "0.0001"):
        words += ["--epsilon", epsilon]
    done = call("certify", bundle.folder, *words)
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)["modes"]["image"]
    assert [rung["epsilon"] for rung in told["rungs"]] == [0.0001, 0.02, 0.05]
    assert [rung["certified"] for rung in told["rungs"]] == [False, True, True]
    assert (
        "1000 independent units cannot show it: 40942 new ones could if none is lost"
        in (told["rungs"][0]["why"])
    )
    mode = read_certificate(Bundle.read(bundle.folder)).modes["image"]
    careful, bold = mode.rungs
    assert careful.threshold > bold.threshold
    assert careful.kept < bold.kept
    assert careful.losses < bold.losses
    # Two of three share the budget with the one that failed.
    assert binomial_cdf(bold.losses, 1000, 0.05) == pytest.approx(bold.p_value)
    assert bold.p_value <= 0.05 / 3
    assert (mode.epsilon, mode.threshold, mode.kept) == (0.05, bold.threshold, bold.kept)
    assert bold.differ_rate == 1.0  # of audits every one will say so
    assert "(0.02 on its more careful rungs) are wrong" in told["claim"]
    inspected = call("inspect", bundle.folder).stdout
    assert f"at most 0.02: from {careful.threshold:.7g} on, keeps" in inspected


@pytest.mark.parametrize(
    ("lite_ms", "pays"), [(0.99, True), (1.0, False), (3.0, False), (None, True)]
)
def test_a_mode_in_which_routing_does_not_pay_stays_on_full(contrary, tmp_path, lite_ms, pays):
    costs = {"full": 2.0} if lite_ms is None else {"lite": lite_ms, "full": 2.0}
    modes = {"image": ModePolicy(1.0, NEVER)}
    bundle = replace(contrary(6), policy=RouterPolicy(modes, costs, "here"))
    bundle.write()
    # Lite is unsure of half of them, and wrong there, where full is right.
    dull = np.zeros((400, 16, 16, 3), np.uint8)
    dull[::2, ..., 0], dull[1::2, ..., 0] = 255, 40
    truth = np.where(np.arange(400) % 2, "green", "red")
    data = record(tmp_path / "new.npz", image=told_apart(dull), labels=truth)
    done = call("certify", bundle.folder, "--recording", data)
    told = read_certificate(Bundle.read(bundle.folder)).modes["image"]
    assert told.pays is pays
    assert told.rungs[0].kept == 0.5
    assert (told.kept, told.threshold > 1) == ((0.5, False) if pays else (0.0, True))
    assert ("it stays on full alone" in done.stdout) is not pays
    assert ("full alone" in call("inspect", bundle.folder).stdout) is not pays
    with mla_edge.load(bundle.folder, audit_rate=1.0) as model:
        made = model.infer(sample(image=frame("red")))
    assert (made.tier, made.certificate is None) == ("lite" if pays else "full", False)


def test_full_that_goes_on_from_lite_always_pays_where_something_is_kept(tmp_path):
    lite = replace(LITE, outputs=("features", "logits"))
    full = replace(FULL, inputs=("features",))
    bundle = make_bundle(tmp_path / "b", tiers=(lite, full))
    costs = {"lite": 3.0, "full": 2.0}
    assert bundle.break_even(costs) == 0.0
    assert make_bundle(tmp_path / "c").break_even(costs) == 1.5


def test_what_audits_may_differ_in_is_bounded_by_the_same_units(small_bundle, tmp_path):
    certify_bundle(small_bundle.folder, record(tmp_path / "new.npz"))
    (rung,) = read_certificate(Bundle.read(small_bundle.folder)).modes["image"].rungs
    assert rung.differ_rate == pytest.approx(1 - 0.05 ** (1 / 400), abs=1e-6)


def test_a_certificate_from_before_there_were_ladders_is_read(small_bundle, tmp_path):
    outcome = certify_bundle(small_bundle.folder, record(tmp_path / "new.npz"))
    name = next(name for name in outcome.bundle.files if name.startswith("certificates/"))
    path = small_bundle.folder / name
    found = json.loads(path.read_text())
    for mode in found["modes"].values():
        del mode["rungs"]
    path.write_text(json.dumps(found))
    files = {**outcome.bundle.files, name: sha256_of(path)}
    replace(outcome.bundle, files=files).write()
    mode = read_certificate(Bundle.read(small_bundle.folder)).modes["image"]
    (rung,) = mode.rungs
    assert (rung.epsilon, rung.threshold) == (mode.epsilon, mode.threshold)
    assert rung.differ_rate == 1.0  # nothing is known of it


def test_data_is_used_once_and_a_second_look_costs_confidence(small_bundle, tmp_path):
    data = record(tmp_path / "new.npz")
    certify_bundle(small_bundle.folder, data)
    with pytest.raises(ConfigError, match="400 of these 400 units were looked at") as caught:
        certify_bundle(small_bundle.folder, data, epsilon=0.02)
    assert "certify on new units alone, or give --again" in caught.value.hint
    second = certify_bundle(small_bundle.folder, data, epsilon=0.02, again=True)
    assert second.attempt == 2
    image = next(each for each in second.modes if each.mode == "image").certificate
    assert (image.epsilon, image.delta) == (0.02, pytest.approx(0.1))
    # The same samples in another file, compressed: still the same data.
    with np.load(data) as arrays:
        np.savez_compressed(tmp_path / "copy.npz", **arrays)
    with pytest.raises(ConfigError, match="were looked at before"):
        certify_bundle(small_bundle.folder, tmp_path / "copy.npz")
    fresh = certify_bundle(small_bundle.folder, record(tmp_path / "other.npz", seed=1))
    assert fresh.attempt == 1
    assert len(read_certificate(fresh.bundle).attempts) == 3
    assert len(list((small_bundle.folder / "certificates").iterdir())) == 1


def rows_of(path, source, chosen, **changes):
    """Some rows of a recording as one of their own."""
    with np.load(source) as arrays:
        np.savez(path, **{**{name: rows[chosen] for name, rows in arrays.items()}, **changes})
    return path


def test_data_with_rows_appended_is_a_second_look_at_the_first(contrary, tmp_path):
    bundle = contrary(6)
    red = np.tile(np.uint8(COLOURS["red"]), (62, 16, 16, 1))
    red[:, 0, 0, 0] = np.arange(62)
    wrong = np.where(np.arange(62) < 1, "green", "red")  # lite loses one, where it is surest
    full = record(tmp_path / "62.npz", 62, image=red, labels=wrong)
    first = rows_of(tmp_path / "60.npz", full, slice(60))
    level = {"epsilon": 0.07, "delta": 0.05}
    tried = certify_bundle(bundle.folder, first, **level)
    assert tried.attempt == 1
    with pytest.raises(ConfigError, match="60 of these 61 units were looked at before"):
        certify_bundle(bundle.folder, rows_of(tmp_path / "61.npz", full, slice(61)), **level)
    more = certify_bundle(bundle.folder, full, **level, again=True)
    assert more.attempt == 2
    assert sum(attempt.delta for attempt in read_certificate(more.bundle).attempts) == 0.1
    apart = rows_of(tmp_path / "apart.npz", full, slice(60, 62))
    again = call("certify", bundle.folder, "--recording", apart, "--epsilon", 0.9)
    assert "2 of these 2 units were looked at before" in again.stderr


def test_a_claim_that_is_no_more_than_chance_is_refused(small_bundle, tmp_path):
    data = record(tmp_path / "new.npz", 60)
    words = ("--recording", data, "--epsilon", 0.1, "--delta", 0.5, "--again")
    assert call("certify", small_bundle.folder, *words).exit_code == 0
    done = call("certify", small_bundle.folder, *words)
    assert done.exit_code == 2
    assert "delta 0.5 and those of the earlier attempts on this data are 1 together" in (
        done.stderr
    )
    assert len(read_certificate(Bundle.read(small_bundle.folder)).attempts) == 1


def test_a_certificate_stays_where_new_data_fails_and_that_is_said(contrary, tmp_path):
    bundle = contrary(60)
    red = reds(80)
    good = record(tmp_path / "good.npz", 80, image=red, labels=["red"] * 80)
    level = ("--epsilon", 0.05)
    assert call("certify", bundle.folder, "--recording", good, *level).exit_code == 0
    held = read_certificate(Bundle.read(bundle.folder)).modes["image"]
    red[:, 0, 2, 0] = 0  # other pictures, in which lite is often wrong
    wrong = np.where(np.arange(80) < 20, "green", "red")
    bad = record(tmp_path / "bad.npz", 80, image=red, labels=wrong)
    done = call("certify", bundle.folder, "--recording", bad, *level)
    assert done.exit_code == 4
    assert f"its certificate of {held.made} stays and routes, though this failed" in done.stderr
    assert "of these 80 units its threshold loses 20" in done.stderr
    told = json.loads(
        call("certify", bundle.folder, "--recording", bad, *level, "--again", "--json").stdout
    )
    assert told["modes"]["image"]["stays"]["losses"] == 20
    assert "stays" not in told["modes"]["audio"]
    assert read_certificate(Bundle.read(bundle.folder)).modes["image"] == held


def test_a_unit_is_known_again_by_some_of_its_samples_whatever_their_labels(
    small_bundle, tmp_path
):
    clips = record(tmp_path / "clips.npz", 300, units=np.arange(300) // 5)
    certify_bundle(small_bundle.folder, clips, epsilon=0.05)
    longer = record(tmp_path / "longer.npz", 340, seed=1)
    with np.load(clips) as old, np.load(longer) as new:
        half = slice(0, 300, 2)
        rows = {name: np.concatenate([old[name][half], new[name]]) for name in new}
    rows["labels"][:] = "red"
    rows["units"] = np.concatenate([np.arange(150), 150 + np.arange(340)])
    np.savez(tmp_path / "mixed.npz", **rows)
    with pytest.raises(ConfigError, match="of these 490 units were looked at before"):
        certify_bundle(small_bundle.folder, tmp_path / "mixed.npz", epsilon=0.05)


def test_units_that_no_mode_looked_at_are_not_used_up(small_bundle, tmp_path):
    heard = np.random.default_rng(0).normal(0, 0.1, (500, 800)).astype(np.float32)
    kinds = np.repeat([[0, 1], [1, 0]], [100, 400], axis=0)
    data = record(tmp_path / "mixed.npz", 500, audio=heard, present=kinds)
    modes = {each.mode: each for each in certify_bundle(small_bundle.folder, data).modes}
    assert modes["image"].certificate
    assert "299 new ones could if none is lost" in modes["audio"].rungs[0].why
    sounds = rows_of(tmp_path / "sounds.npz", data, slice(100))
    assert certify_bundle(small_bundle.folder, sounds, epsilon=0.5).attempt == 1


def test_many_units_take_little_room_and_are_read_as_they_were_once(small_bundle, tmp_path):
    outcome = certify_bundle(small_bundle.folder, record(tmp_path / "new.npz"))
    name = next(name for name in outcome.bundle.files if name.startswith("certificates/"))
    path = small_bundle.folder / name
    assert path.stat().st_size < 400 * 13 + 5000
    (attempt,) = read_certificate(outcome.bundle).attempts
    assert len(attempt.parts) == 400
    found = json.loads(path.read_text())
    found["attempts"][0]["parts"] = list(attempt.parts)
    path.write_text(json.dumps(found))
    assert read_certificate(outcome.bundle).attempts == (attempt,)
    del found["attempts"][0]["parts"]  # as before units were noted
    path.write_text(json.dumps(found))
    replace(outcome.bundle, files={**outcome.bundle.files, name: sha256_of(path)}).write()
    with pytest.raises(ConfigError, match="these units were looked at before"):
        certify_bundle(small_bundle.folder, tmp_path / "new.npz")


def test_what_failed_says_that_new_units_are_needed(contrary, tmp_path):
    bundle = contrary(60)
    rng = np.random.default_rng(0)
    red = np.tile(np.uint8(COLOURS["red"]), (400, 16, 16, 1))
    red[:, 0, :, 0] = rng.integers(256, size=(400, 16))
    wrong = np.where(np.arange(400) < 2, "green", "red")
    data = record(tmp_path / "new.npz", image=red, labels=wrong)
    done = call("certify", bundle.folder, "--recording", data)
    assert done.exit_code == 4
    assert "new units would be needed, or" in done.stderr
    assert "more beside these with --again, which counts every attempt" in done.stderr
    assert "record new ones" in done.stderr


def test_too_little_data_is_not_looked_at(small_bundle, tmp_path):
    least = fewest_units(0.01, 0.05)
    assert least == 299
    data = record(tmp_path / "few.npz", least - 1)
    done = call("certify", small_bundle.folder, "--recording", data)
    assert done.exit_code == 4
    assert "image: not certified: 298 independent units cannot show it: 1 more are" in (
        done.stderr
    )
    assert read_certificate(Bundle.read(small_bundle.folder)) is None  # so it is not used up
    assert certify_bundle(small_bundle.folder, data, epsilon=0.05).attempt == 1


def test_samples_of_one_unit_count_once(small_bundle, tmp_path):
    clips = np.arange(900) // 3
    data = record(tmp_path / "clips.npz", 900, units=clips)
    done = call("certify", small_bundle.folder, "--recording", data, "--dry-run", "--json")
    assert json.loads(done.stdout)["modes"]["image"]["units"] == 300
    assert json.loads(done.stdout)["attempt"] == 0
    assert "every row was taken" not in done.stderr
    assert read_certificate(Bundle.read(small_bundle.folder)) is None
    assert certify_bundle(small_bundle.folder, data).modes[1].certificate.units == 300


def examples(folder, count=60, groups=()):
    """A labelled folder of plain colours."""
    (folder / "image").mkdir(parents=True)
    lines = ["id,label,group" if groups else "id,label"]
    for row in range(count):
        colour = NAMES[row % 3]
        picture = np.full((20, 20, 3), COLOURS[colour], np.uint8)
        picture[0, 0] = row  # so that none is a copy of another
        (folder / "image" / f"{row}.png").write_bytes(pack(picture, "png"))
        lines.append(f"{row},{colour}" + (f",{groups[row % len(groups)]}" if groups else ""))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_folder_of_examples_certifies_and_says_what_it_took_for_units(small_bundle, tmp_path):
    mine = examples(tmp_path / "mine")
    done = call("certify", small_bundle.folder, "--data", mine, "--epsilon", 0.05)
    assert done.exit_code == 0, done.stderr
    assert "image: certified: with probability at least 0.95 over the 60 units" in done.stdout
    assert "the data names no units" in done.stderr
    assert "every row was taken as independent of all others" in done.stderr
    again = call("certify", small_bundle.folder, "--data", mine, "--epsilon", 0.06)
    assert again.exit_code == 2
    assert "60 of these 60 units were looked at before" in again.stderr


def test_a_copy_of_a_unit_counts_for_nothing(small_bundle, tmp_path):
    """Otherwise 100 pictures, three times each, would prove what 300 do."""
    pictures = np.tile(reds(100), (3, 1, 1, 1))
    data = record(tmp_path / "new.npz", 300, image=pictures, labels=["red"] * 300)
    done = call("certify", small_bundle.folder, "--recording", data)
    assert done.exit_code == 4
    assert "image: 200 units are copies of others, and left out" in done.stderr
    assert "100 independent units cannot show it: 199 more are needed" in done.stderr
    less = ("--epsilon", 0.05, "--json")
    told = json.loads(call("certify", small_bundle.folder, "--recording", data, *less).stdout)
    image = told["modes"]["image"]
    assert (image["certified"], image["units"], image["copies"]) == (True, 100, 200)


def test_the_rows_of_a_group_are_one_unit(small_bundle, tmp_path):
    mine = examples(tmp_path / "mine", 60, groups=("anna", "ben", "eve", "kim"))
    words = ("--data", mine, "--epsilon", 0.05, "--dry-run", "--json")
    told = call("certify", small_bundle.folder, *words)
    assert json.loads(told.stdout)["modes"]["image"]["units"] == 4
    assert "every row" not in told.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "certify takes its moments from one place"),
        (
            ("--data", "here", "--recording", "x.npz"),
            "certify takes its moments from one place",
        ),
        (("--data", "gone"), "gone: no such folder"),
        (("--data", "here"), "labels.csv: no such file"),
    ],
)
def test_without_moments_it_says_what_to_give(small_bundle, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    done = call("certify", small_bundle.folder, *words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_another_engine_graph_or_preprocessing_voids_it(small_bundle, tmp_path, monkeypatch):
    call("certify", small_bundle.folder, "--recording", record(tmp_path / "new.npz"))
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "version", lambda package: "0.1")
        with mla_edge.load(small_bundle.folder) as model:
            prediction = model.infer(sample(image=frame(DULL_RED)))
    assert "does not hold here: it is of ONNX Runtime" in model.note
    assert "mla-edge certify" in model.note
    assert (prediction.tier, prediction.certificate) == ("full", None)
    bundle = Bundle.read(small_bundle.folder)
    held = read_certificate(bundle).identity
    for changed, why in (
        (replace(held, graphs={}), "the graphs are others"),
        (replace(held, preprocessing=""), "preprocessing is another"),
    ):
        assert held.difference(changed) == why
    assert held.difference(held) == ""


def test_another_version_of_what_prepares_samples_voids_it(small_bundle, tmp_path, monkeypatch):
    data = record(tmp_path / "new.npz")
    written = certify_bundle(small_bundle.folder, data).bundle
    held = read_certificate(written)
    assert held.identity.libraries == {"OpenCV": cv2.__version__, "soxr": soxr.__version__}
    pictures = replace(written, inputs=INPUTS[:1])
    assert set(identify(pictures, "ONNX Runtime").libraries) == {"OpenCV"}
    older = replace(held.identity, libraries={"OpenCV": "4.9.0", "soxr": soxr.__version__})
    write_certificate(written, replace(held, identity=older))
    with mla_edge.load(small_bundle.folder) as model:
        prediction = model.infer(sample(image=frame(DULL_RED)))
    assert f"it is of OpenCV 4.9.0, this is {cv2.__version__}" in model.note
    assert (prediction.tier, prediction.certificate) == ("full", None)


def test_a_certificate_that_names_no_versions_holds_as_it_did(small_bundle, tmp_path):
    written = certify_bundle(small_bundle.folder, record(tmp_path / "new.npz")).bundle
    held = read_certificate(written)
    path = small_bundle.folder / next(n for n in written.files if "certificates" in n)
    found = json.loads(path.read_text())
    del found["identity"]["libraries"]
    path.write_text(json.dumps(found))
    files = {**written.files, path.relative_to(small_bundle.folder).as_posix(): sha256_of(path)}
    replace(written, files=files).write()
    with mla_edge.load(small_bundle.folder) as model:
        assert model.infer(sample(image=frame("red"))).certificate == held.id
    heard = np.random.default_rng(0).normal(0, 0.1, (80, 800)).astype(np.float32)
    only = {"audio": heard, "present": np.tile([0, 1], (80, 1))}
    sounds = record(tmp_path / "sounds.npz", 80, **only)
    more = certify_bundle(small_bundle.folder, sounds, epsilon=0.9).bundle
    both = read_certificate(more)
    assert set(both.modes) == {"image", "audio"}
    assert both.identity == held.identity  # it names them from now on


def test_a_provider_of_a_gpu_is_bound_to_that_and_its_driver(
    tmp_path, monkeypatch, small_bundle
):
    driver = tmp_path / "proc/driver/nvidia"
    (driver / "gpus/0000:01:00.0").mkdir(parents=True)
    (driver / "gpus/0000:01:00.0/information").write_text("Model: \t\t NVIDIA H100\nIRQ: 1\n")
    (driver / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\n"
    )
    assert nvidia_gpu(tmp_path) == "NVIDIA H100, driver 550.54.15"
    assert nvidia_gpu(tmp_path / "none") == ""
    monkeypatch.setattr(certificates, "nvidia_gpu", lambda root: nvidia_gpu(tmp_path))
    engine = identify(small_bundle, "ONNX Runtime, CUDAExecutionProvider").engine
    assert engine.endswith(", NVIDIA H100, driver 550.54.15")
    assert "NVIDIA H100" not in identify(small_bundle, "ONNX Runtime").engine


def test_a_damaged_certificate_is_named(small_bundle, tmp_path):
    outcome = certify_bundle(small_bundle.folder, record(tmp_path / "new.npz"))
    name = next(name for name in outcome.bundle.files if name.startswith("certificates/"))
    path = small_bundle.folder / name
    path.write_text(path.read_text().replace('"threshold": 0.25', '"threshold": null'))
    files = {**outcome.bundle.files, name: sha256_of(path)}
    replace(outcome.bundle, files=files).write()
    with pytest.raises(BundleError, match="is no certificate of this version"):
        mla_edge.load(small_bundle.folder)


def test_one_tier_has_nothing_to_certify(tmp_path):
    bundle = make_bundle(tmp_path / "one", tiers=[FULL])
    with pytest.raises(ConfigError, match=r"has 1 tier\(s\)"):
        certify_bundle(bundle.folder, record(tmp_path / "new.npz"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": ["pink"] * 400}, "'pink' in 'labels' is no class of the bundle"),
        ({"labels": ["red"]}, r"'labels' is <U3 \[1\]"),
        ({"units": [1, 2]}, r"'units' is int64 \[2\]"),
        ({"present": np.ones(400)}, r"'present' is float64 \[400\]"),
        ({"present": np.full((400, 2), 0.5)}, r"'present' is float64 \[400, 2\]"),
    ],
)
def test_a_recording_that_does_not_fit_is_refused_by_array(tmp_path, arrays, message):
    data = record(tmp_path / "new.npz", **arrays)
    with pytest.raises(ConfigError, match=message):
        read_recording(data, INPUTS, NAMES)


def test_a_recording_without_classes_is_refused(tmp_path):
    rows = {"image": np.zeros((3, 8, 8, 3), np.uint8), "audio": np.zeros((3, 800))}
    np.savez(tmp_path / "new.npz", **rows)
    with pytest.raises(ConfigError, match="no array 'labels'"):
        read_recording(tmp_path / "new.npz", INPUTS, NAMES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epsilon", 0), "give 0.0001 or more"),
        (("--epsilon", 1e-9), "give 0.0001 or more"),
        (("--epsilon", 1), "it lies between 0 and 1"),
        (("--delta", 1.5), "it lies between 0 and 1"),
    ],
)
def test_what_is_no_probability_is_refused(small_bundle, tmp_path, words, said):
    data = record(tmp_path / "new.npz")
    done = call("certify", small_bundle.folder, "--recording", data, *words)
    assert done.exit_code == 2
    assert said in done.stderr
