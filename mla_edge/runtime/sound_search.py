"""When it is worth looking for a lost sound device again."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Callable, Mapping, Tuple

LOOK_S = 0.5  # how often to look whether something changed; that costs some 0.1 ms
FIRST_S, LONGEST_S = 0.5, 60.0  # between two searches while nothing changes

Signs = Tuple[object, ...]


class SoundSearch:
    """Says when to begin PortAudio anew for a lost device.

    A begin takes 20 ms, and memory for good: 13 kB with Debian's libraries. So it is due when
    something changed that may bring a device, and again soon after, for udev and sound servers
    take a moment; then ever less often, for not every device leaves a sign.
    """

    def __init__(
        self,
        signs: Callable[[], Signs] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing was searched for yet; ``signs`` are those of this machine by default."""
        self._signs = sound_signs if signs is None else signs
        self._clock = clock
        self._seen: Signs | None = None
        self._searched_s = 0.0
        self._pause_s = FIRST_S

    def due(self) -> bool:
        """Whether to search now; the answer yes counts as a search."""
        signs, now_s = self._signs(), self._clock()
        since_s = now_s - self._searched_s
        # So long nobody asked: a device was there and well meanwhile.
        if signs != self._seen or since_s > 2 * LONGEST_S:
            self._pause_s = FIRST_S
        elif since_s < self._pause_s:
            return False
        else:
            self._pause_s = min(2 * self._pause_s, LONGEST_S)
        self._seen, self._searched_s = signs, now_s
        return True


def sound_signs(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Signs:
    """What changes when a device comes, goes, may be used or is free, or a server starts.

    Of ALSA the cards, nodes and whether each input is in use; of PulseAudio and PipeWire the
    sockets. What is not there is left out.
    """
    cards = root / "proc/asound/cards"
    inputs = sorted(root.glob("proc/asound/card*/pcm*c/sub*/status"))
    nodes = sorted(root.glob("dev/snd/*"))
    return (
        _text(cards),
        *((str(path), _text(path).startswith("closed")) for path in inputs),
        *(_state(path) for path in nodes),
        *(_state(root / path.lstrip("/")) for path in _server_files(environment)),
    )


def _server_files(environment: Mapping[str, str]) -> list[str]:
    """Where sound servers may have their sockets and notes of their process."""
    own = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    pulse = [f"{own}/pulse", environment.get("PULSE_RUNTIME_PATH", ""), "/run/pulse"]
    pipewire = [own, environment.get("PIPEWIRE_RUNTIME_DIR", ""), "/run/pipewire"]
    # PULSE_SERVER has addresses such as {machine}unix:/path and tcp:host.
    told = [word.rpartition("}")[2] for word in environment.get("PULSE_SERVER", "").split()]
    told = [word[len("unix:") :] if word.startswith("unix:") else word for word in told]
    return [
        # A socket that systemd keeps is the same for the next server, its note is not.
        *(f"{folder}/{name}" for folder in pulse if folder for name in ("native", "pid")),
        *(f"{folder}/pipewire-0" for folder in pipewire if folder),
        *(word for word in told if word.startswith("/")),
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _state(path: Path) -> tuple[str, int, int]:
    """Another one for another file of the same name, and for another mode or owner."""
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), found.st_ino, found.st_ctime_ns
