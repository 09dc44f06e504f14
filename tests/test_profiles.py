"""Device profiles: what ships, and how strictly they are read."""

import pytest

from mla_edge._content import content_dir, names
from mla_edge.errors import ConfigError
from mla_edge.profiles import all_profiles, load_profile

BOARDS = {
    "nano": 53,
    "tx2": 62,
    "xavier-nx": 72,
    "agx-xavier": 72,
    "orin-nano": 87,
    "orin-nano-super": 87,
    "orin-nx": 87,
    "orin-nx-super": 87,
    "agx-orin-32gb": 87,
    "agx-orin": 87,
    "agx-thor": 110,
}
SMALLEST = 'title = "x"\nopset = 17\nprecisions = ["fp32"]\n'


def write(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_every_board_ships_and_host_and_rtx():
    assert set(names("device_profiles")) == {*BOARDS, "host", "rtx"}
    assert {name: load_profile(name).sm for name in BOARDS} == BOARDS


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_names_its_sources(name):
    text = (content_dir("device_profiles") / f"{name}.toml").read_text(encoding="utf-8")
    assert "# Sources:\n# http" in text


@pytest.mark.parametrize("profile", all_profiles(), ids=lambda profile: profile.name)
def test_the_opset_follows_tensorrt(profile):
    if not profile.supported:
        assert profile.opset is None
        assert "JetPack 4" in profile.unsupported_reason
    elif profile.tensorrt == "8.5":
        assert profile.opset == 16
    elif profile.name == "rtx":  # INT8 beside FP16 in one graph
        assert profile.opset == 19
    else:
        assert profile.opset == 17


def test_boards_without_an_int8_path_do_not_claim_one():
    lacking = {profile.name for profile in all_profiles() if "int8" not in profile.precisions}
    assert lacking == {"nano", "tx2"}


def test_host_has_no_tensorrt_and_no_module():
    host = load_profile("host")
    assert (host.tensorrt, host.module, host.memory_gb, host.dla_cores) == (None, (), None, 0)
    assert host.supported


def test_a_profile_promises_what_every_module_of_it_has():
    profile = load_profile("orin-nano")
    assert profile.module == ("p3767-0003", "p3767-0005", "p3767-0004")
    assert (profile.memory_gb, profile.sm_count, profile.dla_cores) == (4, 4, 0)
    assert load_profile("orin-nx").dla_cores == 1


def test_what_is_unknown_stays_unknown():
    thor = load_profile("agx-thor")
    modes = {mode.name: mode for mode in thor.power_modes}
    assert modes["120W"].gpu_mhz is None
    assert load_profile("agx-xavier").power_modes[0].watts is None


def test_one_default_power_mode_for_each_module():
    for profile in all_profiles():
        for size in {mode.memory_gb for mode in profile.power_modes}:
            modes = [mode for mode in profile.power_modes if mode.memory_gb == size]
            assert sum(mode.default for mode in modes) <= 1, profile.name


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(ConfigError, match="no device profile is called 'agx-xaver'") as caught:
        load_profile("agx-xaver")
    assert caught.value.hint.startswith("did you mean agx-xavier")


def test_a_name_like_nothing_gets_the_list():
    with pytest.raises(ConfigError) as caught:
        load_profile("zzz")
    assert caught.value.hint.startswith("known: agx-orin, ")


def test_a_profile_of_ones_own_is_read_from_its_path(tmp_path):
    profile = load_profile(write(tmp_path, SMALLEST))
    assert (profile.name, profile.opset, profile.threads) == ("mine", 17, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALLEST + "opsett = 1\n", r"mine\.toml: unknown opsett"),
        (SMALLEST.replace("17", '"17"'), "'opset' must be int, not str"),
        (SMALLEST.replace("17", "true"), "'opset' must be int, not bool"),
        ('title = "x"\nprecisions = []\n', "'opset' is missing"),
        ("opset = 17\n", "'title' is missing"),
        (SMALLEST.replace("fp32", "int4"), "unknown precision int4"),
        (SMALLEST + "modules = [3]\n", "'modules' must be a list of tables"),
        (SMALLEST + 'modules = [{ number = "p1" }]\n', r"modules\[0\]: 'memory_gb' is missing"),
        (
            SMALLEST + 'power_modes = [{ id = 0, name = "a", speed = 1 }]\n',
            r"power_modes\[0\]: unknown speed",
        ),
        ("title = \n", r"mine\.toml: Invalid value"),
    ],
)
def test_a_wrong_profile_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_profile(write(tmp_path, text))


def test_a_misspelt_key_gets_a_suggestion(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_profile(write(tmp_path, SMALLEST + 'tensorrrt = "10.3"\n'))
    assert caught.value.hint == "did you mean 'tensorrt'?"


def test_a_profile_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_profile(str(tmp_path / "none.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match="Is a directory"):
        load_profile(str(tmp_path / "folder.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml"):
        load_profile(str(tmp_path / "binary.toml"))
