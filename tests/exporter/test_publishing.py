"""An interrupt at any moment of publishing, two exports at once, and what the disk says."""

import errno
import os

import pytest

from mla_edge.errors import ConfigError, ExportError
from mla_edge.exporter import publishing
from mla_edge.exporter.publishing import disk_errors, publish
from mla_edge.exporter.steps import StepCache, partial_folder


@pytest.fixture
def old(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "bundle.json").write_text("old")
    return folder


def contents(folder):
    return sorted(path.read_text() for path in folder.glob("*/bundle.json"))


@pytest.mark.parametrize("one_step", [True, False])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("moment", range(4))
def test_an_interrupt_of_publishing_loses_no_bundle(
    old, monkeypatch, one_step, keep, after, moment
):
    if not one_step:
        monkeypatch.setattr(publishing.ctypes, "CDLL", lambda *_, **__: object())
    left, rename, exchange = moment, os.rename, publishing._exchange

    def at_the_moment(do):
        def wrapped(*paths):
            nonlocal left
            left -= 1
            if left == -1 and not after:
                raise KeyboardInterrupt
            do(*paths)
            if left == -1:
                raise KeyboardInterrupt

        return wrapped

    interrupted = False
    with partial_folder(old.parent, old.name) as new:
        (new / "bundle.json").write_text("new")
        monkeypatch.setattr(os, "rename", at_the_moment(rename))
        if one_step:
            monkeypatch.setattr(publishing, "_exchange", at_the_moment(exchange))
        try:
            publish(new, old, keep=keep)
        except KeyboardInterrupt:
            interrupted = True
        monkeypatch.setattr(os, "rename", rename)
    published = (old / "bundle.json").read_text()
    assert interrupted or published == "new"
    assert contents(old.parent) == (
        ["new", "old"] if keep and published == "new" else [published]
    )
    assert not list(old.parent.glob(".*"))


def test_an_entry_that_another_export_has_just_finished_is_used(tmp_path):
    cache, beside = StepCache(tmp_path), StepCache(tmp_path)

    def make(folder):
        (folder / "result").write_text("same")

    def make_slowly(folder):
        make(folder)
        beside.store("key", make)
        stamps.append((tmp_path / "key" / "result").stat().st_ino)

    stamps = []
    entry = cache.store("key", make_slowly)
    assert (entry / "result").stat().st_ino == stamps[0]
    assert os.listdir(tmp_path) == ["key"]


def test_an_entry_that_appears_at_the_last_moment_is_used(tmp_path, monkeypatch):
    cache, beside, replace = StepCache(tmp_path), StepCache(tmp_path), os.replace

    def make(folder):
        (folder / "result").write_text("same")

    def replace_late(*paths):
        monkeypatch.setattr(os, "replace", replace)
        beside.store("key", make)
        replace(*paths)

    monkeypatch.setattr(os, "replace", replace_late)
    assert (cache.store("key", make) / "result").read_text() == "same"
    assert os.listdir(tmp_path) == ["key"]


def test_a_damaged_entry_is_made_again(tmp_path):
    cache = StepCache(tmp_path)
    for text in ("first", "second"):
        entry = cache.store("key", lambda folder, text=text: (folder / "a").write_text(text))
        assert (entry / "a").read_text() == text
        (entry / "a").write_text("damaged")


def test_entries_that_vanish_while_the_oldest_are_looked_for_are_no_fault(
    tmp_path, monkeypatch
):
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    entry = StepCache(tmp_path).store("key", lambda folder: (folder / "a").write_text("a"))
    assert entry.is_dir()


@pytest.mark.parametrize(
    ("where", "number", "kind", "message"),
    [
        ("data/take.wav", errno.EACCES, ConfigError, r"take\.wav: cannot be read: Permission"),
        ("out/bundle.json", errno.EACCES, ConfigError, "cannot be written: Permission"),
        ("database/x", errno.EACCES, ConfigError, "cannot be written: Permission"),
        ("out", errno.ENOSPC, ExportError, "No space left"),
    ],
)
def test_data_that_cannot_be_read_is_not_called_unwritable(
    tmp_path, where, number, kind, message
):
    around = disk_errors(tmp_path / "out", tmp_path / "data")
    with pytest.raises(kind, match=message) as caught, around:
        raise OSError(number, os.strerror(number), str(tmp_path / where))
    assert ("--data" in caught.value.hint) == where.startswith("data/")
