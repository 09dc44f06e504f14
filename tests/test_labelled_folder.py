"""A user's folder of examples: what is read, and what is refused with its row."""

import numpy as np
import pytest
from labelled_examples import LABELS, write_examples, write_wav

from mla_edge.errors import ConfigError
from mla_edge.labelled_folder import read_folder, split_rows
from mla_edge.pictures import pack
from mla_edge.preprocess import Preprocessor
from mla_edge.signals import Frame, InputSpec, Sample, Sound

INPUTS = (
    InputSpec("image", "image", (1, 3, 16, 16)),
    InputSpec("audio", "audio", (1, 800), rate_hz=8000),
)


@pytest.fixture
def folder(tmp_path):
    return write_examples(tmp_path / "mine", each=3)


def read(folder, inputs=INPUTS):
    return read_folder(folder, inputs, LABELS, fewest=2)


def edit(folder, old, new):
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace(old, new, 1))


def test_what_is_there_is_read_and_what_is_not_is_masked(folder):
    (folder / "image" / "low-0.png").unlink()
    (folder / "audio" / "high-1.wav").unlink()
    (folder / "audio" / "stray.wav").write_bytes(b"")
    found = read(folder)
    signals = {row.name: set(row.sample.signals) for row in found.rows}
    assert signals["low-0"] == {"audio"}
    assert signals["high-1"] == {"image"}
    assert signals["low-1"] == {"image", "audio"}
    assert [row.line for row in found.rows] == list(range(2, 8))
    assert {row.sample.truth for row in found.rows} == {"low", "high"}
    assert found.unnamed == ("audio/stray.wav",)


def test_it_is_what_the_runtime_would_have_seen(tmp_path):
    rng = np.random.default_rng(0)
    folder = write_examples(tmp_path / "mine", each=2)
    picture = rng.integers(0, 256, (40, 60, 3), np.uint8)
    (folder / "image" / "low-0.png").write_bytes(pack(picture, "png"))
    heard = (rng.standard_normal(3000) * 3000).astype(np.int16)
    write_wav(folder / "audio" / "low-0.wav", heard, 44100)
    row = read(folder).rows[0]
    taken = Sample(
        {
            "image": Frame(picture, 0.0),
            "audio": Sound(heard.astype(np.float32) / 32768, 44100, 0.0),
        }
    )
    expected = {k: v.copy() for k, v in Preprocessor(INPUTS)(taken).items()}
    found = Preprocessor(INPUTS)(row.sample)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_of_a_long_sound_the_loudest_stretch_is_taken(folder):
    heard = np.zeros(24000, np.int16)
    heard[10000:10400] = 9000
    write_wav(folder / "audio" / "low-0.wav", heard, 8000)
    samples = read(folder).rows[0].sample.signals["audio"].samples
    assert samples.shape == (800,)
    assert (samples > 0.2).sum() == 400


def test_the_hash_is_of_the_table_and_of_every_file(folder):
    first = read(folder).sha256
    assert read(folder).sha256 == first
    write_wav(folder / "audio" / "low-0.wav", np.full(500, 100, np.int16), 8000)
    second = read(folder).sha256
    edit(folder, "low-0,low", "low-0,high")
    assert len({first, second, read(folder).sha256}) == 3


@pytest.mark.parametrize(
    ("old", "new", "problem", "fix"),
    [
        ("low-1,low", "low-1,lwo", r"row 3: 'lwo' is no label", "did you mean 'low'"),
        ("low-1,low", "low-0,low", r"row 3: the id 'low-0' is that of row 2 too", "an id"),
        (
            "low-1,low",
            "gone,low",
            r"row 3: 'gone' has no file: there is no image/gone\.png",
            "",
        ),
        ("low-1,low", "low-1,", r"row 3: its label is empty", "fill it in"),
        ("low-1,low", "../x,low", r"row 3: the id '\.\./x' is no name of a file", "folders"),
        ("low-1,low", "low-1", r"row 3: has another number of values", "mend that row"),
        ("low-1,low", "low-1,low,a,b", r"row 3: has another number of values", "mend"),
        ("id,label", "name,label", r"labels\.csv: has no column 'id'", "id,label,group"),
        ("id,label", "id,label,grup", r"labels\.csv: has .*'grup'", "id,label,group"),
        ("low-1,low", '"low-1,low', "is no table of values and commas", "save it as CSV"),
    ],
)
def test_a_wrong_row_is_named_with_its_fix(folder, old, new, problem, fix):
    edit(folder, old, new)
    with pytest.raises(ConfigError, match=problem) as caught:
        read(folder)
    assert fix in caught.value.hint


def test_too_few_examples_of_a_class_are_refused(folder):
    table = folder / "labels.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:5]))  # three of one class, one of the other
    with pytest.raises(ConfigError, match="class 'high' has 1 example, 2 are the least"):
        read(folder)
    table.write_text(lines[0])
    with pytest.raises(ConfigError, match="has no rows"):
        read(folder)
    table.unlink()
    with pytest.raises(ConfigError, match=r"labels\.csv: no such file"):
        read(folder)


@pytest.mark.parametrize(
    ("file", "data", "problem"),
    [
        ("image/low-1.png", b"no picture", "it is no picture, or damaged"),
        ("image/low-1.png", b"", "it is no picture, or damaged"),
        ("audio/low-1.wav", b"RIFF", "is not a WAV file"),
    ],
)
def test_a_damaged_file_is_named_with_its_row(folder, file, data, problem):
    (folder / file).write_bytes(data)
    with pytest.raises(ConfigError, match=rf"row 3: .*{file}.*{problem}") as caught:
        read(folder)
    assert caught.value.hint


def test_two_pictures_of_one_id_are_refused(folder):
    (folder / "image" / "low-1.jpg").write_bytes((folder / "image" / "low-1.png").read_bytes())
    with pytest.raises(ConfigError, match=r"row 3: .* two files: low-1\.png, low-1\.jpg"):
        read(folder)


def test_a_network_without_pictures_and_sounds_is_told(folder):
    with pytest.raises(ConfigError, match=r"none of the network's inputs .*imu \(tensor\)"):
        read(folder, (InputSpec("imu", "tensor", (1, 6)),))


def test_without_groups_the_same_share_of_each_class_is_held_out(tmp_path):
    rows = read(write_examples(tmp_path / "mine", each=10)).rows
    learned, held = split_rows(rows, 0.2, 0)
    assert sorted(row.label for row in held) == ["high"] * 2 + ["low"] * 2
    assert len(learned) == 16
    assert split_rows(rows, 0.2, 0) == (learned, held)
    assert split_rows(rows, 0.2, 1)[1] != held


def test_groups_are_held_out_whole(tmp_path):
    rows = read(write_examples(tmp_path / "mine", each=8, groups=("ann", "bob", "cy"))).rows
    learned, held = split_rows(rows, 0.3, 0)
    assert len({row.group for row in held}) == 1
    assert not {row.group for row in held} & {row.group for row in learned}
    with pytest.raises(ConfigError, match="'high' is only in the groups that are held out"):
        split_rows([row for row in rows if row.label == "low" or row in held], 0.3, 0)
