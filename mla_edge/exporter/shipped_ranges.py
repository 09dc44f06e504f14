"""INT8 ranges that were made with real data and ship, so that nobody else needs the data.

``calibration/<network>-<tier>.json`` holds them with the fingerprint of the network and the
pruning that they are for. Written by
``python -m mla_edge.exporter.calibration_cache NETWORK --data DIR``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mla_edge._content import content_dir
from mla_edge.bundle import sha256_of, write_atomically
from mla_edge.errors import ConfigError

if TYPE_CHECKING:
    from mla_edge.exporter.recipe import Recipe, TierRecipe
    from mla_edge.networks import Network


def find_ranges(network: Network, tier: str, how: TierRecipe) -> dict[str, Any] | None:
    """The shipped entry for exactly this network and pruning; None if there is none.

    Its ``ranges`` are what ``Ranges.from_json`` takes, ``samples_sha256`` and
    ``source`` say what they were made from.
    """
    path = _path(content_dir("calibration"), network.name, tier)
    # Nothing ships for a narrower stream, and sparse weights are other weights.
    if not path.is_file() or how.prune_residual or how.sparsity:
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["entries"]
        key = make_key(network.fingerprint, how)
        return next((dict(e) for e in entries if all(e[k] == v for k, v in key.items())), None)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not a file of INT8 ranges: {error!r}", hint="reinstall mla-edge"
        ) from error


def ranges_to_use(
    network: Network, recipe: Recipe, precision: str, own_samples: bool
) -> dict[str, dict[str, Any] | None]:
    """By tier the shipped entry that an export takes; None where it calibrates by itself.

    It does where the user gave samples (``own_samples``), and where nothing becomes INT8.
    """
    none = own_samples or precision != "int8"
    names = [part.tier.name for part in network.tiers]
    return {
        name: None if none else find_ranges(network, name, recipe.tier(name)) for name in names
    }


def ranges_sha256(network: Network) -> dict[str, str]:
    """Of the file that ships for each tier of ``network``; empty for none.

    An export may come to take another entry than the one of its recipe, where a share of that
    is rolled back.
    """
    paths = {
        part.tier.name: _path(content_dir("calibration"), network.name, part.tier.name)
        for part in network.tiers
    }
    return {tier: sha256_of(path) if path.is_file() else "" for tier, path in paths.items()}


def write_ranges(
    folder: Path, network: Network, tier: str, entries: list[dict[str, Any]]
) -> Path:
    """Write the entries of one tier, ``folder`` too; ``make_entry`` makes them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, network.name, tier)
    text = json.dumps({"network": network.name, "tier": tier, "entries": entries}, indent=1)
    write_atomically(path, (text + "\n").encode())
    return path


def make_entry(
    network: Network, how: TierRecipe, ranges: Any, samples_sha256: str, source: str
) -> dict[str, Any]:
    """One entry: what it is for, what it was made from, and what ``Ranges.to_json`` gave."""
    made_from = {"samples_sha256": samples_sha256, "source": source, "ranges": ranges}
    return {**make_key(network.fingerprint, how), **made_from}


def make_key(fingerprint: str, how: TierRecipe) -> dict[str, Any]:
    """What an entry is for: the network, and what the recipe makes smaller of a tier."""
    return {
        "network_fingerprint": fingerprint,
        "student": how.student,
        "prune": how.prune,
        "prune_heads": how.prune_heads,
        "prune_residual": how.prune_residual,
    }


def _path(folder: Path, network: str, tier: str) -> Path:
    return folder / f"{network}-{tier}.json"
