"""The bundle that a benchmark measures, where none is named."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT = "bundles/digits-host"


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Let ``parser`` take a bundle's folder as the argument ``bundle``, ``DEFAULT`` without."""
    parser.add_argument(
        "bundle", type=_bundle, nargs="?", default=DEFAULT, help=f"folder; {DEFAULT}"
    )


def _bundle(text: str) -> Path:
    folder = Path(text)
    if not (folder / "bundle.json").is_file():
        raise argparse.ArgumentTypeError(
            f"there is no bundle in {folder}; make one: mla-edge export --profile host"
        )
    return folder
