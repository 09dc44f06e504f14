import dataclasses
import json

import pytest

from mla_edge.errors import ConfigError
from mla_edge.exporter.goal import make_goal
from mla_edge.exporter.latency_table import LatencyTable, Rung
from mla_edge.exporter.table_file import (
    TableFile,
    check_fit,
    read_tables,
    table_of,
    write_tables,
)
from mla_edge.profiles import load_profile

TABLE = LatencyTable(
    tier="full",
    precision="int8",
    measured_on="a Xavier, TensorRT 8.5.2.2",
    threads=0,
    whole_ms=4.0,
    rows={"feed": {64: 1.0, 32: 0.6}, "heads": {4: 0.4}},
    left_out=("odd",),
    ladder=(Rung({"feed": 32, "heads": 4}, 3.7),),
)
FILE = TableFile("digits", "agx-xavier", {"full": TABLE}, {"full": {"image": [1, 3, 8, 8]}})
OPTIONS = {"feed": [16, 32, 48, 64], "heads": [1, 2, 4], "odd": [16, 32]}
INPUTS = {"image": (1, 3, 8, 8)}
TIERS = ("lite", "full")


@pytest.fixture
def path(tmp_path):
    write_tables(tmp_path / "table.json", FILE)
    return tmp_path / "table.json"


def test_tables_come_back_as_they_were(path):
    assert read_tables(path) == FILE


@pytest.mark.parametrize("wrong", ["{}", "[1]", "", '{"format": 9, "tiers": {}}'])
def test_what_is_no_table_says_how_to_get_one(tmp_path, wrong):
    path = tmp_path / "table.json"
    with pytest.raises(ConfigError, match="No such file"):
        read_tables(path)
    path.write_text(wrong)
    with pytest.raises(ConfigError, match="no file of latency tables") as caught:
        read_tables(path)
    assert "mla-edge build BUNDLE --latency-table" in caught.value.hint


def test_a_table_that_is_damaged_inside_is_refused(path):
    found = json.loads(path.read_text())
    found["tiers"]["full"]["table"]["rows"] = [1]
    path.write_text(json.dumps(found))
    with pytest.raises(ConfigError, match="not a latency table"):
        read_tables(path)


def test_a_table_of_another_device_or_tier_is_refused():
    assert table_of(FILE, "full", "agx-xavier") == TABLE
    with pytest.raises(ConfigError, match="measured for agx-xavier") as caught:
        table_of(FILE, "full", "agx-orin")
    assert caught.value.hint.startswith("--profile agx-xavier")
    with pytest.raises(ConfigError, match="no tier 'lite'"):
        table_of(FILE, "lite", "agx-xavier")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"precision": "fp16"}, "measured in fp16, this export is int8"),
        ({"left_out": ()}, "odd not in the table"),
        ({"left_out": ("odd", "even")}, "even not in the network"),
        ({"rows": {"feed": {128: 1.0}, "heads": {4: 1.0}}}, "feed was 128 wide, here it is 64"),
        ({"rows": {"feed": {64: 1.0, 40: 0.7}, "heads": {4: 1.0}}}, "feed cannot be 40 wide"),
    ],
)
def test_a_table_of_another_network_is_refused(changed, message):
    def check(table, inputs=INPUTS):
        check_fit(table, FILE.inputs["full"], inputs, OPTIONS, ["int8"])

    check(TABLE)
    with pytest.raises(ConfigError, match=message):
        check(dataclasses.replace(TABLE, **changed))
    with pytest.raises(ConfigError, match="its inputs were"):
        check(TABLE, {"image": (1, 3, 16, 16)})


def test_with_a_table_a_board_may_have_milliseconds_as_a_goal(path):
    xavier = load_profile("agx-xavier")
    goal = make_goal(2.5, None, "", TIERS, xavier, path)
    assert goal.given == FILE
    assert "from a table of a Xavier, TensorRT 8.5.2.2" in goal.steps(None)[0]
    other = make_goal(None, 1.5, "", TIERS, xavier, path)
    assert len({goal.fingerprint, other.fingerprint}) == 2
    with pytest.raises(ConfigError, match="no tier 'lite'"):
        make_goal(2.5, None, "lite", TIERS, xavier, path)
    with pytest.raises(ConfigError, match="how fast is the tier to be"):
        make_goal(None, None, "", TIERS, xavier, path)
    with pytest.raises(ConfigError, match="no Jetson AGX Xavier takes part") as caught:
        make_goal(2.5, None, "", TIERS, xavier)
    assert caught.value.hint.startswith("give --latency-table, measured on the board")
