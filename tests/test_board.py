"""Which Jetson this is, from fake file trees in the forms that boards write."""

import pytest
from board_trees import make_agx_xavier, make_board

from mla_edge.board import identify

ORIN = ["nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234"]


def test_a_workstation_is_no_board(tmp_path):
    assert identify(tmp_path) is None


def test_an_agx_xavier_is_read_whole(tmp_path):
    board = identify(make_agx_xavier(tmp_path))
    assert (board.module, board.profile, board.soc) == ("p2888-0004", "agx-xavier", "tegra194")
    assert (board.l4t, board.jetpack, board.tensorrt) == ("35.4.1", "5.1.2", "8.5.2")
    assert (board.model, board.memory_mb) == ("Jetson-AGX", 31169)
    assert board.power_mode == "7 MODE_15W_DESKTOP"


def test_the_p_number_wins_over_the_model_string(tmp_path):
    root = make_board(
        tmp_path,
        compatible=["nvidia,p3768-0000+p3767-0000", "nvidia,tegra234"],
        model="NVIDIA Jetson Orin Nano Developer Kit",  # the carrier's
        memory_kb=15_900_000,
    )
    assert identify(root).module == "p3767-0000"
    assert identify(root).profile == "orin-nx"


@pytest.mark.parametrize(
    ("modes", "profile"),
    [
        (["15W", "7W"], "orin-nano"),
        (["15W", "25W", "MAXN_SUPER", "7W"], "orin-nano-super"),
        ([], "orin-nano"),
    ],
)
def test_super_is_told_by_the_power_modes_on_offer(tmp_path, modes, profile):
    root = make_board(tmp_path, compatible=ORIN, memory_kb=7_800_000, modes=modes, mode=0)
    assert identify(root).profile == profile


def test_without_a_p_number_memory_decides(tmp_path):
    root = make_board(
        tmp_path,
        compatible=["acme,carrier", "nvidia,tegra234"],
        boardids="3448",
        memory_kb=30_600_000,
    )
    board = identify(root)
    assert board.profile in ("agx-orin", "agx-orin-32gb")
    assert board.model == "unknown"


def test_the_device_tree_of_a_nano_is_read(tmp_path):
    root = make_board(
        tmp_path,
        compatible=[
            "nvidia,p3449-0000-b00+p3448-0000-b00",
            "nvidia,jetson-nano",
            "nvidia,tegra210",
        ],
        boardids="3448",
        jetpack="4",
        memory_kb=4_059_000,
    )
    board = identify(root)
    assert (board.module, board.profile, board.jetpack) == ("p3448-0000", "nano", "4.6.1")
    assert board.tensorrt is None


def test_an_unknown_tegra_has_no_profile(tmp_path):
    root = make_board(
        tmp_path,
        compatible=["nvidia,p9999-0001", "nvidia,tegra999"],
        jetpack="",
        memory_kb=1_000_000,
    )
    board = identify(root)
    assert (board.soc, board.module, board.profile) == ("tegra999", "p9999-0001", None)
    assert (board.l4t, board.jetpack, board.power_mode) == (None, None, None)


def test_an_l4t_that_is_not_listed_stays_without_a_jetpack(tmp_path):
    root = make_board(tmp_path, compatible=ORIN, memory_kb=7_800_000)
    (root / "etc/nv_tegra_release").write_text("# R99 (release), REVISION: 1.0, GCID: 1\n")
    assert (identify(root).l4t, identify(root).jetpack) == ("99.1.0", None)


def test_a_jetpack_that_is_not_listed_is_told_by_its_package(tmp_path):
    root = make_board(tmp_path, compatible=ORIN, memory_kb=7_800_000)
    (root / "etc/nv_tegra_release").write_text("# R39 (release), REVISION: 9.9, GCID: 1\n")
    (root / "var/lib/dpkg/status").write_text(
        "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 7.3-b12\n"
    )
    assert (identify(root).l4t, identify(root).jetpack) == ("39.9.9", "7.3")
    assert identify(root).system_python == "3.12"


def test_a_package_that_was_removed_does_not_count(tmp_path):
    root = make_board(tmp_path, compatible=ORIN, memory_kb=7_800_000)
    (root / "var/lib/dpkg/status").write_text(
        "Package: libnvinfer10\nStatus: deinstall ok config-files\nVersion: 10.3.0.30-1\n"
    )
    assert identify(root).tensorrt is None


def test_cuda_without_its_toolkit_is_told_by_its_runtime(tmp_path):
    root = make_board(tmp_path, compatible=ORIN, memory_kb=7_800_000)
    (root / "var/lib/dpkg/status").write_text(
        "Package: cuda-cudart-12-6\nStatus: install ok installed\nVersion: 12.6.68-1\n"
    )
    assert identify(root).cuda == "12.6"


def test_swap_counts_as_far_as_it_is_free_and_on_a_disk(tmp_path):
    root = make_board(tmp_path, compatible=ORIN, memory_kb=7_800_000)
    assert identify(root).swap_mb is None
    (root / "proc/swaps").write_text(
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/dev/zram0                              partition\t650232\t\t0\t\t5\n"
        "/mnt/8GB.swap                           file\t\t8388604\t\t1048576\t\t-2\n"
    )
    assert identify(root).swap_mb == 7167
