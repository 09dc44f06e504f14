"""Where things are kept that can be made again: the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder of ``kind`` under the user's cache folder (``XDG_CACHE_HOME``); not made."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "mla-edge" / kind
