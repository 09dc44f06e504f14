import pytest
from colours import make_bundle


@pytest.fixture
def small_bundle(tmp_path):
    return make_bundle(tmp_path / "colours-host")
