"""Which bundle to run when nobody says."""

from __future__ import annotations

from pathlib import Path

from mla_edge.board import identify
from mla_edge.bundle import MANIFEST, Bundle, sha256_of
from mla_edge.errors import BundleError

HOST = "host"


def find_bundle(folder: Path, sha256: str) -> Path | None:
    """The bundle in ``folder/bundles`` or ``folder`` whose manifest has that hash."""
    for place in (folder / "bundles", folder):
        for manifest in sorted(place.glob(f"[!.]*/{MANIFEST}")):
            if manifest.is_file() and sha256_of(manifest) == sha256:
                return manifest.parent
    return None


def select_bundle(folder: Path, *, root: Path = Path("/")) -> Bundle:
    """The bundle in ``folder/bundles``, otherwise in ``folder``, that fits this machine best.

    First those for the board whose files are under ``root``, then those for ``host``, then
    others, which run through ONNX Runtime as well; of equal ones the newest. BundleError: there
    is none that can be read.
    """
    board = identify(root)
    fitting = [profile for profile in (board.profile if board else None, HOST) if profile]

    def fit(bundle: Bundle) -> tuple[int, str]:
        place = fitting.index(bundle.profile) if bundle.profile in fitting else len(fitting)
        return -place, bundle.created

    unreadable = []
    for place in (folder / "bundles", folder):
        bundles = []
        for manifest in sorted(place.glob(f"[!.]*/{MANIFEST}")):
            try:
                bundles.append(Bundle.read(manifest.parent))
            except BundleError as error:
                unreadable.append(str(error))
        if bundles:
            return max(bundles, key=fit)
    problems = f" that can be read ({'; '.join(unreadable)})" if unreadable else ""
    raise BundleError(
        f"there is no bundle in {folder / 'bundles'} or {folder}{problems}",
        hint=f"make one: mla-edge export --profile {fitting[0]}",
    )
