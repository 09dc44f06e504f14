"""What an export did and proved, as ``report.json`` and one page of HTML. Owns jinja2."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from mla_edge.bundle import write_atomically
from mla_edge.errors import BundleError, MissingDependency
from mla_edge.exporter.report_view import decibels, times, view

try:
    import jinja2
    from markupsafe import Markup
except ImportError as error:
    raise MissingDependency(
        f"jinja2 cannot be loaded, and the report is made with it: {error}",
        hint="pip install 'mla-edge[export]'",
    ) from error

if TYPE_CHECKING:
    from mla_edge.exporter.tiers import TierResult
    from mla_edge.profiles import DeviceProfile

JSON = "report.json"
HTML = "report.html"
TEMPLATE = "report.html.j2"


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write both forms of the report into ``folder``."""
    write_json(folder / JSON, facts)
    write_atomically(folder / HTML, render(facts).encode())


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    """Write ``facts`` to ``path``, whole or not at all."""
    write_atomically(path, _as_json(facts))


def write_failed(target: Path, facts: Mapping[str, Any]) -> Path:
    """Write the report of a refused export beside where its bundle would have been."""
    path, page = _failed(target)
    write_json(path, facts)
    write_atomically(page, render(facts).encode())
    return path


def forget_failed(target: Path) -> None:
    """Remove the report of an earlier refusal: the bundle at ``target`` passed."""
    for path in _failed(target):
        if path.exists():
            path.unlink()


def read(folder: Path) -> dict[str, Any]:
    """The report of the bundle at ``folder``."""
    path = folder / JSON
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path}: cannot be read: {error}", hint="export the bundle again"
        ) from error


def render(facts: Mapping[str, Any]) -> str:
    """The report as one page that needs nothing else; follows the reader's light or dark."""
    return _environment().get_template(TEMPLATE).render(**facts, **view(facts))


@functools.lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    """What renders the page; it keeps the templates that it has read."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        mb=_mb,
        points=_points,
        percent=_percent,
        px=_short,
        decibels=decibels,
        breakable=_breakable,
    )
    environment.globals.update(times=times, saved=_saved)
    return environment


def not_proven(
    profile: DeviceProfile, precision: str, results: Sequence[TierResult]
) -> list[str]:
    """What this export could not show, in sentences."""
    missing = []
    tables = [r.goal.table for r in results if r.goal and not r.goal.facts["timed_here"]]
    for table in tables:
        missing.append(
            f"The latency goal of {table.tier} went by parts that were timed on "
            f"{table.measured_on}. The network in this bundle was not timed there yet: "
            "mla-edge build and bench, on that machine, do it."
        )
    if profile.tensorrt is not None:
        times = "Other times" if tables else "Times"
        missing.append(
            f"No {profile.title} took part: no engine was built or timed on it, and no power "
            f"or memory was measured. {times} are of the machine that exported."
        )
        missing.append(
            "The graphs ran through ONNX Runtime on a processor. That the board's "
            "TensorRT gives the same answers is shown on the board, against the golden samples."
        )
    else:
        missing.append(
            "This bundle is for ONNX Runtime; nothing was shown about a GPU or a Jetson."
        )
    unchecked = [r.name for r in results if r.tensorrt.status == "not checked"]
    if unchecked:
        missing.append(
            f"No TensorRT parsed or built the graphs of {', '.join(unchecked)}: "
            f"{next(r.tensorrt.reason for r in results if r.name == unchecked[0])}"
        )
    elif profile.tensorrt is not None:
        version = next(r.tensorrt.version for r in results)
        missing.append(
            f"What built the graphs here is {version}, for RTX cards; the board has TensorRT "
            f"{profile.tensorrt}: its operator table was checked, its builder did not run."
        )
    if any(result.shrunk["sparsity"] for result in results):
        missing.append(
            "What 2:4 sparsity gains: ONNX Runtime multiplies the zeros like any other weight, "
            "so nothing is faster here. Whether the builder takes sparse kernels shows on the "
            "board."
        )
    if precision == "int8":
        missing.append(
            "Whether the board's engine really fuses every INT8 layer shows only there: "
            "mla-edge build says it."
        )
        if profile.dla_cores:
            missing.append(_dla_not_proven(any(result.dla for result in results)))
    missing.append(
        "The routing was chosen on the tune samples above. It is not a certificate for other "
        "cameras, rooms or speakers."
    )
    return missing


def _dla_not_proven(asked: bool) -> str:
    if asked:
        return (
            "No layer ran on a DLA. Which it takes is told from NVIDIA's published limits, and "
            "what INT8 costs there was computed with the same scales in ONNX Runtime."
        )
    return "The DLA was not looked at: export with --dla for a plan and its form of INT8."


def _failed(target: Path) -> tuple[Path, Path]:
    return tuple(  # type: ignore[return-value]
        target.with_name(f"{target.name}.failed-report.{kind}") for kind in ("json", "html")
    )


def _as_json(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2, allow_nan=False) + "\n").encode()


def _mb(size_bytes: float) -> str:
    return f"{size_bytes / 1e6:.2f} MB"


def _points(drop: float) -> str:
    # A gain is a gain: the sign is that of the change in accuracy, not of the loss.
    return f"{-drop + 0.0:+.2f}"


def _breakable(path: str) -> Markup:
    # A long name goes on in the next line after a slash, and is copied as it is.
    return Markup("/<wbr>").join(path.split("/"))


def _saved(cut: Mapping[str, Any]) -> str:
    """What a cut that was rolled back had saved, in words."""
    saved_ms, noise_ms = cut["saved_ms"], cut["noise_ms"]
    if saved_ms < -noise_ms:
        return f"made it {-saved_ms:.3f} ms slower"
    if saved_ms > noise_ms:
        return f"saved {saved_ms:.3f} ms beside others with which it was no faster than whole"
    return f"saved {saved_ms:.3f} ms, within the noise of {noise_ms:.3f} ms"


def _short(number: float) -> str:
    return f"{number:.3g}" if abs(number) < 1 else f"{number:.1f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"
