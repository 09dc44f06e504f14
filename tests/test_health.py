"""How hot boards are, what they draw, and whether they slow down: from trees of their files."""

import shutil
from pathlib import Path

import pytest

from mla_edge import health

BOARDS = Path(__file__).parent / "boards"
XAVIER, ORIN_NANO, AGX_ORIN = "agx-xavier-jp5", "orin-nano-jp6", "agx-orin-jp7.2"


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_heat_and_power_of_a_board_are_read(tmp_path):
    for number, (kind, temp) in enumerate(
        [("cpu-thermal", "48500"), ("gpu-thermal", "-256000")]
    ):
        write(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", kind)
        write(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", temp)
    assert health.temperatures_c(tmp_path) == {"cpu-thermal": 48.5}
    assert health.power_w(tmp_path) is None

    chip = "sys/class/hwmon/hwmon3"
    write(tmp_path, f"{chip}/name", "ina3221")
    rails = [("VDD_CPU", 5000, 200), ("VDD_SOC", 5000, 100), ("NC", 9, 9), ("sum", 9, 9)]
    for number, (label, millivolts, milliamperes) in zip((1, 2, 3, 7), rails):
        write(tmp_path, f"{chip}/in{number}_label", label)
        write(tmp_path, f"{chip}/in{number}_input", str(millivolts))
        write(tmp_path, f"{chip}/curr{number}_input", str(milliamperes))
    assert health.power_w(tmp_path) == pytest.approx(1.5)
    write(tmp_path, f"{chip}/in3_label", "VDD_IN")
    write(tmp_path, f"{chip}/in3_input", "19000")
    write(tmp_path, f"{chip}/curr3_input", "1000")
    assert health.power_w(tmp_path) == pytest.approx(19.0)
    write(tmp_path, f"{chip}/curr3_input", "")
    assert health.power_w(tmp_path) is None  # not the sum of those that can be read


@pytest.mark.parametrize(
    ("board", "points", "watts", "over_currents"),
    [
        (XAVIER, {"CPU-therm": 86.0, "GPU-therm": 88.0, "AUX-therm": 82.0}, 6.9, None),
        (
            ORIN_NANO,
            dict.fromkeys(["cpu-thermal", "gpu-thermal", "cv0-thermal", "soc0-thermal"], 99.0),
            9.25,  # VDD_IN, of which the others are parts
            3,
        ),
        (
            AGX_ORIN,
            dict.fromkeys(["cpu-thermal", "gpu-thermal", "soc0-thermal"], 99.0),
            11.35,
            0,
        ),
        ("pc", {}, None, None),
        ("container-no-sys", {}, None, None),
    ],
)
def test_boards_say_where_they_throttle_and_what_they_draw(board, points, watts, over_currents):
    root = BOARDS / board
    assert health.throttle_points_c(root) == points
    assert health.power_w(root) == (watts and pytest.approx(watts, abs=0.05))
    assert health.over_currents(root) == over_currents
    assert health.throttled_by(root) == []


def test_a_zone_that_is_off_and_one_that_always_says_100_are_left_out():
    assert "cv0-thermal" not in health.temperatures_c(BOARDS / ORIN_NANO)
    assert max(health.temperatures_c(BOARDS / XAVIER).values()) == 41.5


def test_a_fan_is_no_throttling_and_clocks_that_are_held_down_are(tmp_path):
    root = tmp_path / "board"
    shutil.copytree(BOARDS / ORIN_NANO / "sys", root / "sys")
    devices = root / "sys/class/thermal"
    for device in devices.glob("cooling_device*"):
        name = (device / "type").read_text().strip()
        if name in ("pwm-fan", "hot-surface-alert", "gpu-throttle-alert", "cpufreq-cpu0"):
            (device / "cur_state").write_text("1\n")
    assert health.throttled_by(root) == ["gpu-throttle-alert", "cpufreq-cpu0"]


def test_the_clocks_are_those_of_cores_and_gpu(tmp_path):
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "729600\n")
    write(tmp_path, "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq", "")
    write(tmp_path, "sys/class/devfreq/17000000.gpu/cur_freq", "306000000\n")
    write(tmp_path, "sys/class/devfreq/15340000.vic/cur_freq", "729600000\n")
    assert health.clocks_mhz(tmp_path) == {"cpu0": 729.6, "17000000.gpu": 306.0}


@pytest.mark.parametrize("text", ["", "hot", "nan", "inf", "-256000", "999999999", "\0\xff"])
def test_nonsense_is_left_out(tmp_path, text):
    zone = "sys/class/thermal/thermal_zone0"
    write(tmp_path, f"{zone}/type", "cpu-thermal\n")
    write(tmp_path, f"{zone}/temp", text)
    write(tmp_path, f"{zone}/trip_point_0_type", "passive\n")
    write(tmp_path, f"{zone}/trip_point_0_temp", text)
    assert health.temperatures_c(tmp_path) == health.throttle_points_c(tmp_path) == {}
    write(tmp_path, f"{zone}/trip_point_0_temp", "-274000")  # switched off, on PCs
    assert health.throttle_points_c(tmp_path) == {}
