"""``python -m mla_edge.exporter.calibration_cache NETWORK --data DIR``: ranges to ship."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Iterator

from mla_edge._content import content_dir
from mla_edge.errors import ConfigError, MlaEdgeError
from mla_edge.exporter.calibration import load_calibration, load_calibration_spec
from mla_edge.exporter.fingerprints import code_fingerprint, network_code
from mla_edge.exporter.float_graphs import calibration_feeds, make_float_graphs, tune_feeds
from mla_edge.exporter.job import Job
from mla_edge.exporter.post_training import TUNE_SAMPLES, calibrate_by_tensor
from mla_edge.exporter.recipe import check_tiers, load_recipe
from mla_edge.exporter.shipped_ranges import make_entry, write_ranges
from mla_edge.exporter.steps import StepCache, Steps, hash_of
from mla_edge.networks import Network, load_network
from mla_edge.profiles import load_profile


def ranges_of_network(
    ref: str, data: Path, recipe_name: str, *, ranges_only: bool = False
) -> Iterator[tuple[Network, str, dict[str, Any]]]:
    """For every tier an entry of INT8 ranges made with the real samples in ``data``.

    With corrected biases and rounded weights where they are better, unless ``ranges_only``.
    """
    recipe, network = load_recipe(recipe_name), load_network(ref, data=data)
    check_tiers(recipe, recipe_name, [part.tier.name for part in network.tiers])
    calibration = load_calibration(load_calibration_spec(recipe.calibration), network)
    job = Job(
        profile=load_profile("host"),
        recipe=recipe,
        precision="int8",
        network=network,
        calibration=calibration,
        own_samples=True,
        trains=False,
        base=hash_of(network.fingerprint, network_code(network, ref), code_fingerprint()),
        steps=Steps(lambda event: None),
        cache=StepCache(),
    )
    for part in network.tiers:
        graph = make_float_graphs(job, part) / "float.onnx"
        tune = tune_feeds(job, part, TUNE_SAMPLES)
        feeds = calibration_feeds(job, part)
        ranges = calibrate_by_tensor(graph, feeds, tune, ranges_only=ranges_only).to_json()
        how, source = (
            recipe.tier(part.tier.name),
            f"real data, {len(calibration.calibrate)} samples",
        )
        yield (
            network, part.tier.name,
            make_entry(network, how, ranges, calibration.sha256, source),
        )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Calibrate every tier of a network on real data and write the files that ship."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("network", help="digits, package.module:function or file.py:function")
    parser.add_argument("--data", type=Path, required=True, help="folder with the real data")
    parser.add_argument("--recipe", default="default", help="a name in export/, or a path")
    parser.add_argument(
        "--ranges-only",
        action="store_true",
        help="no corrected biases and no rounded weights, which are as many as the weights",
    )
    parser.add_argument("--out", type=Path, default=content_dir("calibration"))
    options = parser.parse_args(arguments)
    try:
        if options.out.exists() and not options.out.is_dir():
            raise ConfigError(f"{options.out}: is no folder", hint="give another with --out")
        made = ranges_of_network(
            options.network, options.data, options.recipe, ranges_only=options.ranges_only
        )
        for network, tier, entry in made:
            path = write_ranges(options.out, network, tier, [entry])
            sys.stdout.write(f"{path}\n")
    except MlaEdgeError as error:
        sys.stderr.write(f"{error}\n  {error.hint}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
