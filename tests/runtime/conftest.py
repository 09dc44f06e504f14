from dataclasses import replace

import pytest
from colours import FULL, LITE, make_bundle, write_graph

from mla_edge.bundle import sha256_of


@pytest.fixture
def small_bundle(tmp_path):
    return make_bundle(tmp_path / "colours-host")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a bundle in it, which is the current one."""
    make_bundle(tmp_path / "bundles" / "colours-host")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def contrary(tmp_path):
    """Makes a bundle whose full tier never says what lite says; lite is as sure as told."""

    def make(lite_scale):
        bundle = make_bundle(tmp_path / "colours-host")
        hashes = {}
        for tier, scale in ((LITE, lite_scale), (FULL, -18)):
            for cpu in (True, False):
                path = bundle.graph(tier.name, cpu=cpu)
                write_graph(path, tier, scale=scale)
                hashes[path.relative_to(bundle.folder).as_posix()] = sha256_of(path)
        bundle = replace(bundle, files={**bundle.files, **hashes})
        bundle.write()
        return bundle

    return make
