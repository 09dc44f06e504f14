from dataclasses import replace

import numpy as np
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


@pytest.fixture
def counting_video(tmp_path):
    """Frame ``i`` shows ``i % 128`` as seven black or white bars."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "count.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (640, 480))
    for number in range(300):
        image = np.zeros((480, 640, 3), np.uint8)
        for bit in range(7):
            image[:, bit * 90 : bit * 90 + 90] = 255 * (number >> bit & 1)
        writer.write(image)
    writer.release()
    return path
