"""TensorRT's calibration cache: what is written is read back, damage is named by its line."""

import struct

import numpy as np
import pytest

from mla_edge.errors import BundleError, ConfigError
from mla_edge.exporter.tensorrt_cache import read_cache, write_cache

# As TensorRT 8.5.10 itself wrote it: out of order, leading zeros left out.
FOREIGN = (
    "TRT-8510-EntropyCalibration2\nx: 4000890a\n/conv1/Conv_output_0: 3f9db09c\nsmall: 1\n"
)


def test_what_is_written_is_read_back_bit_for_bit():
    random = np.random.default_rng(0)
    values = np.exp(random.uniform(-60, 60, 500)).astype(np.float32)
    scales = {f"/block_{i}/Conv_output_0": float(value) for i, value in enumerate(values)}
    version, found = read_cache(write_cache(scales, "10.3.0"))
    assert version == "10.3.0"
    assert list(found) == sorted(scales)
    for name, scale in scales.items():
        assert struct.pack(">f", found[name]) == struct.pack(">f", scale)


def test_a_scale_is_a_big_endian_float():
    text = write_cache({"image": 1.0, "a: b": 0.125}, "8.5.2")
    assert text == "TRT-8502-EntropyCalibration2\na: b: 3e000000\nimage: 3f800000\n"
    assert read_cache(text) == ("8.5.2", {"a: b": 0.125, "image": 1.0})


@pytest.mark.parametrize("version", ["8.5.2", "8.6.2", "9.0.1", "10.3.0", "10.12.0", "11.4.1"])
def test_the_version_is_read_back(version):
    assert read_cache(write_cache({}, version)) == (version, {})


def test_the_header_is_the_number_in_tensorrts_own_headers():
    assert write_cache({}, "8.5.2").startswith("TRT-8502-")
    assert write_cache({}, "10.3.0").startswith("TRT-100300-")


def test_what_tensorrt_wrote_is_read():
    version, scales = read_cache(FOREIGN)
    assert version == "8.5.10"
    assert scales["x"] == pytest.approx(2.008365)
    assert scales["small"] == struct.unpack(">f", bytes.fromhex("00000001"))[0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("hello\n", 1),
        ("TRT-8502-MinMaxCalibration\nx: 3f800000\n", 1),
        ("TRT-8502-EntropyCalibration2\nx 3f800000\n", 2),
        ("TRT-8502-EntropyCalibration2\nx: 3f800000\ny: 3f80000g\n", 3),
        ("TRT-8502-EntropyCalibration2\nx: 3f8000000\n", 2),
        ("TRT-8502-EntropyCalibration2\n: 3f800000\n", 2),
        ("TRT-8502-EntropyCalibration2\nx: 3f800000\nx: 3f800000\n", 3),
        ("TRT-8502-EntropyCalibration2\nx: 7f800000\n", 2),
        ("TRT-8502-EntropyCalibration2\nx: 7fc00000\n", 2),
        ("TRT-8502-EntropyCalibration2\nx: 00000000\n", 2),
        ("TRT-8502-EntropyCalibration2\nx: bf800000\n", 2),
        ("TRT-8502-EntropyCalibration2\nx: 3f80", 2),
    ],
)
def test_a_damaged_cache_is_refused_by_its_line(text, line):
    with pytest.raises(BundleError, match=f"calibration cache, line {line}:") as caught:
        read_cache(text)
    assert "export the bundle again" in caught.value.hint


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e300, 1e-60])
def test_a_scale_that_is_none_is_not_written(scale):
    with pytest.raises(ConfigError, match="the scale of 'x'"):
        write_cache({"x": scale}, "8.5.2")


@pytest.mark.parametrize("name", ["", "two\nlines", " spaced", "ends\r"])
def test_a_name_that_does_not_fit_on_a_line_is_refused(name):
    with pytest.raises(ConfigError, match="does not fit on a line"):
        write_cache({name: 1.0}, "8.5.2")


@pytest.mark.parametrize("version", ["8.5", "8502", "rtx-1.7", ""])
def test_a_version_that_is_not_three_numbers_is_refused(version):
    with pytest.raises(ConfigError, match="TensorRT version"):
        write_cache({}, version)
