import pytest
from board_trees import make_agx_xavier
from colours import make_bundle

from mla_edge.errors import BundleError
from mla_edge.runtime.selection import select_bundle


def put(folder, profile, created="2026-01-01T00:00:00Z"):
    make_bundle(folder, profile=profile, created=created)


@pytest.fixture
def computer(tmp_path):
    """The files of a machine that is no board."""
    return tmp_path / "root"


@pytest.fixture
def here(tmp_path):
    folder = tmp_path / "here"
    put(folder / "bundles" / "old-host", "host", "2026-01-01T00:00:00Z")
    put(folder / "bundles" / "new-host", "host", "2026-02-01T00:00:00Z")
    put(folder / "bundles" / "xavier", "agx-xavier", "2026-03-01T00:00:00Z")
    put(folder / "bundles" / "newest", "orin-nano", "2026-04-01T00:00:00Z")
    put(folder / "lying-around", "host", "2026-05-01T00:00:00Z")
    return folder


def test_a_computer_takes_the_newest_for_it(here, computer):
    assert select_bundle(here, root=computer).folder == here / "bundles" / "new-host"


def test_a_board_takes_its_own_first(here, tmp_path):
    board = make_agx_xavier(tmp_path / "board")
    assert select_bundle(here, root=board).folder == here / "bundles" / "xavier"


def test_a_bundle_for_another_machine_is_better_than_none(tmp_path, computer):
    put(tmp_path / "bundles" / "a", "orin-nano", "2026-01-01T00:00:00Z")
    put(tmp_path / "bundles" / "b", "agx-xavier", "2026-02-01T00:00:00Z")
    assert select_bundle(tmp_path, root=computer).profile == "agx-xavier"


def test_the_folder_itself_is_looked_at_after_bundles(tmp_path, computer):
    put(tmp_path / "mine", "host")
    assert select_bundle(tmp_path, root=computer).folder == tmp_path / "mine"


def test_one_that_is_being_written_is_left_out(here, computer):
    put(here / "bundles" / ".half", "host", "2027-01-01T00:00:00Z")
    assert select_bundle(here, root=computer).folder == here / "bundles" / "new-host"


@pytest.mark.parametrize(
    "break_it", [lambda text: text[:40], lambda text: "[" * 200_000], ids=["cut off", "nested"]
)
def test_one_that_cannot_be_read_is_passed_over(here, computer, break_it):
    manifest = here / "bundles" / "new-host" / "bundle.json"
    manifest.write_text(break_it(manifest.read_text()))
    assert select_bundle(here, root=computer).folder == here / "bundles" / "old-host"


def test_where_none_can_be_read_it_says_why(tmp_path, computer):
    put(tmp_path / "bundles" / "only", "host")
    (tmp_path / "bundles" / "only" / "bundle.json").write_text('{"format": 99}')
    with pytest.raises(BundleError, match="that can be read .*only/bundle.json: format 99"):
        select_bundle(tmp_path, root=computer)


def test_none_at_all_says_how_to_make_one(tmp_path, computer):
    with pytest.raises(BundleError, match="there is no bundle in") as caught:
        select_bundle(tmp_path, root=computer)
    assert caught.value.hint == "make one: mla-edge export --profile host"
    with pytest.raises(BundleError) as on_board:
        select_bundle(tmp_path, root=make_agx_xavier(tmp_path / "board"))
    assert on_board.value.hint == "make one: mla-edge export --profile agx-xavier"
