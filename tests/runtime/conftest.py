import pytest
from colours import make_bundle


@pytest.fixture
def small_bundle(tmp_path):
    return make_bundle(tmp_path / "colours-host")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a bundle in it, which is the current one."""
    make_bundle(tmp_path / "bundles" / "colours-host")
    monkeypatch.chdir(tmp_path)
    return tmp_path
