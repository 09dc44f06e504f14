"""How many threads an engine has."""

from __future__ import annotations

import os

from mla_edge.bundle import Bundle
from mla_edge.errors import ConfigError
from mla_edge.profiles import load_profile_of

_MAX_A_CORE = 4  # with far more, a run only switches between them


def profile_threads(bundle: Bundle) -> int:
    """As many as the profile of ``bundle`` says; 0, every core, where it is not known here."""
    try:
        return load_profile_of(bundle).threads_here
    except ConfigError:  # a profile of the exporter's that this machine does not have
        return 0


def check_threads(threads: int) -> None:
    """ConfigError where this machine cannot have so many."""
    most = _MAX_A_CORE * (os.cpu_count() or 1)
    if not 0 <= threads <= most:
        raise ConfigError(
            f"{threads} threads: this machine has {os.cpu_count()} cores",
            hint=f"give 1 to {most}, or 0 for every core",
        )
