import numpy as np
import pytest

from mla_edge.errors import BundleError
from mla_edge.exporter.part_archive import (
    PartArchive,
    Whole,
    describe_feed,
    make_feed,
    read_archive,
    unpack,
    write_archive,
)
from mla_edge.signals import TensorSpec

ARCHIVE = PartArchive(
    network="digits",
    profile="agx-xavier",
    tier="full",
    precision="int8",
    carries_types=False,
    float_layers=("/norm",),
    inputs={"image": (1, 3, 8, 8)},
    left_out=("odd",),
    wholes=(Whole("whole.onnx", {}), Whole("half.onnx", {"feed": 32})),
    parts={"feed": {32: "0-32.onnx", 64: "0-64.onnx"}},
    feeds={"": {"image": {"shape": [1, 3, 8, 8], "low": 0.0, "high": 255.0}}, "feed": {}},
)


@pytest.fixture
def written(tmp_path):
    for name in ("whole.onnx", "half.onnx", "0-32.onnx", "0-64.onnx"):
        (tmp_path / name).write_text(name * 1000)
    write_archive(tmp_path / "parts.zip", ARCHIVE, tmp_path)
    return tmp_path / "parts.zip"


def test_an_archive_comes_back_as_it_was_and_is_small(written, tmp_path):
    assert read_archive(written) == ARCHIVE
    assert ARCHIVE.count == 4
    [path] = unpack(written, ["0-32.onnx"], tmp_path)
    assert path.read_text() == "0-32.onnx" * 1000
    assert written.stat().st_size < 3000


def test_equal_parts_give_equal_bytes(written, tmp_path):
    write_archive(tmp_path / "again.zip", ARCHIVE, tmp_path)
    assert (tmp_path / "again.zip").read_bytes() == written.read_bytes()


def test_a_damaged_one_says_how_to_get_another(written, tmp_path):
    with pytest.raises(BundleError, match="cannot be read"):
        unpack(written, ["none.onnx"], tmp_path)
    data = written.read_bytes()
    for wrong in (b"", data[:-40], data.replace(b"index.json", b"other.json")):
        written.write_bytes(wrong)
        with pytest.raises(BundleError, match="cannot be read") as caught:
            read_archive(written)
        assert "--latency-parts" in caught.value.hint


def test_a_feed_is_like_what_the_part_takes_and_always_the_same():
    taken = {
        "seen": np.float32([[-2.0, 3.0, 1.0]]),
        "present": np.float32([1.0]),
        "index": np.array([[2, 0]], np.int64),
    }
    inputs = [
        TensorSpec("seen", "float16", (1, 3)),
        TensorSpec("present", "float32", (1,)),
        TensorSpec("index", "int32", (1, 2)),
    ]
    described = describe_feed(taken)
    feed = make_feed(described, inputs)
    assert {name: value.dtype.name for name, value in feed.items()} == {
        spec.name: spec.dtype for spec in inputs
    }
    assert -2 <= feed["seen"].min() < feed["seen"].max() <= 3
    assert feed["present"].tolist() == [1.0]
    assert feed["index"].tolist() == [[2, 0]]
    again = make_feed(described, inputs)
    assert all(np.array_equal(feed[name], again[name]) for name in feed)
