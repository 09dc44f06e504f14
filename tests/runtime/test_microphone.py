"""What is said where there is no microphone; real ones are in test_vdev.py."""

import os
import subprocess
import sys

import pytest

try:
    import sounddevice
except (ImportError, OSError) as error:  # OSError: there is no PortAudio
    pytest.skip(f"sounddevice cannot be imported: {error}", allow_module_level=True)

OPEN = (
    "from mla_edge.errors import MlaEdgeError\n"
    "from mla_edge.runtime.capture import open_microphone\n"
    "try:\n"
    "    open_microphone({source!r}, rate_hz=8000, window_s=1)\n"
    "except MlaEdgeError as error:\n"
    "    print(type(error).__name__, error.exit_code, error, '|', error.hint)\n"
)


def said(source, *, before="", **environment):
    """What a fresh Python says that opens ``source``."""
    done = subprocess.run(
        [sys.executable, "-c", before + OPEN.format(source=source)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


@pytest.mark.parametrize("source", ["99", "Kitchen microphone"])
def test_no_such_microphone_says_which_there_are(source):
    words = said(source)
    assert words.startswith(f"CaptureError 6 no microphone '{source}'")
    assert "this machine has no microphone" in words or "there is: " in words


def test_no_microphone_at_all():
    words = said("default")
    if not words:
        pytest.skip("this machine has a microphone")
    assert words.startswith("CaptureError 6 no microphone 'default'")
    assert "plug one in" in words


def test_without_portaudio_it_says_what_to_install():
    words = said(
        "default", before="import ctypes.util\nctypes.util.find_library = lambda _: None\n"
    )
    assert words.startswith("MissingDependency 3 sounddevice finds no PortAudio")
    assert "apt-get install libportaudio2" in words


def test_without_sounddevice_it_says_what_to_install():
    words = said("default", before="import sys\nsys.modules['sounddevice'] = None\n")
    assert words.startswith("MissingDependency 3 sounddevice is not installed")
    assert "pip install 'mla-edge[run]'" in words


def test_a_broken_sound_system_is_named(tmp_path):
    path = tmp_path / "asound.conf"
    path.write_text("pcm.!default {")
    words = said("default", ALSA_CONFIG_PATH=str(path))
    assert words.startswith("CaptureError 6 ")
    assert "arecord -l" in words


def test_a_microphone_that_another_program_uses_is_explained():
    from mla_edge.runtime.microphone import explain

    error = explain(
        "USB",
        sounddevice.PortAudioError("Error opening InputStream: Device unavailable", -9985),
    )
    assert str(error) == "the microphone USB is in use by another program"
    assert error.hint == "fuser -v /dev/snd/* says which; end it"
    assert error.exit_code == 6


def test_a_microphone_that_is_gone_and_one_that_fails_are_explained():
    from mla_edge.runtime.microphone import explain, list_microphones

    gone = explain("USB", sounddevice.PortAudioError("Error querying device 3"))
    assert str(gone) == "no microphone 'USB'"
    failing = explain("USB", sounddevice.PortAudioError("Unanticipated host error", -9999))
    assert str(failing).startswith(
        "the microphone USB does not start: Unanticipated host error"
    )
    assert gone.hint == failing.hint == list_microphones()


class Card:
    """PortAudio with one microphone, whose stream starts and gives nothing."""

    def __init__(self, monkeypatch):
        from mla_edge.runtime import microphone as microphones

        self.name = ""
        monkeypatch.setattr(sounddevice, "query_devices", self._query)
        monkeypatch.setattr(microphones, "restart_portaudio", lambda: None)
        monkeypatch.setattr(microphones.LiveMicrophone, "_start", lambda *_: self)
        monkeypatch.setattr(microphones.Keeper, "start", lambda keeper: None)

    def _query(self, wanted=None, kind=None):
        device = {
            "name": self.name,
            "index": 3,
            "default_samplerate": 48_000.0,
            "max_input_channels": 1,
        }
        if kind is None:
            return [device]
        # As sounddevice: words in their order, in any case of letters.
        if isinstance(wanted, str) and wanted.lower() not in self.name.lower():
            raise ValueError(f"No input device matching {wanted!r}")
        return device


@pytest.mark.parametrize("source", ["usb audio", "default"])
def test_a_microphone_that_comes_back_as_another_card_is_found_by_the_same_words(
    monkeypatch, source
):
    from mla_edge.runtime.microphone import LiveMicrophone

    card = Card(monkeypatch)
    microphone = LiveMicrophone(source, rate_hz=8000, window_s=1)
    card.name = "Yeti: USB Audio (hw:1,0)"
    assert microphone._open() is card
    card.name = "Yeti: USB Audio (hw:2,0)"
    assert microphone._open() is card


def test_an_index_is_used_once_for_another_card_may_have_it_later(monkeypatch):
    from mla_edge.errors import CaptureError
    from mla_edge.runtime.microphone import LiveMicrophone

    card = Card(monkeypatch)
    microphone = LiveMicrophone("3", rate_hz=8000, window_s=1)
    card.name = "Yeti: USB Audio (hw:1,0)"
    assert microphone._open() is card
    card.name = "HDA Intel: ALC662 (hw:0,0)"
    with pytest.raises(CaptureError, match="no microphone 'Yeti: USB Audio"):
        microphone._open()
