"""One thing that ``doctor`` looked at, and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass

OK, MISSING, NOTE = "ok", "missing", "note"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``fix`` is the command, or the advice, that mends it."""

    name: str
    needed_for: str  # a command, an extra or a device; empty where it is only said
    status: str  # OK, MISSING or NOTE
    detail: str
    fix: str = ""
